//! The second parser: hyper reads what the agent wrote.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Body, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

use crate::scripted::{Cut, Scripted};
use crate::wire::{self, Message};

/// More lines than the agent lets through, with those that it adds.
const MAX_LINES: usize = 200;

/// Runs what waits for nothing but bytes that are there.
pub(crate) fn block_on<F: Future>(work: F) -> F::Output {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime without I/O asks nothing of the system");
    }
    RUNTIME.with(|runtime| runtime.block_on(work))
}

/// Returns the requests that are in `bytes`, and whether there is nothing else. `own` names fields that are not compared.
pub(crate) async fn requests(bytes: &[u8], own: &[&str]) -> (Vec<Message>, bool) {
    let read: Arc<Mutex<Vec<Message>>> = Arc::default();
    let service = service_fn(|request: Request<Incoming>| {
        let read = read.clone();
        let own: Vec<&str> = own.to_vec();
        async move {
            let (head, body) = request.into_parts();
            let target = head.uri.path_and_query().map_or("", |all| all.as_str());
            let start = format!("{} {target}", head.method);
            let message = message(start, &head.headers, body, &own).await;
            let mut read = read.lock().unwrap_or_else(PoisonError::into_inner);
            read.push(message);
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    });
    let io = TokioIo::new(Scripted::client(bytes, Cut::Whole));
    let mut server = hyper::server::conn::http1::Builder::new();
    server.half_close(true).max_headers(MAX_LINES);
    let served = server.serve_connection(io, service).await;
    let mut read = read.lock().unwrap_or_else(PoisonError::into_inner);
    (std::mem::take(&mut *read), served.is_ok())
}

/// Returns the response that is in `bytes`, to a request of this method.
pub(crate) async fn response(method: &Method, bytes: &[u8], own: &[&str]) -> Option<Message> {
    let io = TokioIo::new(Scripted::server(bytes, Cut::Whole));
    let mut client = hyper::client::conn::http1::Builder::new();
    client.max_headers(MAX_LINES);
    let (mut sender, connection) = client.handshake(io).await.ok()?;
    let request = Request::builder().method(method).uri("/");
    let request = request.header("host", "a").body(Empty::<Bytes>::new());
    let answer = async {
        let (head, body) = sender.send_request(request.ok()?).await.ok()?.into_parts();
        let start = head.status.as_str().to_owned();
        Some(message(start, &head.headers, body, own).await)
    };
    // What the connection ends with says no more than what the answer is.
    let (answer, _) = tokio::join!(answer, connection);
    answer
}

async fn message<B>(start: String, fields: &HeaderMap, body: B, own: &[&str]) -> Message
where
    B: Body<Data = Bytes, Error: std::fmt::Debug>,
{
    let named = |fields: &HeaderMap| {
        let all = fields.iter();
        wire::lines(
            all.map(|(name, value)| (name.as_str(), value.as_bytes())),
            own,
        )
    };
    let mut message = Message {
        start,
        fields: named(fields),
        whole: true,
        ..Message::default()
    };
    let mut body = std::pin::pin!(body);
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            message.whole = false;
            break;
        };
        match frame.into_data() {
            Ok(data) => message.data.extend_from_slice(&data),
            Err(other) => {
                let trailers = other.into_trailers().unwrap_or_default();
                message.trailers = named(&trailers);
            }
        }
    }
    message
}
