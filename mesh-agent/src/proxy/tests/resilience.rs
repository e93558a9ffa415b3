//! Rule 9: retries and what they may not do; time-outs; circuit breakers.

use std::time::Duration;

use http::StatusCode;

use super::scene::{GOT, OK, Scene, Setting, accept, rule};
use crate::l7::cluster::ClusterPolicy;
use crate::l7::cluster::policy::{BreakerPolicy, BudgetPolicy};
use crate::l7::flag::Flag;
use crate::model::route::{HttpMatch, Retry, Rule};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const AGAIN: &str = "GET / HTTP/1.1\r\nHost: a\r\nx-request-attempt: 1\r\n\r\n";
const BROKEN: &str =
    "HTTP/1.1 503 Service Unavailable\r\nDate: x\r\nX-Own: 1\r\nContent-Length: 2\r\n\r\nno";

fn retried(attempts: u32) -> Rule<HttpMatch> {
    let mut rule = rule("/", "cart");
    rule.retry = Some(Retry {
        codes: vec![StatusCode::SERVICE_UNAVAILABLE],
        attempts,
        backoff: Some(Duration::from_millis(1)),
    });
    rule
}

#[tokio::test]
async fn codes_are_tried_again_and_the_last_response_is_the_answer() {
    let scene = Scene::routed(vec![retried(1)]).await;
    let mut client = scene.client().await;
    client.send(GET).await;
    let mut upstream = scene.upstream().await;
    upstream.expect(GET).await;
    upstream.send(BROKEN).await;
    // On the same connection, whose response was read to its end.
    upstream.expect(AGAIN).await;
    upstream.send(OK).await;
    client.expect(GOT).await;
    let record = scene.record().await;
    assert_eq!(
        (record.status, record.attempts, record.flags),
        (Some(200), 2, vec![])
    );
    client.send(GET).await;
    for request in [GET, AGAIN] {
        upstream.expect(request).await;
        upstream.send(BROKEN).await;
    }
    client.expect(BROKEN).await;
    assert_eq!(scene.record().await.attempts, 2);
    // A code that is not named is the answer.
    client.send(GET).await;
    upstream.expect(GET).await;
    upstream
        .send("HTTP/1.1 500 x\r\nContent-Length: 0\r\n\r\n")
        .await;
    assert!(client.head().await.starts_with("HTTP/1.1 500 "));
}

#[tokio::test]
async fn a_short_body_is_sent_again_and_a_long_one_is_not() {
    let scene = Scene::routed(vec![retried(1)]).await;
    let mut client = scene.client().await;
    let short = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";
    client.send(short).await;
    let mut upstream = scene.upstream().await;
    upstream.expect(short).await;
    upstream.send(BROKEN).await;
    upstream
        .expect(
            "POST / HTTP/1.1\r\nHost: a\r\nx-request-attempt: 1\r\nContent-Length: 5\r\n\r\nhello",
        )
        .await;
    upstream.send(OK).await;
    client.expect(GOT).await;
    let long = vec![b'x'; 70_000];
    client
        .send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 70000\r\n\r\n")
        .await;
    client.send(&long).await;
    upstream.head().await;
    upstream.expect(&long).await;
    upstream.send(BROKEN).await;
    client.expect(BROKEN).await;
}

#[tokio::test]
async fn another_endpoint_is_tried() {
    let scene = Scene::new(Setting {
        endpoints: [2, 0],
        rules: vec![retried(1)],
        ..Setting::default()
    })
    .await;
    let mut client = scene.client().await;
    client.send(GET).await;
    let (mut first, other) = tokio::select! {
        it = accept(&scene.cart[0]) => (it, &scene.cart[1]),
        it = accept(&scene.cart[1]) => (it, &scene.cart[0]),
    };
    first.expect(GET).await;
    first.reset();
    let mut second = accept(other).await;
    second.expect(AGAIN).await;
    second.send(OK).await;
    client.expect(GOT).await;
    assert_eq!(scene.record().await.attempts, 2);
}

#[tokio::test]
async fn without_a_policy_only_what_nobody_saw_is_sent_again() {
    let scene = Scene::plain().await;
    // A new connection that breaks: it may have been seen.
    let mut client = scene.client().await;
    client.send(GET).await;
    let mut upstream = scene.upstream().await;
    upstream.expect(GET).await;
    drop(upstream);
    assert!(client.head().await.starts_with("HTTP/1.1 503 "));
    assert_eq!(scene.record().await.flags, [Flag::UpstreamReset]);
    // A kept one that is closed as the request arrives: again if the method is idempotent.
    for (request, may) in [
        (GET, true),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
            false,
        ),
    ] {
        client.send(GET).await;
        let mut upstream = scene.upstream().await;
        upstream.expect(GET).await;
        upstream.send(OK).await;
        client.expect(GOT).await;
        scene.record().await;
        client.send(request).await;
        upstream.expect(request).await;
        drop(upstream);
        if may {
            let mut upstream = scene.upstream().await;
            upstream.expect(AGAIN).await;
            upstream
                .send(
                    "HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
                )
                .await;
            client.expect(GOT).await;
            assert_eq!(scene.record().await.attempts, 2);
        } else {
            assert!(client.head().await.starts_with("HTTP/1.1 503 "));
            assert_eq!(scene.record().await.flags, [Flag::UpstreamClosed]);
        }
    }
}

#[tokio::test]
async fn nobody_there_is_said() {
    let mut scene = Scene::plain().await;
    scene.cart.clear();
    let mut client = scene.client().await;
    client.send(GET).await;
    assert!(client.head().await.starts_with("HTTP/1.1 503 "));
    let record = scene.record().await;
    assert_eq!(
        (record.attempts, record.flags),
        (2, vec![Flag::UpstreamConnectFailure])
    );
    let scene = Scene::routed(vec![retried(2)]).await;
    let mut client = scene.client().await;
    client.send(GET).await;
    for _ in 0..3 {
        let mut upstream = scene.upstream().await;
        upstream.head().await;
        upstream.reset();
    }
    assert!(client.head().await.starts_with("HTTP/1.1 503 "));
    let record = scene.record().await;
    assert_eq!(record.flags, [Flag::RetriesExhausted, Flag::UpstreamReset]);
    assert_eq!(record.attempts, 3);
}

#[tokio::test]
async fn nothing_is_tried_again_once_the_client_has_a_byte() {
    let scene = Scene::routed(vec![retried(3)]).await;
    let mut client = scene.client().await;
    client.send(GET).await;
    let mut upstream = scene.upstream().await;
    upstream.expect(GET).await;
    upstream
        .send("HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 5\r\n\r\nhe")
        .await;
    drop(upstream);
    assert!(client.rest().await.0.ends_with("\r\n\r\nhe"));
    assert_eq!(scene.record().await.attempts, 1);
}

#[tokio::test]
async fn a_garbled_response_is_a_bad_gateway() {
    for garbage in [
        "SSH-2.0-x\r\n\r\n",
        "HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX : y\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n",
        "HTTP/1.1 99 Low\r\n\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
        &format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(101)),
        &format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "y".repeat(70_000)),
    ] {
        let scene = Scene::plain().await;
        let mut client = scene.client().await;
        client.send(GET).await;
        let mut upstream = scene.upstream().await;
        upstream.expect(GET).await;
        upstream.send(garbage).await;
        assert!(
            client.head().await.starts_with("HTTP/1.1 502 "),
            "{garbage:?}"
        );
        assert_eq!(scene.record().await.flags, [Flag::UpstreamProtocol]);
    }
}

#[tokio::test]
async fn times_of_the_whole_and_of_an_attempt() {
    let mut timed = rule("/", "cart");
    timed.request_timeout = Some(Duration::from_millis(300));
    let scene = Scene::routed(vec![timed]).await;
    let mut client = scene.client().await;
    client.send(GET).await;
    let mut upstream = scene.upstream().await;
    assert!(client.head().await.starts_with("HTTP/1.1 504 "));
    upstream.expect(GET).await;
    upstream.end().await;
    assert_eq!(scene.record().await.flags, [Flag::UpstreamTimeout]);
    // In the middle of a response it ends that.
    client.send(GET).await;
    let mut upstream = scene.upstream().await;
    upstream.expect(GET).await;
    upstream
        .send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe")
        .await;
    assert!(client.rest().await.0.ends_with("he"));
    let mut each = retried(1);
    each.backend_timeout = Some(Duration::from_millis(300));
    let scene = Scene::routed(vec![each]).await;
    let mut client = scene.client().await;
    client.send(GET).await;
    let mut first = scene.upstream().await;
    first.expect(GET).await;
    let mut second = scene.upstream().await;
    second.expect(AGAIN).await;
    second.send(OK).await;
    client.expect(GOT).await;
    assert_eq!(scene.record().await.attempts, 2);
}

/// Whatever it is that would be tried again.
#[tokio::test]
async fn a_spent_budget_is_503_whatever_failed() {
    let policy = ClusterPolicy {
        budget: Some(BudgetPolicy {
            percent: 0,
            interval_ns: 1_000_000_000,
            min_count: 0,
            min_interval_ns: 1_000_000_000,
        }),
        ..ClusterPolicy::default()
    };
    let mut rule = retried(5);
    rule.backend_timeout = Some(Duration::from_millis(300));
    let mut scene = Scene::new(Setting {
        policy,
        rules: vec![rule],
        ..Setting::default()
    })
    .await;
    let mut client = scene.client().await;
    for answer in [Some("HTTP/9.9 what\r\n\r\n"), Some(""), None] {
        client.send(GET).await;
        let mut upstream = scene.upstream().await;
        upstream.expect(GET).await;
        // Something that is no HTTP, an end, or nothing at all.
        let silent = match answer {
            Some("") => {
                upstream.reset();
                None
            }
            Some(answer) => {
                upstream.send(answer).await;
                Some(upstream)
            }
            None => Some(upstream),
        };
        let head = client.head().await;
        assert!(head.starts_with("HTTP/1.1 503 "), "{answer:?}: {head}");
        drop(silent);
        assert_eq!(scene.record().await.flags, [Flag::Overflow], "{answer:?}");
    }
    scene.cart.clear();
    client.send(GET).await;
    assert!(client.head().await.starts_with("HTTP/1.1 503 "));
    assert_eq!(
        scene.record().await.flags,
        [Flag::Overflow],
        "nobody listens"
    );
}

#[tokio::test]
async fn breakers_and_budgets_turn_away() {
    let policy = ClusterPolicy {
        breaker: BreakerPolicy {
            requests: 1,
            ..BreakerPolicy::default()
        },
        ..ClusterPolicy::default()
    };
    let scene = Scene::new(Setting {
        policy,
        ..Setting::default()
    })
    .await;
    let mut first = scene.client().await;
    first.send(GET).await;
    let mut upstream = scene.upstream().await;
    upstream.expect(GET).await;
    let mut second = scene.client().await;
    second.send(GET).await;
    assert!(second.head().await.starts_with("HTTP/1.1 503 "));
    assert_eq!(scene.record().await.flags, [Flag::Overflow]);
    let policy = ClusterPolicy {
        budget: Some(BudgetPolicy {
            percent: 0,
            interval_ns: 1_000_000_000,
            min_count: 0,
            min_interval_ns: 1_000_000_000,
        }),
        ..ClusterPolicy::default()
    };
    let scene = Scene::new(Setting {
        policy,
        rules: vec![retried(5)],
        ..Setting::default()
    })
    .await;
    let mut client = scene.client().await;
    client.send(GET).await;
    let mut upstream = scene.upstream().await;
    upstream.expect(GET).await;
    upstream.send(BROKEN).await;
    let head = client.head().await;
    assert!(
        head.starts_with("HTTP/1.1 503 ") && !head.contains("X-Own"),
        "{head}"
    );
    assert_eq!(scene.record().await.flags, [Flag::Overflow]);
}
