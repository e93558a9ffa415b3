//! What hyper needs of tokio.

use std::time::Duration;

use anyhow::{Context as _, Result};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

/// What every version of HTTP/2 here offers: more than a buffer's worth in flight, as a fast client would.
pub(crate) const WINDOW: u32 = 1 << 20;

/// Connects.
pub(crate) async fn connect(to: std::net::SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(to).await;
    let stream = stream.with_context(|| format!("failed to connect to {to}"))?;
    stream
        .set_nodelay(true)
        .context("failed to set TCP_NODELAY")?;
    Ok(stream)
}

/// Wraps a stream for hyper.
pub(crate) fn wrapped<T>(stream: T) -> TokioIo<T> {
    TokioIo::new(stream)
}

/// Runs hyper's tasks.
pub(crate) fn executor() -> TokioExecutor {
    TokioExecutor::new()
}

/// Lets time pass where a peer is told to be slow.
pub(crate) async fn delay(milliseconds: u64) {
    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
}
