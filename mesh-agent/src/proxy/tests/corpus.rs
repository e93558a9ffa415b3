//! Rules 1 to 3 and 12: what is refused, and what upstreams receive of what is not.

use std::time::Duration;

use super::scene::{GOT, OK, Scene, Setting};
use crate::proxy::h1;

/// Requests, and what they are answered with without being seen by anybody.
const REFUSED: &[(&str, u16)] = &[
    ("GET / HTTP/1.1\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", 400),
    ("GET http://u@b/ HTTP/1.1\r\nHost: b\r\n\r\n", 400),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n",
        400,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n",
        400,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        501,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n",
        400,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n",
        400,
    ),
    (
        "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        400,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +4\r\n\r\n",
        400,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4, 4\r\n\r\n",
        400,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\n",
        400,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nContent-Length: 4\r\n\r\n",
        400,
    ),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: a\r\nX : b\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", 400),
    ("GET / HTTP/1.1\nHost: a\n\n", 400),
    ("GET / HTTP/1.1\r\nHost: a\n\r\n", 400),
    (
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Content-Length\r\n\r\n",
        400,
    ),
    (
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: close, Host\r\n\r\n",
        400,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n",
        400,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n",
        400,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        400,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \r\n\r\n",
        400,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        400,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x4\r\n\r\n",
        400,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551616\r\n\r\n",
        400,
    ),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost:\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: a:x\r\n\r\n", 400),
    ("GET a HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("GET /\u{e4} HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("GET /\u{1} HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("GET /%00 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("GET /a\\b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", 405),
    ("GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nExpect: 200-ok\r\nContent-Length: 1\r\n\r\n",
        417,
    ),
    ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    ("\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
];

#[tokio::test]
async fn what_is_ambiguous_is_refused_and_seen_by_nobody() {
    let scene = Scene::plain().await;
    for (request, status) in REFUSED {
        let mut client = scene.client().await;
        client.send(request).await;
        let head = client.head().await;
        assert!(
            head.starts_with(&format!("HTTP/1.1 {status} ")),
            "{request:?}: {head}"
        );
        // What is refused for its path alone is a request all the same.
        if !request.contains("GET /%") {
            assert!(
                head.contains("\r\nConnection: close\r\n"),
                "{request:?}: {head}"
            );
            let (_, clean) = client.rest().await;
            assert!(clean, "{request:?}");
        }
    }
    assert_eq!(scene.room.pool.counts(), (0, 0));
}

/// Requests, and what the upstream receives.
const PASSED: &[(&str, &str)] = &[
    (
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        "GET / HTTP/1.0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: 10.0.0.1:80\r\n\r\n",
    ),
    (
        "GET http://B.c:81/x?y HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /x?y HTTP/1.1\r\nHost: b.c:81\r\n\r\n",
    ),
    (
        "OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        "GET /a/../b//c%2fd/%7euser?q=%7e HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /b//c%2Fd/~user?q=%7e HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        "GET / HTTP/1.1\r\nHost: a\r\nX-Case: Kept\r\nx-two:1\r\nx-two: 2 \r\nEmpty:\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX-Case: Kept\r\nx-two: 1\r\nx-two: 2\r\nEmpty: \r\n\r\n",
    ),
    (
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, X-Hop, cookie\r\nX-Hop: 1\r\nCookie: c\r\nKeep-Alive: 5\r\n\
         Proxy-Connection: x\r\nProxy-Authorization: x\r\nProxy-Authenticate: x\r\nTE: gzip\r\nUpgrade: h2c\r\n\
         HTTP2-Settings: x\r\nVia: kept\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nCookie: c\r\nVia: kept\r\n\r\n",
    ),
    (
        "GET / HTTP/1.1\r\nHost: a\r\nTE: trailers, deflate\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nte: trailers\r\nConnection: TE\r\n\r\n",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
    ),
    (
        "DELETE / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi",
        "DELETE / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\nTrailer: x-t\r\n\r\n2;e=\"x\"\r\nhi\r\n0\r\nX-T: 1\r\nHost: evil\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTrailer: x-t\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-T: 1\r\n\r\n",
    ),
    // Whoever names these fields would have somebody else not see them.
    (
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Authorization\r\nAuthorization: x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nAuthorization: x\r\n\r\n",
    ),
    (
        "GET HTTP://B.c HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: b.c\r\n\r\n",
    ),
    (
        "GET http://b?x HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /?x HTTP/1.1\r\nHost: b\r\n\r\n",
    ),
    (
        "GET /a/%2e%2E/b/./%5c?/../%2e HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /b/%5C?/../%2e HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    // Between workloads nobody adds where a request has been, and what an application says of it is its own.
    (
        "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.1\r\nForwarded: for=x\r\nX-Forwarded-Proto: https\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.1\r\nForwarded: for=x\r\nX-Forwarded-Proto: https\r\n\r\n",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: x-t\r\n\r\n0\r\nContent-Length: 9\r\n\
         Transfer-Encoding: chunked\r\nAuthorization: x\r\nX-T: 1\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTrailer: x-t\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-T: 1\r\n\r\n",
    ),
    (
        "FROB / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n",
        "FROB / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n",
    ),
];

#[tokio::test]
async fn upstreams_receive_what_was_understood() {
    for (request, received) in PASSED {
        let scene = Scene::plain().await;
        let mut client = scene.client().await;
        client.send(request).await;
        let mut upstream = scene.upstream().await;
        upstream.expect(received).await;
        assert!(upstream.is_silent().await, "{request:?}");
        upstream.send(OK).await;
        if request.contains("HTTP/1.0") {
            client
                .expect(GOT.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n"))
                .await;
            client.end().await;
        } else {
            client.expect(GOT).await;
        }
        let record = scene.record().await;
        assert_eq!(
            (record.status, record.attempts),
            (Some(200), 1),
            "{request:?}"
        );
    }
}

/// Bodies in chunks that somebody might read in another way.
const BROKEN: &[&str] = &[
    "2\nhi\r\n0\r\n\r\n",
    "2;a=\nb\r\nhi\r\n0\r\n\r\n",
    "2\r\nhi0\r\n\r\n",
    "2\r\nhi\n0\r\n\r\n",
    "-2\r\nhi\r\n0\r\n\r\n",
    "0x2\r\nhi\r\n0\r\n\r\n",
    " 2\r\nhi\r\n0\r\n\r\n",
    "\r\nhi\r\n0\r\n\r\n",
    "10000000000000000\r\nhi\r\n0\r\n\r\n",
    "ffffffffffffffff0\r\nhi\r\n0\r\n\r\n",
    "0\r\nX : y\r\n\r\n",
    "0\r\nX: y\n\r\n",
    "0\r\n X: y\r\n\r\n",
];

#[tokio::test]
async fn a_body_that_is_ambiguous_never_looks_whole() {
    for body in BROKEN {
        let scene = Scene::plain().await;
        let mut client = scene.client().await;
        let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        client.send([head, body].concat()).await;
        let answer = client.head().await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{body:?}: {answer}");
        let (_, clean) = client.rest().await;
        assert!(clean, "{body:?}");
        // If the upstream heard of it at all, it saw it break off.
        let heard = async {
            let mut upstream = scene.upstream().await;
            upstream.rest().await.0
        };
        let heard = tokio::time::timeout(Duration::from_millis(50), heard).await;
        let heard = heard.unwrap_or_default();
        assert!(!heard.ends_with("0\r\n\r\n"), "{body:?}: {heard:?}");
        assert_eq!(scene.room.pool.counts(), (0, 0), "{body:?}");
    }
}

#[tokio::test]
async fn heads_are_read_however_they_are_cut() {
    let scene = Scene::plain().await;
    let mut client = scene.client().await;
    for byte in "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc".bytes() {
        client.send([byte]).await;
        tokio::task::yield_now().await;
    }
    let mut upstream = scene.upstream().await;
    upstream
        .expect("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")
        .await;
    for byte in
        "HTTP/1.1 200 OK\r\nDate: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
            .bytes()
    {
        upstream.send([byte]).await;
        tokio::task::yield_now().await;
    }
    client
        .expect("HTTP/1.1 200 OK\r\nDate: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
}

#[tokio::test]
async fn what_is_too_long_is_refused() {
    let scene = Scene::plain().await;
    let long = "a".repeat(9000);
    let many = "X: y\r\n".repeat(101);
    let much = format!("X: {long}\r\n").repeat(8);
    let cases = [
        (format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n"), 414),
        (format!("GET /{long}"), 414),
        (format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n"), 431),
        (format!("GET / HTTP/1.1\r\nHost: a\r\n{much}\r\n"), 431),
    ];
    for (request, status) in cases {
        let mut client = scene.client().await;
        client.send(request).await;
        let head = client.head().await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
    }
}

#[tokio::test]
async fn a_head_has_its_time_and_silence_has_more() {
    let h1 = h1::Limits {
        head_time: Duration::from_millis(50),
        idle_time: Duration::from_secs(1),
        ..h1::Limits::default()
    };
    let scene = Scene::new(Setting {
        h1,
        ..Setting::default()
    })
    .await;
    let mut slow = scene.client().await;
    slow.send("GET / HTTP/1.1\r\n").await;
    assert!(slow.head().await.starts_with("HTTP/1.1 408 "));
    let mut silent = scene.client().await;
    silent.end().await;
    // After a request, and some time without one, another request, and then silence.
    let mut client = scene.client().await;
    let mut upstream = None;
    for _ in 0..2 {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        if upstream.is_none() {
            upstream = Some(scene.upstream().await);
        }
        let upstream = upstream.as_mut().unwrap();
        upstream.expect("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        upstream.send(OK).await;
        client.expect(GOT).await;
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    client.end().await;
}
