//! Rate limits and faults by policy: what they are for, and what calls of gRPC are told.

use std::time::Duration;

use http::StatusCode;

use super::scene::{GOT, OK, Scene, Setting, rule};
use crate::l7::flag::Flag;
use crate::model::route::{Cors, Filter, HttpMatch, Redirect, Rule};
use crate::model::traffic::{Fault, FaultStatus, LimitBy, RateLimit, Traffic};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const CALL: &str = "POST /a.B/C HTTP/1.1\r\nHost: a\r\nContent-Type: application/grpc\r\nContent-Length: 0\r\n\r\n";

/// One request, and then none.
fn once(route: Option<&str>) -> Traffic {
    Traffic {
        limits: vec![RateLimit {
            name: None,
            requests: 1,
            per: Duration::from_secs(3600),
            burst: None,
            by: LimitBy::TokenBucket,
            key: Vec::new(),
            route: route.map(str::to_owned),
        }],
        ..Traffic::default()
    }
}

async fn scene(rules: Vec<Rule<HttpMatch>>, traffic: Traffic) -> Scene {
    Scene::new(Setting {
        rules,
        traffic,
        ..Setting::default()
    })
    .await
}

fn redirect() -> Rule<HttpMatch> {
    let mut redirect = rule("/", "cart");
    redirect.backends.clear();
    redirect.filters.push(Filter::Redirect(Redirect {
        scheme: None,
        hostname: Some("b".to_owned()),
        path: None,
        port: None,
        status: StatusCode::FOUND,
    }));
    redirect
}

#[tokio::test]
async fn what_the_agent_answers_by_itself_is_limited_too() {
    for route in [None, Some("shop/r")] {
        let scene = scene(vec![redirect()], once(route)).await;
        let mut client = scene.client().await;
        client.send(GET).await;
        assert!(client.head().await.starts_with("HTTP/1.1 302 "));
        scene.record().await;
        client.send(GET).await;
        let head = client.head().await;
        assert!(head.starts_with("HTTP/1.1 429 "), "{route:?} {head}");
        assert_eq!(scene.record().await.flags, [Flag::RateLimited]);
    }
    // What no rule is for falls under the limit of the port.
    for (route, begin) in [(None, "HTTP/1.1 429 "), (Some("shop/r"), "HTTP/1.1 404 ")] {
        let scene = scene(vec![rule("/a", "cart")], once(route)).await;
        for begin in ["HTTP/1.1 404 ", begin] {
            let mut client = scene.client().await;
            client.send(GET).await;
            let head = client.head().await;
            assert!(head.starts_with(begin), "{route:?} {head}");
        }
    }
}

#[tokio::test]
async fn preflights_are_limited_too() {
    let mut cors = rule("/", "cart");
    let any = || vec!["*".to_owned()];
    let open = Cors {
        origins: any(),
        credentials: false,
        methods: any(),
        headers: any(),
        expose: Vec::new(),
        max_age: Duration::from_secs(5),
    };
    cors.filters.push(Filter::Cors(Box::new(open)));
    let scene = scene(vec![cors], once(Some("shop/r"))).await;
    let ask = "OPTIONS / HTTP/1.1\r\nHost: a\r\nOrigin: http://b\r\nAccess-Control-Request-Method: PUT\r\n\r\n";
    for is_limited in [false, true] {
        let mut client = scene.client().await;
        client.send(ask).await;
        let head = client.head().await;
        assert_eq!(head.starts_with("HTTP/1.1 429 "), is_limited, "{head}");
    }
}

#[tokio::test]
async fn a_call_that_is_too_much_has_its_resource_exhausted() {
    let scene = scene(Vec::new(), once(None)).await;
    let mut client = scene.client().await;
    client.send(GET).await;
    let mut upstream = scene.upstream().await;
    upstream.expect(GET).await;
    upstream.send(OK).await;
    client.expect(GOT).await;
    scene.record().await;
    client.send(CALL).await;
    let head = client.head().await;
    assert!(
        head.starts_with("HTTP/1.1 200 ") && head.contains("\r\ngrpc-status: 8\r\n"),
        "{head}"
    );
    assert_eq!(scene.record().await.flags, [Flag::RateLimited]);
}

#[tokio::test]
async fn a_call_is_aborted_with_the_code_that_was_asked_for() {
    for (status, call, get) in [
        (FaultStatus::Grpc(9), "9", "HTTP/1.1 503 "),
        (
            FaultStatus::Http(StatusCode::IM_A_TEAPOT),
            "2",
            "HTTP/1.1 418 ",
        ),
    ] {
        let traffic = Traffic {
            fault: Some(Fault {
                delay: None,
                abort: Some((status, 100)),
            }),
            ..Traffic::default()
        };
        let scene = scene(Vec::new(), traffic).await;
        let mut client = scene.client().await;
        client.send(CALL).await;
        let head = client.head().await;
        let told = format!("\r\ngrpc-status: {call}\r\n");
        assert!(
            head.starts_with("HTTP/1.1 200 ") && head.contains(&told),
            "{status:?}: {head}"
        );
        client.send(GET).await;
        assert!(client.head().await.starts_with(get));
        assert_eq!(scene.record().await.flags, [Flag::FaultAbort]);
    }
}
