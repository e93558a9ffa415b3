//! What the whole of a response says of its endpoint, not its head alone.

use super::admission::report;
use super::scene::{Peer, Scene, Setting, strict};
use crate::l7::cluster::ClusterPolicy;
use crate::l7::cluster::policy::OutlierPolicy;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const HALF: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe";

/// A policy by which this many failures one after the other eject.
fn after(failures: u32) -> ClusterPolicy {
    ClusterPolicy {
        outlier: Some(OutlierPolicy {
            consecutive_5xx: Some(failures),
            ..OutlierPolicy::default()
        }),
        ..strict()
    }
}

async fn scene(failures: u32) -> Scene {
    Scene::new(Setting {
        policy: after(failures),
        ..Setting::default()
    })
    .await
}

/// Makes a request on a connection of its own, and returns both ends of it.
async fn asked(scene: &Scene) -> (Peer, Peer) {
    let mut client = scene.client().await;
    client.send(GET).await;
    let mut upstream = scene.upstream().await;
    upstream.expect(GET).await;
    (client, upstream)
}

#[tokio::test]
async fn an_endpoint_that_breaks_off_is_judged_by_that() {
    let scene = scene(2).await;
    for ejections in [0, 1] {
        let (mut client, mut upstream) = asked(&scene).await;
        upstream.send(HALF).await;
        drop(upstream);
        client.rest().await;
        scene.record().await;
        // Each counts once: the head of the second is no success in between.
        assert_eq!(report(&scene).ejections, ejections);
    }
}

#[tokio::test]
async fn who_goes_midway_says_nothing_against_the_endpoint() {
    let scene = scene(1).await;
    let (mut client, mut upstream) = asked(&scene).await;
    upstream.send(HALF).await;
    client.head().await;
    drop(client);
    upstream.end().await;
    scene.record().await;
    assert_eq!(report(&scene).ejections, 0);
}

#[tokio::test]
async fn the_status_in_trailers_counts() {
    let scene = scene(1).await;
    for (code, ejections) in [(0, 0), (5, 0), (14, 1)] {
        let mut client = scene.client().await;
        let call = "POST /a.B/C HTTP/1.1\r\nHost: a\r\nContent-Type: application/grpc\r\nContent-Length: 0\r\n\r\n";
        client.send(call).await;
        let mut upstream = scene.upstream().await;
        upstream.head().await;
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\ngrpc-status: {code}\r\n\r\n"
        );
        upstream.send(answer).await;
        scene.record().await;
        assert_eq!(report(&scene).ejections, ejections, "{code}");
    }
}
