//! Asks the agent: HTTP over its unix socket, one connection for each question.

#![forbid(unsafe_code)]

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, header};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::admin::types::{Failure, FollowLine};
use crate::ctl::exit::CtlError;

/// Time for an answer. The agent answers in milliseconds, or in seconds when it walks over a full node's sockets.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// The agent's admin API, seen from outside.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// Returns a client of the agent at `socket`; nothing is dialled yet.
    pub fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// Asks for `path`.
    ///
    /// # Errors
    ///
    /// When the agent cannot be reached, says no, or answers something else than `T`.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CtlError> {
        let body = self.ask(Method::GET, path, Bytes::new()).await?;
        Ok(serde_json::from_slice(&body)?)
    }

    /// Sends `body` to `path`.
    ///
    /// # Errors
    ///
    /// As [`Client::get`].
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl serde::Serialize,
    ) -> Result<T, CtlError> {
        let body = serde_json::to_vec(body)?.into();
        let body = self.ask(Method::POST, path, body).await?;
        Ok(serde_json::from_slice(&body)?)
    }

    /// Puts `body` to `path`.
    ///
    /// # Errors
    ///
    /// As [`Client::get`].
    pub async fn put<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl serde::Serialize,
    ) -> Result<T, CtlError> {
        let body = serde_json::to_vec(body)?.into();
        let body = self.ask(Method::PUT, path, body).await?;
        Ok(serde_json::from_slice(&body)?)
    }

    /// Deletes what is at `path`.
    ///
    /// # Errors
    ///
    /// As [`Client::get`].
    pub async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, CtlError> {
        let body = self.ask(Method::DELETE, path, Bytes::new()).await?;
        Ok(serde_json::from_slice(&body)?)
    }

    /// Opens the flow stream at `path`.
    ///
    /// # Errors
    ///
    /// As [`Client::get`].
    pub async fn stream(&self, path: &str) -> Result<Stream, CtlError> {
        let sent = self.send(Method::GET, path, Bytes::new());
        let response = self.in_time(sent).await?;
        Ok(Stream {
            body: checked(response).await?.into_body(),
            buffer: Vec::new(),
        })
    }

    async fn ask(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, CtlError> {
        let answer = async {
            let response = checked(self.send(method, path, body).await?).await?;
            let body = response.into_body().collect().await;
            Ok(body.map_err(|_| CtlError::Gone)?.to_bytes())
        };
        self.in_time(answer).await
    }

    async fn in_time<T>(
        &self,
        answer: impl Future<Output = Result<T, CtlError>>,
    ) -> Result<T, CtlError> {
        let late = || self.unreachable("it did not answer in time".to_owned());
        timeout(ANSWER_TIMEOUT, answer).await.map_err(|_| late())?
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, CtlError> {
        let stream = UnixStream::connect(&self.socket).await;
        let stream = stream.map_err(|error| self.unreachable(dial_error(&error)))?;
        let hung_up = |error: hyper::Error| self.unreachable(format!("it hung up ({error})"));
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(hung_up)?;
        // Ends with the answer's body; its error is told there.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "underpass")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body));
        let request = request.map_err(io::Error::other)?;
        sender.send_request(request).await.map_err(hung_up)
    }

    fn unreachable(&self, why: String) -> CtlError {
        CtlError::Unreachable {
            socket: self.socket.clone(),
            why,
        }
    }
}

/// A flow stream.
#[derive(Debug)]
pub struct Stream {
    body: Incoming,
    buffer: Vec<u8>,
}

impl Stream {
    /// Waits for the next line; the last is [`FollowLine::End`].
    ///
    /// # Errors
    ///
    /// When the agent goes away without a last line.
    pub async fn next(&mut self) -> Result<FollowLine, CtlError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Ok(serde_json::from_slice(&line)?);
            }
            let frame = self.body.frame().await;
            let frame = frame.ok_or(CtlError::Gone)?.map_err(|_| CtlError::Gone)?;
            if let Ok(data) = frame.into_data() {
                self.buffer.extend_from_slice(&data);
            }
        }
    }
}

async fn checked(response: Response<Incoming>) -> Result<Response<Incoming>, CtlError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let body = response.into_body().collect().await;
    let body = body.map_err(|_| CtlError::Gone)?.to_bytes();
    let error = match serde_json::from_slice::<Failure>(&body) {
        Ok(failure) => failure.error,
        Err(_) => format!("the agent answered {status}"),
    };
    Err(CtlError::Refused {
        status: status.as_u16(),
        error,
    })
}

fn dial_error(error: &io::Error) -> String {
    let kind = error.kind();
    if kind == io::ErrorKind::NotFound {
        return "no agent runs here, or it has another --socket".to_owned();
    }
    if kind == io::ErrorKind::ConnectionRefused {
        return "the agent that made this socket is gone".to_owned();
    }
    if kind == io::ErrorKind::PermissionDenied {
        return "permission denied; run this as root".to_owned();
    }
    error.to_string()
}
