//! The first bytes of a connection to a port that is known for HTTP.

use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::Instant;

use super::scene::{GOT, OK, Peer, Scene, introduced};
use crate::proxy::connection::{Serving, serve};
use crate::proxy::life::Life;
use crate::proxy::{h1, h2};

/// Connects to a data thread with such limits.
async fn client(scene: &Scene, h1: h1::Limits) -> Peer {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).await;
    let (accepted, address) = listener.accept().await.unwrap();
    let room = scene.room.clone();
    tokio::spawn(async move {
        let life = Life::new(Default::default(), Instant::now() + h1.max_age);
        let serving = Serving::new(room, h1, h2::Limits::default());
        let (stream, drain) = (accepted.into_std().unwrap(), watch::Sender::new(false));
        serve(stream, introduced(address), &serving, &life, &drain).await;
    });
    Peer(stream.unwrap())
}

#[tokio::test]
async fn who_begins_has_the_time_of_a_head_and_who_is_silent_that_of_an_idle_client() {
    let scene = Scene::plain().await;
    let limits = h1::Limits {
        head_time: Duration::from_millis(50),
        ..h1::Limits::default()
    };
    // Either version begins so.
    let mut slow = client(&scene, limits.clone()).await;
    slow.send("P").await;
    slow.end().await;
    let mut late = client(&scene, limits.clone()).await;
    assert!(late.is_silent().await);
    late.send("P").await;
    late.end().await;
    let mut early = client(&scene, limits.clone()).await;
    let moment = Duration::from_millis(150);
    let mut byte = [0];
    let ended = tokio::time::timeout(moment, early.0.peek(&mut byte)).await;
    assert!(ended.is_err(), "{ended:?}");
    let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    early.send(get).await;
    let mut upstream = scene.upstream().await;
    upstream.expect(get).await;
    upstream.send(OK).await;
    early.expect(GOT).await;
    let limits = h1::Limits {
        idle_time: Duration::from_millis(50),
        ..limits
    };
    client(&scene, limits).await.end().await;
}
