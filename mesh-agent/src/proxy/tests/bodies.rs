//! Rules 4 to 6 and 8: bodies, expectations, interim responses and trailers.

use std::time::Duration;

use super::scene::{OK, Scene, Setting};
use crate::l7::flag::Flag;
use crate::proxy::exchange::Limits;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// Request, response of the upstream, what the client gets, and whether the connection stays open for both.
const RESPONSES: &[(&str, &str, &str, bool)] = &[
    (
        GET,
        "HTTP/1.1 200 Fine\r\nDate: x\r\nServer: s\r\nContent-Length: 2\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: x\r\n\r\nhi",
        "HTTP/1.1 200 OK\r\nDate: x\r\nServer: s\r\nContent-Length: 2\r\n\r\nhi",
        true,
    ),
    (
        "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n",
        "HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 99\r\n\r\n",
        "HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 99\r\n\r\n",
        true,
    ),
    (
        "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n",
        "HTTP/1.1 200 OK\r\nDate: x\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nDate: x\r\n\r\n",
        true,
    ),
    (
        GET,
        "HTTP/1.1 204 No Content\r\nDate: x\r\nContent-Length: 9\r\n\r\n",
        "HTTP/1.1 204 No Content\r\nDate: x\r\n\r\n",
        true,
    ),
    (
        GET,
        "HTTP/1.1 304 Not Modified\r\nDate: x\r\nContent-Length: 9\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\nDate: x\r\nContent-Length: 9\r\n\r\n",
        true,
    ),
    (
        GET,
        "HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nDate: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        true,
    ),
    (
        "GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n",
        "HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 2\r\n\r\nhi",
        "HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nhi",
        true,
    ),
    (
        "GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n",
        "HTTP/1.1 200 OK\r\nDate: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nDate: x\r\nConnection: close\r\n\r\nhi",
        false,
    ),
    (
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        "HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 2\r\n\r\nhi",
        "HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi",
        false,
    ),
];

#[tokio::test]
async fn clients_get_responses_framed_for_them() {
    for (request, response, got, stays) in RESPONSES {
        let scene = Scene::plain().await;
        let mut client = scene.client().await;
        client.send(request).await;
        let mut upstream = scene.upstream().await;
        upstream.head().await;
        upstream.send(response).await;
        client.expect(got).await;
        match stays {
            true => assert!(client.is_silent().await, "{response:?}"),
            false => client.end().await,
        }
    }
}

#[tokio::test]
async fn a_date_is_added_where_there_is_none() {
    let scene = Scene::plain().await;
    let mut client = scene.client().await;
    client.send(GET).await;
    let mut upstream = scene.upstream().await;
    upstream.head().await;
    upstream
        .send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        .await;
    let head = client.head().await;
    let date = head.split("\r\nDate: ").nth(1).unwrap();
    let date = date.split("\r\n").next().unwrap();
    assert!(httpdate::parse_http_date(date).is_ok(), "{date}");
}

#[tokio::test]
async fn a_response_without_length_ends_with_its_connection() {
    let scene = Scene::plain().await;
    let mut client = scene.client().await;
    client.send(GET).await;
    let mut upstream = scene.upstream().await;
    upstream.head().await;
    upstream.send("HTTP/1.1 200 OK\r\nDate: x\r\n\r\nall").await;
    client
        .expect("HTTP/1.1 200 OK\r\nDate: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nall\r\n")
        .await;
    upstream.send("more").await;
    client.expect("4\r\nmore\r\n").await;
    drop(upstream);
    client.expect("0\r\n\r\n").await;
    assert!(client.is_silent().await);
    assert_eq!(scene.record().await.sent, 7);
}

#[tokio::test]
async fn what_breaks_off_breaks_off_for_the_client_too() {
    let broken = [
        (
            "HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 9\r\n\r\nhi",
            Flag::UpstreamClosed,
        ),
        (
            "HTTP/1.1 200 OK\r\nDate: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n",
            Flag::UpstreamClosed,
        ),
        (
            "HTTP/1.1 200 OK\r\nDate: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\nx\r\n",
            Flag::UpstreamProtocol,
        ),
    ];
    for (response, flag) in broken {
        let scene = Scene::plain().await;
        let mut client = scene.client().await;
        client.send(GET).await;
        let mut upstream = scene.upstream().await;
        upstream.head().await;
        upstream.send(response).await;
        drop(upstream);
        let (got, _) = client.rest().await;
        assert!(got.contains("hi") && !got.contains("\r\n0\r\n"), "{got:?}");
        let record = scene.record().await;
        assert_eq!((record.status, record.flags), (Some(200), vec![flag]));
        assert_eq!(scene.room.pool.counts(), (0, 0));
    }
    // Where the end of the connection would be the end of the body, it is a reset.
    let scene = Scene::plain().await;
    let mut client = scene.client().await;
    client.send("GET / HTTP/1.0\r\nHost: a\r\n\r\n").await;
    let mut upstream = scene.upstream().await;
    upstream.head().await;
    upstream
        .send("HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 9\r\n\r\nhi")
        .await;
    // Its length was known, so it is said, and one that is short shows.
    client
        .expect("HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 9\r\nConnection: close\r\n\r\nhi")
        .await;
    let mut client = scene.client().await;
    client.send("GET / HTTP/1.0\r\nHost: a\r\n\r\n").await;
    let mut upstream = scene.upstream().await;
    upstream.head().await;
    upstream
        .send("HTTP/1.1 200 OK\r\nDate: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n")
        .await;
    client
        .expect("HTTP/1.1 200 OK\r\nDate: x\r\nConnection: close\r\n\r\nhi")
        .await;
    drop(upstream);
    assert_eq!(client.rest().await, (String::new(), false));
}

#[tokio::test]
async fn a_client_that_goes_is_known_upstream() {
    let scene = Scene::plain().await;
    let mut client = scene.client().await;
    client.send(GET).await;
    let mut upstream = scene.upstream().await;
    upstream.head().await;
    drop(client);
    upstream.end().await;
    let record = scene.record().await;
    assert_eq!(
        (record.status, record.flags),
        (None, vec![Flag::DownstreamClosed])
    );
    // In the middle of a response.
    let mut client = scene.client().await;
    client.send(GET).await;
    let mut upstream = scene.upstream().await;
    upstream.head().await;
    upstream
        .send("HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 9\r\n\r\nhi")
        .await;
    client.head().await;
    client.reset();
    upstream.rest().await;
    assert_eq!(scene.record().await.flags, vec![Flag::DownstreamClosed]);
    // In the middle of a request.
    let mut client = scene.client().await;
    client
        .send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhi")
        .await;
    let mut upstream = scene.upstream().await;
    upstream.head().await;
    upstream.expect("hi").await;
    drop(client);
    upstream.end().await;
    assert_eq!(scene.record().await.flags, vec![Flag::DownstreamClosed]);
}

#[tokio::test]
async fn chunks_that_are_none_end_a_request() {
    let scene = Scene::plain().await;
    let mut client = scene.client().await;
    client
        .send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n+1\r\n")
        .await;
    assert!(client.head().await.starts_with("HTTP/1.1 400 "));
    let record = scene.record().await;
    assert_eq!(
        (record.status, record.flags),
        (Some(400), vec![Flag::DownstreamProtocol])
    );
}

#[tokio::test]
async fn a_slow_reader_holds_back_the_sender() {
    let scene = Scene::plain().await;
    let mut client = scene.client().await;
    client.send(GET).await;
    let mut upstream = scene.upstream().await;
    upstream.head().await;
    let size: usize = 64 << 20;
    upstream
        .send(format!(
            "HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: {size}\r\n\r\n"
        ))
        .await;
    let block = vec![b'x'; 1 << 20];
    let mut sent = 0;
    // Until all buffers in between are full: far less than all of it.
    let wait = Duration::from_millis(200);
    while let Ok(written) = tokio::time::timeout(
        wait,
        tokio::io::AsyncWriteExt::write(&mut upstream.0, &block),
    )
    .await
    {
        sent += written.unwrap();
    }
    assert!(sent < size / 2, "{sent}");
    client.head().await;
    let writer = tokio::spawn(async move {
        while sent < size {
            let part = &block[..block.len().min(size - sent)];
            upstream.send(part).await;
            sent += part.len();
        }
        upstream
    });
    let mut left = size;
    let mut buffer = vec![0; 1 << 20];
    while left > 0 {
        left -= tokio::io::AsyncReadExt::read(&mut client.0, &mut buffer)
            .await
            .unwrap();
    }
    writer.await.unwrap();
    assert_eq!(scene.record().await.sent, size as u64);
}

#[tokio::test]
async fn expectations_are_the_upstreams() {
    let scene = Scene::plain().await;
    let mut client = scene.client().await;
    let head = "POST / HTTP/1.1\r\nHost: a\r\nexpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
    client.send(head.replace("expect", "Expect")).await;
    let mut upstream = scene.upstream().await;
    upstream.expect(head).await;
    // Also a client that does not wait is held up.
    client.send("hi").await;
    assert!(upstream.is_silent().await);
    upstream
        .send("HTTP/1.1 100 Continue\r\nX-Why: y\r\n\r\n")
        .await;
    client.expect("HTTP/1.1 100 Continue\r\n\r\n").await;
    upstream.expect("hi").await;
    upstream.send(OK).await;
    client.expect(OK).await;
    // A refusal comes without the body having been sent, and the connection cannot go on.
    client.send(head).await;
    upstream.expect(head).await;
    upstream
        .send("HTTP/1.1 413 x\r\nDate: x\r\nContent-Length: 0\r\n\r\n")
        .await;
    client.expect("HTTP/1.1 413 Payload Too Large\r\nDate: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
    upstream.end().await;
    client.end().await;
}

#[tokio::test]
async fn an_upstream_that_does_not_know_expectations_holds_nobody_up() {
    let scene = Scene::new(Setting {
        limits: Limits {
            expect: Duration::from_millis(20),
            ..Limits::default()
        },
        ..Setting::default()
    })
    .await;
    let mut client = scene.client().await;
    client
        .send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        .await;
    client.expect("HTTP/1.1 100 Continue\r\n\r\n").await;
    client.send("hi").await;
    let mut upstream = scene.upstream().await;
    upstream.head().await;
    upstream.expect("hi").await;
    // Too late: the client has been told.
    upstream
        .send(format!("HTTP/1.1 100 Continue\r\n\r\n{OK}"))
        .await;
    client.expect(OK).await;
    assert!(client.is_silent().await);
}

#[tokio::test]
async fn interim_responses_are_passed_on() {
    let scene = Scene::plain().await;
    let mut client = scene.client().await;
    client.send(GET).await;
    let mut upstream = scene.upstream().await;
    upstream.head().await;
    upstream
        .send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: x\r\n\r\n")
        .await;
    client
        .expect("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
        .await;
    upstream
        .send(format!("HTTP/1.1 102 Processing\r\n\r\n{OK}"))
        .await;
    client
        .expect(format!("HTTP/1.1 102 Processing\r\n\r\n{OK}"))
        .await;
    // HTTP/1.0 has none.
    let mut old = scene.client().await;
    old.send("GET / HTTP/1.0\r\nHost: a\r\n\r\n").await;
    upstream.head().await;
    upstream
        .send(format!("HTTP/1.1 103 Early Hints\r\n\r\n{OK}"))
        .await;
    assert!(old.head().await.starts_with("HTTP/1.1 200 "));
    // One who never comes to the point.
    client.send(GET).await;
    upstream.head().await;
    upstream
        .send("HTTP/1.1 102 Processing\r\n\r\n".repeat(40))
        .await;
    assert!(client.rest_of("HTTP/1.1 502 ").await);
}

#[tokio::test]
async fn trailers_go_to_those_who_want_them() {
    let scene = Scene::plain().await;
    let mut client = scene.client().await;
    let response =
        "HTTP/1.1 200 OK\r\nDate: x\r\nTrailer: X-T\r\nTransfer-Encoding: chunked\r\n\r\n";
    let body = "2\r\nhi\r\n0\r\nX-T: 1\r\nContent-Length: 5\r\n\r\n";
    client
        .send("GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: TE\r\n\r\n")
        .await;
    let mut upstream = scene.upstream().await;
    upstream.head().await;
    upstream.send([response, body].concat()).await;
    client.expect(response).await;
    client.expect("2\r\nhi\r\n0\r\nX-T: 1\r\n\r\n").await;
    client.send(GET).await;
    upstream.head().await;
    upstream.send([response, body].concat()).await;
    client.expect(response).await;
    client.expect("2\r\nhi\r\n0\r\n\r\n").await;
    client
        .send("GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n")
        .await;
    upstream.head().await;
    upstream
        .send([&response.replace("Trailer: X-T\r\n", ""), body].concat())
        .await;
    client.head().await;
    client.expect("2\r\nhi\r\n0\r\n\r\n").await;
}

#[tokio::test]
async fn an_early_response_arrives_while_the_request_goes_on() {
    let scene = Scene::plain().await;
    let mut client = scene.client().await;
    client
        .send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n")
        .await;
    let mut upstream = scene.upstream().await;
    upstream.head().await;
    upstream.expect("2\r\nhi\r\n").await;
    upstream
        .send("HTTP/1.1 200 OK\r\nDate: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n1\r\n")
        .await;
    client
        .expect("HTTP/1.1 200 OK\r\nDate: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n1\r\n")
        .await;
    client.send("3\r\nmor\r\n").await;
    upstream.expect("3\r\nmor\r\n").await;
    upstream.send("1\r\n2\r\n").await;
    client.expect("1\r\n2\r\n").await;
    client.send("0\r\n\r\n").await;
    upstream.expect("0\r\n\r\n").await;
    upstream.send("0\r\n\r\n").await;
    client.expect("0\r\n\r\n").await;
    // Both connections are good for more.
    client.send(GET).await;
    upstream.expect(GET).await;
    // A response that ends before a short request does: the rest is read, and the connection goes on.
    upstream.send(OK).await;
    client.expect(OK).await;
    client
        .send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nhi")
        .await;
    upstream.head().await;
    upstream.expect("hi").await;
    upstream
        .send("HTTP/1.1 403 x\r\nDate: x\r\nContent-Length: 0\r\n\r\n")
        .await;
    client
        .expect("HTTP/1.1 403 Forbidden\r\nDate: x\r\nContent-Length: 0\r\n\r\n")
        .await;
    upstream.end().await;
    client.send("hi").await;
    client.send(GET).await;
    scene.upstream().await.expect(GET).await;
}
