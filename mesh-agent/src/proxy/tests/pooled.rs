//! Connections to upstreams that are kept: how many, for how long, and for whom.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use super::admission::report;
use super::scene::{GOT, OK, Peer, Scene, Setting, strict};
use crate::l7::flag::Flag;
use crate::proxy::pool::Limits;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// Makes a request, which the upstream has then.
async fn asked(scene: &Scene) -> (Peer, Peer) {
    let mut client = scene.client().await;
    client.send(GET).await;
    let mut upstream = scene.upstream().await;
    upstream.expect(GET).await;
    (client, upstream)
}

/// Makes as many requests at the same time, and has them answered.
async fn answered(scene: &Scene, count: usize) -> Vec<(Peer, Peer)> {
    let mut all = Vec::new();
    for _ in 0..count {
        all.push(asked(scene).await);
    }
    for (client, upstream) in &mut all {
        upstream.send(OK).await;
        client.expect(GOT).await;
        scene.record().await;
    }
    all
}

async fn scene(pool: Limits) -> Scene {
    Scene::new(Setting {
        pool,
        ..Setting::default()
    })
    .await
}

#[tokio::test]
async fn no_more_are_kept_than_may_be_idle() {
    assert_eq!(Limits::default().idle, 256);
    let scene = scene(Limits {
        idle: 2,
        ..Limits::default()
    })
    .await;
    let mut all = answered(&scene, 3).await;
    assert_eq!(scene.room.pool.counts(), (2, 2));
    all.pop().unwrap().1.end().await;
}

#[tokio::test]
async fn they_do_not_all_grow_old_at_the_same_time() {
    let age = Duration::from_secs(1000);
    let scene = scene(Limits {
        max_age: age,
        idle_time: 10 * age,
        ..Limits::default()
    })
    .await;
    let before = Instant::now();
    let _all = answered(&scene, 24).await;
    let left = |at: Instant| {
        scene.room.pool.sweep(at);
        scene.room.pool.counts().0
    };
    assert_eq!(left(before + age.mul_f64(0.899)), 24);
    // Nobody has that much bad luck.
    assert!((1..24).contains(&left(Instant::now() + age)));
    assert_eq!(left(Instant::now() + age.mul_f64(1.101)), 0);
}

#[tokio::test]
async fn a_connection_of_a_workload_that_is_gone_counts_no_more() {
    let scene = Scene::plain().await;
    let (mut old, mut first) = asked(&scene).await;
    // One more request of it, still.
    scene.room.pool.forget(1);
    let (mut new, mut second) = asked(&scene).await;
    assert_eq!(scene.room.pool.counts(), (1, 0));
    first.send(OK).await;
    old.expect(GOT).await;
    scene.record().await;
    assert_eq!(scene.room.pool.counts(), (1, 0));
    first.end().await;
    second.send(OK).await;
    new.expect(GOT).await;
    scene.record().await;
    assert_eq!(scene.room.pool.counts(), (1, 1));
    scene
        .room
        .pool
        .sweep(Instant::now() + Duration::from_secs(9));
    assert_eq!(scene.room.pool.counts(), (0, 0));
    // As well where the old one breaks.
    let (_old, first) = asked(&scene).await;
    scene.room.pool.forget(1);
    let (_new, _second) = asked(&scene).await;
    first.reset();
    scene.record().await;
    assert_eq!(scene.room.pool.counts(), (1, 0));
}

/// Returns a listener that answers to no new connection, and those that fill its queue.
async fn deaf() -> (TcpListener, SocketAddr, Vec<TcpStream>) {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut queued = Vec::new();
    let moment = Duration::from_millis(300);
    while let Ok(more) = tokio::time::timeout(moment, TcpStream::connect(address)).await {
        queued.push(more.unwrap());
        assert!(queued.len() < 9, "it has to be full at some time");
    }
    (listener, address, queued)
}

#[tokio::test]
async fn a_connection_that_does_not_come_about_takes_its_time_and_no_more() {
    let (_listener, address, _queued) = deaf().await;
    let scene = Scene::new(Setting {
        endpoints: [0, 0],
        more: vec![address],
        policy: strict(),
        pool: Limits {
            connect_time: Duration::from_millis(50),
            ..Limits::default()
        },
        ..Setting::default()
    })
    .await;
    let mut client = scene.client().await;
    client.send(GET).await;
    assert!(client.head().await.starts_with("HTTP/1.1 503 "));
    let record = scene.record().await;
    assert_eq!(
        (&record.flags[..], record.attempts),
        (&[Flag::UpstreamConnectFailure][..], 2)
    );
    assert_eq!(report(&scene).ejections, 1);
    assert_eq!(scene.room.pool.counts(), (0, 0));
}
