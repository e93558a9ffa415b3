//! WebSocket by tungstenite, both ends; the client over HTTP/1.1 or over a stream of HTTP/2 (RFC 8441).

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use futures_util::{SinkExt as _, StreamExt as _};
use harness::bytes::Stream as Pattern;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};

use super::frames::Tunnel;
use super::io::connect;

/// A server.
#[derive(Args, Debug)]
pub(crate) struct Serve {
    /// Where to listen.
    #[arg(long)]
    listen: SocketAddr,
}

/// Serves for ever.
pub(crate) async fn serve(options: Serve) -> Result<()> {
    let listener = TcpListener::bind(options.listen).await;
    let listener = listener.with_context(|| format!("failed to listen on {}", options.listen))?;
    println!("ready");
    loop {
        let (stream, _) = listener.accept().await.context("failed to accept")?;
        tokio::spawn(async move {
            if let Err(error) = say_back(stream).await {
                eprintln!("{error:#}");
            }
        });
    }
}

async fn say_back(stream: tokio::net::TcpStream) -> Result<()> {
    stream
        .set_nodelay(true)
        .context("failed to set TCP_NODELAY")?;
    let accepted = tokio_tungstenite::accept_async(stream).await;
    let mut socket = accepted.context("no WebSocket")?;
    while let Some(message) = socket.next().await {
        let message = message.context("broken off")?;
        // Pings and closes are answered by the library.
        if message.is_text() || message.is_binary() {
            socket.send(message).await.context("failed to say back")?;
        }
    }
    Ok(())
}

/// A client.
#[derive(Args, Debug)]
pub(crate) struct Talk {
    /// Whom.
    #[arg(long)]
    connect: SocketAddr,
    /// By HTTP/2.
    #[arg(long)]
    http2: bool,
    /// The path.
    #[arg(long, default_value = "/")]
    path: String,
    /// The host.
    #[arg(long, default_value = "service")]
    host: String,
    /// Messages.
    #[arg(long, default_value_t = 10)]
    messages: u64,
    /// Bytes of each, at most.
    #[arg(long, default_value_t = 100_000)]
    size: usize,
}

/// Talks, and says what came of it.
pub(crate) async fn talk(options: Talk) -> Result<()> {
    let stream = connect(options.connect).await?;
    let url = format!("ws://{}{}", options.host, options.path);
    if options.http2 {
        let tunnel = Tunnel::open(stream, &url.replacen("ws:", "http:", 1)).await?;
        let socket = WebSocketStream::from_raw_socket(tunnel, Role::Client, None).await;
        return converse(socket, &options).await;
    }
    let opened = tokio_tungstenite::client_async(url, stream).await;
    let (socket, _) = opened.context("no WebSocket")?;
    converse(socket, &options).await
}

async fn converse<S: AsyncRead + AsyncWrite + Unpin>(
    mut socket: WebSocketStream<S>,
    options: &Talk,
) -> Result<()> {
    let mut bytes = 0;
    for number in 0..options.messages {
        let pattern = Pattern(number);
        let mut payload = vec![0; pattern.number(0, 0, options.size)];
        pattern.fill(0, &mut payload);
        bytes += payload.len();
        let message = Message::binary(payload);
        socket
            .send(message.clone())
            .await
            .context("failed to send")?;
        let back = socket.next().await.context("no answer")?;
        ensure!(
            back.context("broken off")? == message,
            "message {number} came back otherwise"
        );
    }
    socket
        .send(Message::Ping(b"p"[..].into()))
        .await
        .context("failed to ping")?;
    let pong = socket
        .next()
        .await
        .context("no pong")?
        .context("broken off")?;
    ensure!(
        pong == Message::Pong(b"p"[..].into()),
        "{pong:?} instead of a pong"
    );
    let farewell = CloseFrame {
        code: 4000.into(),
        reason: "enough".into(),
    };
    socket
        .close(Some(farewell))
        .await
        .context("failed to close")?;
    let last = socket
        .next()
        .await
        .context("no close")?
        .context("broken off")?;
    let Message::Close(Some(frame)) = last else {
        anyhow::bail!("{last:?} instead of a close");
    };
    let code = u16::from(frame.code);
    let rest = socket.next().await;
    super::say(
        &json!({"messages": options.messages, "bytes": bytes, "close": code, "ended": rest.is_none()}),
    );
    Ok(())
}
