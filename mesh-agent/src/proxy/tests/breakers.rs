//! Circuit breakers on connections: requests wait for one in their turn, as many as may, and what is idle makes room.

use std::time::{Duration, Instant};

use super::admission::report;
use super::scene::{GOT, OK, PATIENCE, Peer, Scene, Setting, accept, port, rule, strict};
use crate::l7::cluster::policy::{Algorithm, BreakerPolicy};
use crate::l7::cluster::{ClusterPolicy, Kind};
use crate::l7::flag::Flag;
use crate::proxy::exchange::Speaks;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

fn breaker(breaker: BreakerPolicy) -> ClusterPolicy {
    ClusterPolicy {
        breaker,
        algorithm: Algorithm::RoundRobin,
        ..ClusterPolicy::default()
    }
}

/// One connection, and as many requests that wait.
fn single(endpoints: usize, pending: u32) -> Setting {
    Setting {
        endpoints: [endpoints, 0],
        policy: breaker(BreakerPolicy {
            connections: 1,
            pending,
            ..BreakerPolicy::default()
        }),
        ..Setting::default()
    }
}

fn used(scene: &Scene, kind: Kind) -> u32 {
    report(scene).usage(kind).used
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect(what);
}

/// A scene in which a client's request is at the upstream.
async fn busy(setting: Setting) -> (Scene, Peer, Peer) {
    let scene = Scene::new(setting).await;
    let mut client = scene.client().await;
    client.send(GET).await;
    let mut upstream = scene.upstream().await;
    upstream.expect(GET).await;
    (scene, client, upstream)
}

/// A request of a new client, which waits once those before it do.
async fn waits(scene: &Scene, before: u32) -> Peer {
    let mut client = scene.client().await;
    client.send(GET).await;
    until("a request to wait", || {
        used(scene, Kind::Pending) == before + 1
    })
    .await;
    client
}

#[tokio::test]
async fn requests_wait_for_the_one_connection_in_their_turn_and_what_is_more_overflows() {
    let (scene, mut first, mut upstream) = busy(single(1, 2)).await;
    let mut second = waits(&scene, 0).await;
    let mut third = waits(&scene, 1).await;
    let mut fourth = scene.client().await;
    fourth.send(GET).await;
    assert!(fourth.head().await.starts_with("HTTP/1.1 503 "));
    let record = scene.record().await;
    assert_eq!(
        (&record.flags[..], record.attempts),
        (&[Flag::Overflow][..], 1)
    );
    assert_eq!(report(&scene).usage(Kind::Pending).overflows, 1);
    assert_eq!(report(&scene).usage(Kind::Connections).overflows, 2);
    // So that there is something to be measured.
    let waiting = Instant::now();
    tokio::time::sleep(Duration::from_millis(20)).await;
    let freed = Instant::now();
    upstream.send(OK).await;
    first.expect(GOT).await;
    for client in [&mut second, &mut third] {
        upstream.expect(GET).await;
        upstream.send(OK).await;
        client.expect(GOT).await;
    }
    let served = freed.elapsed();
    for waited in [false, true, true] {
        let record = scene.record().await;
        assert_eq!(record.flags, []);
        let times = record.times;
        if waited {
            // The endpoint has nothing to do with it.
            assert!(Duration::from_nanos(times.connect_ns) >= freed - waiting);
            assert!(
                Duration::from_nanos(times.upstream_ns) <= served,
                "{times:?}"
            );
        }
    }
    assert_eq!(scene.room.pool.counts(), (1, 1));
    assert_eq!(
        (used(&scene, Kind::Pending), used(&scene, Kind::Connections)),
        (0, 1)
    );
}

#[tokio::test]
async fn who_is_gone_waits_no_more_and_who_waits_too_long_is_told() {
    let mut limited = rule("/late", "cart");
    limited.request_timeout = Some(Duration::from_millis(50));
    let mut setting = single(1, 8);
    setting.rules = vec![limited, rule("/", "cart")];
    setting.policy.outlier = strict().outlier;
    let (scene, mut first, mut upstream) = busy(setting).await;
    drop(waits(&scene, 0).await);
    until("nobody to wait", || used(&scene, Kind::Pending) == 0).await;
    assert_eq!(scene.record().await.flags, [Flag::DownstreamClosed]);
    let mut late = scene.client().await;
    late.send("GET /late HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(late.head().await.starts_with("HTTP/1.1 504 "));
    assert_eq!(scene.record().await.flags, [Flag::UpstreamTimeout]);
    // The endpoint was not even asked.
    assert_eq!(report(&scene).ejections, 0);
    let mut next = waits(&scene, 0).await;
    upstream.send(OK).await;
    first.expect(GOT).await;
    upstream.expect(GET).await;
    upstream.send(OK).await;
    next.expect(GOT).await;
}

#[tokio::test]
async fn a_connection_that_breaks_leaves_its_place_to_who_waits() {
    let (scene, _first, mut upstream) = busy(single(1, 8)).await;
    let mut second = waits(&scene, 0).await;
    upstream
        .send("HTTP/1.1 200 OK\r\nDate: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        .await;
    let mut another = scene.upstream().await;
    another.expect(GET).await;
    another.send(OK).await;
    second.expect(GOT).await;
    assert_eq!(used(&scene, Kind::Connections), 1);
}

#[tokio::test]
async fn a_connection_closes_for_a_request_to_another_endpoint() {
    let scene = Scene::new(single(2, 8)).await;
    let mut first = scene.client().await;
    first.send(GET).await;
    let (mut one, at) = tokio::select! {
        peer = accept(&scene.cart[0]) => (peer, 0),
        peer = accept(&scene.cart[1]) => (peer, 1),
    };
    one.expect(GET).await;
    // In turn: this one is for the other endpoint.
    let mut second = waits(&scene, 0).await;
    one.send(OK).await;
    first.expect(GOT).await;
    one.end().await;
    let mut other = accept(&scene.cart[1 - at]).await;
    other.expect(GET).await;
    other.send(OK).await;
    second.expect(GOT).await;
    assert_eq!(scene.room.pool.counts(), (1, 1));
    // And back, where the connection that has to make room is idle.
    first.send(GET).await;
    other.end().await;
    let mut one = accept(&scene.cart[at]).await;
    one.expect(GET).await;
    one.send(OK).await;
    first.expect(GOT).await;
    assert_eq!(used(&scene, Kind::Connections), 1);
    scene.room.pool.forget(1);
    assert_eq!(used(&scene, Kind::Connections), 0);
}

#[tokio::test]
async fn a_higher_limit_is_for_those_who_wait() {
    let (scene, _first, _upstream) = busy(single(1, 8)).await;
    let mut second = waits(&scene, 0).await;
    let config = scene.room.config.load_full();
    let cluster = &config.destinations[&port("cart")].cluster;
    cluster.set_policy(
        breaker(BreakerPolicy::default()),
        0,
        &mut crate::chance::Chance::seeded(1),
    );
    let mut another = scene.upstream().await;
    another.expect(GET).await;
    another.send(OK).await;
    second.expect(GOT).await;
}

#[tokio::test]
async fn requests_that_wait_for_a_connection_are_bounded() {
    let setting = |pending| Setting {
        policy: breaker(BreakerPolicy {
            pending,
            ..BreakerPolicy::default()
        }),
        ..Setting::default()
    };
    let scene = Scene::new(setting(0)).await;
    let mut client = scene.client().await;
    client.send(GET).await;
    assert!(client.head().await.starts_with("HTTP/1.1 503 "));
    let record = scene.record().await;
    assert_eq!(
        (&record.flags[..], record.attempts),
        (&[Flag::Overflow][..], 1)
    );
    assert_eq!(report(&scene).usage(Kind::Pending).overflows, 1);
    let scene = Scene::new(setting(1)).await;
    let (mut first, mut second) = (scene.client().await, scene.client().await);
    for client in [&mut first, &mut second] {
        client.send(GET).await;
        scene.upstream().await.expect(GET).await;
        // It has its connection, and does not wait for one any more.
        assert_eq!(report(&scene).usage(Kind::Pending).used, 0);
    }
}

#[tokio::test]
async fn streams_of_http2_share_what_connections_there_may_be_and_each_endpoint_has_one() {
    let mut setting = single(2, 8);
    setting.speaks = [Speaks::Http2, Speaks::Http1];
    let scene = Scene::new(setting).await;
    let mut clients = Vec::new();
    for _ in 0..6 {
        let mut client = scene.client().await;
        client.send(GET).await;
        clients.push(client);
    }
    // One stream at a time: the others wait for it, as there may be no second connection.
    let serve = async |at: usize| {
        let stream = accept(&scene.cart[at]).await.0;
        let mut server = h2::server::Builder::new();
        let handshake = server.max_concurrent_streams(1).handshake(stream);
        let mut server: h2::server::Connection<_, bytes::Bytes> = handshake.await.unwrap();
        let mut served = 0;
        while let Some(request) = server.accept().await {
            let (_, mut respond) = request.unwrap();
            let response = http::Response::new(());
            respond.send_response(response, true).unwrap();
            served += 1;
        }
        served
    };
    let answered = async {
        for client in &mut clients {
            assert!(client.head().await.starts_with("HTTP/1.1 200 "));
        }
        assert_eq!(used(&scene, Kind::Connections), 2);
        scene.room.pool.forget(1);
    };
    let (one, two, ()) = tokio::join!(serve(0), serve(1), answered);
    // One that was refused, before it was known how many streams there may be, goes to the other endpoint.
    assert!(one > 0 && two > 0 && one + two == 6, "{one} {two}");
}
