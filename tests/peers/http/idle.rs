//! Many connections that make one request each and are kept.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use clap::Args;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::io::connect;

/// How many, and to whom.
#[derive(Args, Debug, Clone)]
pub(crate) struct Options {
    /// Whom.
    #[arg(long)]
    connect: SocketAddr,
    /// Connections.
    #[arg(long)]
    count: usize,
}

/// Connections that are being opened at the same time: fewer than any backlog.
const AT_ONCE: usize = 64;

/// Opens them, says so, and stands until a signal comes.
pub(crate) async fn run(options: Options) -> Result<()> {
    super::allow_files()?;
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let mut tasks = JoinSet::new();
    for _ in 0..options.count {
        let turn = room.clone().acquire_owned().await.context("no turn")?;
        let to = options.connect;
        tasks.spawn(async move {
            let stream = once(to).await;
            drop(turn);
            stream
        });
    }
    let (mut kept, mut failed) = (Vec::new(), 0);
    while let Some(done) = tasks.join_next().await {
        match done.context("a task panicked")? {
            Ok(stream) => kept.push(stream),
            Err(error) => {
                failed += 1;
                eprintln!("{error:#}");
            }
        }
    }
    super::say(&json!({"kept": kept.len(), "failed": failed}));
    std::future::pending().await
}

async fn once(to: SocketAddr) -> Result<TcpStream> {
    let mut stream = connect(to).await?;
    let request = b"GET /?bytes=0 HTTP/1.1\r\nHost: service\r\n\r\n";
    stream.write_all(request).await.context("failed to send")?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let read = stream
            .read_buf(&mut answer)
            .await
            .context("failed to read")?;
        anyhow::ensure!(read > 0, "closed");
    }
    anyhow::ensure!(
        answer.starts_with(b"HTTP/1.1 200 "),
        "{}",
        answer.escape_ascii()
    );
    Ok(stream)
}
