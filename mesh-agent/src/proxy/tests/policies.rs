//! What policies say of the endpoint that a request gets, and of how many may be in flight.

use std::collections::BTreeSet;

use http::HeaderName;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

use super::scene::{GOT, OK, Peer, Scene, Setting, accept, rule, to};
use crate::l7::cluster::ClusterPolicy;
use crate::l7::cluster::policy::{Algorithm, ConcurrencyPolicy};
use crate::l7::flag::Flag;
use crate::model::route::{HttpMatch, PathMatch, Rule, SessionBy, SessionPersistence};
use crate::model::traffic::{self, Balancing, HashOn, Traffic};

/// Answers every request with its number.
fn serve(listener: TcpListener, number: usize) {
    tokio::spawn(async move {
        loop {
            let mut peer = accept(&listener).await;
            tokio::spawn(async move {
                while !peer.head().await.is_empty() {
                    let answer = format!(
                        "HTTP/1.1 200 OK\r\nDate: x\r\nX-Who: {number}\r\nContent-Length: 0\r\n\r\n"
                    );
                    // It may be gone.
                    peer.0.write_all(answer.as_bytes()).await.ok();
                }
            });
        }
    });
}

/// Returns who answers a request with these lines in its head, and the head of the answer.
async fn who(client: &mut Peer, lines: &str) -> (String, String) {
    client
        .send(format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n"))
        .await;
    let head = client.head().await;
    let number = head.split("\r\nX-Who: ").nth(1).unwrap_or_default();
    let number = number.split("\r\n").next().unwrap_or_default();
    (number.to_owned(), head)
}

async fn picked_by(algorithm: traffic::Algorithm, hash: Option<HashOn>) -> Scene {
    let traffic = Traffic {
        balancing: Some(Balancing { algorithm, hash }),
        ..Traffic::default()
    };
    let mut scene = Scene::new(Setting {
        endpoints: [5, 0],
        policy: ClusterPolicy::of(Some(&traffic)),
        traffic,
        ..Setting::default()
    })
    .await;
    for (number, listener) in scene.cart.drain(..).enumerate() {
        serve(listener, number);
    }
    scene
}

#[tokio::test]
async fn what_hashes_alike_goes_to_one_endpoint() {
    use traffic::Algorithm::{Maglev, Rendezvous, RingHash};
    let header = || HashOn::Header(HeaderName::from_static("x-user"));
    for algorithm in [RingHash, Maglev, Rendezvous] {
        for (on, line) in [
            (header(), "X-User: "),
            (HashOn::Cookie("u".to_owned()), "Cookie: a=b; u="),
        ] {
            let scene = picked_by(algorithm, Some(on)).await;
            let mut seen = BTreeSet::new();
            for user in 0..20 {
                let line = format!("{line}{user}\r\n");
                // Of whatever connection.
                let (first, _) = who(&mut scene.client().await, &line).await;
                for _ in 0..3 {
                    let (again, head) = who(&mut scene.client().await, &line).await;
                    assert_eq!(first, again, "{algorithm:?} {line:?}: {head}");
                }
                seen.insert(first);
            }
            assert!(seen.len() >= 3, "{algorithm:?}: {seen:?}");
        }
        // All come from one address.
        for on in [None, Some(HashOn::Source)] {
            let scene = picked_by(algorithm, on).await;
            let mut seen = BTreeSet::new();
            for user in 0..10 {
                let line = format!("X-User: {user}\r\n");
                seen.insert(who(&mut scene.client().await, &line).await.0);
            }
            assert_eq!(seen.len(), 1, "{algorithm:?}");
        }
    }
    // Others do not care.
    let scene = picked_by(traffic::Algorithm::RoundRobin, Some(header())).await;
    let mut seen = BTreeSet::new();
    for _ in 0..5 {
        seen.insert(who(&mut scene.client().await, "X-User: 1\r\n").await.0);
    }
    assert_eq!(seen.len(), 5);
}

/// Returns one whose rules lead to `other`, with five endpoints and this policy.
async fn answered_by(rules: Vec<Rule<HttpMatch>>, of_other: Traffic) -> Scene {
    let mut scene = Scene::new(Setting {
        endpoints: [0, 5],
        rules,
        policy: ClusterPolicy::of(Some(&of_other)),
        of_other,
        ..Setting::default()
    })
    .await;
    for (number, listener) in scene.other.drain(..).enumerate() {
        serve(listener, number);
    }
    scene
}

#[tokio::test]
async fn who_answers_says_what_is_hashed() {
    let of_other = Traffic {
        balancing: Some(Balancing {
            algorithm: traffic::Algorithm::Maglev,
            hash: Some(HashOn::Header(HeaderName::from_static("x-user"))),
        }),
        ..Traffic::default()
    };
    let scene = answered_by(vec![rule("/", "other")], of_other).await;
    let mut all = BTreeSet::new();
    for user in 0..12 {
        let line = format!("X-User: {user}\r\n");
        let mut seen = BTreeSet::new();
        for _ in 0..6 {
            seen.insert(who(&mut scene.client().await, &line).await.0);
        }
        assert_eq!(seen.len(), 1, "{user}");
        all.extend(seen);
    }
    assert!(all.len() > 1, "{all:?}");
}

fn sessions(name: Option<&str>) -> Traffic {
    Traffic {
        balancing: Some(Balancing {
            algorithm: traffic::Algorithm::RoundRobin,
            hash: None,
        }),
        session: Some(SessionPersistence {
            name: name.map(str::to_owned),
            by: SessionBy::Cookie { permanent: false },
            timeout: None,
        }),
        ..Traffic::default()
    }
}

/// Returns the cookie that an answer sets: name and value, and its path.
fn cookie(head: &str) -> Option<(String, String)> {
    let line = head.split("\r\nset-cookie: ").nth(1)?;
    let mut parts = line.split("\r\n").next()?.split("; ");
    let cookie = parts.next()?.to_owned();
    Some((cookie, parts.next()?.to_owned()))
}

#[tokio::test]
async fn who_answers_keeps_its_clients_behind_a_route_too() {
    let mut split = rule("/", "other");
    split.backends.push(to("gone"));
    // Nobody draws it, but who has a session goes there all the same.
    for weight in [1, 0] {
        let scene = answered_by(vec![split.clone()], sessions(None)).await;
        let (first, cookie) = loop {
            let (first, head) = who(&mut scene.client().await, "").await;
            // Every other one is for the backend that is gone.
            if !first.is_empty() {
                break (first, cookie(&head).unwrap().0);
            }
        };
        split.backends[0].weight = weight;
        scene.rule(split.clone());
        for _ in 0..12 {
            let line = format!("Cookie: {cookie}\r\n");
            let (again, head) = who(&mut scene.client().await, &line).await;
            assert_eq!((again, head.contains("set-cookie")), (first.clone(), false));
        }
        split.backends[0].weight = 1;
    }
}

#[tokio::test]
async fn rules_do_not_take_sessions_from_each_other() {
    let rules = || {
        let mut rules = vec![rule("/", "other"), rule("/", "other")];
        rules[1].index = 1;
        rules[0].matches[0].method = Some(http::Method::GET);
        rules
    };
    // By a name that was given there is one for each path, which is all that can be told apart.
    for (name, paths) in [(None, ["/", "/"]), (Some("s"), ["/get", "/post"])] {
        let mut rules = rules();
        for (rule, path) in rules.iter_mut().zip(paths) {
            rule.matches[0].path = PathMatch::Prefix(path.trim_end_matches('/').to_owned());
        }
        let scene = answered_by(rules, sessions(name)).await;
        let mut all = BTreeSet::new();
        for (method, path) in ["GET", "POST"].into_iter().zip(paths) {
            let mut client = scene.client().await;
            let request =
                format!("{method} {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
            client.send(request).await;
            let head = client.head().await;
            let (cookie, at) = cookie(&head).unwrap();
            assert_eq!(at, format!("Path={path}"), "{head}");
            all.insert((cookie.split('=').next().unwrap().to_owned(), at));
        }
        assert_eq!(all.len(), 2, "one overwrites the other: {all:?}");
    }
}

#[tokio::test]
async fn a_header_carries_a_session_too() {
    let mut kept = rule("/", "cart");
    kept.session = Some(SessionPersistence {
        name: Some("x-session".to_owned()),
        by: SessionBy::Header,
        timeout: None,
    });
    let mut scene = Scene::new(Setting {
        endpoints: [5, 0],
        rules: vec![kept],
        policy: ClusterPolicy {
            algorithm: Algorithm::RoundRobin,
            ..ClusterPolicy::default()
        },
        ..Setting::default()
    })
    .await;
    for (number, listener) in scene.cart.drain(..).enumerate() {
        serve(listener, number);
    }
    let mut client = scene.client().await;
    let (first, head) = who(&mut client, "").await;
    let session = head.split("\r\nx-session: ").nth(1);
    let session = session.and_then(|it| it.split("\r\n").next());
    let session = session.unwrap_or_else(|| panic!("no session in {head}"));
    let line = format!("X-Session: {session}\r\n");
    for _ in 0..6 {
        let (again, head) = who(&mut client, &line).await;
        assert_eq!(first, again);
        assert!(!head.contains("x-session"), "it has one: {head}");
    }
    let mut seen = BTreeSet::new();
    for _ in 0..5 {
        seen.insert(who(&mut client, "").await.0);
    }
    assert_eq!(seen.len(), 5, "without one it is anybody's turn");
}

#[tokio::test]
async fn adaptive_concurrency_turns_away_what_is_above_its_limit() {
    let scene = Scene::new(Setting {
        policy: ClusterPolicy {
            concurrency: Some(ConcurrencyPolicy {
                min: 2,
                max: 2,
                ..ConcurrencyPolicy::default()
            }),
            ..ClusterPolicy::default()
        },
        ..Setting::default()
    })
    .await;
    let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut client = scene.client().await;
        client.send(get).await;
        let mut upstream = scene.upstream().await;
        upstream.expect(get).await;
        held.push((client, upstream));
    }
    let mut third = scene.client().await;
    third.send(get).await;
    assert!(third.head().await.starts_with("HTTP/1.1 503 "));
    assert_eq!(scene.record().await.flags, [Flag::Overflow]);
    let (client, upstream) = &mut held[0];
    upstream.send(OK).await;
    client.expect(GOT).await;
    third.send(get).await;
    upstream.expect(get).await;
}
