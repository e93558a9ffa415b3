//! A client of HTTP/1 that says anything: what the upstream gets means the same to a second parser, whatever it was; nothing that
//! broke off looks whole; and nothing depends on how the bytes were cut.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use mesh_agent::l7::message::{RequestHead, ResponseHead};
use mesh_agent::l7::route::path::normalise;
use mesh_agent::proxy::exchange::{
    BodySize, Incoming, Outgoing as _, Piece, RequestSink as _, Responder, Service,
};
use mesh_agent::proxy::h1::{self, Connection, Limits};
use mesh_agent::proxy::life::Life;
use mesh_agent::proxy::shelf::Shelf;
use mesh_agent::proxy::stream::Stream;
use tokio::time::{Duration, Instant};

use crate::Target;
use crate::reference::{self, block_on};
use crate::scripted::{Cut, Scripted};
use crate::wire::{self, Message, shown};

/// How to cut, and a client's side of a connection.
pub const TARGET: Target = Target {
    name: "request",
    run,
    words: &[
        "GET / HTTP/1.1\r\n",
        "POST /a HTTP/1.1\r\n",
        "HEAD ",
        "OPTIONS * ",
        "HTTP/1.0\r\n",
        "\r\n",
        "\r\n\r\n",
        "\n",
        "Host: a\r\n",
        "Content-Length: 4\r\n",
        "Content-Length: 0\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Connection: close\r\n",
        "Connection: keep-alive, X-A\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket\r\n",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
        "TE: trailers\r\n",
        "Trailer: X-T\r\n",
        "Expect: 100-continue\r\n",
        "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
        "X-A: b\r\n",
        "0\r\n\r\n",
        "4\r\nabcd\r\n",
        "4;x=y\r\n",
        "ffffffffffffffff\r\n",
        "http://b:80/c",
        "chunked",
        ", ",
        " ",
        "\t",
        ":",
        "\0",
        "%2e%2e/",
        "\u{e4}",
    ],
    longest: 4096,
};

/// Names that an upgrade is asked for with, which the agent writes anew.
const OWN: [&str; 3] = ["host", "sec-websocket-key", "sec-websocket-version"];

fn run(data: &[u8]) {
    let (first, input) = data.split_first().unwrap_or((&0, &[]));
    let size = usize::from(first % 32) + 1;
    let whole = serve(input, Cut::Whole);
    let cut = serve(input, Cut::Pieces(size));
    let messages = |served: &Served| -> Vec<Message> {
        let all = served.taken.iter();
        all.map(|taken| taken.message.clone()).collect()
    };
    assert_eq!(messages(&whole), messages(&cut), "in pieces of {size}");
    assert_eq!(whole.answers, cut.answers, "in pieces of {size}");
    for taken in whole.taken.iter().chain(&cut.taken) {
        check(taken);
    }
    let answered = whole.answers.len();
    let asked = whole.taken.len();
    assert!(
        answered == asked || answered == asked + 1,
        "{answered} answers to {asked}"
    );
}

/// One request, and what the upstream got of it.
#[derive(Clone, PartialEq, Debug)]
struct Taken {
    message: Message,
    authority: String,
    upgrades: bool,
    sent: Vec<u8>,
}

struct Served {
    taken: Vec<Taken>,
    /// Statuses that the client got.
    answers: Vec<String>,
}

fn serve(input: &[u8], cut: Cut) -> Served {
    let client = Scripted::client(input, cut);
    let written = client.written();
    let forward = Forward::default();
    block_on(async {
        let far = Instant::now() + Duration::from_secs(3600);
        let life = Life::new(Arc::default(), far);
        let stream = Stream::wrapped(client);
        let (kits, limits) = (Shelf::default(), Limits::default());
        h1::serve(stream, BytesMut::new(), &forward, &kits, &limits, &life).await;
    });
    let taken = forward.taken.into_inner();
    Served {
        taken: taken.unwrap_or_else(PoisonError::into_inner),
        answers: answers(&written.bytes()),
    }
}

/// Returns the statuses of final responses; each has the body `ok`, or what `Content-Length` says.
fn answers(mut bytes: &[u8]) -> Vec<String> {
    let mut statuses = Vec::new();
    while !bytes.is_empty() {
        let (status, fields, rest) = wire::strict_head(bytes);
        bytes = rest;
        if status.starts_with("HTTP/1.1 1") {
            continue;
        }
        let is_head = fields.iter().any(|line| line.0 == "x-head");
        let length = fields.iter().find(|line| line.0 == "content-length");
        let length = length.filter(|_| !is_head).map(|line| &line.1);
        let length = length.and_then(|it| std::str::from_utf8(it).ok()?.parse().ok());
        bytes = bytes
            .get(length.unwrap_or(0)..)
            .unwrap_or_else(|| panic!("a short response"));
        statuses.push(status);
    }
    statuses
}

/// Passes each request to an upstream of its own, which says nothing, and answers by itself.
#[derive(Default)]
struct Forward {
    taken: Mutex<Vec<Taken>>,
}

impl Service for Forward {
    type Scratch = ();

    fn scratch(&self) {}

    async fn call<I: Incoming, R: Responder>(
        &self,
        _: &mut (),
        request: &mut RequestHead,
        body: &mut I,
        to: &mut R,
    ) {
        let mut status = StatusCode::BAD_REQUEST;
        if normalise(&mut request.target).is_ok() {
            let taken = forward(request, body).await;
            let mut all = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
            all.push(taken);
            status = StatusCode::OK;
        } else {
            let mut all = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
            all.push(Taken {
                message: Message::default(),
                authority: String::new(),
                upgrades: false,
                sent: Vec::new(),
            });
        }
        let mut head = ResponseHead {
            status,
            ..ResponseHead::default()
        };
        if request.method == http::Method::HEAD {
            head.fields.append("x-head", b"1");
        }
        // A client that is gone has no answer to be told apart.
        let _gone = match to.head(&head, BodySize::Exact(2)).await {
            Ok(()) => match to.data(Bytes::from_static(b"ok")).await {
                Ok(()) => to.finish(None).await,
                gone => gone,
            },
            gone => gone,
        };
    }

    fn refused(&self, _: StatusCode, _: &'static str) {}
}

async fn forward<I: Incoming>(request: &RequestHead, body: &mut I) -> Taken {
    let upgrades = request.protocol.is_some();
    let upstream = Scripted::server(b"", Cut::Whole);
    let sent = upstream.written();
    let mut upstream = Connection::new(Stream::wrapped(upstream));
    let mut message = Message {
        start: format!("{} {}", request.method, request.target.as_str()),
        fields: wire::of_fields(&request.fields, &OWN),
        whole: true,
        ..Message::default()
    };
    let (mut sink, _) = upstream.halves();
    let size = if upgrades {
        BodySize::Unknown
    } else {
        body.size()
    };
    sink.head(request, size).await.expect("memory takes all");
    let mut more = size != BodySize::Empty && !upgrades;
    while more {
        more = false;
        match body.next().await {
            Ok(Some(Piece::Data(data))) => {
                assert!(!data.is_empty(), "a piece of nothing");
                message.data.extend_from_slice(&data);
                sink.data(data).await.expect("memory takes all");
                more = true;
            }
            Ok(Some(Piece::Trailers(fields))) => {
                message.trailers = wire::of_fields(&fields, &OWN);
                sink.finish(Some(&fields)).await.expect("memory takes all");
            }
            Ok(None) => sink.finish(None).await.expect("memory takes all"),
            Err(_) => message.whole = false,
        }
    }
    sink.flush().await.expect("memory takes all");
    Taken {
        message,
        authority: request.authority.clone(),
        upgrades,
        sent: sent.bytes(),
    }
}

fn check(taken: &Taken) {
    // Refused by its path.
    if taken.sent.is_empty() {
        return;
    }
    let sent = &taken.sent;
    let (_, fields, rest) = wire::strict_head(sent);
    let hosts: Vec<_> = fields.iter().filter(|line| line.0 == "host").collect();
    assert!(
        matches!(&hosts[..], [host] if host.1 == taken.authority.as_bytes()),
        "not this one host: {}",
        shown(sent)
    );
    for hop in [
        "keep-alive",
        "proxy-connection",
        "http2-settings",
        "proxy-authorization",
    ] {
        assert!(
            fields.iter().all(|line| line.0 != hop),
            "`{hop}` in {}",
            shown(sent)
        );
    }
    if taken.upgrades {
        assert!(
            rest.is_empty(),
            "something behind an upgrade: {}",
            shown(sent)
        );
    }
    // Of characters that no URL has (RFC 3986), servers take some and hyper does not: then there is no second reading.
    let target = taken.message.start.rsplit(' ').next().unwrap_or_default();
    if target.parse::<http::uri::PathAndQuery>().is_err() {
        return;
    }
    let (mut read, clean) = block_on(reference::requests(sent, &OWN));
    assert!(
        read.len() <= 1,
        "{} requests out of one: {}",
        read.len(),
        shown(sent)
    );
    let Some(read) = read.pop() else {
        panic!("the second parser refuses what was sent: {}", shown(sent));
    };
    assert!(
        clean || !taken.message.whole,
        "more than a request: {}",
        shown(sent)
    );
    assert_eq!(read, taken.message, "of {}", shown(sent));
}
