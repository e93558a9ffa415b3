//! Rule 9: what else there is to a request that is made again: its copy, its session, its body, and who waits to send one.

use std::time::Duration;

use http::StatusCode;

use super::scene::{GOT, OK, Scene, Setting, accept, rule, to};
use crate::l7::cluster::ClusterPolicy;
use crate::l7::cluster::policy::Algorithm;
use crate::model::route::{Filter, HttpMatch, Mirror, Retry, Rule, SessionBy, SessionPersistence};
use crate::proxy::exchange::Limits;

const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";
const AGAIN: &str =
    "POST / HTTP/1.1\r\nHost: a\r\nx-request-attempt: 1\r\nContent-Length: 5\r\n\r\nhello";
const BROKEN: &str =
    "HTTP/1.1 503 Service Unavailable\r\nDate: x\r\nX-Own: 1\r\nContent-Length: 2\r\n\r\nno";

fn retried() -> Rule<HttpMatch> {
    let mut rule = rule("/", "cart");
    rule.retry = Some(Retry {
        codes: vec![StatusCode::SERVICE_UNAVAILABLE],
        attempts: 1,
        backoff: Some(Duration::from_millis(1)),
    });
    rule
}

#[tokio::test]
async fn a_mirror_gets_one_copy_however_often_the_request_is_made() {
    let mut mirrored = retried();
    mirrored.filters.push(Filter::Mirror(Mirror {
        to: to("other").to,
        share: 1,
        of: 1,
    }));
    let scene = Scene::routed(vec![mirrored]).await;
    let mut client = scene.client().await;
    client.send(POST).await;
    let mut upstream = scene.upstream().await;
    upstream.expect(POST).await;
    upstream.send(BROKEN).await;
    upstream.expect(AGAIN).await;
    upstream.send(OK).await;
    client.expect(GOT).await;
    let mut mirror = accept(&scene.other[0]).await;
    mirror.expect(POST).await;
    mirror.send(OK).await;
    assert!(mirror.is_silent().await || mirror.rest().await.0.is_empty());
    let other = tokio::time::timeout(Duration::from_millis(50), scene.other[0].accept()).await;
    assert!(other.is_err());
}

#[tokio::test]
async fn a_session_moves_to_the_endpoint_that_answered() {
    let mut kept = retried();
    kept.session = Some(SessionPersistence {
        name: Some("x-session".to_owned()),
        by: SessionBy::Header,
        timeout: None,
    });
    let scene = Scene::new(Setting {
        endpoints: [2, 0],
        rules: vec![kept],
        policy: ClusterPolicy {
            algorithm: Algorithm::RoundRobin,
            ..ClusterPolicy::default()
        },
        ..Setting::default()
    })
    .await;
    let session = |head: String| {
        let value = head.split("\r\nx-session: ").nth(1)?;
        Some(value.split("\r\n").next()?.to_owned())
    };
    let mut client = scene.client().await;
    client.send(POST).await;
    let (mut one, other) = tokio::select! {
        it = accept(&scene.cart[0]) => (it, &scene.cart[1]),
        it = accept(&scene.cart[1]) => (it, &scene.cart[0]),
    };
    one.expect(POST).await;
    one.send(OK).await;
    let first = session(client.head().await).expect("a session");
    let with = |session: &str, request: &str| {
        request.replacen(
            "Host: a\r\n",
            &format!("Host: a\r\nx-session: {session}\r\n"),
            1,
        )
    };
    client.send(with(&first, POST)).await;
    one.head().await;
    one.expect("hello").await;
    one.send(BROKEN).await;
    let mut two = accept(other).await;
    two.head().await;
    two.expect("hello").await;
    two.send(OK).await;
    let second = session(client.head().await).expect("another session");
    assert_ne!(first, second);
    // And there it stays.
    for _ in 0..2 {
        client.send(with(&second, POST)).await;
        two.head().await;
        two.expect("hello").await;
        two.send(OK).await;
        assert_eq!(session(client.head().await), None);
    }
}

#[tokio::test]
async fn who_was_told_to_go_on_is_not_asked_again() {
    let scene = Scene::routed(vec![retried()]).await;
    let mut client = scene.client().await;
    let head = "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
    client.send(head).await;
    let mut upstream = scene.upstream().await;
    assert!(upstream.head().await.contains("xpect: 100-continue\r\n"));
    upstream.send("HTTP/1.1 100 Continue\r\n\r\n").await;
    client.expect("HTTP/1.1 100 Continue\r\n\r\n").await;
    client.send("hello").await;
    upstream.expect("hello").await;
    upstream.send(BROKEN).await;
    // The body is there: it goes along, and whether the upstream says so or not, the client is told nothing more.
    let again = upstream.head().await;
    assert!(again.contains("\r\nx-request-attempt: 1\r\n"), "{again}");
    upstream.expect("hello").await;
    upstream
        .send(["HTTP/1.1 100 Continue\r\n\r\n", OK].concat())
        .await;
    client.expect(GOT).await;
    assert_eq!(scene.record().await.attempts, 2);
}

#[tokio::test]
async fn a_body_that_is_still_coming_goes_on_to_the_next_attempt() {
    let scene = Scene::routed(vec![retried()]).await;
    let mut client = scene.client().await;
    let (most, last) = POST.split_at(POST.len() - 2);
    client.send(most).await;
    let mut upstream = scene.upstream().await;
    upstream.expect(most).await;
    upstream.send(BROKEN).await;
    let mut next = scene.upstream().await;
    next.expect(&AGAIN[..AGAIN.len() - 2]).await;
    client.send(last).await;
    next.expect(last).await;
    next.send(OK).await;
    client.expect(GOT).await;
    // The first was never told the end.
    assert_eq!(upstream.rest().await.0, "");
    let record = scene.record().await;
    assert_eq!((record.attempts, record.received), (2, 5));
}

#[tokio::test]
async fn bodies_above_what_all_may_keep_are_sent_once() {
    let scene = Scene::new(Setting {
        rules: vec![retried()],
        limits: Limits {
            kept_bytes: 9,
            ..Limits::default()
        },
        ..Setting::default()
    })
    .await;
    let mut first = scene.client().await;
    first.send(POST).await;
    let mut upstream = scene.upstream().await;
    upstream.expect(POST).await;
    // Nobody is turned away for it; but this one's body cannot be kept as well.
    let mut second = scene.client().await;
    second.send(POST).await;
    let mut other = scene.upstream().await;
    other.expect(POST).await;
    other.send(BROKEN).await;
    second.expect(BROKEN).await;
    let record = scene.record().await;
    assert_eq!((record.status, record.attempts), (Some(503), 1));
    upstream.send(BROKEN).await;
    upstream.expect(AGAIN).await;
    upstream.send(OK).await;
    first.expect(GOT).await;
    // What is kept no more leaves room.
    second.send(POST).await;
    upstream.expect(POST).await;
    upstream.send(BROKEN).await;
    upstream.expect(AGAIN).await;
    upstream.send(OK).await;
    second.expect(GOT).await;
}
