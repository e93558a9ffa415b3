//! What a connection leaves for the next one on its thread: memory, and nothing that was in it.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use http::StatusCode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;

use crate::l7::message::{RequestHead, ResponseHead};
use crate::proxy::exchange::{BodySize, Incoming, Responder, Service};
use crate::proxy::h1;
use crate::proxy::life::Life;
use crate::proxy::shelf::Shelf;
use crate::proxy::stream::Stream;

/// Answers whatever it is asked.
struct Ready;

impl Service for Ready {
    type Scratch = ();

    fn scratch(&self) {}

    async fn call<I: Incoming, R: Responder>(
        &self,
        (): &mut (),
        _: &mut RequestHead,
        _: &mut I,
        to: &mut R,
    ) {
        let head = ResponseHead::default();
        to.head(&head, BodySize::Empty).await.unwrap();
    }

    fn refused(&self, _: StatusCode, _: &'static str) {}
}

#[tokio::test]
async fn what_one_client_did_not_take_is_not_sent_to_the_next() {
    let limits = h1::Limits {
        linger_time: Duration::from_millis(20),
        ..h1::Limits::default()
    };
    let life = Life::new(Arc::default(), Instant::now() + limits.max_age);
    let kits = Shelf::default();
    // Most of the refusal finds no room, and nobody reads it.
    let (deaf, stream) = tokio::io::duplex(16);
    let (stream, start) = (Stream::wrapped(stream), BytesMut::from("GET secret\n"));
    h1::serve(stream, start, &Ready, &kits, &limits, &life).await;
    drop(deaf);
    let (mut client, stream) = tokio::io::duplex(4096);
    let get = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    client.write_all(get.as_bytes()).await.unwrap();
    client.shutdown().await.unwrap();
    let stream = Stream::wrapped(stream);
    h1::serve(stream, BytesMut::new(), &Ready, &kits, &limits, &life).await;
    let mut got = String::new();
    client.read_to_string(&mut got).await.unwrap();
    assert!(got.starts_with("HTTP/1.1 200 OK\r\n"), "{got}");
    assert_eq!(got.matches("HTTP/1.1 ").count(), 1, "{got}");
}
