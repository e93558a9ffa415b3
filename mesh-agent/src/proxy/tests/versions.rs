//! Between versions of HTTP: trailers; and what an old one cannot ask for.

use bytes::Bytes;
use http::HeaderMap;

use super::scene::{OK, PATIENCE, Scene, Setting};
use crate::proxy::exchange::Speaks;

fn trailers(value: &'static str) -> HeaderMap {
    let one = (http::HeaderName::from_static("x-t"), value);
    [one]
        .into_iter()
        .map(|(name, value)| (name, value.parse().unwrap()))
        .collect()
}

#[tokio::test]
async fn trailers_go_from_http1_to_http2_and_back() {
    let scene = Scene::new(Setting {
        speaks: [Speaks::Http2, Speaks::Http1],
        ..Setting::default()
    })
    .await;
    let serve = async {
        let stream = scene.upstream().await.0;
        let mut server = h2::server::handshake(stream).await.unwrap();
        for _ in 0..2 {
            let (request, mut respond) = server.accept().await.unwrap().unwrap();
            let mut body = request.into_body();
            let read = async {
                let data = body.data().await.unwrap().unwrap();
                (data, body.trailers().await.unwrap())
            };
            let (data, got) = tokio::select! {
                got = read => got,
                other = server.accept() => panic!("{other:?}"),
            };
            assert_eq!((&data[..], got), (&b"hi"[..], Some(trailers("up"))));
            let answer = http::Response::builder().header("date", "x");
            let answer = answer.header("trailer", "x-t").body(()).unwrap();
            let mut to = respond.send_response(answer, false).unwrap();
            to.send_data(Bytes::from_static(b"yo"), false).unwrap();
            to.send_trailers(trailers("down")).unwrap();
        }
        while server.accept().await.is_some() {}
    };
    let ask = async {
        let mut client = scene.client().await;
        for (te, end) in [
            (
                "TE: trailers\r\nConnection: te\r\n",
                "0\r\nx-t: down\r\n\r\n",
            ),
            ("", "0\r\n\r\n"),
        ] {
            let head = format!(
                "POST / HTTP/1.1\r\nHost: a\r\n{te}Trailer: x-t\r\nTransfer-Encoding: chunked\r\n\r\n"
            );
            client.send(head).await;
            client.send("2\r\nhi\r\n0\r\nX-T: up\r\n\r\n").await;
            let head = client.head().await;
            assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
            client.expect(["2\r\nyo\r\n", end].concat()).await;
        }
    };
    let both = async {
        tokio::select! {
            () = serve => panic!("the connection ended"),
            () = ask => {}
        }
    };
    tokio::time::timeout(PATIENCE, both).await.unwrap();
}

#[tokio::test]
async fn http10_knows_no_expectation() {
    let scene = Scene::plain().await;
    let mut client = scene.client().await;
    client
        .send("POST / HTTP/1.0\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        .await;
    let mut upstream = scene.upstream().await;
    // It holds nothing back, and so nobody has to be asked (RFC 9110, section 10.1.1).
    let head = upstream.head().await;
    assert!(!head.to_lowercase().contains("expect"), "{head}");
    client.send("hello").await;
    upstream.expect("hello").await;
    upstream.send(OK).await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
}
