//! HTTP/2 and gRPC, as a server.

use std::sync::Arc;

use anyhow::Result;
use bytes::{BufMut as _, Bytes, BytesMut};
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::net::TcpStream;

use super::{Asked, Backend};

pub(super) async fn serve(stream: TcpStream, backend: Arc<Backend>) -> Result<()> {
    let mut connection = h2::server::handshake(stream).await?;
    while let Some(request) = connection.accept().await {
        let (request, respond) = request?;
        let backend = Arc::clone(&backend);
        tokio::spawn(async move {
            // A stream that is reset is the client's business.
            let _ended = exchange(request, respond, &backend).await;
        });
    }
    Ok(())
}

async fn exchange(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    backend: &Backend,
) -> Result<()> {
    let (head, mut body) = request.into_parts();
    let mut count = 0;
    while let Some(data) = body.data().await {
        let data = data?;
        count += data.len();
        body.flow_control().release_capacity(data.len())?;
    }
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let fields = head.headers.iter();
    let asked = Asked {
        version: "2",
        method: head.method.to_string(),
        target: head
            .uri
            .path_and_query()
            .map_or_else(String::new, ToString::to_string),
        host: head
            .uri
            .authority()
            .map_or_else(String::new, ToString::to_string),
        fields: fields
            .map(|(name, value)| (name.to_string(), text(value)))
            .collect(),
        body: count,
    };
    let answer = backend.answer(&asked).await;
    if answer.close {
        respond.send_reset(h2::Reason::REFUSED_STREAM);
        return Ok(());
    }
    let response = Response::builder()
        .status(answer.status)
        .header("x-backend", &backend.name)
        .header("x-secret", "kept");
    if !asked.is_grpc() {
        let response = response.header("content-type", "application/json");
        let mut stream = respond.send_response(response.body(())?, false)?;
        stream.send_data(answer.body.into(), true)?;
        return Ok(());
    }
    let response = response.header("content-type", "application/grpc");
    let mut stream = respond.send_response(response.body(())?, false)?;
    let mut message = BytesMut::new();
    message.put_u8(0);
    message.put_u32(u32::try_from(answer.body.len())?);
    message.put_slice(answer.body.as_bytes());
    stream.send_data(message.freeze(), false)?;
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    stream.send_trailers(trailers)?;
    Ok(())
}
