//! Requests that wait for a stream of HTTP/2, where there may be no more connections.

use std::time::Duration;

use h2::Ping;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
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

#[tokio::test]
async fn a_request_that_a_leaving_connection_did_not_take_moves_to_another_one() {
    let mut policy = connections(2);
    // It is no retry, and no fault of the endpoint's.
    policy.breaker.retries = 0;
    let scene = Scene::new(Setting {
        speaks: [Speaks::Http2, Speaks::Http1],
        policy,
        ..Setting::default()
    })
    .await;
    let (mut first, mut second) = (scene.client().await, scene.client().await);
    first.send(CALL).await;
    let mut leaving = accept(&scene.cart[0]).await.0;
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    leaving.write_all(&settings).await.unwrap();
    let mut got = Vec::new();
    let heads = |got: &[u8]| {
        let is_head = |it: &&[u8]| it[3] == 1 && it[5..8] == [0; 3] && it[8] % 2 == 1;
        got.windows(9).filter(is_head).count()
    };
    for (number, client) in [(1, None), (2, Some(&mut second))] {
        if let Some(client) = client {
            client.send(CALL).await;
        }
        while heads(&got) < number {
            assert_ne!(leaving.read_buf(&mut got).await.unwrap(), 0);
        }
    }
    // GOAWAY after stream 1, which is answered with 200.
    let goaway = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0];
    leaving.write_all(&goaway).await.unwrap();
    let answer = [0, 0, 1, 1, 5, 0, 0, 0, 1, 0x88];
    leaving.write_all(&answer).await.unwrap();
    assert!(first.head().await.starts_with("HTTP/1.1 200 "));
    let (mut server, mut respond) = held(&scene.cart[0]).await;
    let response = http::Response::builder().header("grpc-status", "0");
    respond
        .send_response(response.body(()).unwrap(), true)
        .unwrap();
    tokio::spawn(async move { while server.accept().await.is_some() {} });
    assert!(second.head().await.starts_with("HTTP/1.1 200 "));
    for attempts in [1, 2] {
        let record = scene.record().await;
        assert_eq!((record.attempts, record.flags), (attempts, vec![]));
    }
    assert_eq!(report(&scene).ejections, 0);
}
