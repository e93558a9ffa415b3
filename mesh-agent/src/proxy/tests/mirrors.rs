//! Copies of requests: by which version they go, and what they say of who gets them.

use std::sync::Arc;
use std::time::Duration;

use super::scene::{GOT, OK, Peer, Scene, Setting, accept, port, rule, strict, to};
use crate::l7::cluster::ClusterPolicy;
use crate::l7::cluster::policy::BreakerPolicy;
use crate::model::route::{Filter, HttpMatch, Mirror, Rule};
use crate::proxy::exchange::{Destination, Speaks};

/// Nothing here takes longer unless it hangs.
const PATIENCE: Duration = Duration::from_secs(10);

fn mirrored() -> Rule<HttpMatch> {
    let mut mirrored = rule("/", "cart");
    mirrored.filters.push(Filter::Mirror(Mirror {
        to: to("other").to,
        share: 1,
        of: 1,
    }));
    mirrored
}

async fn scene(speaks: Speaks) -> Scene {
    Scene::new(Setting {
        speaks: [Speaks::Http1, speaks],
        rules: vec![mirrored()],
        policy: strict(),
        ..Setting::default()
    })
    .await
}

/// Returns the mirror's endpoints once no copy is on its way any more.
async fn settled(scene: &Scene) -> Arc<Destination> {
    let wait = async {
        loop {
            let destination = scene.room.config.load().destinations[&port("other")].clone();
            // The configuration's, and this one.
            if Arc::strong_count(&destination) == 2 {
                return destination;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let settled = tokio::time::timeout(PATIENCE, wait).await;
    settled.expect("the copies to end")
}

async fn ejections(scene: &Scene) -> u64 {
    let now = scene.room.now(tokio::time::Instant::now());
    settled(scene).await.cluster.report(now).ejections
}

/// Takes this many requests by HTTP/2, and returns their URLs and bodies.
async fn served(peer: Peer, count: usize) -> Vec<(String, Vec<u8>)> {
    let mut connection = h2::server::handshake(peer.0).await.unwrap();
    let mut all = Vec::new();
    while all.len() < count {
        let (request, mut respond) = connection.accept().await.unwrap().unwrap();
        let (head, mut body) = request.into_parts();
        let read = async {
            let mut got = Vec::new();
            while let Some(data) = body.data().await {
                got.extend_from_slice(&data.unwrap());
            }
            got
        };
        let got = tokio::select! {
            got = read => got,
            other = connection.accept() => panic!("{other:?}"),
        };
        let answer = http::Response::new(());
        respond.send_response(answer, true).unwrap();
        all.push((head.uri.to_string(), got));
    }
    connection.graceful_shutdown();
    assert!(connection.accept().await.is_none());
    all
}

#[tokio::test]
async fn a_mirror_of_http2_gets_its_copies_by_http2() {
    let scene = scene(Speaks::Http2).await;
    let mut client = scene.client().await;
    let request = "POST /m?q HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";
    client.send(request).await;
    let mirror = tokio::spawn(served(accept(&scene.other[0]).await, 2));
    let mut upstream = scene.upstream().await;
    for number in 0..2 {
        if number > 0 {
            client.send(request).await;
        }
        upstream.expect(request).await;
        upstream.send(OK).await;
        client.expect(GOT).await;
        // On the same connection, then.
        settled(&scene).await;
    }
    let one = ("http://a/m?q".to_owned(), b"hello".to_vec());
    assert_eq!(mirror.await.unwrap(), [one.clone(), one]);
}

#[tokio::test]
async fn copies_take_places_among_the_requests_of_the_mirror() {
    let scene = Scene::new(Setting {
        rules: vec![mirrored()],
        policy: ClusterPolicy {
            breaker: BreakerPolicy {
                requests: 1,
                ..BreakerPolicy::default()
            },
            ..ClusterPolicy::default()
        },
        ..Setting::default()
    })
    .await;
    let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut client = scene.client().await;
    client.send(get).await;
    let mut upstream = scene.upstream().await;
    let mut mirror = accept(&scene.other[0]).await;
    mirror.expect(get).await;
    for number in 0..2 {
        if number > 0 {
            client.send(get).await;
        }
        upstream.expect(get).await;
        upstream.send(OK).await;
        client.expect(GOT).await;
    }
    // The first copy has no answer yet, and so there is no second one.
    let moment = Duration::from_millis(50);
    let another = tokio::time::timeout(moment, scene.other[0].accept()).await;
    assert!(another.is_err());
    mirror.send(OK).await;
    settled(&scene).await;
    client.send(get).await;
    mirror.expect(get).await;
}

#[tokio::test]
async fn what_is_cut_off_is_not_the_mirrors_fault() {
    let scene = scene(Speaks::Http1).await;
    let mut client = scene.client().await;
    let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n";
    client.send([head, "hi"].concat()).await;
    let mut upstream = scene.upstream().await;
    upstream.expect([head, "hi"].concat()).await;
    let mut mirror = accept(&scene.other[0]).await;
    mirror.expect([head, "hi"].concat()).await;
    // The rest is never asked for.
    upstream
        .send("HTTP/1.1 413 x\r\nDate: x\r\nContent-Length: 0\r\n\r\n")
        .await;
    client.head().await;
    mirror.rest().await;
    assert_eq!(ejections(&scene).await, 0);
    // What the mirror does by itself is.
    let mut client = scene.client().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    accept(&scene.other[0]).await.reset();
    let mut upstream = scene.upstream().await;
    upstream.head().await;
    upstream.send(OK).await;
    client.expect(GOT).await;
    assert_eq!(ejections(&scene).await, 1);
}

#[tokio::test]
async fn a_copy_goes_by_a_kept_connection_and_a_tunnel_has_none() {
    let scene = scene(Speaks::Http1).await;
    let mut client = scene.client().await;
    let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let (mut upstream, mut mirror) = (None, None);
    for _ in 0..3 {
        client.send(get).await;
        if upstream.is_none() {
            upstream = Some(scene.upstream().await);
            mirror = Some(accept(&scene.other[0]).await);
        }
        for peer in [&mut upstream, &mut mirror] {
            let peer = peer.as_mut().unwrap();
            peer.expect(get).await;
            peer.send(OK).await;
        }
        client.expect(GOT).await;
        settled(&scene).await;
    }
    let ask = "GET /ws HTTP/1.1\r\nHost: a\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nConnection: Upgrade\r\n\
        Upgrade: websocket\r\n\r\n";
    client.send(ask).await;
    upstream.unwrap().expect(ask).await;
    assert!(mirror.unwrap().is_silent().await);
}
