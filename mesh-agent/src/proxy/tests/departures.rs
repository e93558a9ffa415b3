//! Clients that are gone.

use super::scene::{GOT, OK, Scene};
use crate::l7::flag::Flag;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

#[tokio::test]
async fn a_client_that_leaves_behind_its_body_is_noticed() {
    let scene = Scene::plain().await;
    let mut client = scene.client().await;
    client.send(GET).await;
    let mut upstream = scene.upstream().await;
    upstream.expect(GET).await;
    upstream.send(OK).await;
    client.expect(GOT).await;
    scene.record().await;
    let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";
    client.send(post).await;
    upstream.expect(post).await;
    drop(client);
    upstream.end().await;
    assert_eq!(scene.record().await.flags, [Flag::DownstreamClosed]);
    // The same where the end of the body comes later.
    let mut client = scene.client().await;
    let (most, last) = post.split_at(post.len() - 1);
    client.send(most).await;
    let mut upstream = scene.upstream().await;
    upstream.expect(most).await;
    client.send(last).await;
    upstream.expect(last).await;
    drop(client);
    upstream.end().await;
    assert_eq!(scene.record().await.flags, [Flag::DownstreamClosed]);
}
