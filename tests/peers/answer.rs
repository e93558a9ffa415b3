//! A backend that answers with what it was asked, as JSON, and writes down each request: HTTP/1.1, HTTP/2 and gRPC on one port, and
//! datagrams.
//!
//! The query says how it answers: `status=503`, `delay=100` (milliseconds), `close=1` (no answer at all), and `fail=2&key=a` (the
//! first two requests of this key get 503, or the `status`; the others 200).

mod h1;
mod h2;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream, UdpSocket};

/// Bytes that a connection begins with where HTTP/2 is spoken.
const PREFACE: &[u8] = b"PRI ";

/// Who answers, and where.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// What it calls itself.
    #[arg(long)]
    name: String,
    /// Write nothing down.
    #[arg(long)]
    quiet: bool,
    /// Where to listen for connections.
    #[arg(long)]
    listen: Vec<SocketAddr>,
    /// Where to listen for datagrams.
    #[arg(long)]
    datagrams: Vec<SocketAddr>,
}

/// A request, whatever it came by.
#[derive(Debug)]
struct Asked {
    version: &'static str,
    method: String,
    target: String,
    host: String,
    fields: Vec<(String, String)>,
    body: usize,
}

/// What a request gets.
#[derive(Debug)]
struct Answer {
    status: u16,
    body: String,
    /// The connection ends without an answer.
    close: bool,
}

#[derive(Debug)]
struct Backend {
    name: String,
    quiet: bool,
    /// Requests so far, by key.
    seen: Mutex<HashMap<String, u64>>,
}

impl Backend {
    async fn answer(&self, asked: &Asked) -> Answer {
        let query = asked.target.split_once('?').map_or("", |it| it.1);
        let find = |what: &str| {
            let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.find(|pair| pair.0 == what).map(|pair| pair.1)
        };
        let number = |what: &str| find(what).and_then(|text| text.parse::<u64>().ok());
        let seen = {
            let mut all = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            let seen = all
                .entry(find("key").unwrap_or_default().to_owned())
                .or_default();
            *seen += 1;
            *seen
        };
        let told = json!({
            "backend": self.name, "version": asked.version, "method": asked.method, "target": asked.target, "host": asked.host,
            "fields": asked.fields, "body": asked.body, "seen": seen,
        });
        if !self.quiet {
            println!("{told}");
        }
        if let Some(milliseconds) = number("delay") {
            delay(Duration::from_millis(milliseconds)).await;
        }
        let asked = number("status").and_then(|it| u16::try_from(it).ok());
        let status = match number("fail") {
            Some(times) if seen > times => 200,
            Some(_) => asked.unwrap_or(503),
            None => asked.unwrap_or(200),
        };
        Answer {
            status,
            body: told.to_string(),
            close: number("close").is_some(),
        }
    }
}

/// Serves for ever.
pub(crate) fn serve(options: &Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("failed to make a runtime")?;
    let backend = Arc::new(Backend {
        name: options.name.clone(),
        quiet: options.quiet,
        seen: Mutex::default(),
    });
    runtime.block_on(async {
        let mut serving = tokio::task::JoinSet::new();
        for address in &options.listen {
            let listener = TcpListener::bind(address).await;
            let listener = listener.with_context(|| format!("failed to listen on {address}"))?;
            serving.spawn(accept(listener, Arc::clone(&backend)));
        }
        for address in &options.datagrams {
            let socket = UdpSocket::bind(address).await;
            let socket = socket.with_context(|| format!("failed to listen on {address}"))?;
            serving.spawn(datagrams(socket, Arc::clone(&backend)));
        }
        println!("ready");
        serving.join_all().await;
        Ok(())
    })
}

async fn accept(listener: TcpListener, backend: Arc<Backend>) {
    loop {
        // Out of files: the next one may do better.
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        let backend = Arc::clone(&backend);
        tokio::spawn(async move {
            // A client that breaks off is the client's business.
            let _ended = connection(stream, backend).await;
        });
    }
}

async fn connection(stream: TcpStream, backend: Arc<Backend>) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut start = [0; PREFACE.len()];
    loop {
        let count = stream.peek(&mut start).await?;
        if count == 0 {
            return Ok(());
        }
        if !PREFACE.starts_with(&start[..count]) {
            return h1::serve(stream, &backend).await;
        }
        if count == PREFACE.len() {
            return h2::serve(stream, backend).await;
        }
        tokio::task::yield_now().await;
    }
}

/// Answers each datagram with the backend's name.
async fn datagrams(socket: UdpSocket, backend: Arc<Backend>) {
    let mut buffer = [0; 2048];
    loop {
        if let Ok((_, from)) = socket.recv_from(&mut buffer).await {
            // Nobody waits for an answer that was lost.
            let _sent = socket.send_to(backend.name.as_bytes(), from).await;
        }
    }
}

async fn delay(duration: Duration) {
    tokio::time::sleep(duration).await;
}

impl Asked {
    /// Returns whether it is a call of gRPC.
    fn is_grpc(&self) -> bool {
        let mut fields = self.fields.iter();
        let of = fields.find(|(name, _)| name == "content-type");
        of.is_some_and(|(_, value)| value.starts_with("application/grpc"))
    }
}
