//! A client of HTTP/2 that says anything: what is served is a request, and whatever comes is answered with frames.

use std::future::pending;
use std::sync::Arc;

use bytes::BytesMut;
use http::{Method, StatusCode};
use mesh_agent::l7::message::{RequestHead, ResponseHead};
use mesh_agent::proxy::exchange::{BodySize, Incoming, Piece, Responder, Service};
use mesh_agent::proxy::h2::hpack::{Decoder, Line};
use mesh_agent::proxy::h2::{self, Limits};
use mesh_agent::proxy::life::Life;
use mesh_agent::proxy::stream::Stream;
use tokio::time::{Duration, Instant};

use crate::Target;
use crate::reference::block_on;
use crate::scripted::{Cut, Scripted};

/// How to cut, and frames.
pub const TARGET: Target = Target {
    name: "streams",
    run,
    words: &[
        "\0\0\0\u{4}\0\0\0\0\0",
        "\0\0\u{6}\u{1}\u{5}\0\0\0\u{1}",
        "\0\0\u{6}\u{1}\u{4}\0\0\0\u{3}",
        "\0\0\u{1}\0\0\0\0\0\u{1}x",
        "\0\0\u{1}\0\u{1}\0\0\0\u{3}x",
        "\0\0\u{4}\u{8}\0\0\0\0\0\0\0\u{1}\0",
        "\0\0\u{4}\u{3}\0\0\0\0\u{1}\0\0\0\u{8}",
        "\0\0\u{8}\u{6}\0\0\0\0\0pingping",
        "\0\0\u{6}\u{4}\0\0\0\0\0\0\u{4}\0\0\0\u{1}",
        "\0\0\u{1}\u{9}\u{4}\0\0\0\u{1}",
        "A\u{1}a",
        "@\u{1}x\u{1}y",
        "\0\0\u{3}",
    ],
    longest: 4096,
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn run(data: &[u8]) {
    let (first, frames) = data.split_first().unwrap_or((&0, &[]));
    let size = usize::from(first >> 1) % 64 + 1;
    let cut = match first & 1 {
        0 => Cut::Whole,
        _ => Cut::Pieces(size),
    };
    let client = Scripted::client(&[PREFACE, frames].concat(), cut);
    let written = client.written();
    block_on(async {
        let far = Instant::now() + Duration::from_secs(3600);
        let life = Life::new(Arc::default(), far);
        let limits = Limits {
            streams: 3,
            stream_window: 70_000,
            connection_window: 80_000,
            header_list: 500,
            ..Limits::default()
        };
        let (stream, start) = (Stream::wrapped(client), BytesMut::new());
        h2::serve(stream, start, &Arc::new(Echo), &limits, &life, pending()).await;
        // Whoever still serves a stream hears that it is gone.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    });
    check(&written.bytes());
}

/// Everything is frames of a sound size, and lists of fields can be read.
fn check(mut rest: &[u8]) {
    let mut decoder = Decoder::new(1 << 20);
    let mut is_first = true;
    while let Some((head, behind)) = rest.split_first_chunk::<9>() {
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        assert!(length <= 16_384, "a frame of {length} bytes");
        let (kind, flags) = (head[3], head[4]);
        assert!(!is_first || kind == 4, "settings come first");
        is_first = false;
        assert!(kind <= 9 && kind != 5, "a frame of type {kind}");
        let (payload, more) = behind.split_at_checked(length).expect("a whole frame");
        if kind == 1 {
            assert_eq!(flags & 4, 4, "all heads here are short");
            let mut status = 0;
            let each = |line: Line<'_>| {
                status += usize::from(line.name == ":status");
            };
            decoder.decode(payload, each).expect("a list of fields");
            assert!(status <= 1, "{status} statuses");
        }
        rest = more;
    }
    assert!(rest.is_empty(), "half a frame");
}

/// Gives back what it gets.
struct Echo;

impl Service for Echo {
    type Scratch = ();

    fn scratch(&self) {}

    async fn call<I: Incoming, R: Responder>(
        &self,
        _: &mut (),
        request: &mut RequestHead,
        body: &mut I,
        to: &mut R,
    ) {
        assert_ne!(request.method, Method::CONNECT);
        assert!(!request.authority.is_empty(), "no authority");
        let target = request.target.as_str();
        assert!(target.starts_with('/') || target == "*", "{target}");
        let head = ResponseHead {
            fields: request.fields.clone(),
            ..ResponseHead::default()
        };
        if to.head(&head, BodySize::Unknown).await.is_err() {
            return;
        }
        loop {
            let sent = match body.next().await {
                Ok(Some(Piece::Data(data))) => to.data(data).await,
                Ok(Some(Piece::Trailers(fields))) => {
                    to.finish(Some(&fields)).await.ok();
                    return;
                }
                Ok(None) => {
                    to.finish(None).await.ok();
                    return;
                }
                Err(_) => return to.reset(),
            };
            if sent.is_err() {
                return;
            }
        }
    }

    fn refused(&self, status: StatusCode, _: &'static str) {
        assert!(status.is_client_error() || status == StatusCode::NOT_IMPLEMENTED);
    }
}
