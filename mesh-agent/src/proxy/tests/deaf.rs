//! Clients that read nothing.

use std::time::Duration;

use tokio::io::AsyncWriteExt as _;

use super::scene::{PATIENCE, Scene, Setting, rule};
use crate::l7::flag::Flag;
use crate::proxy::exchange::Limits;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

#[tokio::test]
async fn who_does_not_read_the_agents_answers_is_not_waited_for() {
    let scene = Scene::new(Setting {
        rules: vec![rule("/a", "cart")],
        limits: Limits {
            request_idle: Duration::from_millis(50),
            ..Limits::default()
        },
        ..Setting::default()
    })
    .await;
    let mut client = scene.narrow(64);
    client.write_all(GET.as_bytes()).await.unwrap();
    let record = scene.record().await;
    assert_eq!(record.status, Some(404));
    assert!(record.flags.contains(&Flag::DownstreamClosed));
    // Nor who does not read interim responses.
    let mut client = scene.narrow(64);
    let get = GET.replace("/ ", "/a ");
    client.write_all(get.as_bytes()).await.unwrap();
    let mut upstream = scene.upstream().await;
    upstream.expect(get).await;
    let hint = format!("HTTP/1.1 103 x\r\nLink: {}\r\n\r\n", "x".repeat(100));
    upstream.send(hint).await;
    let record = scene.record().await;
    assert_eq!(record.flags, [Flag::DownstreamClosed]);
    upstream.end().await;
    // Nor who does not read that it may go on.
    let mut client = scene.narrow(32);
    let post = "POST /a HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
    let sent = client.write_all(post.as_bytes());
    tokio::time::timeout(PATIENCE, sent).await.unwrap().unwrap();
    let mut upstream = scene.upstream().await;
    upstream.head().await;
    let go_on = "HTTP/1.1 100 Continue\r\n\r\n";
    let hint = format!("HTTP/1.1 103 x\r\nLink: {}\r\n\r\n", "x".repeat(8));
    upstream.send([go_on, &hint].concat()).await;
    assert_eq!(scene.record().await.flags, [Flag::DownstreamClosed]);
    assert_eq!(scene.room.shedder.enter().map(drop), Ok(()));
}
