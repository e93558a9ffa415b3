//! Routes carried out: local answers, filters, backends, mirrors.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use super::scene::{GOT, OK, Scene, Setting, accept, destination, rule, tables, to};
use crate::l7::cluster::ClusterPolicy;
use crate::l7::flag::Flag;
use crate::model::route::{
    Cors, Filter, HeaderEdit, Mirror, PathEdit, Redirect, Rewrite, SessionBy, SessionPersistence,
};
use crate::model::traffic::{Fault, FaultStatus, LimitBy, LimitKey, RateLimit, Traffic};
use crate::proxy::exchange::Config;

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")
}

async fn answered(scene: &Scene, request: &str) -> (String, Vec<Flag>) {
    let mut client = scene.client().await;
    client.send(request).await;
    let head = client.head().await;
    // It is answered whole, and the connection goes on.
    assert!(client.is_silent().await);
    (head, scene.record().await.flags)
}

#[tokio::test]
async fn the_agent_answers_what_goes_nowhere() {
    let mut redirect = rule("/old", "cart");
    redirect.backends.clear();
    redirect.filters.push(Filter::Redirect(Redirect {
        scheme: None,
        hostname: Some("b.example".to_owned()),
        path: None,
        port: None,
        status: StatusCode::MOVED_PERMANENTLY,
    }));
    let mut cors = rule("/cors", "cart");
    cors.filters.push(Filter::Cors(Box::new(Cors {
        origins: vec!["http://o.example".to_owned()],
        methods: vec!["GET".to_owned()],
        ..Cors::default()
    })));
    let mut invalid = rule("/invalid", "cart");
    invalid.filters.push(Filter::Invalid("no".to_owned()));
    let mut none = rule("/none", "cart");
    none.backends[0].weight = 0;
    let rules = vec![
        redirect,
        cors,
        invalid,
        none,
        rule("/gone", "gone"),
        rule("/empty", "other"),
    ];
    let scene = Scene::new(Setting {
        rules,
        endpoints: [1, 0],
        ..Setting::default()
    })
    .await;
    for (path, status, flag) in [
        ("/nowhere", 404, Flag::NoRoute),
        ("/gone", 500, Flag::NoCluster),
        ("/none", 500, Flag::NoCluster),
        ("/invalid", 500, Flag::NoCluster),
        ("/empty", 503, Flag::NoHealthyUpstream),
    ] {
        let (head, flags) = answered(&scene, &get(path)).await;
        assert!(
            head.starts_with(&format!("HTTP/1.1 {status} ")),
            "{path}: {head}"
        );
        assert!(head.contains("\r\nContent-Length: 0\r\n"), "{head}");
        assert_eq!(flags, [flag], "{path}");
    }
    let (head, flags) = answered(&scene, &get("/old/x?y")).await;
    assert!(
        head.starts_with("HTTP/1.1 301 ")
            && head.contains("\r\nlocation: http://b.example/old/x?y\r\n"),
        "{head}"
    );
    assert!(flags.is_empty());
    let preflight = "OPTIONS /cors HTTP/1.1\r\nHost: a\r\nOrigin: http://o.example\r\nAccess-Control-Request-Method: GET\r\n\r\n";
    let (head, _) = answered(&scene, preflight).await;
    assert!(
        head.starts_with("HTTP/1.1 204 ")
            && head.contains("access-control-allow-origin: http://o.example"),
        "{head}"
    );
}

/// A script is to see why it gets nothing.
#[tokio::test]
async fn answers_of_the_agent_can_be_read_across_origins() {
    let cors = |path: &str, backend: &str, more: Option<Filter>| {
        let mut rule = rule(path, backend);
        rule.filters.push(Filter::Cors(Box::new(Cors {
            origins: vec!["http://o.example".to_owned()],
            ..Cors::default()
        })));
        rule.filters.extend(more);
        rule
    };
    let redirect = Filter::Redirect(Redirect {
        scheme: None,
        hostname: None,
        path: None,
        port: None,
        status: StatusCode::FOUND,
    });
    let mut late = cors("/late", "cart", None);
    late.request_timeout = Some(Duration::from_millis(50));
    let scene = Scene::new(Setting {
        rules: vec![
            cors("/moved", "cart", Some(redirect)),
            cors("/gone", "gone", None),
            cors("/empty", "other", None),
            late,
        ],
        endpoints: [1, 0],
        ..Setting::default()
    })
    .await;
    for (path, status) in [
        ("/moved", 302),
        ("/gone", 500),
        ("/empty", 503),
        ("/late", 504),
    ] {
        for (origin, is_allowed) in [
            ("Origin: http://o.example\r\n", true),
            ("Origin: http://evil.example\r\n", false),
            ("", false),
        ] {
            let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n{origin}\r\n");
            let (head, _) = answered(&scene, &request).await;
            assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
            let allows = "\r\naccess-control-allow-origin: http://o.example\r\n";
            assert_eq!(head.contains(allows), is_allowed, "{path}: {head}");
            assert!(head.contains("\r\nvary: Origin\r\n"), "{path}: {head}");
        }
    }
}

#[tokio::test]
async fn calls_of_grpc_are_answered_in_its_own_terms() {
    let rules = vec![rule("/gone", "gone"), rule("/empty", "other")];
    let scene = Scene::new(Setting {
        rules,
        endpoints: [1, 0],
        ..Setting::default()
    })
    .await;
    let call = |path: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/grpc\r\nContent-Length: 0\r\n\r\n"
        )
    };
    for (path, code) in [("/nowhere", 12), ("/gone", 14), ("/empty", 14)] {
        let (head, _) = answered(&scene, &call(path)).await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        assert!(
            head.contains(&format!("\r\ngrpc-status: {code}\r\n")),
            "{path}: {head}"
        );
    }
}

#[tokio::test]
async fn filters_of_rule_and_backend_change_both_heads() {
    let edit = |name: &'static str, value: &str| HeaderEdit {
        set: vec![(http::HeaderName::from_static(name), value.to_owned())],
        ..HeaderEdit::default()
    };
    let mut edited = rule("/a", "other");
    edited.name = Some("edited".to_owned());
    edited.filters = vec![
        Filter::RequestHeaders(edit("x-rule", "1")),
        Filter::Rewrite(Rewrite {
            hostname: Some("B.example".to_owned()),
            path: Some(PathEdit::Prefix("/b".to_owned())),
        }),
        Filter::ResponseHeaders(edit("x-back", "rule")),
    ];
    edited.backends[0].filters = vec![
        Filter::RequestHeaders(edit("x-backend", "2")),
        Filter::ResponseHeaders(edit("x-back", "backend")),
    ];
    let scene = Scene::routed(vec![edited]).await;
    let mut client = scene.client().await;
    client.send(get("/c/../a/./x?y")).await;
    let mut upstream = accept(&scene.other[0]).await;
    upstream
        .expect("GET /b/x?y HTTP/1.1\r\nHost: b.example\r\nx-rule: 1\r\nx-backend: 2\r\n\r\n")
        .await;
    upstream
        .send("HTTP/1.1 200 OK\r\nDate: x\r\nX-Back: own\r\nContent-Length: 0\r\n\r\n")
        .await;
    client
        .expect("HTTP/1.1 200 OK\r\nDate: x\r\nx-back: backend\r\nContent-Length: 0\r\n\r\n")
        .await;
    let record = scene.record().await;
    assert_eq!(record.path, "/b/x?y");
    // As routes have seen it.
    assert_eq!(record.original.as_deref(), Some("/a/x?y"));
    assert_eq!(record.rule.as_deref(), Some("shop/r/edited"));
    assert_eq!(record.attempts, 1);
    assert!(record.times.connect_ns > 0 && record.times.upstream_ns > 0);
}

#[tokio::test]
async fn a_change_holds_for_the_next_request_of_the_same_connection() {
    let scene = Scene::routed(vec![rule("/", "cart")]).await;
    let mut client = scene.client().await;
    client.send(get("/1")).await;
    let mut upstream = scene.upstream().await;
    upstream.expect(get("/1")).await;
    let other = scene.other[0].local_addr().unwrap();
    scene.room.config.store(Arc::new(Config {
        number: 2,
        tables: Arc::new(tables(vec![rule("/", "other")], Traffic::default())),
        destinations: [destination("other", ClusterPolicy::default(), &[other])]
            .into_iter()
            .collect(),
        ..Config::default()
    }));
    // The one in flight is not touched.
    upstream.send(OK).await;
    client.expect(GOT).await;
    client.send(get("/2")).await;
    accept(&scene.other[0]).await.expect(get("/2")).await;
}

#[tokio::test]
async fn mirrors_get_copies_and_hold_nobody_up() {
    let mut mirrored = rule("/", "cart");
    mirrored.filters.push(Filter::Mirror(Mirror {
        to: to("other").to,
        share: 1,
        of: 1,
    }));
    let scene = Scene::routed(vec![mirrored]).await;
    let mut client = scene.client().await;
    let request = "POST /m HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";
    client.send(request).await;
    let mut upstream = scene.upstream().await;
    upstream.expect(request).await;
    upstream.send(OK).await;
    client.expect(GOT).await;
    let mut mirror = accept(&scene.other[0]).await;
    mirror.expect(request).await;
    mirror
        .send("HTTP/1.1 500 x\r\nContent-Length: 0\r\n\r\n")
        .await;
    // A mirror that reads nothing loses its copy of a body that is too much to wait for it.
    let size: usize = 32 << 20;
    client
        .send(format!(
            "POST /m HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n"
        ))
        .await;
    upstream.head().await;
    let block = vec![b'x'; 1 << 20];
    let copy = block.clone();
    let sender = tokio::spawn(async move {
        for _ in 0..32 {
            client.send(&copy).await;
        }
        client
    });
    for _ in 0..32 {
        upstream.expect(&block).await;
    }
    upstream.send(OK).await;
    sender.await.unwrap().expect(GOT).await;
}

#[tokio::test]
async fn faults_are_made_where_a_policy_says_so() {
    let fault = |abort, delay| Traffic {
        fault: Some(Fault { delay, abort }),
        ..Traffic::default()
    };
    let status = FaultStatus::Http(StatusCode::IM_A_TEAPOT);
    let delay = Duration::from_millis(30);
    let scene = Scene::new(Setting {
        traffic: fault(Some((status, 100)), Some((delay, 100))),
        ..Setting::default()
    })
    .await;
    let (head, flags) = answered(&scene, &get("/")).await;
    assert!(head.starts_with("HTTP/1.1 418 "), "{head}");
    assert_eq!(flags, [Flag::FaultDelay, Flag::FaultAbort]);
    let scene = Scene::new(Setting {
        traffic: fault(Some((FaultStatus::Grpc(8), 0)), None),
        ..Setting::default()
    })
    .await;
    let mut client = scene.client().await;
    client.send(get("/")).await;
    scene.upstream().await.expect(get("/")).await;
}

#[tokio::test]
async fn rates_are_limited_where_a_policy_says_so() {
    let limit = |by, key: Vec<LimitKey>| RateLimit {
        name: None,
        requests: 2,
        per: Duration::from_secs(3600),
        burst: None,
        by,
        key,
        route: None,
    };
    let header = || {
        vec![
            LimitKey::Workload,
            LimitKey::Header(http::HeaderName::from_static("x-who")),
        ]
    };
    for (by, key) in [
        (LimitBy::TokenBucket, Vec::new()),
        (LimitBy::SlidingWindow, Vec::new()),
        (LimitBy::TokenBucket, header()),
        (LimitBy::SlidingWindow, header()),
    ] {
        let is_keyed = !key.is_empty();
        let scene = Scene::new(Setting {
            traffic: Traffic {
                limits: vec![limit(by, key)],
                ..Traffic::default()
            },
            endpoints: [0, 0],
            ..Setting::default()
        })
        .await;
        for _ in 0..2 {
            assert_eq!(
                answered(&scene, &get("/")).await.1,
                [Flag::NoHealthyUpstream]
            );
        }
        let (head, flags) = answered(&scene, &get("/")).await;
        assert!(
            head.starts_with("HTTP/1.1 429 ") && head.contains("\r\nretry-after: "),
            "{head}"
        );
        assert_eq!(flags, [Flag::RateLimited]);
        let somebody = "GET / HTTP/1.1\r\nHost: a\r\nX-Who: b\r\n\r\n";
        let other = if is_keyed {
            Flag::NoHealthyUpstream
        } else {
            Flag::RateLimited
        };
        assert_eq!(answered(&scene, somebody).await.1, [other]);
    }
}

#[tokio::test]
async fn a_session_sticks_to_its_endpoint_whatever_the_weights() {
    let mut kept = rule("/a", "cart");
    kept.backends.push(to("other"));
    kept.session = Some(SessionPersistence {
        name: Some("s".to_owned()),
        by: SessionBy::Cookie { permanent: false },
        timeout: None,
    });
    let scene = Scene::routed(vec![kept]).await;
    let mut client = scene.client().await;
    client.send(get("/a")).await;
    let (mut first, other) = tokio::select! {
        it = accept(&scene.cart[0]) => (it, &scene.other[0]),
        it = accept(&scene.other[0]) => (it, &scene.cart[0]),
    };
    first.expect(get("/a")).await;
    first.send(OK).await;
    let head = client.head().await;
    let cookie = head.split("\r\nset-cookie: ").nth(1).unwrap();
    assert!(
        cookie.contains("; Path=/a; HttpOnly") && !cookie.contains("127.0.0.1"),
        "{cookie}"
    );
    let cookie = cookie.split(';').next().unwrap();
    let again = format!("GET /a HTTP/1.1\r\nHost: a\r\nCookie: x=y; {cookie}\r\n\r\n");
    for _ in 0..20 {
        client.send(&again).await;
        first.expect(&again).await;
        first.send(OK).await;
        client.expect(GOT).await;
    }
    // One that somebody made up is none.
    let forged = "GET /a HTTP/1.1\r\nHost: a\r\nCookie: s=AAAA\r\n\r\n";
    let mut seen = false;
    let mut second = None;
    for _ in 0..64 {
        client.send(forged).await;
        let mut there = [0];
        tokio::select! {
            it = accept(other), if second.is_none() => {
                let mut it = it;
                it.expect(forged).await;
                it.send(OK).await;
                second = Some(it);
                seen = true;
            }
            _ = first.0.peek(&mut there) => {
                first.expect(forged).await;
                first.send(OK).await;
            }
        }
        assert!(client.head().await.contains("set-cookie: s="));
        if seen {
            break;
        }
    }
    assert!(seen, "64 draws of two went to one");
}
