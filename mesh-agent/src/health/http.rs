//! The HTTP check: one GET over HTTP/1.1. Redirects are good answers and not followed, as kubelet does it between hosts.
#![forbid(unsafe_code)]

use std::net::SocketAddr;

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::Request;
use hyper::body::{Body, Bytes};
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, CONNECTION, HOST, USER_AGENT};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::health::probe::Failure;

/// Bytes of the answer's head at most: ten times what servers send.
const HEAD_MAX: usize = 16 * 1024;

/// Bytes of the answer's body that are read, so that most servers finish what they send; nobody looks at them.
const BODY_MAX: usize = 10 * 1024;

/// How the agent names itself.
pub(super) const AGENT: &str = concat!("underpass-health/", env!("CARGO_PKG_VERSION"));

/// Gets `path` and returns whether the status is good.
pub(super) async fn get(stream: TcpStream, address: SocketAddr, path: &str) -> Result<(), Failure> {
    let request = Request::get(path)
        .header(HOST, address.to_string())
        .header(USER_AGENT, AGENT)
        .header(ACCEPT, "*/*")
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    let mut builder = http1::Builder::new();
    let io = TokioIo::new(stream);
    let (mut sender, connection) = builder.max_buf_size(HEAD_MAX).handshake(io).await?;
    let exchange = async move {
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        skip(response.into_body()).await;
        Ok(status)
    };
    let mut exchange = std::pin::pin!(exchange);
    let status: Result<u16, hyper::Error> = tokio::select! {
        biased;
        status = &mut exchange => status,
        // What it read last is still to be had.
        _ = connection => exchange.await,
    };
    match status? {
        200..=399 => Ok(()),
        status => Err(Failure::Status(status)),
    }
}

/// Reads a body up to its limit. Whether it is whole does not matter: the status is known.
async fn skip(body: impl Body<Data = Bytes, Error = hyper::Error>) {
    let mut body = std::pin::pin!(Limited::new(body, BODY_MAX));
    while let Some(Ok(_)) = body.frame().await {}
}
