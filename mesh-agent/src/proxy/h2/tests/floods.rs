//! What nobody sends by accident, as frames written by hand.

use h2::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Writes fields without compression.
pub(super) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            let length = text.len();
            if length < 127 {
                block.push(u8::try_from(length).unwrap());
            } else {
                assert!((127..127 + (1 << 14)).contains(&length));
                let rest = length - 127;
                block.push(127);
                block.push(u8::try_from(rest & 127).unwrap() | 128);
                block.push(u8::try_from(rest >> 7).unwrap());
            }
            block.extend(text.as_bytes());
        }
    }
    block
}

pub(super) fn request(path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let pseudo = [(":method", "POST"), (":scheme", "http"), (":path", path)];
    block(&[&pseudo, more].concat())
}

pub(super) const SHOP: (&str, &str) = (":authority", "shop");

pub(super) struct Raw {
    io: TcpStream,
    served: JoinHandle<Ended>,
    seen: Seen,
}

impl Raw {
    pub(super) async fn new(limits: Limits) -> Self {
        let (io, served, seen) = echoing(limits).await;
        let mut raw = Self { io, served, seen };
        raw.begin().await;
        raw
    }

    async fn begin(&mut self) {
        self.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        self.write(&frame(SETTINGS, 0, 0, &[])).await;
    }

    pub(super) async fn write(&mut self, bytes: &[u8]) {
        // The server may close while we write.
        soon(self.io.write_all(bytes)).await.unwrap_or(());
    }

    /// Returns the next frame of this kind: its flags, stream and payload; `None` if the connection ended before.
    async fn next(&mut self, kind: u8) -> Option<(u8, u32, Vec<u8>)> {
        loop {
            let (of, flags, stream, payload) = self.any().await?;
            if of == kind {
                return Some((flags, stream, payload));
            }
        }
    }

    /// Returns the next frame: its kind, flags, stream and payload.
    pub(super) async fn any(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        soon(self.io.read_exact(&mut head)).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        soon(self.io.read_exact(&mut payload)).await.ok()?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Some((head[3], head[4], stream, payload))
    }

    async fn goaway(&mut self) -> Option<Reason> {
        let (_, _, payload) = self.next(GOAWAY).await?;
        Some(u32::from_be_bytes(payload[4..8].try_into().unwrap()).into())
    }
}

#[tokio::test]
async fn requests_without_authority_are_refused() {
    let mut raw = Raw::new(Limits::default()).await;
    let without = frame(HEADERS, END_HEADERS | END_STREAM, 1, &request("/", &[]));
    let twice = request("/", &[SHOP, ("host", "shop"), ("host", "shop")]);
    let twice = frame(HEADERS, END_HEADERS | END_STREAM, 3, &twice);
    let upgrade = request("/", &[SHOP, ("connection", "upgrade")]);
    let upgrade = frame(HEADERS, END_HEADERS | END_STREAM, 5, &upgrade);
    let encoded = request("/", &[SHOP, ("transfer-encoding", "chunked")]);
    let encoded = frame(HEADERS, END_HEADERS | END_STREAM, 7, &encoded);
    raw.write(&[without, twice].concat()).await;
    for stream in [1, 3] {
        let (_, of, payload) = raw.next(HEADERS).await.unwrap();
        // `:status: 400` is the twelfth entry of the static table.
        assert_eq!((of, payload[0]), (stream, 0x80 | 12));
    }
    raw.write(&[upgrade, encoded].concat()).await;
    for stream in [5, 7] {
        let (_, of, payload) = raw.next(RST_STREAM).await.unwrap();
        assert_eq!((of, payload), (stream, 1u32.to_be_bytes().to_vec()));
    }
    for _ in 0..2 {
        assert_eq!(raw.seen.try_recv().unwrap(), "refused 400 Bad Request");
    }
    assert!(raw.seen.try_recv().is_err(), "a request was handled");
}

#[tokio::test]
async fn rapid_resets_end_the_connection() {
    // At once, before anybody has looked at a stream.
    let mut raw = Raw::new(Limits::default()).await;
    let mut burst = Vec::new();
    for stream in (1..400).step_by(2) {
        let hang = request("/hang", &[SHOP]);
        burst.extend(frame(HEADERS, END_HEADERS, stream, &hang));
        burst.extend(frame(RST_STREAM, 0, stream, &8u32.to_be_bytes()));
    }
    raw.write(&burst).await;
    assert_eq!(raw.goaway().await, Some(Reason::ENHANCE_YOUR_CALM));
    assert_eq!(soon(raw.served).await.unwrap(), Ended::TooManyResets);

    // One after the other, each when it is already with its handler.
    let mut raw = Raw::new(Limits::default()).await;
    let mut resets = 0;
    for stream in (1..1000).step_by(2) {
        let hang = request("/hang", &[SHOP]);
        raw.write(&frame(HEADERS, END_HEADERS, stream, &hang)).await;
        let line = soon(raw.seen.recv()).await;
        if line.as_deref() != Some("POST /hang") {
            break;
        }
        raw.write(&frame(RST_STREAM, 0, stream, &8u32.to_be_bytes()))
            .await;
        let line = soon(raw.seen.recv()).await;
        if line.as_deref() != Some("gone /hang") {
            break;
        }
        resets += 1;
    }
    assert!((100..110).contains(&resets), "{resets} resets");
    assert_eq!(raw.goaway().await, Some(Reason::ENHANCE_YOUR_CALM));
    assert_eq!(soon(raw.served).await.unwrap(), Ended::TooManyResets);
}

#[tokio::test]
async fn what_is_reset_counts_until_it_has_ended() {
    let limits = Limits {
        streams: 1,
        ..Limits::default()
    };
    let (near, far) = connected().await;
    let (service, seen) = echo();
    let served = tokio::spawn(serve(far, Arc::clone(&service), limits));
    let mut raw = Raw {
        io: near,
        served,
        seen,
    };
    raw.begin().await;
    let stuck = request("/stuck", &[SHOP]);
    for stream in [1, 3] {
        raw.write(&frame(HEADERS, END_HEADERS, stream, &stuck))
            .await;
        told(&mut raw.seen, "POST /stuck").await;
        let reset = frame(RST_STREAM, 0, stream, &8u32.to_be_bytes());
        raw.write(&reset).await;
    }
    let next = request("/", &[SHOP]);
    let next = frame(HEADERS, END_HEADERS | END_STREAM, 5, &next);
    // A PING's answer says that the frames before it were read.
    raw.write(&[next, frame(PING, 0, 0, b"12345678")].concat())
        .await;
    assert!(raw.next(PING).await.is_some());
    assert!(raw.seen.try_recv().is_err(), "a third was handled");
    service.unstuck.add_permits(1);
    told(&mut raw.seen, "POST /").await;
    let (_, stream, _) = raw.next(HEADERS).await.unwrap();
    assert_eq!(stream, 5);
}

#[tokio::test]
async fn heads_without_end_end_the_connection() {
    let mut raw = Raw::new(Limits::default()).await;
    raw.write(&frame(HEADERS, 0, 1, &request("/", &[SHOP])))
        .await;
    for _ in 0..100 {
        raw.write(&frame(CONTINUATION, 0, 1, &block(&[("x", "y")])))
            .await;
    }
    assert_eq!(raw.goaway().await, Some(Reason::ENHANCE_YOUR_CALM));
    assert_ne!(soon(raw.served).await.unwrap(), Ended::Closed);
}

#[tokio::test]
async fn a_small_head_that_unpacks_to_megabytes_ends_the_connection() {
    // One field goes to the connection's table, and is named 10,000 times: 38 MB.
    let mut raw = Raw::new(Limits::default()).await;
    let mut kept = block(&[("x", &"v".repeat(3800))]);
    kept[0] = 0x40;
    let bomb = [request("/", &[SHOP]), kept, vec![0x80 | 62; 10_000]].concat();
    assert!(bomb.len() < 16 << 10);
    raw.write(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &bomb))
        .await;
    assert_eq!(raw.goaway().await, Some(Reason::ENHANCE_YOUR_CALM));
    assert!(raw.seen.try_recv().is_err(), "a request was handled");
}

#[tokio::test]
async fn empty_and_tiny_data_frames_are_bounded() {
    for (payload, frames) in [(&b""[..], 200), (&b"x"[..], 20_000)] {
        let mut raw = Raw::new(Limits::default()).await;
        let hang = request("/hang", &[SHOP]);
        raw.write(&frame(HEADERS, END_HEADERS, 1, &hang)).await;
        let flood: Vec<u8> = (0..frames).flat_map(|_| frame(0, 0, 1, payload)).collect();
        raw.write(&flood).await;
        assert_eq!(raw.goaway().await, Some(Reason::ENHANCE_YOUR_CALM));
    }
}

#[tokio::test]
async fn who_asks_and_does_not_read_is_read_no_further() {
    for (kind, payload) in [(PING, &b"12345678"[..]), (SETTINGS, &[][..])] {
        let mut raw = Raw::new(Limits::default()).await;
        let flood: Vec<u8> = (0..10_000)
            .flat_map(|_| frame(kind, 0, 0, payload))
            .collect();
        // Nothing of the answers is read: in the end the server takes nothing more. 64 MiB would take all that two sockets buffer.
        let mut written = 0;
        let stopped = loop {
            let write = tokio::time::timeout(Duration::from_secs(1), raw.io.write_all(&flood));
            match write.await {
                Ok(Ok(())) if written > 64 << 20 => break false,
                Ok(Ok(())) => written += flood.len(),
                _ => break true,
            }
        };
        assert!(stopped, "{written} bytes were taken");
    }
}

#[tokio::test]
async fn who_asks_and_reads_is_answered() {
    let mut raw = Raw::new(Limits::default()).await;
    let flood: Vec<u8> = (0..20_000)
        .flat_map(|_| frame(PING, 0, 0, b"12345678"))
        .collect();
    let (mut reading, mut writing) = raw.io.split();
    let write = async { writing.write_all(&flood).await.unwrap() };
    let read = async {
        // Settings and a window first; each answer is as long as what it answers.
        let mut left = flood.len();
        let mut some = vec![0; 16 << 10];
        while left > 0 {
            let read = reading.read(&mut some).await.unwrap();
            assert_ne!(read, 0);
            left = left.saturating_sub(read);
        }
    };
    soon(async { tokio::join!(write, read) }).await;
}

#[tokio::test]
async fn who_answers_no_ping_is_gone() {
    let short = Duration::from_millis(50);
    let limits = Limits {
        keep_alive: short,
        idle: short,
        answer: short,
        ..Limits::default()
    };
    let mut raw = Raw::new(limits).await;
    let hang = request("/hang", &[SHOP]);
    raw.write(&frame(HEADERS, END_HEADERS, 1, &hang)).await;
    assert!(raw.next(PING).await.is_some());
    assert_eq!(soon(raw.served).await.unwrap(), Ended::Silent);
    told(&mut raw.seen, "gone /hang").await;
}

#[tokio::test]
async fn something_else_than_http_is_not_served() {
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\x16\x03\x01\x02\x00\x01"] {
        let (mut io, served, _seen) = echoing(Limits::default()).await;
        io.write_all(bytes).await.unwrap();
        io.write_all(&[0; 24]).await.unwrap();
        assert_eq!(soon(served).await.unwrap(), Ended::Handshake);
    }
}
