//! Rule 10: deadlines and retries of calls. That they are gRPC is in their fields, whatever the version of HTTP.

use std::time::Duration;

use http::StatusCode;

use super::scene::{Scene, rule};
use crate::l7::flag::Flag;
use crate::model::route::Retry;

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
