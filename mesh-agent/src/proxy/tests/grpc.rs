//! Rule 10: deadlines and retries of calls. That they are gRPC is in their fields, whatever the version of HTTP.

use std::time::Duration;

use http::StatusCode;

use super::scene::{Scene, behind, rule};
use crate::l7::flag::Flag;
use crate::model::route::Retry;
use crate::proxy::record::Messages;

fn call(path: &str, lines: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/grpc\r\n{lines}Content-Length: 0\r\n\r\n"
    )
}

/// Returns the value of a field.
fn field<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    let mut lines = head.split("\r\n");
    lines.find_map(|line| {
        let (of, value) = line.split_once(": ")?;
        of.eq_ignore_ascii_case(name).then_some(value)
    })
}

#[tokio::test]
async fn a_deadline_goes_along_as_what_is_left_and_is_kept_to() {
    let scene = Scene::plain().await;
    let mut client = scene.client().await;
    client.send(call("/a.B/C", "grpc-timeout: 400m\r\n")).await;
    let mut upstream = scene.upstream().await;
    let head = upstream.head().await;
    let told = field(&head, "grpc-timeout").unwrap();
    let (number, unit) = told.split_at(told.len() - 1);
    let nanoseconds = match unit {
        "n" => 1,
        "u" => 1_000,
        other => panic!("{other}"),
    };
    let left = number.parse::<u64>().unwrap() * nanoseconds;
    assert!((1..=400_000_000).contains(&left), "{told}");
    // The upstream says nothing.
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert_eq!(field(&head, "grpc-status"), Some("4"), "{head}");
    upstream.end().await;
    assert_eq!(scene.record().await.flags, [Flag::UpstreamTimeout]);
}

#[tokio::test]
async fn calls_are_tried_again_by_their_status_and_say_how_often() {
    let mut retried = rule("/", "cart");
    retried.retry = Some(Retry {
        codes: vec![StatusCode::SERVICE_UNAVAILABLE],
        attempts: 1,
        backoff: Some(Duration::from_millis(1)),
    });
    let scene = Scene::routed(vec![retried]).await;
    let mut client = scene.client().await;
    client.send(call("/a.B/C", "")).await;
    let mut upstream = scene.upstream().await;
    let answer = |status: u32| {
        format!(
            "HTTP/1.1 200 OK\r\nDate: x\r\nContent-Type: application/grpc\r\ngrpc-status: {status}\r\nContent-Length: 0\r\n\r\n"
        )
    };
    let first = upstream.head().await;
    assert_eq!(field(&first, "grpc-previous-rpc-attempts"), None);
    // UNAVAILABLE.
    upstream.send(answer(14)).await;
    let second = upstream.head().await;
    assert_eq!(field(&second, "grpc-previous-rpc-attempts"), Some("1"));
    upstream.send(answer(0)).await;
    assert_eq!(field(&client.head().await, "grpc-status"), Some("0"));
    assert_eq!(scene.record().await.attempts, 2);
    // NOT_FOUND is an answer.
    client.send(call("/a.B/C", "")).await;
    upstream.head().await;
    upstream.send(answer(5)).await;
    assert_eq!(field(&client.head().await, "grpc-status"), Some("5"));
}

#[tokio::test]
async fn a_refusal_comes_before_the_body_and_without_100() {
    let scene = Scene::routed(vec![rule("/a", "cart")]).await;
    for (request, begin) in [
        (
            "POST /b HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
                .to_owned(),
            "HTTP/1.1 404 ",
        ),
        (call("/b.C/D", "Expect: 100-continue\r\n"), "HTTP/1.1 200 "),
    ] {
        let mut client = scene.client().await;
        client.send(request).await;
        let head = client.head().await;
        assert!(head.starts_with(begin), "{head}");
        assert_eq!(scene.record().await.flags, [Flag::NoRoute]);
    }
}

#[tokio::test]
async fn messages_of_calls_are_counted_and_who_answered_is_told() {
    let mut retried = rule("/", "cart");
    retried.retry = Some(Retry {
        codes: vec![StatusCode::SERVICE_UNAVAILABLE],
        attempts: 1,
        backoff: Some(Duration::from_millis(1)),
    });
    let scene = Scene::routed(vec![retried]).await;
    let message = |text: &str| {
        let mut bytes = vec![0, 0, 0, 0, u8::try_from(text.len()).unwrap()];
        bytes.extend(text.as_bytes());
        bytes
    };
    let head = |length: usize, of: &str| {
        format!("Date: x\r\nContent-Type: {of}\r\nContent-Length: {length}\r\n\r\n")
    };
    let (asked, said) = (
        [message("one"), message("")].concat(),
        [message("a"), message("bc"), message("d")].concat(),
    );
    let error = "an error of another kind";
    let mut client = scene.client().await;
    let mut kept = None;
    for (of, answer_of, body, sent) in [
        ("application/grpc", "application/grpc+proto", &said[..], 3),
        ("application/grpc", "text/plain", error.as_bytes(), 0),
    ] {
        let lines = head(asked.len(), of);
        client
            .send(format!("POST /a.B/C HTTP/1.1\r\nHost: a\r\n{lines}"))
            .await;
        // In pieces, and for a second attempt once more.
        let (first, rest) = asked.split_at(6);
        client.send(first).await;
        let mut upstream = match kept.take() {
            Some(upstream) => upstream,
            None => scene.upstream().await,
        };
        let seen = upstream.head().await;
        assert!(seen.contains("/a.B/C"), "{seen}");
        upstream.expect(first).await;
        client.send(rest).await;
        upstream.expect(rest).await;
        let refused = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";
        upstream.send(refused).await;
        upstream.head().await;
        upstream.expect(&asked).await;
        let lines = head(body.len(), answer_of);
        upstream.send(format!("HTTP/1.1 200 OK\r\n{lines}")).await;
        upstream.send(body).await;
        client.head().await;
        client.expect(body).await;
        let seen = scene.record().await;
        assert_eq!(seen.attempts, 2);
        let received = 2;
        assert_eq!(seen.messages, Some(Messages { received, sent }));
        let endpoint = upstream.0.local_addr().unwrap();
        assert_eq!(seen.workload, Some(behind(&endpoint)));
        kept = Some(upstream);
    }
    // What is no call has none.
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut upstream = kept.unwrap();
    upstream.head().await;
    upstream
        .send("HTTP/1.1 204 No Content\r\nDate: x\r\n\r\n")
        .await;
    client.head().await;
    assert_eq!(scene.record().await.messages, None);
}
