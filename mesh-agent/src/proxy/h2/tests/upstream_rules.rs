//! Each error that an upstream can make, as frames written by hand: what the request hears, and what the upstream does.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::super::{ClientLimits, connect};
use super::floods::{END_HEADERS, END_STREAM, GOAWAY, HEADERS, RST_STREAM, SETTINGS, block, frame};
use super::*;
use crate::proxy::exchange::{
    BodyError, Outgoing as _, RequestSink as _, ResponseSource as _, UpstreamError,
};

const DATA: u8 = 0;
const PUSH_PROMISE: u8 = 5;

fn answer(flags: u8, lines: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | flags, 1, &block(lines))
}

const OK: (&str, &str) = (":status", "200");

/// Asks an upstream that says this; returns what the request hears, and the code by which we end what.
async fn asked(says: Vec<u8>) -> (Result<Vec<u8>, UpstreamError>, Option<(u8, u32)>) {
    let (near, mut far) = connected().await;
    let upstream = tokio::spawn(async move {
        far.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
        let mut preface = [0; 24];
        far.read_exact(&mut preface).await.unwrap();
        let mut ended = None;
        loop {
            let mut head = [0; 9];
            if soon(far.read_exact(&mut head)).await.is_err() {
                return ended;
            }
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; length as usize];
            soon(far.read_exact(&mut payload)).await.unwrap();
            let code = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
            match head[3] {
                // The upstream may be gone by then.
                HEADERS => far.write_all(&says).await.unwrap_or(()),
                GOAWAY if code(4) != 0 => ended = Some((GOAWAY, code(4))),
                RST_STREAM => ended = Some((RST_STREAM, code(0))),
                _ => {}
            }
        }
    });
    let limits = ClientLimits::default();
    let connection = connect(Stream::Plain(near), &limits).await.unwrap();
    let mut stream = connection.stream().unwrap();
    let (mut request, mut response) = stream.halves();
    let heard = async {
        request.head(&get("/"), BodySize::Empty).await?;
        let mut head = ResponseHead::default();
        loop {
            response.head(&mut head).await?;
            if !head.status.is_informational() {
                break;
            }
        }
        let body = read(&mut response).await;
        body.map(|(all, _)| all).map_err(|why| match why {
            BodyError::Protocol => UpstreamError::Protocol,
            BodyError::Reset | BodyError::Timeout => UpstreamError::Reset,
        })
    };
    let heard = soon(heard).await;
    drop(stream);
    drop(connection);
    (heard, soon(upstream).await.unwrap())
}

#[tokio::test]
async fn what_is_no_response_is_the_upstreams_fault() {
    let stream = Some((RST_STREAM, 1));
    let length = ("content-length", "3");
    for (name, says, ended) in [
        ("content first", frame(DATA, 0, 1, b"x"), stream),
        ("no status", answer(END_STREAM, &[("x", "1")]), stream),
        ("two statuses", answer(0, &[OK, OK]), stream),
        ("no number", answer(0, &[(":status", "abc")]), stream),
        ("another protocol", answer(0, &[(":status", "101")]), stream),
        (
            "the end too early",
            answer(END_STREAM, &[(":status", "103")]),
            stream,
        ),
        ("a path", answer(0, &[OK, (":path", "/")]), stream),
        (
            "connection",
            answer(0, &[OK, ("connection", "close")]),
            stream,
        ),
        ("upper case", answer(0, &[OK, ("X-Up", "1")]), stream),
        (
            "a length and nothing",
            answer(END_STREAM, &[OK, length]),
            stream,
        ),
        (
            "more than the length",
            [answer(0, &[OK, length]), frame(DATA, 0, 1, b"four")].concat(),
            stream,
        ),
        (
            "less than the length",
            [answer(0, &[OK, length]), frame(DATA, END_STREAM, 1, b"2")].concat(),
            stream,
        ),
        (
            "trailers without an end",
            [answer(0, &[OK]), answer(0, &[("x", "1")])].concat(),
            stream,
        ),
    ] {
        let (heard, told) = asked(says).await;
        assert_eq!(heard, Err(UpstreamError::Protocol), "{name}");
        assert_eq!(told, ended, "{name}");
    }
}

#[tokio::test]
async fn what_no_upstream_may_do_ends_the_connection() {
    let connection = |code| Some((GOAWAY, code));
    for (name, says, ended) in [
        (
            "a push",
            frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2]),
            connection(1),
        ),
        (
            "a stream of its own",
            frame(HEADERS, END_HEADERS, 2, &block(&[OK])),
            connection(1),
        ),
        (
            "a stream of nobody",
            frame(HEADERS, END_HEADERS, 9, &block(&[OK])),
            connection(1),
        ),
        (
            "push is on",
            frame(SETTINGS, 0, 0, &[0, 2, 0, 0, 0, 1]),
            connection(1),
        ),
        (
            "no HPACK",
            frame(HEADERS, END_HEADERS, 1, &[0xff; 6]),
            connection(9),
        ),
        ("too large", frame(DATA, 0, 1, &[0; 16_385]), connection(6)),
    ] {
        let (heard, told) = asked(says).await;
        assert_eq!(heard, Err(UpstreamError::Protocol), "{name}");
        assert_eq!(told, ended, "{name}");
    }
}

#[tokio::test]
async fn what_is_a_response_is_one() {
    let head = answer(0, &[OK, ("content-length", "3")]);
    for (name, says) in [
        (
            "at once",
            [head.clone(), frame(DATA, END_STREAM, 1, b"one")].concat(),
        ),
        (
            "in pieces, and padded",
            [
                answer(0, &[(":status", "103")]),
                head,
                frame(DATA, 8, 1, b"\x02on\0\0"),
                frame(0xaa, 0, 1, b"unknown"),
                frame(DATA, 0, 1, b"e"),
                frame(DATA, END_STREAM, 1, b""),
            ]
            .concat(),
        ),
        (
            "with trailers",
            [
                answer(0, &[OK]),
                frame(DATA, 0, 1, b"one"),
                answer(END_STREAM, &[("grpc-status", "0")]),
            ]
            .concat(),
        ),
    ] {
        let (heard, told) = asked(says).await;
        assert_eq!((heard, told), (Ok(b"one".to_vec()), None), "{name}");
    }
}
