//! A client that sends at a fixed rate, whatever comes back, and says what became of each request.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::chaos::BODY;
use super::io::connect;

/// How much, and to whom.
#[derive(Args, Debug, Clone)]
pub(crate) struct Options {
    /// Whom.
    #[arg(long)]
    connect: SocketAddr,
    /// Requests a second.
    #[arg(long)]
    rate: u32,
    /// For how many seconds.
    #[arg(long)]
    seconds: u32,
    /// The method.
    #[arg(long, default_value = "GET")]
    method: String,
    /// How long to wait for an answer, in milliseconds.
    #[arg(long, default_value_t = 10_000)]
    patience: u64,
}

/// Connections that nobody uses.
type Pool = Arc<Mutex<Vec<TcpStream>>>;

/// Sends, and says what came: by status, or by what went wrong.
pub(crate) async fn run(options: Options) -> Result<()> {
    super::allow_files()?;
    let pool = Pool::default();
    let mut tasks = JoinSet::new();
    let began = Instant::now();
    println!("begins");
    for number in 0..options.rate * options.seconds {
        let at = began + Duration::from_secs(1) * number / options.rate;
        sleep_until(at).await;
        let (options, pool) = (options.clone(), pool.clone());
        tasks.spawn(async move {
            let patience = Duration::from_millis(options.patience);
            let outcome = timeout(patience, once(&options, &pool)).await;
            let word = outcome.unwrap_or_else(|_| Ok("no answer in time".to_owned()));
            let word = word.unwrap_or_else(|error| format!("{error:#}"));
            // From when it was due: a client that is late is no excuse.
            (word, at.elapsed())
        });
    }
    let mut answers: BTreeMap<String, u64> = BTreeMap::new();
    let mut times = Vec::new();
    while let Some(done) = tasks.join_next().await {
        let (word, took) = done.context("a task panicked")?;
        *answers.entry(word).or_default() += 1;
        times.push(took);
    }
    let lasted = began.elapsed().as_secs_f64();
    times.sort_unstable();
    let at = |share: usize| {
        let index = (times.len() * share / 1000).min(times.len().saturating_sub(1));
        times.get(index).map(Duration::as_secs_f64)
    };
    super::say(
        &json!({"sent": times.len(), "answers": answers, "lasted": lasted,
        "seconds": {"p50": at(500), "p99": at(990), "p99.9": at(999), "most": at(1000)}}),
    );
    Ok(())
}

async fn once(options: &Options, pool: &Pool) -> Result<String> {
    let kept = pool.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let mut stream = match kept {
        Some(stream) => stream,
        None => connect(options.connect).await?,
    };
    let length = if options.method == "POST" {
        "Content-Length: 0\r\n"
    } else {
        ""
    };
    let request = format!(
        "{} / HTTP/1.1\r\nHost: service\r\n{length}\r\n",
        options.method
    );
    stream
        .write_all(request.as_bytes())
        .await
        .context("failed to send")?;
    let mut buffer = Vec::with_capacity(512);
    let head = loop {
        if let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        let read = stream.read_buf(&mut buffer).await.context("no response")?;
        anyhow::ensure!(read > 0, "closed without a response");
    };
    let text = String::from_utf8_lossy(&buffer[..head]).to_ascii_lowercase();
    anyhow::ensure!(text.starts_with("http/1.1 "), "no HTTP");
    let status = text.split(' ').nth(1).unwrap_or_default().to_owned();
    let length = text.split("content-length: ").nth(1);
    let length = length.and_then(|rest| rest.split("\r\n").next()?.parse::<usize>().ok());
    let Some(length) = length else {
        // In chunks or to the end: not what these servers do, and so the agent's own.
        return Ok(status);
    };
    while buffer.len() < head + length {
        let read = stream.read_buf(&mut buffer).await.context("broken off")?;
        anyhow::ensure!(read > 0, "{status}, broken off");
    }
    anyhow::ensure!(
        status != "200" || &buffer[head..] == BODY,
        "{status} with other bytes"
    );
    if !text.contains("connection: close") {
        pool.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(stream);
    }
    Ok(status)
}
