//! A server that answers with what it was asked.
//!
//! The query says how: `status=503`, `delay=100` (milliseconds), `bytes=1000` (a body of the payload), `gate=100` (answers once so
//! many requests wait), `trailer=1`, `early=103`. A body is checked to be the payload where its type is `application/payload`.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use clap::Args;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::io::{WINDOW, delay, executor, wrapped};
use super::payload::Payload;

/// Who and where.
#[derive(Args, Debug, Clone)]
pub(crate) struct Options {
    /// Where to listen.
    #[arg(long, required = true)]
    listen: Vec<SocketAddr>,
    /// Who to answer as.
    #[arg(long)]
    name: String,
}

/// Requests that wait for others.
#[derive(Debug, Default)]
struct Gate {
    waiting: AtomicUsize,
    open: Notify,
}

impl Gate {
    async fn wait(&self, count: usize) {
        let opened = self.open.notified();
        let mut opened = std::pin::pin!(opened);
        // Before counting: who comes last wakes all who are there.
        opened.as_mut().enable();
        if self.waiting.fetch_add(1, Ordering::SeqCst) + 1 >= count {
            self.waiting.store(0, Ordering::SeqCst);
            self.open.notify_waiters();
            return;
        }
        opened.await;
    }
}

/// Serves for ever.
pub(crate) async fn serve(options: Options) -> Result<()> {
    super::allow_files()?;
    let name: Arc<str> = options.name.into();
    let gate = Arc::new(Gate::default());
    let mut listeners = Vec::new();
    for address in options.listen {
        let listener = TcpListener::bind(address).await;
        listeners.push(listener.with_context(|| format!("failed to listen on {address}"))?);
    }
    println!("ready");
    let mut accepting = JoinSet::new();
    for listener in listeners {
        let (name, gate) = (name.clone(), gate.clone());
        accepting.spawn(async move {
            loop {
                // Out of files: the next one may do better.
                let Ok((stream, _)) = listener.accept().await else {
                    continue;
                };
                tokio::spawn(connection(stream, name.clone(), gate.clone()));
            }
        });
    }
    accepting.join_all().await;
    Ok(())
}

async fn connection(stream: TcpStream, name: Arc<str>, gate: Arc<Gate>) {
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let mut start = [0; 4];
    let peeked = loop {
        match stream.peek(&mut start).await {
            Ok(0) | Err(_) => return,
            // As soon as they differ from `PRI `; one byte at a time nobody sends it.
            Ok(count) if count == start.len() || !b"PRI ".starts_with(&start[..count]) => {
                break count;
            }
            Ok(_) => tokio::task::yield_now().await,
        }
    };
    let service = service_fn(move |request| {
        let (name, gate) = (name.clone(), gate.clone());
        async move { Ok::<_, Infallible>(answer(request, &name, &gate).await) }
    });
    // A client that breaks off is a client's business.
    let _ended = if &start[..peeked] == b"PRI " {
        let mut server = hyper::server::conn::http2::Builder::new(executor());
        server
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW * 4);
        server.max_concurrent_streams(2000);
        server.serve_connection(wrapped(stream), service).await
    } else {
        let mut server = hyper::server::conn::http1::Builder::new();
        server.half_close(true);
        server.serve_connection(wrapped(stream), service).await
    };
}

type Body = BoxBody<Bytes, Infallible>;

async fn answer(request: Request<Incoming>, name: &str, gate: &Gate) -> Response<Body> {
    let (head, mut body) = request.into_parts();
    let query = head.uri.query().unwrap_or("").to_owned();
    let asked = |what: &str| -> Option<u64> {
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|pair| pair.0 == what)?.1.parse().ok()
    };
    let is_payload = head
        .headers
        .get("content-type")
        .is_some_and(|it| it == "application/payload");
    let (mut payload, mut count) = (Payload::default(), 0);
    let mut trouble = Value::Null;
    let mut trailers = HeaderMap::new();
    while let Some(frame) = body.frame().await {
        match frame.map(Frame::into_data) {
            Ok(Ok(data)) => {
                count += data.len() as u64;
                if is_payload && trouble.is_null() {
                    trouble = payload.check(&data).err().into();
                }
            }
            Ok(Err(other)) => trailers = other.into_trailers().unwrap_or_default(),
            Err(error) => {
                trouble = error.to_string().into();
                break;
            }
        }
    }
    if let Some(milliseconds) = asked("delay") {
        delay(milliseconds).await;
    }
    if let Some(count) = asked("gate") {
        gate.wait(usize::try_from(count).unwrap_or(usize::MAX))
            .await;
    }
    let status = u16::try_from(asked("status").unwrap_or(200)).unwrap_or(500);
    let text = json!({
        "server": name, "method": head.method.as_str(), "target": head.uri.to_string(),
        "version": format!("{:?}", head.version), "fields": fields(&head.headers), "trailers": fields(&trailers),
        "bytes": count, "trouble": trouble,
    });
    let length = asked("bytes");
    let body = match length {
        Some(length) => payload_of(length),
        None => text_of(text.to_string(), asked("trailer").is_some()),
    };
    let mut response = Response::builder().status(status).header("x-server", name);
    if asked("trailer").is_some() {
        response = response.header("trailer", "x-end");
    }
    if let Some(length) = length {
        response = response.header("content-length", length);
    }
    response.body(body).unwrap_or_default()
}

fn payload_of(length: u64) -> Body {
    let pieces = stream::unfold(Payload::default(), move |mut payload| async move {
        let left = length - payload.at;
        (left > 0).then(|| (Ok(Frame::data(payload.next(left))), payload))
    });
    BodyExt::boxed(StreamBody::new(pieces))
}

fn text_of(text: String, with_trailer: bool) -> Body {
    let mut frames = vec![Ok(Frame::data(Bytes::from(text)))];
    if with_trailer {
        let end = HeaderMap::from_iter([(
            http::HeaderName::from_static("x-end"),
            HeaderValue::from_static("1"),
        )]);
        frames.push(Ok(Frame::trailers(end)));
    }
    BodyExt::boxed(StreamBody::new(stream::iter(frames)))
}

fn fields(all: &HeaderMap) -> Value {
    let pair = |(name, value): (&http::HeaderName, &HeaderValue)| {
        json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())])
    };
    all.iter().map(pair).collect()
}
