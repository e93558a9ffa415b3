//! Rules 3 and 11: pipelining, connections that are used again, drain, what is not reused.

use std::time::Duration;

use super::scene::{GOT, OK, PATIENCE, Scene, Setting, accept};
use crate::l7::flag::Flag;
use crate::proxy::exchange::Limits;
use crate::proxy::h1;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let scene = Scene::plain().await;
    let mut client = scene.client().await;
    client.send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\nPOST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhiGET /3 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut upstream = scene.upstream().await;
    upstream.expect("GET /1 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    // One at a time, on one connection.
    assert!(upstream.is_silent().await);
    upstream.send(OK).await;
    upstream
        .expect("POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi")
        .await;
    upstream.send(OK).await;
    upstream.expect("GET /3 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    upstream.send(OK).await;
    client.expect(GOT.repeat(3)).await;
    assert_eq!(scene.room.pool.counts(), (1, 1));
}

#[tokio::test]
async fn connections_to_upstreams_are_used_again_by_whoever_comes() {
    let scene = Scene::plain().await;
    let mut upstream = None;
    for _ in 0..3 {
        let mut client = scene.client().await;
        client.send(GET).await;
        if upstream.is_none() {
            upstream = Some(scene.upstream().await);
        }
        let upstream = upstream.as_mut().unwrap();
        upstream.expect(GET).await;
        upstream.send(OK).await;
        client.expect(GOT).await;
    }
    assert_eq!(scene.room.pool.counts(), (1, 1));
    // An idle one that is old enough goes.
    tokio::time::sleep(Duration::from_millis(1)).await;
    scene
        .room
        .pool
        .sweep(tokio::time::Instant::now() + Duration::from_secs(4));
    assert_eq!(scene.room.pool.counts(), (0, 0));
    upstream.unwrap().end().await;
}

#[tokio::test]
async fn a_connection_that_said_too_much_is_not_used_again() {
    let evil = "HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\nX-Poison: 1\r\n\r\n";
    let not_kept = [
        evil,
        "HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        "HTTP/1.0 200 OK\r\nDate: x\r\nContent-Length: 0\r\n\r\n",
    ];
    for response in not_kept {
        let scene = Scene::plain().await;
        let mut client = scene.client().await;
        client.send(GET).await;
        let mut upstream = scene.upstream().await;
        upstream.expect(GET).await;
        upstream.send(response).await;
        client.expect(GOT).await;
        client.send(GET).await;
        let mut second = scene.upstream().await;
        second.expect(GET).await;
        second.send(OK).await;
        client.expect(GOT).await;
    }
    // What comes between two requests was not asked for either.
    let scene = Scene::plain().await;
    let mut client = scene.client().await;
    client.send(GET).await;
    let mut upstream = scene.upstream().await;
    upstream.expect(GET).await;
    upstream.send(OK).await;
    client.expect(GOT).await;
    upstream.send(evil).await;
    assert!(client.is_silent().await);
    client.send(GET).await;
    let mut second = scene.upstream().await;
    second.expect(GET).await;
    second.send(OK).await;
    client.expect(GOT).await;
}

#[tokio::test]
async fn an_unread_request_ends_its_connections() {
    let scene = Scene::new(Setting {
        h1: h1::Limits {
            linger_time: Duration::from_millis(20),
            ..h1::Limits::default()
        },
        ..Setting::default()
    })
    .await;
    let mut client = scene.client().await;
    client
        .send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhi")
        .await;
    let mut upstream = scene.upstream().await;
    upstream.head().await;
    upstream.expect("hi").await;
    upstream
        .send("HTTP/1.1 413 x\r\nDate: x\r\nContent-Length: 0\r\n\r\n")
        .await;
    client
        .expect("HTTP/1.1 413 Payload Too Large\r\nDate: x\r\nContent-Length: 0\r\n\r\n")
        .await;
    upstream.end().await;
    client.end().await;
    assert_eq!(scene.room.pool.counts(), (0, 0));
}

#[tokio::test]
async fn a_drain_ends_connections_with_their_next_response() {
    let scene = Scene::plain().await;
    let mut client = scene.client().await;
    client.send(GET).await;
    let mut upstream = scene.upstream().await;
    upstream.expect(GET).await;
    // It begins while a request is in progress.
    scene.drain();
    upstream.send(OK).await;
    client
        .expect("HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        .await;
    client.end().await;
}

#[tokio::test]
async fn an_old_connection_is_asked_to_close() {
    let scene = Scene::new(Setting {
        h1: h1::Limits {
            max_age: Duration::ZERO,
            ..h1::Limits::default()
        },
        ..Setting::default()
    })
    .await;
    let mut client = scene.client().await;
    client.send(GET).await;
    let mut upstream = scene.upstream().await;
    upstream.expect(GET).await;
    upstream.send(OK).await;
    assert!(client.head().await.contains("\r\nConnection: close\r\n"));
    client.end().await;
}

#[tokio::test]
async fn too_much_in_flight_is_shed() {
    let scene = Scene::new(Setting {
        limits: Limits {
            in_flight: 1,
            ..Limits::default()
        },
        ..Setting::default()
    })
    .await;
    let mut first = scene.client().await;
    first.send(GET).await;
    let mut upstream = accept(&scene.cart[0]).await;
    upstream.expect(GET).await;
    let mut second = scene.client().await;
    second.send(GET).await;
    let head = second.head().await;
    assert!(
        head.starts_with("HTTP/1.1 503 ") && head.contains("\r\nretry-after: 1\r\n"),
        "{head}"
    );
    assert_eq!(scene.record().await.flags, [Flag::Shed]);
    upstream.send(OK).await;
    first.expect(GOT).await;
}

#[tokio::test]
async fn bodies_and_responses_have_their_time() {
    let setting = || Setting {
        limits: Limits {
            request_idle: Duration::from_millis(300),
            response_idle: Duration::from_millis(300),
            ..Limits::default()
        },
        ..Setting::default()
    };
    let scene = Scene::new(setting()).await;
    let mut client = scene.client().await;
    client
        .send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhi")
        .await;
    assert!(client.head().await.starts_with("HTTP/1.1 408 "));
    assert_eq!(scene.record().await.flags[0], Flag::StreamIdle);
    let scene = Scene::new(setting()).await;
    let mut client = scene.client().await;
    client.send(GET).await;
    assert!(client.head().await.starts_with("HTTP/1.1 504 "));
    let record = scene.record().await;
    assert_eq!(
        (record.status, &record.flags[..]),
        (Some(504), &[Flag::UpstreamTimeout][..])
    );
    assert!(record.times.upstream_ns > 290_000_000 && record.times.total_ns() < 9_000_000_000);
    let mut upstream = scene.upstream().await;
    upstream.expect(GET).await;
    upstream.end().await;
    client.send(GET).await;
    let mut upstream = scene.upstream().await;
    upstream.expect(GET).await;
    upstream
        .send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi")
        .await;
    client.head().await;
    assert_eq!(client.rest().await.0, "hi");
    assert_eq!(scene.record().await.flags, [Flag::UpstreamTimeout]);
}

#[tokio::test]
async fn a_client_that_does_not_read_is_not_the_endpoint_s_fault() {
    let scene = Scene::new(Setting {
        limits: Limits {
            response_idle: Duration::from_millis(300),
            ..Limits::default()
        },
        ..Setting::default()
    })
    .await;
    let mut client = scene.client().await;
    client.send(GET).await;
    let mut upstream = scene.upstream().await;
    upstream.expect(GET).await;
    upstream
        .send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    // More than all buffers on the way, until the agent gives up.
    let chunk = [
        "10000\r\n".to_owned(),
        "x".repeat(0x10000),
        "\r\n".to_owned(),
    ]
    .concat();
    let send = async {
        while tokio::io::AsyncWriteExt::write_all(&mut upstream.0, chunk.as_bytes())
            .await
            .is_ok()
        {}
    };
    tokio::time::timeout(PATIENCE, send).await.unwrap();
    let record = scene.record().await;
    assert_eq!(
        (record.status, &record.flags[..]),
        (Some(200), &[Flag::StreamIdle][..])
    );
}

#[tokio::test]
async fn calls_of_grpc_may_be_silent() {
    let scene = Scene::new(Setting {
        limits: Limits {
            request_idle: Duration::from_millis(50),
            response_idle: Duration::from_millis(50),
            ..Limits::default()
        },
        ..Setting::default()
    })
    .await;
    let mut client = scene.client().await;
    let head = "POST /a.B/C HTTP/1.1\r\nHost: a\r\nContent-Type: application/grpc\r\nTransfer-Encoding: chunked\r\n\r\n";
    client.send(head).await;
    let mut upstream = scene.upstream().await;
    upstream.expect(head).await;
    // Many times what others may be, before the response and in the middle of it.
    tokio::time::sleep(Duration::from_millis(300)).await;
    client.send("2\r\nhi\r\n").await;
    upstream.expect("2\r\nhi\r\n").await;
    let answer = "HTTP/1.1 200 OK\r\nDate: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    upstream.send(answer).await;
    client.expect(answer).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    client.send("0\r\n\r\n").await;
    upstream.expect("0\r\n\r\n").await;
    upstream.send("0\r\n\r\n").await;
    client.expect("0\r\n\r\n").await;
    assert!(scene.record().await.flags.is_empty());
}
