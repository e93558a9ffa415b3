//! A client that sends the payload, reads an answer, and checks every byte of it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use clap::Args;
use futures_util::stream;
use http::Request;
use http_body_util::{BodyExt, StreamBody, combinators::BoxBody};
use hyper::body::Frame;
use hyper::client::conn::{http1, http2};
use serde_json::json;
use tokio::task::JoinSet;

use super::io::{WINDOW, connect, executor, wrapped};
use super::payload::Payload;

/// What to ask for.
#[derive(Args, Debug, Clone)]
pub(crate) struct Options {
    /// Whom.
    #[arg(long)]
    connect: SocketAddr,
    /// By HTTP/2.
    #[arg(long)]
    http2: bool,
    /// The path and query.
    #[arg(long, default_value = "/")]
    path: String,
    /// The host.
    #[arg(long, default_value = "service")]
    host: String,
    /// Bytes of payload to send, by `POST`.
    #[arg(long, default_value_t = 0)]
    send: u64,
    /// Bytes of payload to expect.
    #[arg(long)]
    expect: Option<u64>,
    /// Connections.
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// Requests on each, at once by HTTP/2 and one after the other by HTTP/1.
    #[arg(long, default_value_t = 1)]
    requests: usize,
    /// Bytes that are read each second, at most.
    #[arg(long)]
    read_rate: Option<u64>,
}

/// Does it, and says how many were answered how.
pub(crate) async fn run(options: Options) -> Result<()> {
    super::allow_files()?;
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..options.connections {
        let options = options.clone();
        match options.http2 {
            true => tasks.spawn(over_2(options)),
            false => tasks.spawn(over_1(options)),
        };
    }
    let mut answers: BTreeMap<String, u64> = BTreeMap::new();
    while let Some(done) = tasks.join_next().await {
        for answer in done.context("a task panicked")? {
            let word = answer.unwrap_or_else(|error| format!("{error:#}"));
            *answers.entry(word).or_default() += 1;
        }
    }
    let took = began.elapsed().as_secs_f64();
    super::say(&json!({"answers": answers, "seconds": took}));
    Ok(())
}

type Body = BoxBody<Bytes, Infallible>;
type Answers = Vec<Result<String>>;

async fn over_1(options: Options) -> Answers {
    let opened = async {
        let stream = wrapped(connect(options.connect).await?);
        http1::handshake::<_, Body>(stream)
            .await
            .context("no handshake")
    };
    let (mut sender, connection) = match opened.await {
        Ok(opened) => opened,
        Err(error) => return vec![Err(error)],
    };
    let driver = tokio::spawn(connection);
    let mut answers = Vec::new();
    for _ in 0..options.requests {
        let answer = async {
            sender.ready().await.context("the connection closed")?;
            let request = request(&options, options.path.clone())?;
            let sent = sender.send_request(request).await;
            read(sent.context("no response")?, &options).await
        };
        answers.push(answer.await);
    }
    driver.abort();
    answers
}

async fn over_2(options: Options) -> Answers {
    let opened = async {
        let stream = wrapped(connect(options.connect).await?);
        let mut client = http2::Builder::new(executor());
        client
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW * 4);
        let opened = client.handshake::<_, Body>(stream).await;
        opened.context("no handshake")
    };
    let (sender, connection) = match opened.await {
        Ok(opened) => opened,
        Err(error) => return vec![Err(error)],
    };
    let driver = tokio::spawn(connection);
    let mut tasks = JoinSet::new();
    for _ in 0..options.requests {
        let (mut sender, options) = (sender.clone(), options.clone());
        tasks.spawn(async move {
            sender.ready().await.context("the connection closed")?;
            let url = format!("http://{}{}", options.host, options.path);
            let sent = sender.send_request(request(&options, url)?).await;
            read(sent.context("no response")?, &options).await
        });
    }
    let answers = tasks.join_all().await;
    driver.abort();
    answers
}

fn request(options: &Options, url: String) -> Result<Request<Body>> {
    let length = options.send;
    let pieces = stream::unfold(Payload::default(), move |mut payload| async move {
        let left = length - payload.at;
        (left > 0).then(|| (Ok(Frame::data(payload.next(left))), payload))
    });
    let mut request = Request::builder().uri(url);
    if !options.http2 {
        request = request.header("host", &options.host);
    }
    if length > 0 {
        request = request
            .method("POST")
            .header("content-type", "application/payload");
        request = request.header("content-length", length);
    }
    let body = BodyExt::boxed(StreamBody::new(pieces));
    request.body(body).context("no request")
}

/// Returns the status, after its whole body was right.
async fn read(
    response: http::Response<hyper::body::Incoming>,
    options: &Options,
) -> Result<String> {
    let status = response.status().as_u16();
    let mut body = response.into_body();
    let (mut payload, mut text) = (Payload::default(), Vec::new());
    let began = Instant::now();
    while let Some(frame) = body.frame().await {
        let frame = frame.with_context(|| format!("{status}, broken off after {}", payload.at))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        match options.expect {
            Some(_) => {
                if let Err(why) = payload.check(&data) {
                    bail!("{status}: {why}");
                }
            }
            None => text.extend_from_slice(&data),
        }
        if let Some(rate) = options.read_rate {
            #[expect(clippy::cast_precision_loss, reason = "a rate need not be exact")]
            let due = Duration::from_secs_f64(payload.at as f64 / rate as f64);
            tokio::time::sleep(due.saturating_sub(began.elapsed())).await;
        }
    }
    if let Some(expected) = options.expect.filter(|expected| *expected != payload.at) {
        bail!("{status}: {} bytes instead of {expected}", payload.at);
    }
    // What the other end says of what it received.
    if options.expect.is_none() && options.send > 0 {
        let seen: serde_json::Value = serde_json::from_slice(&text).context("no JSON")?;
        if seen["bytes"] != options.send || !seen["trouble"].is_null() {
            bail!("{status}: the server saw {seen}");
        }
    }
    Ok(status.to_string())
}
