//! The backend for HTTP/2: `/0b`, `/1kb`, and gRPC's unary calls at any path.

use std::net::{SocketAddr, TcpListener};

use anyhow::{Context, Result};
use bytes::Bytes;
use clap::Args;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::net::TcpStream;
use tokio::task::{LocalSet, spawn_local};

use super::message;
use crate::l7::{MESSAGE, SMALL};
use crate::worker::READY;

/// More streams than any case has on one connection.
const STREAMS: u32 = 1024;

#[derive(Args, Debug)]
pub(crate) struct Arguments {
    #[arg(long)]
    address: SocketAddr,
}

/// Serves until it is killed.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let listener = TcpListener::bind(arguments.address);
    let listener =
        listener.with_context(|| format!("failed to listen on {}", arguments.address))?;
    println!("{READY}{}", arguments.address);
    serve(listener)
}

/// Serves all connections that come to `listener`.
pub(super) fn serve(listener: TcpListener) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .context("failed to start a runtime")?;
    LocalSet::new().block_on(&runtime, async {
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let bodies = Bodies {
            small: vec![b'a'; SMALL].into(),
            message: message(MESSAGE).into(),
        };
        loop {
            let (stream, _) = listener.accept().await.context("failed to accept")?;
            stream.set_nodelay(true)?;
            let bodies = bodies.clone();
            // A client may go in the middle of anything.
            spawn_local(async move { connection(stream, bodies).await.ok() });
        }
    })
}

#[derive(Clone, Debug)]
struct Bodies {
    small: Bytes,
    message: Bytes,
}

async fn connection(stream: TcpStream, bodies: Bodies) -> Result<()> {
    let mut connection = h2::server::Builder::new()
        .max_concurrent_streams(STREAMS)
        .handshake(stream)
        .await?;
    while let Some(accepted) = connection.accept().await {
        let (request, respond) = accepted?;
        if request.body().is_end_stream() {
            plain(&request, respond, &bodies)?;
        } else {
            let message = bodies.message.clone();
            spawn_local(async move { call(request, respond, message).await.ok() });
        }
    }
    Ok(())
}

fn plain(
    request: &Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    bodies: &Bodies,
) -> Result<()> {
    let body = match request.uri().path() {
        "/0b" => Bytes::new(),
        _ => bodies.small.clone(),
    };
    let head = Response::builder()
        .header(CONTENT_TYPE, "text/plain")
        .header("content-length", body.len());
    let mut stream = respond.send_response(head.body(())?, body.is_empty())?;
    if !body.is_empty() {
        stream.send_data(body, true)?;
    }
    Ok(())
}

async fn call(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    message: Bytes,
) -> Result<()> {
    let mut body = request.into_body();
    while let Some(data) = body.data().await {
        let count = data?.len();
        body.flow_control().release_capacity(count)?;
    }
    let head = Response::builder().header(CONTENT_TYPE, "application/grpc");
    let mut stream: SendStream<Bytes> = respond.send_response(head.body(())?, false)?;
    stream.send_data(message, false)?;
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    stream.send_trailers(trailers)?;
    Ok(())
}
