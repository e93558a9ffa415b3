//! A server of HTTP/1 that does wrong when told to: a line to its control port, such as `reset` or `slow 200`, holds from the next
//! request on. Answered `ok` once it does.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::io::delay;

/// Where.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Where to serve.
    #[arg(long)]
    listen: SocketAddr,
    /// Where to hear what to do.
    #[arg(long)]
    control: SocketAddr,
    /// Who to answer as.
    #[arg(long)]
    name: String,
}

/// What is done to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
enum Mode {
    /// Answers.
    #[default]
    Ok,
    /// Answers after so many milliseconds.
    Slow(u64),
    /// Never answers.
    Hang,
    /// Answers with 503.
    Error,
    /// Closes the connection by a reset, unanswered.
    Reset,
    /// Closes it with an end, unanswered.
    Close,
    /// Ends its own direction, unanswered, and reads on.
    HalfClose,
    /// Resets after half of the head.
    ResetHead,
    /// Resets after half of the body.
    ResetBody,
    /// Ends after half of the body.
    Truncate,
    /// Answers with what is no HTTP.
    Garbage,
    /// Answers and closes, without saying so before.
    CloseAfter,
}

impl Mode {
    fn of(line: &str) -> Result<Self> {
        let (word, number) = line.split_once(' ').unwrap_or((line, "0"));
        Ok(match word {
            "ok" => Self::Ok,
            "slow" => Self::Slow(number.parse().context("no number")?),
            "hang" => Self::Hang,
            "error" => Self::Error,
            "reset" => Self::Reset,
            "close" => Self::Close,
            "half-close" => Self::HalfClose,
            "reset-head" => Self::ResetHead,
            "reset-body" => Self::ResetBody,
            "truncate" => Self::Truncate,
            "garbage" => Self::Garbage,
            "close-after" => Self::CloseAfter,
            _ => bail!("unknown: `{line}`"),
        })
    }
}

/// The body of every answer.
pub(crate) const BODY: &[u8] = b"0123456789abcdef0123456789ABCDEF0123456789abcdef0123456789ABCDE\n";

/// Serves for ever.
pub(crate) async fn serve(options: Options) -> Result<()> {
    super::allow_files()?;
    let bind = async |address: SocketAddr| {
        let listener = TcpListener::bind(address).await;
        listener.with_context(|| format!("failed to listen on {address}"))
    };
    let (listener, control) = (bind(options.listen).await?, bind(options.control).await?);
    println!("ready");
    let (mode, current) = watch::channel(Mode::Ok);
    let served = Arc::new(Mutex::new(0_u64));
    let name: Arc<str> = options.name.into();
    let counter = served.clone();
    tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                continue;
            };
            let task = connection(stream, current.clone(), name.clone(), counter.clone());
            tokio::spawn(async move {
                // However it ended, it was meant to.
                let _ended = task.await;
            });
        }
    });
    loop {
        let (stream, _) = control.accept().await.context("failed to accept")?;
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        stream.read_line(&mut line).await.context("no line")?;
        let answer = match line.trim() {
            "count" => format!(
                "{}\n",
                served.lock().unwrap_or_else(PoisonError::into_inner)
            ),
            line => {
                mode.send_replace(Mode::of(line)?);
                "ok\n".to_owned()
            }
        };
        let sent = stream.write_all(answer.as_bytes()).await;
        sent.context("failed to answer")?;
    }
}

async fn connection(
    mut stream: TcpStream,
    mode: watch::Receiver<Mode>,
    name: Arc<str>,
    served: Arc<Mutex<u64>>,
) -> Result<()> {
    stream
        .set_nodelay(true)
        .context("failed to set TCP_NODELAY")?;
    let mut buffer = Vec::new();
    loop {
        let head = loop {
            if let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            if stream.read_buf(&mut buffer).await.context("reset")? == 0 {
                return Ok(());
            }
        };
        // Requests here have no body.
        buffer.drain(..head);
        *served.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        let now = *mode.borrow();
        if !one(&mut stream, now, &name).await? {
            return Ok(());
        }
    }
}

/// Does to a request what is to be done; returns whether the connection goes on.
async fn one(stream: &mut TcpStream, mode: Mode, name: &str) -> Result<bool> {
    let status = if mode == Mode::Error {
        "503 Service Unavailable"
    } else {
        "200 OK"
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nX-Server: {name}\r\nContent-Length: {}\r\n\r\n",
        BODY.len()
    );
    let whole = [head.as_bytes(), BODY].concat();
    let part = match mode {
        Mode::Slow(milliseconds) => {
            delay(milliseconds).await;
            whole.len()
        }
        Mode::Ok | Mode::Error | Mode::CloseAfter => whole.len(),
        Mode::Hang => std::future::pending().await,
        Mode::Reset | Mode::Close | Mode::HalfClose | Mode::Garbage => 0,
        Mode::ResetHead => 20,
        Mode::ResetBody | Mode::Truncate => head.len() + BODY.len() / 2,
    };
    let text = if mode == Mode::Garbage {
        &b"\x00\x01nothing of the kind\r\n\r\n"[..]
    } else {
        &whole[..part]
    };
    stream.write_all(text).await.context("failed to answer")?;
    match mode {
        Mode::Ok | Mode::Slow(_) | Mode::Error => return Ok(true),
        Mode::Reset | Mode::ResetHead | Mode::ResetBody => {
            // What was sent before has to leave first; then closing is a reset.
            stream.flush().await.context("failed to send")?;
            stream
                .set_zero_linger()
                .context("failed to set SO_LINGER")?;
        }
        Mode::HalfClose => {
            stream.shutdown().await.context("failed to close")?;
            let mut rest = Vec::new();
            stream
                .read_to_end(&mut rest)
                .await
                .context("failed to read")?;
        }
        Mode::Hang | Mode::Close | Mode::Truncate | Mode::Garbage | Mode::CloseAfter => {}
    }
    Ok(false)
}
