//! Where a request's time went, against a wall clock: all of it is told, and none of it twice.

use std::time::{Duration, Instant};

use http::StatusCode;

use super::scene::{GOT, OK, Scene, Setting, rule};
use crate::l7::flag::Flag;
use crate::model::route::Retry;
use crate::model::traffic::{Fault, Traffic};
use crate::proxy::record::Times;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// How long each part is made to take: what is told may be more, and never less.
const STEP: Duration = Duration::from_millis(30);

async fn step() {
    tokio::time::sleep(STEP).await;
}

/// Checks that each part has at least these steps, and that all together they are no more than the client saw.
fn check(times: Times, steps: [u32; 4], wall: Duration) {
    let Times {
        agent_ns,
        connect_ns,
        upstream_ns,
        transfer_ns,
    } = times;
    for (part, steps) in [agent_ns, connect_ns, upstream_ns, transfer_ns]
        .into_iter()
        .zip(steps)
    {
        assert!(
            Duration::from_nanos(part) >= STEP * steps,
            "{times:?}, not {steps}"
        );
    }
    let whole = Duration::from_nanos(times.total_ns());
    assert!(whole <= wall, "{whole:?} of {wall:?}: {times:?}");
}

#[tokio::test]
async fn the_upstream_s_time_ends_with_the_head_and_what_follows_is_transfer() {
    let scene = Scene::plain().await;
    let mut client = scene.client().await;
    let begun = Instant::now();
    client.send(GET).await;
    let mut upstream = scene.upstream().await;
    upstream.expect(GET).await;
    step().await;
    let head = "HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 4\r\n\r\n";
    upstream.send([head, "hi"].concat()).await;
    client.expect([head, "hi"].concat()).await;
    step().await;
    upstream.send("ho").await;
    client.expect("ho").await;
    let times = scene.record().await.times;
    check(times, [0, 0, 1, 1], begun.elapsed());
    // The connection to the client was there, too, between two requests, which is nobody's time.
    step().await;
    let begun = Instant::now();
    client.send(GET).await;
    upstream.expect(GET).await;
    upstream.send(OK).await;
    client.expect(GOT).await;
    check(scene.record().await.times, [0; 4], begun.elapsed());
}

#[tokio::test]
async fn every_attempt_counts_and_pauses_in_between_are_the_agent_s() {
    let mut retried = rule("/", "cart");
    retried.retry = Some(Retry {
        codes: vec![StatusCode::SERVICE_UNAVAILABLE],
        attempts: 1,
        backoff: Some(STEP),
    });
    let scene = Scene::routed(vec![retried]).await;
    let mut client = scene.client().await;
    let begun = Instant::now();
    client.send(GET).await;
    let mut upstream = scene.upstream().await;
    upstream.expect(GET).await;
    step().await;
    upstream
        .send("HTTP/1.1 503 x\r\nContent-Length: 0\r\n\r\n")
        .await;
    assert!(upstream.head().await.contains("x-request-attempt: 1"));
    step().await;
    upstream.send(OK).await;
    client.expect(GOT).await;
    let record = scene.record().await;
    assert_eq!((record.attempts, record.flags), (2, vec![]));
    check(record.times, [1, 0, 2, 0], begun.elapsed());
}

#[tokio::test]
async fn a_delay_on_purpose_is_the_agent_s() {
    let fault = Fault {
        delay: Some((STEP, 100)),
        abort: None,
    };
    let scene = Scene::new(Setting {
        traffic: Traffic {
            fault: Some(fault),
            ..Traffic::default()
        },
        ..Setting::default()
    })
    .await;
    let mut client = scene.client().await;
    let begun = Instant::now();
    client.send(GET).await;
    let mut upstream = scene.upstream().await;
    upstream.expect(GET).await;
    step().await;
    upstream.send(OK).await;
    client.expect(GOT).await;
    let record = scene.record().await;
    assert_eq!(record.flags, [Flag::FaultDelay]);
    check(record.times, [1, 0, 1, 0], begun.elapsed());
}
