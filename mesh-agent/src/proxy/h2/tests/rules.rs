//! Each error of RFC 9113 that a client can make, as frames written by hand: what ends, and why.

use super::floods::{
    CONTINUATION, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, RST_STREAM, Raw, SETTINGS, SHOP,
    block, frame, request,
};
use super::*;

const DATA: u8 = 0;
const PRIORITY: u8 = 2;
const PUSH_PROMISE: u8 = 5;
const WINDOW_UPDATE: u8 = 8;
const ACK: u8 = 1;
const PADDED: u8 = 8;

/// Codes of section 7.
const PROTOCOL: u32 = 1;
const FLOW: u32 = 3;
const CLOSED: u32 = 5;
const SIZE: u32 = 6;
const REFUSED: u32 = 7;
const COMPRESSION: u32 = 9;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Comes {
    /// The connection ends so.
    Goaway(u32),
    /// This stream does.
    Reset(u32, u32),
    /// Nothing ends.
    Nothing,
}

/// A request on `stream` that nobody answers, whose body is still to come.
fn hang(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &request("/hang", &[SHOP]))
}

/// One without a body.
fn bare(stream: u32) -> Vec<u8> {
    let whole = END_HEADERS | END_STREAM;
    frame(HEADERS, whole, stream, &request("/hang", &[SHOP]))
}

/// One that is refused at once, for want of an authority.
fn refused(stream: u32) -> Vec<u8> {
    let whole = END_HEADERS | END_STREAM;
    frame(HEADERS, whole, stream, &request("/", &[]))
}

/// The end of a body, after nothing.
fn end(stream: u32) -> Vec<u8> {
    frame(DATA, END_STREAM, stream, b"")
}

/// A whole one with these lines.
fn lines(lines: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(lines))
}

fn with(more: &[(&str, &str)]) -> Vec<u8> {
    let list = request("/hang", &[&[SHOP], more].concat());
    frame(HEADERS, END_HEADERS | END_STREAM, 1, &list)
}

/// One that says how long its body is.
fn sized(length: &str) -> Vec<u8> {
    let list = request("/hang", &[SHOP, ("content-length", length)]);
    frame(HEADERS, END_HEADERS, 1, &list)
}

fn setting(id: u16, value: u32) -> Vec<u8> {
    let payload = [&id.to_be_bytes()[..], &value.to_be_bytes()].concat();
    frame(SETTINGS, 0, 0, &payload)
}

fn window(stream: u32, by: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &by.to_be_bytes())
}

fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &8u32.to_be_bytes())
}

/// Sends `frames`, and returns what comes of them before the answer to a PING.
async fn sent(frames: &[u8], limits: Limits) -> Comes {
    let mut raw = Raw::new(limits).await;
    let ping = frame(PING, 0, 0, b"finished");
    raw.write(&[frames, &ping].concat()).await;
    let mut comes = Comes::Nothing;
    while let Some((kind, flags, stream, payload)) = raw.any().await {
        let code = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
        match kind {
            GOAWAY => return Comes::Goaway(code(4)),
            RST_STREAM => comes = Comes::Reset(stream, code(0)),
            PING if flags == ACK => return comes,
            _ => {}
        }
    }
    comes
}

async fn check(cases: &[(&str, Vec<u8>, Comes)]) {
    for (name, frames, expected) in cases {
        let got = sent(frames, Limits::default()).await;
        assert_eq!(got, *expected, "{name}");
    }
}

fn all(frames: &[Vec<u8>]) -> Vec<u8> {
    frames.concat()
}

#[tokio::test]
async fn frames_have_their_sizes_and_streams() {
    use Comes::{Goaway, Nothing};
    let unknown = frame(0xbb, 0xff, 0, b"whatever");
    let mut reserved = hang(1);
    reserved[5] |= 0x80;
    check(&[
        ("4.1 unknown type", unknown, Nothing),
        ("4.1 reserved bit", reserved, Nothing),
        (
            "4.2 too large",
            frame(DATA, 0, 1, &[0; 16_385]),
            Goaway(SIZE),
        ),
        ("6.1 stream 0", frame(DATA, 0, 0, b"x"), Goaway(PROTOCOL)),
        (
            "6.1 padding",
            all(&[hang(1), frame(DATA, PADDED, 1, &[2, 0])]),
            Goaway(PROTOCOL),
        ),
        (
            "6.1 no padding",
            all(&[hang(1), frame(DATA, PADDED, 1, &[])]),
            Goaway(SIZE),
        ),
        (
            "6.1 good padding",
            all(&[hang(1), frame(DATA, PADDED, 1, &[1, b'x', 0])]),
            Nothing,
        ),
        (
            "6.2 stream 0",
            frame(HEADERS, END_HEADERS, 0, &[0x82]),
            Goaway(PROTOCOL),
        ),
        (
            "6.2 padding",
            frame(HEADERS, END_HEADERS | PADDED, 1, &[9, 0x82]),
            Goaway(PROTOCOL),
        ),
        (
            "6.2 short priority",
            frame(HEADERS, END_HEADERS | 0x20, 1, &[0; 4]),
            Goaway(SIZE),
        ),
    ])
    .await;
}

#[tokio::test]
async fn small_frames_have_their_sizes_and_streams() {
    use Comes::{Goaway, Nothing, Reset};
    check(&[
        (
            "6.3 stream 0",
            frame(PRIORITY, 0, 0, &[0; 5]),
            Goaway(PROTOCOL),
        ),
        (
            "6.3 size",
            all(&[hang(1), frame(PRIORITY, 0, 1, &[0; 4])]),
            Reset(1, SIZE),
        ),
        ("6.3 idle stream", frame(PRIORITY, 0, 9, &[0; 5]), Nothing),
        ("6.4 stream 0", reset(0), Goaway(PROTOCOL)),
        ("6.4 idle stream", reset(1), Goaway(PROTOCOL)),
        (
            "6.4 size",
            all(&[hang(1), frame(RST_STREAM, 0, 1, &[0; 3])]),
            Goaway(SIZE),
        ),
        (
            "6.6 a push",
            frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2]),
            Goaway(PROTOCOL),
        ),
        ("6.7 stream", frame(PING, 0, 1, &[0; 8]), Goaway(PROTOCOL)),
        ("6.7 size", frame(PING, 0, 0, &[0; 7]), Goaway(SIZE)),
        ("6.7 nobody asked", frame(PING, ACK, 0, &[7; 8]), Nothing),
        ("6.8 stream", frame(GOAWAY, 0, 1, &[0; 8]), Goaway(PROTOCOL)),
        ("6.8 size", frame(GOAWAY, 0, 0, &[0; 7]), Goaway(SIZE)),
    ])
    .await;
}

#[tokio::test]
async fn heads_are_whole_before_anything_else() {
    use Comes::{Goaway, Nothing};
    check(&[
        (
            "6.10 alone",
            frame(CONTINUATION, END_HEADERS, 1, &[0x82]),
            Goaway(PROTOCOL),
        ),
        (
            "6.10 after the end",
            all(&[hang(1), frame(CONTINUATION, END_HEADERS, 1, &[0x82])]),
            Goaway(PROTOCOL),
        ),
        (
            "6.10 of another stream",
            all(&[
                frame(HEADERS, 0, 1, &[0x82]),
                frame(CONTINUATION, END_HEADERS, 3, &[0x84]),
            ]),
            Goaway(PROTOCOL),
        ),
        (
            "6.2 something between",
            all(&[frame(HEADERS, 0, 1, &[0x82]), window(0, 1)]),
            Goaway(PROTOCOL),
        ),
        (
            "4.3 no HPACK",
            frame(HEADERS, END_HEADERS, 1, &[0xff, 0xff, 0xff, 0xff, 0xff]),
            Goaway(COMPRESSION),
        ),
    ])
    .await;
    // A head in three frames is one.
    let whole = request("/hang", &[SHOP]);
    let (first, rest) = whole.split_at(5);
    let (second, third) = rest.split_at(7);
    let cut = [
        frame(HEADERS, 0, 1, first),
        frame(CONTINUATION, 0, 1, second),
        frame(CONTINUATION, END_HEADERS, 1, third),
        frame(DATA, 0, 1, b"x"),
    ];
    check(&[("6.10 in pieces", all(&cut), Nothing)]).await;
}

#[tokio::test]
async fn settings_are_what_they_may_be() {
    use Comes::{Goaway, Nothing};
    check(&[
        ("6.5 stream", frame(SETTINGS, 0, 1, &[]), Goaway(PROTOCOL)),
        ("6.5 size", frame(SETTINGS, 0, 0, &[0; 5]), Goaway(SIZE)),
        (
            "6.5 answer with more",
            frame(SETTINGS, ACK, 0, &[0; 6]),
            Goaway(SIZE),
        ),
        ("6.5.2 push", setting(2, 2), Goaway(PROTOCOL)),
        ("6.5.2 window", setting(4, 1 << 31), Goaway(FLOW)),
        ("6.5.2 small frames", setting(5, 100), Goaway(PROTOCOL)),
        ("6.5.2 large frames", setting(5, 1 << 24), Goaway(PROTOCOL)),
        ("8441 connect", setting(8, 2), Goaway(PROTOCOL)),
        ("6.5.2 unknown", setting(0xffff, 1), Nothing),
        (
            "6.5.2 known",
            all(&[setting(5, 1 << 20), setting(1, 0), setting(4, 0)]),
            Nothing,
        ),
    ])
    .await;
}

#[tokio::test]
async fn windows_are_kept_to() {
    use Comes::{Goaway, Nothing, Reset};
    let most = (1 << 31) - 1;
    let full = vec![frame(DATA, 0, 1, &[0; 16_384]); 17].concat();
    let over_all: Vec<_> = (0..6).map(|it| hang(2 * it + 1)).collect();
    let over_all_data: Vec<_> = (0..5)
        .map(|it| vec![frame(DATA, 0, 2 * it + 1, &[0; 16_384]); 15].concat())
        .collect();
    check(&[
        ("6.9 by nothing", window(0, 0), Goaway(PROTOCOL)),
        (
            "6.9 by nothing, a stream",
            all(&[hang(1), window(1, 0)]),
            Reset(1, PROTOCOL),
        ),
        (
            "6.9 size",
            frame(WINDOW_UPDATE, 0, 0, &[0; 3]),
            Goaway(SIZE),
        ),
        ("6.9 idle stream", window(1, 1), Goaway(PROTOCOL)),
        ("6.9.1 too wide", window(0, most), Goaway(FLOW)),
        (
            "6.9.1 too wide, a stream",
            all(&[hang(1), window(1, most)]),
            Reset(1, FLOW),
        ),
        (
            "6.9.2 too wide by settings",
            all(&[hang(1), window(1, most - 65_535), setting(4, 65_536)]),
            Goaway(FLOW),
        ),
        (
            "6.9.2 below nothing",
            all(&[hang(1), setting(4, 0), setting(4, 1)]),
            Nothing,
        ),
        (
            "6.9 more than a stream takes",
            all(&[hang(1), full]),
            Reset(1, FLOW),
        ),
        (
            "6.9 more than all take",
            all(&[all(&over_all), all(&over_all_data)]),
            Goaway(FLOW),
        ),
    ])
    .await;
}

#[tokio::test]
async fn streams_are_in_a_state() {
    use Comes::{Goaway, Nothing, Reset};
    check(&[
        ("5.1 idle", frame(DATA, 0, 1, b"x"), Goaway(PROTOCOL)),
        (
            "5.1 half closed",
            all(&[bare(1), frame(DATA, 0, 1, b"x")]),
            Reset(1, CLOSED),
        ),
        (
            "5.1 half closed, a head",
            all(&[bare(1), bare(1)]),
            Reset(1, CLOSED),
        ),
        (
            "5.1 half closed, a window",
            all(&[bare(1), window(1, 1)]),
            Nothing,
        ),
        (
            "5.1 reset by the client",
            all(&[hang(1), reset(1), frame(DATA, 0, 1, b"x")]),
            Goaway(CLOSED),
        ),
        (
            "5.1 reset, a head",
            all(&[hang(1), reset(1), hang(1)]),
            Goaway(CLOSED),
        ),
        (
            "5.1 reset, a window",
            all(&[hang(1), reset(1), window(1, 1), reset(1)]),
            Nothing,
        ),
        ("5.1.1 even", hang(2), Goaway(PROTOCOL)),
        (
            "5.1 over, a head",
            all(&[refused(1), bare(3), bare(1)]),
            Goaway(CLOSED),
        ),
        (
            "5.1.1 backwards",
            all(&[hang(5), hang(3)]),
            Goaway(PROTOCOL),
        ),
        (
            "5.1.1 backwards to the first",
            all(&[hang(3), hang(9), hang(11), hang(1)]),
            Goaway(PROTOCOL),
        ),
        (
            "5.1.1 passed over, and no head",
            all(&[hang(5), window(3, 1), frame(PRIORITY, 0, 3, &[0; 5])]),
            Nothing,
        ),
        (
            "5.1.1 open, between others that were passed over",
            all(&[hang(3), hang(7), end(3)]),
            Nothing,
        ),
        (
            "5.1.1 backwards, of more gaps than are remembered",
            (0..20)
                .flat_map(|n| bare(3 + 4 * n))
                .chain(hang(1))
                .collect(),
            Goaway(CLOSED),
        ),
    ])
    .await;
}

#[tokio::test]
async fn bodies_are_as_long_as_is_said() {
    use Comes::{Nothing, Reset};
    let trailers = |flags: u8, lines: &[(&str, &str)]| frame(HEADERS, flags, 1, &block(lines));
    let end = END_HEADERS | END_STREAM;
    check(&[
        (
            "8.1 trailers without an end",
            all(&[hang(1), trailers(END_HEADERS, &[("x", "1")])]),
            Reset(1, PROTOCOL),
        ),
        (
            "8.1 trailers",
            all(&[hang(1), trailers(end, &[("x", "1")])]),
            Nothing,
        ),
        (
            "8.3 a path in trailers",
            all(&[hang(1), trailers(end, &[(":path", "/")])]),
            Reset(1, PROTOCOL),
        ),
        (
            "8.1.1 too long",
            all(&[sized("1"), frame(DATA, 0, 1, b"xy")]),
            Reset(1, PROTOCOL),
        ),
        (
            "8.1.1 too short",
            all(&[sized("3"), frame(DATA, END_STREAM, 1, b"xy")]),
            Reset(1, PROTOCOL),
        ),
        (
            "8.1.1 too short before trailers",
            all(&[sized("3"), trailers(end, &[("x", "1")])]),
            Reset(1, PROTOCOL),
        ),
        (
            "8.1.1 none",
            with(&[("content-length", "1")]),
            Reset(1, PROTOCOL),
        ),
        (
            "8.1.1 as said",
            all(&[sized("2"), frame(DATA, END_STREAM, 1, b"xy")]),
            Nothing,
        ),
    ])
    .await;
}

#[tokio::test]
async fn what_we_end_may_still_be_sent_to() {
    use Comes::Reset;
    // What we reset may still be sent to for a while, and windows are given back for that.
    let bad = frame(
        HEADERS,
        END_HEADERS,
        1,
        &request("/", &[SHOP, ("te", "gzip")]),
    );
    let late = vec![frame(DATA, 0, 1, &[0; 16_384]); 100].concat();
    let late = sent(&[bad, late].concat(), Limits::default()).await;
    assert_eq!(late, Reset(1, PROTOCOL));
    let limits = Limits {
        streams: 2,
        ..Limits::default()
    };
    let three = all(&[hang(1), hang(3), hang(5), frame(DATA, 0, 5, b"x")]);
    assert_eq!(sent(&three, limits).await, Reset(5, REFUSED));
}

#[tokio::test]
async fn lists_of_fields_are_requests() {
    use Comes::{Nothing, Reset};
    let bad = Reset(1, PROTOCOL);
    let (get, http, path) = ((":method", "GET"), (":scheme", "http"), (":path", "/hang"));
    check(&[
        ("8.2.1 upper case", with(&[("X-Up", "1")]), bad),
        ("8.2.1 no name", with(&[("", "1")]), bad),
        ("8.2.1 a space", with(&[("a b", "1")]), bad),
        ("8.2.1 a line break", with(&[("a", "1\r\nb: 2")]), bad),
        ("8.2.1 space around", with(&[("a", " 1")]), bad),
        ("8.2.2 connection", with(&[("connection", "x")]), bad),
        ("8.2.2 te", with(&[("te", "gzip")]), bad),
        ("8.2.2 trailers", with(&[("te", "trailers")]), Nothing),
        ("8.3 unknown", with(&[(":unknown", "1")]), bad),
        (
            "8.3 behind a field",
            lines(&[get, http, SHOP, ("a", "1"), path]),
            bad,
        ),
        (
            "8.3 of a response",
            lines(&[get, http, path, SHOP, (":status", "200")]),
            bad,
        ),
        ("8.3.1 no method", lines(&[http, path, SHOP]), bad),
        ("8.3.1 no scheme", lines(&[get, path, SHOP]), bad),
        ("8.3.1 no path", lines(&[get, http, SHOP]), bad),
        (
            "8.3.1 an empty path",
            lines(&[get, http, (":path", ""), SHOP]),
            bad,
        ),
        (
            "8.3.1 two methods",
            lines(&[get, get, http, path, SHOP]),
            bad,
        ),
        (
            "8.3.1 two schemes",
            lines(&[get, http, http, path, SHOP]),
            bad,
        ),
        (
            "8.3.1 two paths",
            lines(&[get, http, path, path, SHOP]),
            bad,
        ),
        (
            "8.3.1 two authorities",
            lines(&[get, http, path, SHOP, SHOP]),
            bad,
        ),
        (
            "8441 not by GET",
            lines(&[get, http, path, SHOP, (":protocol", "websocket")]),
            bad,
        ),
        ("8.3.1 all there", lines(&[get, http, path, SHOP]), Nothing),
    ])
    .await;
}

#[tokio::test]
async fn what_comes_first_is_the_preface_and_settings() {
    for (name, bytes) in [
        ("no settings", frame(PING, 0, 0, &[0; 8])),
        ("an answer", frame(SETTINGS, ACK, 0, &[])),
        ("a request", hang(1)),
    ] {
        let (mut io, served, _seen) = echoing(Limits::default()).await;
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        let sent = [&preface[..], &bytes].concat();
        tokio::io::AsyncWriteExt::write_all(&mut io, &sent)
            .await
            .unwrap();
        assert_eq!(soon(served).await.unwrap(), Ended::Broken, "{name}");
    }
}

#[tokio::test]
async fn too_many_faults_and_changes_of_mind_end_the_connection() {
    let calm = Comes::Goaway(11);
    let changes = vec![setting(3, 1); 200].concat();
    assert_eq!(sent(&changes, Limits::default()).await, calm);
    let mut faults = Vec::new();
    for stream in (1..2400).step_by(2) {
        let list = request("/", &[SHOP, ("te", "gzip")]);
        faults.extend(frame(HEADERS, END_HEADERS | END_STREAM, stream, &list));
    }
    assert_eq!(sent(&faults, Limits::default()).await, calm);
}
