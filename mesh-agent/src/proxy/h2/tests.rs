//! Both ends against each other, against the `h2` crate's, and against frames written by hand.

mod client;
mod compressed;
mod floods;
mod pool;
mod rules;
mod serve;
mod upstream_rules;

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Method, StatusCode};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{Ended, Limits};
use crate::l7::message::{Fields, RequestHead, ResponseHead, Scheme, Target, Version};
use crate::proxy::exchange::{BodySize, Incoming, Piece, Responder, Service};
use crate::proxy::life::Life;
use crate::proxy::stream::Stream;

/// Longer than anything here takes.
const SOON: Duration = Duration::from_secs(20);

/// Fails where something never happens.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, what)
        .await
        .expect("never happened")
}

/// Returns both ends of a connection.
async fn connected() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap());
    let (near, far) = tokio::join!(near, listener.accept());
    (near.unwrap(), far.unwrap().0)
}

fn fields(lines: &[(&str, &str)]) -> Fields {
    lines.iter().copied().collect()
}

fn get(path: &str) -> RequestHead {
    RequestHead {
        method: Method::GET,
        scheme: Scheme::Http,
        authority: "shop:80".to_owned(),
        target: Target::new(path.to_owned()),
        protocol: None,
        version: Version::Http11,
        fields: Fields::default(),
    }
}

fn response(status: u16, lines: &[(&str, &str)]) -> ResponseHead {
    ResponseHead {
        status: StatusCode::from_u16(status).unwrap(),
        version: Version::Http11,
        fields: fields(lines),
    }
}

/// Answers by path: `/echo` gives back the body and its trailers after an interim response, `/hang` waits for the client to go,
/// `/break` breaks off in the body once asked to go on, `/drop` without an answer, `/endless` sends for ever, `/early` answers and
/// reads nothing, `/stuck` does not even hear of the client's end; any other gives back the body, as does a tunnel. Says what it sees.
struct Echo {
    seen: mpsc::UnboundedSender<String>,
    /// Lets what is `/stuck` end.
    unstuck: Semaphore,
}

type Seen = mpsc::UnboundedReceiver<String>;

/// Returns one, and what it sees.
fn echo() -> (Arc<Echo>, Seen) {
    let (seen, told) = mpsc::unbounded_channel();
    let unstuck = Semaphore::new(0);
    (Arc::new(Echo { seen, unstuck }), told)
}

fn life() -> Life {
    let until = Instant::now() + Duration::from_secs(3600);
    Life::new(Arc::default(), until)
}

async fn serve(io: TcpStream, service: Arc<Echo>, limits: Limits) -> Ended {
    let (io, start) = (Stream::Plain(io), BytesMut::new());
    super::serve(io, start, &service, &limits, &life(), pending()).await
}

/// Serves one connection; returns the client's end and how it ends.
async fn echoing(limits: Limits) -> (TcpStream, JoinHandle<Ended>, Seen) {
    let (near, far) = connected().await;
    let (service, seen) = echo();
    let served = tokio::spawn(serve(far, service, limits));
    (near, served, seen)
}

impl Service for Echo {
    type Scratch = ();

    fn scratch(&self) {}

    async fn call<I: Incoming, R: Responder>(
        &self,
        (): &mut (),
        head: &mut RequestHead,
        body: &mut I,
        respond: &mut R,
    ) {
        let path = head.target.path();
        let note = |what: &str| self.seen.send(format!("{what} {path}")).unwrap_or(());
        note(head.method.as_str());
        match path {
            "/hang" => {
                respond.gone().await;
                note("gone");
            }
            "/break" => {
                let answer = response(200, &[]);
                respond.head(&answer, BodySize::Unknown).await.unwrap();
                respond.data(Bytes::from_static(b"half")).await.unwrap();
                respond.flush().await.unwrap();
                body.next().await.unwrap();
                respond.reset();
            }
            "/drop" => {}
            "/stuck" => self.unstuck.acquire().await.unwrap().forget(),
            "/early" => {
                let answer = response(413, &[]);
                respond.head(&answer, BodySize::Empty).await.unwrap();
            }
            "/sized" => {
                let answer = response(200, &[]);
                respond.head(&answer, BodySize::Exact(4)).await.unwrap();
                respond.data(Bytes::from_static(b"four")).await.unwrap();
                respond.finish(None).await.unwrap();
            }
            "/endless" => {
                let answer = response(200, &[]);
                respond.head(&answer, BodySize::Unknown).await.unwrap();
                let piece = Bytes::from(vec![7; 16 << 10]);
                let mut sent = 0;
                while respond.data(piece.clone()).await.is_ok() {
                    sent += piece.len();
                    note(&format!("sent {sent}"));
                }
                note("gone");
            }
            _ => self.give_back(head, body, respond).await,
        }
    }

    fn refused(&self, status: StatusCode, _why: &'static str) {
        self.seen.send(format!("refused {status}")).unwrap_or(());
    }
}

impl Echo {
    async fn give_back<I: Incoming, R: Responder>(
        &self,
        head: &RequestHead,
        body: &mut I,
        respond: &mut R,
    ) {
        if head.target.path() == "/echo" {
            let early = response(103, &[("link", "</a>")]);
            respond.informational(&early).await.unwrap();
        }
        let status = if head.protocol.is_some() { 101 } else { 200 };
        let host = ("x-authority", head.authority.as_str());
        let answer = response(status, &[host]);
        if respond.head(&answer, BodySize::Unknown).await.is_err() {
            return;
        }
        let mut trailers = None;
        loop {
            match body.next().await {
                Ok(Some(Piece::Data(data))) => {
                    if respond.data(data).await.is_err() || respond.flush().await.is_err() {
                        return;
                    }
                }
                Ok(Some(Piece::Trailers(fields))) => {
                    trailers = Some(fields);
                    break;
                }
                Ok(None) => break,
                Err(_) => return respond.reset(),
            }
        }
        respond.finish(trailers.as_ref()).await.unwrap_or(());
    }
}

/// Waits for this line.
async fn told(seen: &mut Seen, line: &str) {
    soon(async { while seen.recv().await.expect("the server is gone") != line {} }).await;
}

/// Returns the whole body and its trailers.
async fn read(
    body: &mut impl Incoming,
) -> Result<(Vec<u8>, Option<Fields>), crate::proxy::exchange::BodyError> {
    let mut all = Vec::new();
    loop {
        match soon(body.next()).await? {
            Some(Piece::Data(data)) => all.extend_from_slice(&data),
            Some(Piece::Trailers(fields)) => return Ok((all, Some(fields))),
            None => return Ok((all, None)),
        }
    }
}
