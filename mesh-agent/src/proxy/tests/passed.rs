//! Connections that are passed on byte by byte.

use std::net::Ipv4Addr;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::Instant;

use super::admission::report;
use super::scene::{Peer, Scene, Setting, accept, introduced};
use crate::l7::cluster::ClusterPolicy;
use crate::l7::cluster::policy::Algorithm;
use crate::proxy::connection::{Serving, serve};
use crate::proxy::exchange::Config;
use crate::proxy::life::Life;
use crate::proxy::{h1, h2};

#[tokio::test]
async fn an_endpoint_that_is_not_there_is_passed_over() {
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let dead = closed.local_addr().unwrap();
    drop(closed);
    let scene = Scene::new(Setting {
        more: vec![dead],
        policy: ClusterPolicy {
            algorithm: Algorithm::RoundRobin,
            ..ClusterPolicy::default()
        },
        ..Setting::default()
    })
    .await;
    // Nothing is known of the port.
    let config = Config {
        number: 2,
        destinations: scene.room.config.load().destinations.clone(),
        ..Config::default()
    };
    scene.room.config.store(config.into());
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    // Each is the first choice of two of these.
    for _ in 0..4 {
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await;
        let mut client = Peer(stream.unwrap());
        client.send("SSH-2.0-x\r\n").await;
        let (stream, address) = listener.accept().await.unwrap();
        let room = scene.room.clone();
        tokio::spawn(async move {
            let (h1, h2) = (h1::Limits::default(), h2::Limits::default());
            let life = Life::new(Default::default(), Instant::now() + h1.max_age);
            let serving = Serving::new(room, h1, h2);
            let (stream, drain) = (stream.into_std().unwrap(), watch::Sender::new(false));
            serve(stream, introduced(address), &serving, &life, &drain).await;
        });
        let mut upstream = accept(&scene.cart[0]).await;
        upstream.expect("SSH-2.0-x\r\n").await;
        upstream.send("SSH-2.0-y\r\n").await;
        client.expect("SSH-2.0-y\r\n").await;
    }
    assert_eq!(report(&scene).endpoints, 2);
}
