//! Rule 7: WebSocket, and nothing else.

use std::time::Duration;

use super::scene::{GOT, OK, Scene, Setting};
use crate::l7::flag::Flag;
use crate::proxy::exchange::Limits;

const ASK: &str = "GET /ws HTTP/1.1\r\nHost: a\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
const YES: &str = "HTTP/1.1 101 Switching Protocols\r\nDate: x\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

#[tokio::test]
async fn a_tunnel_carries_bytes_both_ways_and_closes_each_by_itself() {
    let scene = Scene::plain().await;
    let mut client = scene.client().await;
    client.send(ASK).await;
    let mut upstream = scene.upstream().await;
    upstream.expect(ASK).await;
    upstream.send([YES, "first"].concat()).await;
    client.expect([YES, "first"].concat()).await;
    client.send("from the client").await;
    upstream.expect("from the client").await;
    upstream.send("0\r\n\r\n").await;
    client.expect("0\r\n\r\n").await;
    tokio::io::AsyncWriteExt::shutdown(&mut client.0)
        .await
        .unwrap();
    upstream.end().await;
    upstream.send("still").await;
    client.expect("still").await;
    drop(upstream);
    client.end().await;
    let record = scene.record().await;
    assert_eq!(
        (record.status, record.received, record.sent),
        (Some(101), 15, 15)
    );
    assert!(record.flags.is_empty());
    assert_eq!(scene.room.pool.counts(), (0, 0));
}

#[tokio::test]
async fn the_upstream_may_close_its_direction_first() {
    let scene = Scene::plain().await;
    let mut client = scene.client().await;
    client.send(ASK).await;
    let mut upstream = scene.upstream().await;
    upstream.expect(ASK).await;
    upstream.send(YES).await;
    client.expect(YES).await;
    tokio::io::AsyncWriteExt::shutdown(&mut upstream.0)
        .await
        .unwrap();
    client.end().await;
    client.send("still").await;
    upstream.expect("still").await;
    drop(client);
    upstream.end().await;
}

#[tokio::test]
async fn a_silent_tunnel_ends() {
    let scene = Scene::new(Setting {
        limits: Limits {
            tunnel_idle: Duration::from_millis(500),
            ..Limits::default()
        },
        ..Setting::default()
    })
    .await;
    let mut client = scene.client().await;
    client.send(ASK).await;
    let mut upstream = scene.upstream().await;
    upstream.expect(ASK).await;
    upstream.send(YES).await;
    client.expect(YES).await;
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(150)).await;
        client.send("x").await;
        upstream.expect("x").await;
    }
    client.rest().await;
    assert_eq!(scene.record().await.flags, [Flag::StreamIdle]);
}

#[tokio::test]
async fn a_half_of_a_tunnel_that_is_silent_ends_too() {
    let scene = Scene::new(Setting {
        limits: Limits {
            tunnel_idle: Duration::from_millis(300),
            ..Limits::default()
        },
        ..Setting::default()
    })
    .await;
    let mut client = scene.client().await;
    client.send(ASK).await;
    let mut upstream = scene.upstream().await;
    upstream.expect(ASK).await;
    upstream.send(YES).await;
    client.expect(YES).await;
    tokio::io::AsyncWriteExt::shutdown(&mut upstream.0)
        .await
        .unwrap();
    client.rest().await;
    assert_eq!(scene.record().await.flags, [Flag::StreamIdle]);
}

#[tokio::test]
async fn an_upgrade_may_be_refused_and_the_connection_goes_on() {
    let scene = Scene::plain().await;
    let mut client = scene.client().await;
    client.send(ASK).await;
    let mut upstream = scene.upstream().await;
    upstream.expect(ASK).await;
    upstream.send(OK).await;
    client.expect(GOT).await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut upstream = scene.upstream().await;
    upstream.expect("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
}

#[tokio::test]
async fn nobody_switches_who_was_not_asked() {
    let scene = Scene::plain().await;
    for (request, response) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", YES),
        (
            ASK,
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
        ),
    ] {
        let mut client = scene.client().await;
        client.send(request).await;
        let mut upstream = scene.upstream().await;
        upstream.expect(request).await;
        upstream.send(response).await;
        assert!(client.head().await.starts_with("HTTP/1.1 502 "));
        assert_eq!(scene.record().await.flags, [Flag::UpstreamProtocol]);
    }
}
