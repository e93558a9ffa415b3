//! Frames of HTTP/2 that anybody may send, as a client or as an upstream, to the data path over real sockets: it never panics, says
//! nothing but frames, comes to an end when its peer does, and goes on serving others.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::Target;
use crate::draw::Draw;
use crate::stage::{Stage, To};
use crate::wire::shown;

/// Choices of frames.
pub const TARGET: Target = Target {
    name: "frames",
    run,
    words: &["\0\0", "\u{4}\u{4}", "\r", "\u{e}?", "\u{f}\u{f}\u{f}"],
    longest: 1024,
};

/// Bytes of an input's frames, at most: enough for every limit on floods.
const MOST: usize = 256 << 10;

/// What any answer takes, many times over.
const PATIENCE: Duration = Duration::from_secs(15);

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
#[cfg(test)]
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A moment without a word: what there is to say is said.
const QUIET: Duration = Duration::from_millis(10);

fn run(data: &[u8]) {
    let mut draw = Draw::new(data);
    let stage = Stage::get();
    let said = match draw.one_in(3) {
        true => as_upstream(stage, &mut draw, &|_| true),
        false => as_client(stage, &mut draw, &|_| true),
    };
    said.expect("sockets on loopback");
    stage.check();
    let mut other = stage.connect(To::Echo).expect("sockets on loopback");
    let honest = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi";
    other.write_all(honest).expect("the data path takes it");
    let answer = rest(&mut other);
    let whole = answer.starts_with(b"HTTP/1.1 200 ") && answer.ends_with(b"\r\n\r\nhi");
    assert!(whole, "others get {}", shown(&answer));
    stage.check();
}

/// Whether what was said is all that is to come, asked in a quiet moment.
type Enough<'e> = &'e dyn Fn(&[u8]) -> bool;

/// Sends frames as a client, and returns what it is told.
fn as_client(stage: &Stage, draw: &mut Draw<'_>, enough: Enough<'_>) -> io::Result<Vec<u8>> {
    let mut script = Script::new(request);
    if !draw.one_in(32) {
        script.out.extend_from_slice(PREFACE);
    }
    script.add(draw);
    let script = script.out;
    let mut stream = stage.connect(To::Echo)?;
    let said = say(&mut stream, &script, enough)?;
    if script.starts_with(PREFACE) {
        check(&said);
    }
    Ok(said)
}

/// Answers a request with frames, and returns what its client gets.
fn as_upstream(stage: &Stage, draw: &mut Draw<'_>, enough: Enough<'_>) -> io::Result<Vec<u8>> {
    let mut script = Script::new(response);
    script.add(draw);
    let script = script.out;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    stage.set_endpoint(listener.local_addr()?);
    let mut client = stage.connect(To::Other)?;
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")?;
    let (mut upstream, _) = listener.accept()?;
    // Another attempt finds nobody.
    drop(listener);
    let asks = |said: &[u8]| {
        let frames = said.strip_prefix(PREFACE).unwrap_or_default();
        check(frames).contains(&HEADERS)
    };
    let mut said = until(&mut upstream, &asks);
    said.extend(say(&mut upstream, &script, enough)?);
    let frames = said.strip_prefix(PREFACE);
    check(frames.unwrap_or_else(|| panic!("no preface in {}", shown(&said))));
    let answer = rest(&mut client);
    let begins = answer.starts_with(b"HTTP/1.1 ");
    assert!(begins, "the client gets {}", shown(&answer));
    Ok(answer)
}

/// Says all of it and, after what is enough of an answer, that there is no more; returns what the other end says until it closes.
fn say(stream: &mut TcpStream, script: &[u8], enough: Enough<'_>) -> io::Result<Vec<u8>> {
    let mut writer = stream.try_clone()?;
    // The other end may have stopped reading.
    writer.set_write_timeout(Some(PATIENCE))?;
    let mut said = std::thread::scope(|scope| {
        // It may close before it has heard all.
        scope.spawn(move || writer.write_all(script).ok());
        until(stream, enough)
    });
    // Perhaps it has closed.
    stream.shutdown(Shutdown::Write).ok();
    said.extend(rest(stream));
    Ok(said)
}

/// Reads until it is quiet after enough, or the other end closes.
fn until(stream: &mut TcpStream, enough: Enough<'_>) -> Vec<u8> {
    let begin = Instant::now();
    let mut got = Vec::new();
    let mut buffer = [0; 16 << 10];
    let timed = stream.set_read_timeout(Some(QUIET));
    timed.expect("a time is none that is zero");
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return got,
            Ok(read) => got.extend_from_slice(&buffer[..read]),
            Err(error) if is_late(&error) => {
                if enough(&got) {
                    return got;
                }
                assert!(begin.elapsed() < PATIENCE, "only {}", shown(&got));
            }
            Err(_) => return got,
        }
    }
}

/// Reads until the other end closes, be it with a reset.
fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let timed = stream.set_read_timeout(Some(PATIENCE));
    timed.expect("a time is none that is zero");
    let mut got = Vec::new();
    if let Err(error) = stream.read_to_end(&mut got) {
        assert!(!is_late(&error), "it does not end after {}", shown(&got));
    }
    got
}

fn is_late(error: &io::Error) -> bool {
    let kind = error.kind();
    matches!(kind, io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// Checks that these are frames that an end of HTTP/2 may send, and returns their kinds; the last may be cut off.
fn check(mut said: &[u8]) -> Vec<u8> {
    let whole = said;
    let mut kinds = Vec::new();
    while let Some((head, rest)) = said.split_at_checked(9) {
        let kind = head[3];
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let known = kind <= CONTINUATION && kind != PUSH_PROMISE;
        let fits = match kind {
            DATA | HEADERS | RST_STREAM | CONTINUATION => stream % 2 == 1,
            SETTINGS | PING => stream == 0,
            _ => true,
        };
        let begins = !kinds.is_empty() || kind == SETTINGS;
        assert!(known && fits && begins, "no frame in {}", shown(whole));
        kinds.push(kind);
        said = rest.get(length..).unwrap_or_default();
    }
    kinds
}

/// Makes a head that is valid, for the most part, and returns its flags.
type Head = fn(&mut Draw<'_>, &mut Vec<u8>) -> u8;

/// Frames by choice.
struct Script {
    out: Vec<u8>,
    head: Head,
    /// The stream of the next head.
    next: u32,
}

impl Script {
    fn new(head: Head) -> Self {
        Self {
            out: Vec::new(),
            head,
            next: 1,
        }
    }

    fn add(&mut self, draw: &mut Draw<'_>) {
        if !draw.one_in(32) {
            frame(&mut self.out, SETTINGS, 0, 0, &[]);
        }
        let mut last = self.out.len();
        while !draw.is_empty() && self.out.len() < MOST {
            let begin = self.out.len();
            match draw.below(16) {
                0..=2 => {
                    let (block, flags) = self.block(draw);
                    self.headed(HEADERS, flags, &block);
                }
                3 => {
                    // The same in pieces.
                    let (block, flags) = self.block(draw);
                    let size = 1 + draw.below(40);
                    let ends = !draw.one_in(8);
                    self.pieces(&block, flags, size, ends);
                }
                9 => {
                    // Fields that nobody can read, perhaps.
                    let payload = payload(draw);
                    self.headed(HEADERS, draw.byte(), &payload);
                }
                12 => self.given_up(draw.below(256)),
                13 => self.endless(draw.below(256)),
                14 => {
                    let part = self.out[last..begin].to_vec();
                    for _ in 0..draw.below(256) {
                        if self.out.len() < MOST {
                            self.out.extend_from_slice(&part);
                        }
                    }
                }
                15 => self.long(draw),
                kind => plain(kind, draw, &mut self.out),
            }
            last = begin;
        }
    }

    fn block(&self, draw: &mut Draw<'_>) -> (Vec<u8>, u8) {
        let mut block = Vec::new();
        let flags = (self.head)(draw, &mut block);
        (block, flags)
    }

    /// Adds a frame on a stream of its own.
    fn headed(&mut self, kind: u8, flags: u8, block: &[u8]) {
        frame(&mut self.out, kind, flags, self.next, block);
        self.next += 2;
    }

    fn pieces(&mut self, block: &[u8], flags: u8, size: usize, ends: bool) {
        let pieces: Vec<&[u8]> = block.chunks(size).collect();
        for (at, piece) in pieces.iter().enumerate() {
            let is_last = ends && at + 1 == pieces.len();
            let end = if is_last { END_HEADERS } else { 0 };
            let (kind, flags) = match at {
                0 => (HEADERS, flags & END_STREAM | end),
                _ => (CONTINUATION, end),
            };
            frame(&mut self.out, kind, flags, self.next, piece);
        }
        self.next += 2;
    }

    /// Adds streams that are given up at once.
    fn given_up(&mut self, count: usize) {
        for _ in 0..count {
            let (block, flags) = self.block(&mut Draw::new(&[]));
            let stream = self.next;
            self.headed(HEADERS, flags & !END_STREAM, &block);
            frame(&mut self.out, RST_STREAM, 0, stream, &8u32.to_be_bytes());
        }
    }

    /// Adds a head that never ends.
    fn endless(&mut self, count: usize) {
        frame(&mut self.out, HEADERS, 0, self.next, &[]);
        for _ in 0..count {
            let piece = [0x40, 1, b'a', 1, b'b'];
            frame(&mut self.out, CONTINUATION, 0, self.next, &piece);
        }
        self.next += 2;
    }

    /// Adds a head with a long field, or very many of one that is short on the wire.
    fn long(&mut self, draw: &mut Draw<'_>) {
        let (mut block, flags) = self.block(draw);
        field(&mut block, "x-long", &"y".repeat(100 * draw.below(256)));
        block.extend([0x40, 1, b'a', 1, b'b']);
        block.resize(block.len() + 16 * draw.below(256), 0xbe);
        self.pieces(&block, flags, 16 << 10, true);
    }
}

/// Adds a frame that begins no stream.
fn plain(kind: usize, draw: &mut Draw<'_>, out: &mut Vec<u8>) {
    match kind {
        4 => {
            let flags = draw.byte() & (END_STREAM | 8);
            let payload = payload(draw);
            frame(out, DATA, flags, stream(draw), &payload);
        }
        5 => frame(out, RST_STREAM, 0, stream(draw), &number(draw)),
        6 => {
            let mut settings = Vec::new();
            for _ in 0..draw.below(4) {
                settings.extend([0, draw.byte() % 9]);
                settings.extend(number(draw));
            }
            frame(out, SETTINGS, draw.byte() & 1, 0, &settings);
        }
        7 => frame(out, WINDOW_UPDATE, 0, stream(draw), &number(draw)),
        8 => frame(out, PING, draw.byte() & 1, 0, &[draw.byte(); 8]),
        10 => {
            // Any kind with anything.
            let (kind, flags, payload) = (draw.byte(), draw.byte(), payload(draw));
            frame(out, kind, flags, stream(draw), &payload);
        }
        // Bytes of no shape, or a frame that is cut off.
        _ => out.extend(payload(draw)),
    }
}

/// Writes a request's head; returns the flags.
fn request(draw: &mut Draw<'_>, block: &mut Vec<u8>) -> u8 {
    let choice = draw.byte();
    let method = draw.text(&["POST", "GET", "HEAD", "OPTIONS", "CONNECT", "get", ""]);
    let path = draw.text(&["/", "/a/../b?c", "*", "", "/a<b", "/%00", "a"]);
    for (name, value) in [
        (":method", method),
        (":scheme", draw.text(&["http", "https", "ftp"])),
        (":path", path),
        (":authority", draw.text(&["a", "a:80", "", "u@a", "b c"])),
    ] {
        if draw.one_in(16) {
            continue;
        }
        field(block, name, value);
    }
    extra(draw, block);
    let end = if choice % 2 == 1 { END_STREAM } else { 0 };
    END_HEADERS | end
}

/// Writes a response's head; returns the flags.
fn response(draw: &mut Draw<'_>, block: &mut Vec<u8>) -> u8 {
    let choice = draw.byte();
    let status = draw.text(&["200", "100", "103", "101", "204", "304", "500", "99", "x"]);
    field(block, ":status", status);
    extra(draw, block);
    let end = if choice % 2 == 1 { END_STREAM } else { 0 };
    END_HEADERS | end
}

fn extra(draw: &mut Draw<'_>, block: &mut Vec<u8>) {
    const FIELDS: [(&str, &str); 12] = [
        ("host", "a"),
        ("content-length", "2"),
        ("content-length", "99"),
        ("te", "trailers"),
        ("connection", "close"),
        ("transfer-encoding", "chunked"),
        (":protocol", "websocket"),
        ("content-type", "application/grpc"),
        ("grpc-timeout", "1S"),
        ("expect", "100-continue"),
        ("X-Upper", "1"),
        ("cookie", "a=b"),
    ];
    for _ in 0..draw.below(4) {
        let (name, value) = *draw.of(&FIELDS);
        field(block, name, value);
    }
}

fn stream(draw: &mut Draw<'_>) -> u32 {
    *draw.of(&[1, 1, 3, 5, 0, 2, 7, 101, u32::MAX >> 1])
}

fn number(draw: &mut Draw<'_>) -> [u8; 4] {
    let any = u32::from_be_bytes([draw.byte(), draw.byte(), draw.byte(), draw.byte()]);
    draw.of(&[any, 0, 1, 8, 65_535, 1 << 14, i32::MAX as u32, u32::MAX])
        .to_be_bytes()
}

fn payload(draw: &mut Draw<'_>) -> Vec<u8> {
    let length = draw.byte();
    match length {
        0..=199 => (0..length % 50).map(|_| draw.byte()).collect(),
        _ => vec![draw.byte(); usize::from(length) * 64],
    }
}

/// Writes a field without compression.
fn field(block: &mut Vec<u8>, name: &str, value: &str) {
    block.push(0);
    for text in [name, value] {
        // Seven bits, and what is above them in groups of seven.
        match text.len().checked_sub(127) {
            None => block.extend(u8::try_from(text.len())),
            Some(mut rest) => {
                block.push(127);
                while rest > 127 {
                    block.extend(u8::try_from(rest % 128 + 128));
                    rest /= 128;
                }
                block.extend(u8::try_from(rest));
            }
        }
        block.extend_from_slice(text.as_bytes());
    }
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_be_bytes()[1..]);
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend_from_slice(payload);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(name: &str) -> Vec<u8> {
        std::fs::read(crate::corpus(&TARGET).join(name)).expect("a file of the corpus")
    }

    #[test]
    fn clients_of_the_corpus_get_as_far_as_their_names_say() {
        for (name, expected) in [
            ("get", HEADERS),
            ("post", DATA),
            ("pieces", HEADERS),
            ("data-first", GOAWAY),
            ("rapid-reset", GOAWAY),
            ("continuation", GOAWAY),
            ("bomb", GOAWAY),
            ("empty-data", GOAWAY),
            ("long-field", HEADERS),
            ("zero-window", HEADERS),
            ("hpack-garbage", GOAWAY),
            ("ping-flood", PING),
        ] {
            let bytes = kept(name);
            let mut draw = Draw::new(&bytes);
            assert!(!draw.one_in(3), "{name}");
            let has = |said: &[u8]| check(said).contains(&expected);
            let said = as_client(Stage::get(), &mut draw, &has).expect("sockets");
            assert!(has(&said), "{name}: {}", shown(&said));
        }
    }

    #[test]
    fn upstreams_of_the_corpus_get_as_far_as_their_names_say() {
        for (name, expected) in [
            ("answer", "HTTP/1.1 200 "),
            ("answer-body", "HTTP/1.1 200 "),
            ("answer-interim", "HTTP/1.1 103 "),
            ("answer-101", "HTTP/1.1 502 "),
            ("answer-reset", "HTTP/1.1 503 "),
            ("answer-nothing", "HTTP/1.1 503 "),
        ] {
            let bytes = kept(name);
            let mut draw = Draw::new(&bytes);
            assert!(draw.one_in(3), "{name}");
            let answer = as_upstream(Stage::get(), &mut draw, &|_| true).expect("sockets");
            let begins = answer.starts_with(expected.as_bytes());
            assert!(begins, "{name}: {}", shown(&answer));
        }
    }
}
