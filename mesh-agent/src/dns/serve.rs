//! Serves one client's sockets, within its bounds.
//!
//! A client is a network namespace, or whoever reaches the address on the host. Everything of it hangs on one task: when that
//! ends, every socket is closed, and the namespace can go.

#![forbid(unsafe_code)]

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;
use hickory_proto::op::ResponseCode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::dns::forward::{Forwarder, NoAnswer};
use crate::dns::limits;
use crate::dns::message::{self, Asked, Step, Transport, code};
use crate::dns::zone::Zone;
use crate::telemetry::dns::{DnsCounters, DnsOutcome};

/// What all clients share.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) zone: ArcSwap<Zone>,
    pub(super) forwarder: Forwarder,
    pub(super) counters: Arc<DnsCounters>,
    pub(super) connections: Arc<Semaphore>,
}

/// Sockets that one client reaches: bound, not served yet.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    pub(super) udp: Vec<std::net::UdpSocket>,
    pub(super) tcp: Vec<std::net::TcpListener>,
}

impl Sockets {
    /// Binds both kinds at `address`.
    pub(super) fn bind(&mut self, address: SocketAddr) -> io::Result<()> {
        let udp = std::net::UdpSocket::bind(address)?;
        let tcp = std::net::TcpListener::bind(address)?;
        udp.set_nonblocking(true)?;
        tcp.set_nonblocking(true)?;
        self.udp.push(udp);
        self.tcp.push(tcp);
        Ok(())
    }
}

/// Who asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Asker {
    /// A workload, whose query was meant for another name server: what that knows is not to be hidden.
    Captured,
    /// Somebody who chose this server. It may well be the name server that this one asks, and that asks here for names of this
    /// domain: to ask it back would be a ring.
    Outside,
}

/// What one client may take.
#[derive(Debug)]
struct Client {
    server: Arc<Server>,
    asker: Asker,
    rate: Mutex<Bucket>,
    forwards: Semaphore,
    connections: Arc<Semaphore>,
}

/// Serves these sockets until the task is ended.
pub(super) async fn serve(server: Arc<Server>, asker: Asker, sockets: Sockets) {
    let client = Arc::new(Client {
        server,
        asker,
        rate: Mutex::new(Bucket::new(Instant::now())),
        forwards: Semaphore::new(limits::FORWARDS_PER_CLIENT),
        connections: Arc::new(Semaphore::new(limits::CONNECTIONS_PER_CLIENT)),
    });
    // Ending this task ends these, and theirs.
    let mut tasks = JoinSet::new();
    for socket in sockets.udp {
        match UdpSocket::from_std(socket) {
            Ok(socket) => drop(tasks.spawn(datagrams(client.clone(), Arc::new(socket)))),
            Err(error) => tracing::error!(%error, "failed to serve name queries by UDP"),
        }
    }
    for listener in sockets.tcp {
        match TcpListener::from_std(listener) {
            Ok(listener) => drop(tasks.spawn(connections(client.clone(), listener))),
            Err(error) => tracing::error!(%error, "failed to serve name queries by TCP"),
        }
    }
    while tasks.join_next().await.is_some() {}
}

async fn datagrams(client: Arc<Client>, socket: Arc<UdpSocket>) {
    let mut tasks = JoinSet::new();
    // One byte more than a query may have: a longer one fills it.
    let mut buffer = vec![0; limits::QUERY_BYTES + 1];
    loop {
        let received = socket.recv_from(&mut buffer).await;
        while tasks.try_join_next().is_some() {}
        let (bytes, from) = match received {
            Ok(received) => received,
            Err(error) => {
                tracing::debug!(%error, "failed to receive a name query");
                sleep(limits::BACKOFF).await;
                continue;
            }
        };
        match client.step(&buffer[..bytes], Transport::Udp) {
            Some(Later::Now(answer)) => reply(&socket, &answer, from),
            Some(Later::Ask(step)) => {
                let (client, socket) = (client.clone(), socket.clone());
                tasks.spawn(async move {
                    if let Some(answer) = client.ask(step).await {
                        reply(&socket, &answer, from);
                    }
                });
            }
            None => {}
        }
    }
}

/// Sends an answer, or not where the socket has no room: whoever asked asks again.
fn reply(socket: &UdpSocket, answer: &[u8], to: SocketAddr) {
    if let Err(error) = socket.try_send_to(answer, to) {
        tracing::debug!(%error, "failed to answer a name query");
    }
}

async fn connections(client: Arc<Client>, listener: TcpListener) {
    let mut tasks = JoinSet::new();
    loop {
        let accepted = listener.accept().await;
        while tasks.try_join_next().is_some() {}
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "failed to accept a connection for name queries");
                sleep(limits::BACKOFF).await;
                continue;
            }
        };
        let own = client.connections.clone().try_acquire_owned();
        let all = client.server.connections.clone().try_acquire_owned();
        let (Ok(own), Ok(all)) = (own, all) else {
            client.count(DnsOutcome::Dropped);
            continue;
        };
        let client = client.clone();
        tasks.spawn(async move {
            let _slots = (own, all);
            if let Err(error) = connection(&client, stream).await {
                tracing::debug!(%error, "a connection for name queries ended");
            }
        });
    }
}

/// Answers one query after the other.
async fn connection(client: &Client, mut stream: TcpStream) -> io::Result<()> {
    for _ in 0..limits::QUERIES_PER_CONNECTION {
        let length: usize = timeout(limits::IDLE, stream.read_u16()).await??.into();
        if length > limits::QUERY_BYTES {
            client.count(DnsOutcome::Dropped);
            return Ok(());
        }
        let mut query = vec![0; length];
        timeout(limits::TRANSFER, stream.read_exact(&mut query)).await??;
        let answer = match client.step(&query, Transport::Tcp) {
            Some(Later::Now(answer)) => Some(answer),
            Some(Later::Ask(step)) => client.ask(step).await,
            None => None,
        };
        let Some(answer) = answer else {
            return Ok(());
        };
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        let mut framed = length.to_be_bytes().to_vec();
        framed.extend_from_slice(&answer);
        timeout(limits::TRANSFER, stream.write_all(&framed)).await??;
    }
    Ok(())
}

/// An answer, or what leads to one.
enum Later {
    Now(Vec<u8>),
    Ask(Step),
}

impl Client {
    fn count(&self, outcome: DnsOutcome) {
        self.server.counters.count(outcome);
    }

    /// Decides on a query what can be decided at once; `None` leaves it unanswered.
    fn step(&self, query: &[u8], transport: Transport) -> Option<Later> {
        let has_turn = {
            let mut rate = self.rate.lock().unwrap_or_else(PoisonError::into_inner);
            rate.take(Instant::now())
        };
        if !has_turn || query.len() > limits::QUERY_BYTES {
            self.count(DnsOutcome::Dropped);
            return None;
        }
        match message::read(query, transport, &self.server.zone.load()) {
            Step::Silence => {
                self.count(DnsOutcome::Dropped);
                None
            }
            Step::Reply { bytes, refused } => {
                self.count(if refused {
                    DnsOutcome::Refused
                } else {
                    DnsOutcome::Answered
                });
                Some(Later::Now(bytes))
            }
            Step::Forward {
                none: Some(none), ..
            }
            | Step::Follow {
                none: Some(none), ..
            } if self.asker == Asker::Outside || !self.server.forwarder.has_servers() => {
                self.count(DnsOutcome::Answered);
                Some(Later::Now(none))
            }
            step @ (Step::Forward { .. } | Step::Follow { .. }) => Some(Later::Ask(step)),
        }
    }

    /// Asks upstream; `None` leaves the query unanswered.
    async fn ask(&self, step: Step) -> Option<Vec<u8>> {
        let Ok(_permit) = self.forwards.try_acquire() else {
            self.count(DnsOutcome::Dropped);
            return None;
        };
        let forwarder = &self.server.forwarder;
        match step {
            Step::Forward { asked, none } => {
                let name = asked.question.name().clone();
                let upstream = forwarder.ask(&asked, &name).await;
                self.told(&asked, upstream, none, |asked, bytes| {
                    asked.adopt(bytes).unwrap_or_else(|| asked.failure())
                })
            }
            Step::Follow {
                asked,
                aliases,
                target,
                none,
            } => {
                let upstream = forwarder.ask(&asked, &target).await;
                self.told(&asked, upstream, none, |asked, bytes| {
                    asked.join(aliases, Some(bytes))
                })
            }
            Step::Silence | Step::Reply { .. } => None,
        }
    }

    fn told(
        &self,
        asked: &Asked,
        upstream: Result<Arc<[u8]>, NoAnswer>,
        none: Option<Vec<u8>>,
        answer: impl FnOnce(&Asked, &[u8]) -> Vec<u8>,
    ) -> Option<Vec<u8>> {
        match upstream {
            Ok(bytes) => {
                self.count(DnsOutcome::Forwarded);
                match none {
                    // In our own words: upstream's may be kept for a day, and the service come to be in a second.
                    Some(none) if code(&bytes) == ResponseCode::NXDomain => Some(none),
                    _ => Some(answer(asked, &bytes)),
                }
            }
            Err(NoAnswer::Full) => {
                self.count(DnsOutcome::Dropped);
                None
            }
            Err(NoAnswer::Failed) => {
                self.count(DnsOutcome::Failed);
                Some(asked.failure())
            }
        }
    }
}

/// A token bucket.
#[derive(Debug)]
struct Bucket {
    tokens: u32,
    filled: Instant,
}

impl Bucket {
    fn new(now: Instant) -> Self {
        Self {
            tokens: limits::QUERIES_BURST,
            filled: now,
        }
    }

    /// Takes one token; returns whether there was one.
    fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.filled);
        let fresh = passed.as_nanos() * u128::from(limits::QUERIES_PER_SECOND) / 1_000_000_000;
        if fresh > 0 {
            let fresh = u32::try_from(fresh).unwrap_or(u32::MAX);
            self.tokens = self.tokens.saturating_add(fresh).min(limits::QUERIES_BURST);
            self.filled = now;
        }
        let left = self.tokens.checked_sub(1);
        self.tokens = left.unwrap_or(0);
        left.is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_bucket_fills_again_and_never_overflows() {
        let start = Instant::now();
        let mut bucket = Bucket::new(start);
        let taken = |bucket: &mut Bucket, now| (0..100_000).filter(|_| bucket.take(now)).count();
        assert_eq!(taken(&mut bucket, start), limits::QUERIES_BURST as usize);
        let soon = start + Duration::from_millis(100);
        assert_eq!(
            taken(&mut bucket, soon),
            limits::QUERIES_PER_SECOND as usize / 10
        );
        let later = start + Duration::from_secs(1000);
        assert_eq!(taken(&mut bucket, later), limits::QUERIES_BURST as usize);
    }
}
