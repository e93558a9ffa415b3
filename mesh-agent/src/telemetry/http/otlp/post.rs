//! One `POST` after the other over a connection that is kept.

#![forbid(unsafe_code)]

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, RETRY_AFTER, USER_AGENT};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use prost::Message as _;
use tokio::net::TcpStream;

use super::Endpoint;
use super::message::Exported;

/// Time for a whole exchange; OpenTelemetry's default.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of an answer that are read: it says how many spans were rejected, and why.
const ANSWER_BYTES: usize = 16 * 1024;

/// What came of a `POST`.
#[derive(PartialEq, Debug)]
pub(super) enum Outcome {
    /// All but so many were taken.
    Taken { rejected: u64 },
    /// The collector will not have it, now or later.
    Refused(String),
    /// It may succeed later; not before `wait`, where the collector says so.
    Failed { why: String, wait: Option<Duration> },
}

/// Posts to one endpoint.
#[derive(Debug)]
pub(super) struct Poster {
    endpoint: Endpoint,
    connection: Option<SendRequest<Full<Bytes>>>,
}

impl Poster {
    pub(super) fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            connection: None,
        }
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Sends `body` and reads the answer.
    pub(super) async fn post(&mut self, body: Bytes) -> Outcome {
        let exchange = tokio::time::timeout(TIMEOUT, self.exchange(body)).await;
        let exchange = exchange.unwrap_or_else(|_| Err(format!("no answer within {TIMEOUT:?}")));
        exchange.unwrap_or_else(|why| {
            self.connection = None;
            Outcome::Failed { why, wait: None }
        })
    }

    async fn exchange(&mut self, body: Bytes) -> Result<Outcome, String> {
        let mut kept = self.connection.take();
        // One that has been closed meanwhile does not become ready.
        let is_ready = match &mut kept {
            Some(sender) => sender.ready().await.is_ok(),
            None => false,
        };
        let mut sender = match kept.filter(|_| is_ready) {
            Some(sender) => sender,
            None => self.connect().await?,
        };
        let request = Request::post(self.endpoint.path.as_str())
            .header(HOST, self.endpoint.authority())
            .header(CONTENT_TYPE, "application/x-protobuf")
            .header(USER_AGENT, concat!("underpass/", env!("CARGO_PKG_VERSION")))
            .body(Full::new(body));
        let request = request.map_err(|error| error.to_string())?;
        let answer = sender.send_request(request).await;
        let (head, body) = answer.map_err(|error| error.to_string())?.into_parts();
        let body = Limited::new(body, ANSWER_BYTES).collect().await;
        let body = body.map_err(|error| error.to_string())?.to_bytes();
        self.connection = Some(sender);
        let status = head.status;
        if status.is_success() {
            // An answer that is none is a success all the same.
            let said = Exported::decode(body).unwrap_or_default();
            let rejected = said.partial_success.map_or(0, |it| it.rejected_spans);
            let rejected = u64::try_from(rejected).unwrap_or(0);
            return Ok(Outcome::Taken { rejected });
        }
        let why = format!("the collector answered {status}");
        Ok(match status {
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => Outcome::Failed {
                why,
                wait: head
                    .headers
                    .get(RETRY_AFTER)
                    .and_then(|value| value.to_str().ok()?.parse().ok())
                    .map(Duration::from_secs),
            },
            _ => Outcome::Refused(why),
        })
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, String> {
        let Endpoint { host, port, .. } = &self.endpoint;
        let stream = TcpStream::connect((host.as_str(), *port)).await;
        let stream = stream.map_err(|error| format!("failed to connect: {error}"))?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())?;
        // Ends with the sender, or when the collector closes; what goes wrong on it the sender is told.
        tokio::spawn(async move { drop(connection.await) });
        Ok(sender)
    }
}
