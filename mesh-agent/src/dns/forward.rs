//! Asks upstream name servers.
//!
//! Nothing is kept: whoever is asked keeps answers already, on this machine or one hop away, and a second place with stale ones
//! helps nobody. But one question is asked once at a time, whoever asks it: that takes the edge off a crowd, and makes a ring of
//! name servers harmless, since a question that comes back finds itself on its way and waits for itself, until time is up.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::Name;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use crate::dns::limits;
use crate::dns::message::{Asked, Transport, answers, code};
use crate::dns::upstream::Upstreams;

/// What makes two questions one: the query without its number and with its name in lower case, and how it is asked.
type Key = (Vec<u8>, Transport);

/// An answer, once there is one: `Some(None)` is that nobody answered.
type Answer = Option<Option<Arc<[u8]>>>;

/// Asks upstream name servers, each question once at a time.
#[derive(Debug)]
pub(super) struct Forwarder {
    upstreams: Upstreams,
    room: Semaphore,
    under_way: Mutex<HashMap<Key, watch::Receiver<Answer>>>,
}

/// Why there is no answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum NoAnswer {
    /// Too many questions are under way.
    Full,
    /// Nobody answered.
    Failed,
}

impl Forwarder {
    pub(super) fn new(upstreams: Upstreams) -> Self {
        Self {
            upstreams,
            room: Semaphore::new(limits::FORWARDS),
            under_way: Mutex::default(),
        }
    }

    /// Returns whether there is anybody to ask.
    pub(super) fn has_servers(&self) -> bool {
        !self.upstreams.servers().is_empty()
    }

    /// Returns what upstream says of `name`, for a query of this kind.
    pub(super) async fn ask(&self, asked: &Asked, name: &Name) -> Result<Arc<[u8]>, NoAnswer> {
        let query = asked.query(0, &name.to_lowercase());
        let query = query.ok_or(NoAnswer::Failed)?;
        let key = (query, asked.transport);
        match self.join(&key) {
            Turn::First(sender) => {
                // Whoever waits learns of it also when this one is cancelled.
                let _gone = Gone(self, &key);
                let _permit = self.room.try_acquire().map_err(|_| NoAnswer::Full)?;
                let answer = self.ask_all(key.0.clone(), key.1).await;
                sender.send_replace(Some(answer.clone()));
                answer.ok_or(NoAnswer::Failed)
            }
            Turn::Later(mut first) => {
                let answer = timeout(limits::PATIENCE, first.wait_for(Option::is_some)).await;
                let answer = answer.ok().and_then(|waited| waited.ok()?.clone());
                answer.flatten().ok_or(NoAnswer::Failed)
            }
        }
    }

    /// Returns whether this question is the first of its kind under way.
    fn join(&self, key: &Key) -> Turn {
        let mut under_way = self.lock();
        if let Some(first) = under_way.get(key) {
            return Turn::Later(first.clone());
        }
        let (sender, receiver) = watch::channel(None);
        under_way.insert(key.clone(), receiver);
        Turn::First(sender)
    }

    async fn ask_all(&self, query: Vec<u8>, transport: Transport) -> Option<Arc<[u8]>> {
        let servers = self.upstreams.servers();
        // An answer that says that its server failed is better than none, but another server may know.
        let mut poor = None;
        let asking = async {
            for server in (0..limits::ROUNDS).flat_map(|_| &servers) {
                match timeout(limits::TRY, ask_one(*server, query.clone(), transport)).await {
                    Ok(Ok(answer)) if is_final(&answer) => return Some(answer),
                    Ok(Ok(answer)) => poor = Some(answer),
                    Ok(Err(error)) => {
                        tracing::debug!(%server, %error, "an upstream name server cannot be asked");
                    }
                    Err(_) => tracing::debug!(%server, "an upstream name server does not answer"),
                }
            }
            None
        };
        let answer = timeout(limits::PATIENCE, asking).await.ok().flatten();
        answer.or(poor).map(Arc::from)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Key, watch::Receiver<Answer>>> {
        self.under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who asks upstream, and who waits for that.
enum Turn {
    First(watch::Sender<Answer>),
    Later(watch::Receiver<Answer>),
}

/// Takes a question off the list of those under way.
struct Gone<'a>(&'a Forwarder, &'a Key);

impl Drop for Gone<'_> {
    fn drop(&mut self) {
        self.0.lock().remove(self.1);
    }
}

fn is_final(answer: &[u8]) -> bool {
    !matches!(code(answer), ResponseCode::ServFail | ResponseCode::Refused)
}

/// Asks one server, with a number and from a port that nobody can guess.
async fn ask_one(
    server: SocketAddr,
    mut query: Vec<u8>,
    transport: Transport,
) -> io::Result<Vec<u8>> {
    let id = hickory_proto::op::Message::query().metadata.id;
    if let Some(place) = query.get_mut(..2) {
        place.copy_from_slice(&id.to_be_bytes());
    }
    match transport {
        Transport::Udp => by_datagram(server, &query).await,
        Transport::Tcp => by_connection(server, &query).await,
    }
}

async fn by_datagram(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let any: SocketAddr = if server.is_ipv4() {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(query).await?;
    let mut answer = vec![0; limits::QUERY_BYTES];
    loop {
        let bytes = socket.recv(&mut answer).await?;
        // Somebody who guesses, or an answer to an earlier question that had this port.
        if answers(&answer[..bytes], query) {
            answer.truncate(bytes);
            return Ok(answer);
        }
    }
}

async fn by_connection(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(query.len()).map_err(io::Error::other)?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(query);
    stream.write_all(&framed).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; length.into()];
    stream.read_exact(&mut answer).await?;
    if answers(&answer, query) {
        return Ok(answer);
    }
    Err(io::ErrorKind::InvalidData.into())
}
