//! An upstream of HTTP/1 that says anything: the client's parser reads what the agent understood, and nothing that broke off looks
//! whole.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::BytesMut;
use http::{Method, StatusCode};
use mesh_agent::l7::message::{RequestHead, ResponseHead};
use mesh_agent::proxy::exchange::{
    BodySize, Incoming, Outgoing as _, Piece, RequestSink as _, Responder, ResponseSource as _,
    Service,
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

/// Which request and how to cut, and an upstream's side of the connection.
pub const TARGET: Target = Target {
    name: "response",
    run,
    words: &[
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 204 No Content\r\n",
        "HTTP/1.1 304 Not Modified\r\n",
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n",
        "HTTP/1.0 200 OK\r\n",
        "HTTP/1.1 101 Switching Protocols\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket\r\n",
        "\r\n",
        "\r\n\r\n",
        "\n",
        "Content-Length: 4\r\n",
        "Content-Length: 0\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Connection: close\r\n",
        "Keep-Alive: timeout=5\r\n",
        "Trailer: X-T\r\n",
        "Set-Cookie: a=b\r\n",
        "Date: x\r\n",
        "X-A: b\r\n",
        "0\r\n\r\n",
        "0\r\nX-T: y\r\n\r\n",
        "4\r\nabcd\r\n",
        ", ",
        " ",
        "\t",
        ":",
        "\0",
    ],
    longest: 4096,
};

const REQUESTS: [(Method, &[u8]); 2] = [
    (
        Method::GET,
        b"GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: TE\r\n\r\n",
    ),
    (Method::HEAD, b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"),
];

/// What the agent adds where it is not there; and the declaration, which says what is compared otherwise.
const OWN: [&str; 2] = ["date", "trailer"];

fn run(data: &[u8]) {
    let (first, input) = data.split_first().unwrap_or((&0, &[]));
    let (method, request) = &REQUESTS[usize::from(first & 1)];
    let size = usize::from(first >> 1) % 32 + 1;
    let (whole, to_client) = relay(request, input, Cut::Whole);
    let (cut, to_other) = relay(request, input, Cut::Pieces(size));
    assert_eq!(whole.last, cut.last, "in pieces of {size}");
    check(method, whole, &to_client);
    check(method, cut, &to_other);
}

/// What the agent understood: interim responses, and the final one.
#[derive(Clone, PartialEq, Debug, Default)]
struct Understood {
    interim: usize,
    last: Option<Message>,
    /// Whether another request would go on the connection.
    reusable: bool,
}

fn relay(request: &[u8], input: &[u8], cut: Cut) -> (Understood, Vec<u8>) {
    let client = Scripted::client(request, Cut::Whole);
    let written = client.written();
    let relay = Relay {
        input: input.to_vec(),
        cut,
        understood: Mutex::default(),
    };
    block_on(async {
        let far = Instant::now() + Duration::from_secs(3600);
        let life = Life::new(Arc::default(), far);
        let stream = Stream::wrapped(client);
        let (kits, limits) = (Shelf::default(), Limits::default());
        h1::serve(stream, BytesMut::new(), &relay, &kits, &limits, &life).await;
    });
    let understood = relay.understood.into_inner();
    let understood = understood.unwrap_or_else(PoisonError::into_inner);
    (understood, written.bytes())
}

/// Asks one upstream of its own for everything.
struct Relay {
    input: Vec<u8>,
    cut: Cut,
    understood: Mutex<Understood>,
}

impl Service for Relay {
    type Scratch = ();

    fn scratch(&self) {}

    async fn call<I: Incoming, R: Responder>(
        &self,
        _: &mut (),
        request: &mut RequestHead,
        _: &mut I,
        to: &mut R,
    ) {
        let stream = Stream::wrapped(Scripted::server(&self.input, self.cut));
        let mut upstream = Connection::new(stream);
        let mut understood = Understood::default();
        pass_on(&mut upstream, request, to, &mut understood).await;
        understood.reusable = upstream.is_reusable();
        let mut place = self
            .understood
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *place = understood;
    }

    fn refused(&self, status: StatusCode, why: &'static str) {
        panic!("a good request is answered with {status}: {why}");
    }
}

async fn pass_on<R: Responder>(
    upstream: &mut Connection,
    request: &RequestHead,
    to: &mut R,
    understood: &mut Understood,
) {
    const TAKES: &str = "memory takes all";
    let (mut sink, mut source) = upstream.halves();
    sink.head(request, BodySize::Empty).await.expect(TAKES);
    let mut head = ResponseHead::default();
    loop {
        if source.head(&mut head).await.is_err() {
            head = ResponseHead::default();
            head.status = StatusCode::BAD_GATEWAY;
            to.head(&head, BodySize::Empty).await.expect(TAKES);
            return;
        }
        assert_ne!(
            head.status,
            StatusCode::SWITCHING_PROTOCOLS,
            "nobody asked for it"
        );
        if !head.status.is_informational() {
            break;
        }
        understood.interim += 1;
        to.informational(&head).await.expect(TAKES);
    }
    let message = understood.last.insert(Message {
        start: head.status.as_str().to_owned(),
        fields: wire::of_fields(&head.fields, &OWN),
        whole: true,
        ..Message::default()
    });
    let size = source.size();
    to.head(&head, size).await.expect(TAKES);
    let mut more = size != BodySize::Empty;
    while more {
        more = false;
        match source.next().await {
            Ok(Some(Piece::Data(data))) => {
                message.data.extend_from_slice(&data);
                to.data(data).await.expect(TAKES);
                more = true;
            }
            Ok(Some(Piece::Trailers(fields))) => {
                message.trailers = wire::of_fields(&fields, &OWN);
                to.finish(Some(&fields)).await.expect(TAKES);
            }
            Ok(None) => to.finish(None).await.expect(TAKES),
            Err(_) => {
                message.whole = false;
                to.reset();
            }
        }
    }
}

fn check(method: &Method, understood: Understood, to_client: &[u8]) {
    if to_client.is_empty() {
        let whole = understood.last.is_none_or(|message| message.whole);
        assert!(!whole && understood.interim == 0, "no response at all");
        return;
    }
    let mut rest = to_client;
    let mut interim = 0;
    let (status, fields) = loop {
        if rest.is_empty() && interim == understood.interim {
            let whole = understood.last.is_none_or(|message| message.whole);
            assert!(!whole, "no final response: {}", shown(to_client));
            return;
        }
        let (status, fields, behind) = wire::strict_head(rest);
        rest = behind;
        match status.starts_with("HTTP/1.1 1") {
            true => interim += 1,
            false => break (status, fields),
        }
    };
    assert_eq!(interim, understood.interim, "{}", shown(to_client));
    for hop in [
        "keep-alive",
        "proxy-connection",
        "proxy-authenticate",
        "upgrade",
    ] {
        assert!(
            fields.iter().all(|line| line.0 != hop),
            "`{hop}` in {}",
            shown(to_client)
        );
    }
    let Some(mut message) = understood.last else {
        assert!(status.starts_with("HTTP/1.1 502"), "{}", shown(to_client));
        assert!(!understood.reusable, "used again after a failure");
        return;
    };
    let whole = message.whole;
    assert!(
        whole || !understood.reusable,
        "used again although it broke off"
    );
    let read = block_on(reference::response(method, to_client, &OWN));
    let mut read = read.unwrap_or_else(|| panic!("the client refuses {}", shown(to_client)));
    // Trailers need to be declared; whether they were is compared nowhere else.
    let declared = fields.iter().any(|line| line.0 == "trailer");
    if !declared {
        assert!(read.trailers.is_empty(), "trailers that nobody declared");
        message.trailers.clear();
    }
    if !whole {
        // How much of it arrived before it broke off depends on buffers of both.
        assert!(
            message.data.starts_with(&read.data),
            "other bytes: {}",
            shown(to_client)
        );
        read.data.clone_from(&message.data);
    }
    assert_eq!(read, message, "of {}", shown(to_client));
}
