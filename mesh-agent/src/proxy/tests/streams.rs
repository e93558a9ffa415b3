//! Requests that wait for a stream of HTTP/2, where there may be no more connections.

use std::time::Duration;

use h2::Ping;
use tokio::net::TcpListener;

use super::admission::report;
use super::scene::{Scene, Setting, accept, strict};
use crate::l7::cluster::policy::{Algorithm, BreakerPolicy};
use crate::l7::cluster::{ClusterPolicy, Kind};
use crate::l7::flag::Flag;
use crate::proxy::exchange::{Limits, Speaks};

const CALL: &str = "POST /a.B/C HTTP/1.1\r\nHost: a\r\nContent-Type: application/grpc\r\nContent-Length: 0\r\n\r\n";

type Server = h2::server::Connection<tokio::net::TcpStream, bytes::Bytes>;
type Respond = h2::server::SendResponse<bytes::Bytes>;

/// Takes a request as an upstream that allows one stream to a connection, once its peer knows that.
async fn held(listener: &TcpListener) -> (Server, Respond) {
    let mut server = h2::server::Builder::new();
    let handshake = server
        .max_concurrent_streams(1)
        .handshake(accept(listener).await.0);
    let mut server: Server = handshake.await.unwrap();
    let (_, respond) = server.accept().await.unwrap().unwrap();
    let mut pings = server.ping_pong().unwrap();
    tokio::select! {
        other = server.accept() => panic!("{other:?}"),
        pong = pings.ping(Ping::opaque()) => drop(pong.unwrap()),
    }
    (server, respond)
}

fn connections(connections: u32) -> ClusterPolicy {
    ClusterPolicy {
        breaker: BreakerPolicy {
            connections,
            ..BreakerPolicy::default()
        },
        algorithm: Algorithm::RoundRobin,
        outlier: strict().outlier,
        ..ClusterPolicy::default()
    }
}

#[tokio::test]
async fn nobody_waits_for_a_stream_without_end() {
    let scene = Scene::new(Setting {
        speaks: [Speaks::Http2, Speaks::Http1],
        policy: connections(1),
        limits: Limits {
            response_idle: Duration::from_millis(100),
            ..Limits::default()
        },
        ..Setting::default()
    })
    .await;
    let mut first = scene.client().await;
    first.send(CALL).await;
    let (mut server, _respond) = held(&scene.cart[0]).await;
    tokio::spawn(async move { while server.accept().await.is_some() {} });
    let mut second = scene.client().await;
    second.send(CALL).await;
    assert!(second.head().await.contains("\r\ngrpc-status: 4\r\n"));
    assert_eq!(scene.record().await.flags, [Flag::UpstreamTimeout]);
    assert_eq!(report(&scene).ejections, 0);
}

#[tokio::test]
async fn a_connection_to_one_endpoint_that_ends_makes_room_for_one_to_another() {
    let scene = Scene::new(Setting {
        endpoints: [2, 0],
        speaks: [Speaks::Http2, Speaks::Http1],
        policy: connections(2),
        ..Setting::default()
    })
    .await;
    let mut first = scene.client().await;
    first.send(CALL).await;
    let (one, at) = tokio::select! {
        it = held(&scene.cart[0]) => (it, 0),
        it = held(&scene.cart[1]) => (it, 1),
    };
    let (mut server, _one) = one;
    tokio::spawn(async move { while server.accept().await.is_some() {} });
    let mut second = scene.client().await;
    second.send(CALL).await;
    let other = held(&scene.cart[1 - at]).await;
    // It is the first endpoint's turn, which has no room, and there may be no third connection.
    let mut third = scene.client().await;
    third.send(CALL).await;
    while report(&scene).usage(Kind::Pending).used == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // Nobody has to look for that.
    drop(other);
    let (_server, mut respond) = held(&scene.cart[at]).await;
    let answer = http::Response::builder().header("grpc-status", "0");
    respond
        .send_response(answer.body(()).unwrap(), true)
        .unwrap();
}
