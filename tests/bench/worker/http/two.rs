//! HTTP/2 and gRPC at a given rate.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use h2::client::SendRequest;
use http::HeaderMap;
use http::header::{CONTENT_TYPE, TE};
use tokio::io::unix::AsyncFd;
use tokio::net::TcpStream;
use tokio::task::{LocalSet, spawn_local};

use super::pace::Pace;
use super::{HOST, Load, Mode, Outcome, Version, Window, message};
use crate::l7::MESSAGE;

/// Windows that no response of the benchmark fills.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 1 << 24;

pub(super) fn drive(load: &Load) -> Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .context("failed to start a runtime")?;
    LocalSet::new().block_on(&runtime, async {
        match load.mode {
            Mode::Rate { per_second } => paced(load, per_second).await,
            Mode::Once => {
                let fields = ask(connect(load).await?, Rc::new(Ask::of(load)?)).await?;
                let lines = fields
                    .iter()
                    .map(|(name, value)| format!("{name}: {value:?}\n"));
                Ok(Outcome {
                    fields: lines.collect(),
                    ..Outcome::default()
                })
            }
            Mode::Closed | Mode::Hold => bail!("h2load does this for HTTP/2"),
        }
    })
}

/// What is asked, and what must come back.
#[derive(Debug)]
struct Ask {
    request: http::Request<()>,
    message: Option<Bytes>,
    body: Option<usize>,
}

impl Ask {
    fn of(load: &Load) -> Result<Self> {
        let grpc = load.version == Version::Grpc;
        let mut request = http::Request::builder()
            .method(if grpc { "POST" } else { "GET" })
            .uri(format!("http://{HOST}{}", load.path));
        if grpc {
            request = request
                .header(CONTENT_TYPE, "application/grpc")
                .header(TE, "trailers");
        }
        Ok(Self {
            request: request.body(()).context("failed to make a request")?,
            message: grpc.then(|| message(MESSAGE).into()),
            body: load.body,
        })
    }
}

async fn connect(load: &Load) -> Result<SendRequest<Bytes>> {
    let stream = TcpStream::connect(load.address).await;
    let stream = stream.with_context(|| format!("failed to connect to {}", load.address))?;
    stream.set_nodelay(true)?;
    let (sender, connection) = h2::client::Builder::new()
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .handshake(stream)
        .await
        .context("failed to speak HTTP/2")?;
    // Its errors are those of the requests on it.
    spawn_local(async move { connection.await.ok() });
    Ok(sender)
}

/// Sends a request, reads all of its response, and returns the response's fields.
async fn ask(sender: SendRequest<Bytes>, what: Rc<Ask>) -> Result<HeaderMap> {
    let mut sender = sender.ready().await?;
    let end = what.message.is_none();
    let (response, mut stream) = sender.send_request(what.request.clone(), end)?;
    if let Some(message) = &what.message {
        stream.send_data(message.clone(), true)?;
    }
    let (parts, mut body) = response.await?.into_parts();
    ensure!(
        parts.status == http::StatusCode::OK,
        "status {}",
        parts.status
    );
    let mut got = 0;
    while let Some(data) = body.data().await {
        let count = data?.len();
        got += count;
        body.flow_control().release_capacity(count)?;
    }
    let expected = what.body.unwrap_or(got);
    ensure!(got == expected, "a body of {got} bytes and not {expected}");
    if what.message.is_some() {
        let trailers = body.trailers().await?.unwrap_or_default();
        let status = trailers.get("grpc-status");
        ensure!(
            status.is_some_and(|status| status == "0"),
            "gRPC status {status:?}"
        );
    }
    Ok(parts.headers)
}

/// What requests on their way leave behind.
#[derive(Debug)]
struct Seen {
    window: Window,
    /// When each was due that has no response yet.
    open: HashMap<u64, Instant>,
    failure: Option<anyhow::Error>,
}

async fn paced(load: &Load, per_second: f64) -> Result<Outcome> {
    let mut senders = Vec::new();
    for _ in 0..load.connections {
        senders.push(connect(load).await?);
    }
    let what = Rc::new(Ask::of(load)?);
    #[expect(
        deprecated,
        reason = "what replaces it is unsafe for the sake of types that do not own their descriptor; this one does"
    )]
    let pace = AsyncFd::new(Pace::start(per_second)?);
    let mut pace = pace.context("failed to watch a timer")?;
    let seen = Rc::new(RefCell::new(Seen {
        window: Window::new(load),
        open: HashMap::new(),
        failure: None,
    }));
    let mut turns = senders.iter().cycle();
    let mut number = 0;
    loop {
        let now = Instant::now();
        if let Some(failure) = seen.borrow_mut().failure.take() {
            return Err(failure);
        }
        if !seen.borrow_mut().window.look(load, now)? {
            break;
        }
        while let Some(due) = pace.get_mut().next(now) {
            number += 1;
            seen.borrow_mut().open.insert(number, due);
            let sender = turns.next().context("no connections")?.clone();
            let (what, seen) = (Rc::clone(&what), Rc::clone(&seen));
            spawn_local(async move {
                let result = ask(sender, what).await;
                let mut seen = seen.borrow_mut();
                seen.open.remove(&number);
                match result {
                    Ok(_) => seen.window.note(due, Instant::now()),
                    Err(error) => seen.failure = Some(error),
                }
            });
        }
        let mut rung = pace
            .readable()
            .await
            .context("failed to wait for a timer")?;
        rung.get_inner().hush();
        rung.clear_ready();
    }
    let mut seen = seen.borrow_mut();
    let open: Vec<_> = seen.open.values().copied().collect();
    let window = std::mem::replace(&mut seen.window, Window::new(load));
    window.close(load, open.into_iter())
}
