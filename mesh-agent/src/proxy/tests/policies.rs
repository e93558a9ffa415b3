//! What policies say of the endpoint that a request gets, and of how many may be in flight.

use std::collections::BTreeSet;

use http::HeaderName;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

use super::scene::{GOT, OK, Peer, Scene, Setting, accept, rule};
use crate::l7::cluster::ClusterPolicy;
use crate::l7::cluster::policy::{Algorithm, ConcurrencyPolicy};
use crate::l7::flag::Flag;
use crate::model::route::{SessionBy, SessionPersistence};
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
