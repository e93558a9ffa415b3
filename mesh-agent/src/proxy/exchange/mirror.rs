//! Copies of requests for other backends, whose answers nobody sees. A mirror that does not keep up loses its copy; it never holds
//! up the original.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::chance::Chance;
use crate::l7::cluster::{Ask, Outcome};
use crate::l7::message::{RequestHead, ResponseHead, Version};
use crate::l7::route::is_grpc;
use crate::model::balanced::{Carries, Upstream};
use crate::proxy::exchange::fate::Failure;
use crate::proxy::exchange::replay::COPY_BELOW;
use crate::proxy::exchange::retry;
use crate::proxy::exchange::room::{Destination, Room, Speaks, nanoseconds};
use crate::proxy::exchange::{
    BodySize, Outgoing, Piece, RequestSink, ResponseSource, UpstreamError,
};
use crate::proxy::pool::{Key, Turn};
use crate::proxy::record::Client;

/// How long a copy may take.
const TIME: Duration = Duration::from_secs(60);

/// Pieces that a mirror may be behind, beside their bytes.
const PIECES: usize = 64;

/// The end that gets a copy of a body.
#[derive(Debug)]
pub(super) struct Tee {
    /// `None` once the mirror was too slow, or the body has ended.
    to: Option<mpsc::Sender<Option<Piece>>>,
    behind: Arc<AtomicUsize>,
    most: usize,
}

impl Tee {
    /// Passes a copy on; `None` is the end.
    pub(super) fn piece(&mut self, piece: Option<&Piece>) {
        let Some(to) = &self.to else { return };
        let bytes = size(piece);
        let behind = self.behind.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let is_last = !matches!(piece, Some(Piece::Data(_)));
        if behind > self.most || to.try_send(copied(piece)).is_err() || is_last {
            self.to = None;
        }
    }
}

/// Returns a copy that holds no more memory than what it is worth.
fn copied(piece: Option<&Piece>) -> Option<Piece> {
    match piece {
        Some(Piece::Data(data)) if data.len() < COPY_BELOW => {
            Some(Piece::Data(Bytes::copy_from_slice(data)))
        }
        piece => piece.cloned(),
    }
}

fn size(piece: Option<&Piece>) -> usize {
    match piece {
        Some(Piece::Data(data)) => data.len(),
        Some(Piece::Trailers(fields)) => fields.size(),
        None => 0,
    }
}

/// Starts to send a copy of a request, whose body is to be given to the end that is returned.
pub(super) fn start(
    room: &Arc<Room>,
    client: &Client,
    destination: Arc<Destination>,
    head: &RequestHead,
    body: BodySize,
) -> Tee {
    let (to, from) = mpsc::channel(PIECES);
    let behind = Arc::new(AtomicUsize::new(0));
    let copy = Copy {
        room: Arc::clone(room),
        client: client.clone(),
        destination,
        head: head.clone(),
        body,
        from,
        behind: Arc::clone(&behind),
    };
    tokio::spawn(async move {
        // Late, refused or done: nobody asks.
        tokio::time::timeout(TIME, copy.send()).await.unwrap_or(());
    });
    Tee {
        to: Some(to).filter(|_| body != BodySize::Empty),
        behind,
        most: room.limits.mirror_bytes,
    }
}

struct Copy {
    room: Arc<Room>,
    client: Client,
    destination: Arc<Destination>,
    head: RequestHead,
    body: BodySize,
    from: mpsc::Receiver<Option<Piece>>,
    behind: Arc<AtomicUsize>,
}

/// Why a copy has no answer.
enum Lost {
    /// It lost touch with the original, which is nothing of the mirror's.
    Touch,
    Upstream(UpstreamError),
}

impl Copy {
    async fn send(mut self) {
        let speaks = self.destination.speaks.to(self.head.version);
        if speaks == Speaks::Http1
            && self.head.version == Version::Http2
            && is_grpc(&self.head.fields)
        {
            // Nor would the original have gone there.
            return;
        }
        let mut chance = Chance::random();
        let start = Instant::now();
        let destination = Arc::clone(&self.destination);
        let cluster = &destination.cluster;
        // In flight like any other request there.
        let Ok(_admission) = cluster.admit(self.room.now(start)) else {
            return;
        };
        let ask = Ask {
            v6: self.client.address.is_ipv6(),
            ..Ask::default()
        };
        let picked = cluster.pick(&ask, &mut chance, self.room.now(start));
        let Ok(picked) = picked else { return };
        let outcome = self.to(picked.address(), speaks, start).await;
        let end = Instant::now();
        picked.done(outcome, nanoseconds(end - start), self.room.now(end));
    }

    /// Sends it to this endpoint, and returns what that says of it.
    async fn to(&mut self, address: SocketAddr, speaks: Speaks, now: Instant) -> Outcome {
        let destination = Arc::clone(&self.destination);
        let cluster = &destination.cluster;
        let Ok(wrap) = destination.wrap(speaks) else {
            return Outcome::Cancelled;
        };
        let client = self.client.clone();
        let key = Key {
            netns: client.netns,
            address,
            wrap: wrap.map_or(0, |it| it.id()),
        };
        let upstream = Upstream {
            service: &client.port,
            dialled: client.dialled,
            backend: &cluster.id,
            address,
            carries: Carries::Requests,
        };
        let pool = Arc::clone(&self.room.pool);
        let Ok(pending) = cluster.admit_pending() else {
            return Outcome::Cancelled;
        };
        if speaks == Speaks::Http2 {
            return match pool.stream(key, cluster, &upstream, wrap).await {
                Ok(mut stream) => {
                    drop(pending);
                    self.exchange(&mut stream).await
                }
                Err(error) => error.outcome(),
            };
        }
        let turn = match pool.idle(key, now) {
            Some(leased) => Turn::Connection(leased),
            None => match cluster.admit_connection() {
                Ok(admitted) => Turn::Place(admitted),
                Err(_) => pool.turn(key, cluster).await,
            },
        };
        let leased = match turn {
            Turn::Connection(leased) => Ok(leased),
            Turn::Place(admitted) => pool.connect(key, admitted, &upstream, wrap).await,
        };
        match leased {
            Ok(mut leased) => {
                drop(pending);
                let outcome = self.exchange(&mut *leased.connection).await;
                leased.give_back();
                outcome
            }
            Err(error) => error.outcome(),
        }
    }

    async fn exchange<U: Outgoing>(&mut self, upstream: &mut U) -> Outcome {
        match self.answered(upstream).await {
            Ok(outcome) => outcome,
            Err(Lost::Touch) => Outcome::Cancelled,
            Err(Lost::Upstream(error)) => Failure::Upstream(error).outcome(),
        }
    }

    /// Sends it, and returns how it was answered; an answer that comes early is good enough.
    async fn answered<U: Outgoing>(&mut self, upstream: &mut U) -> Result<Outcome, Lost> {
        let (mut sink, mut source) = upstream.halves();
        let sent = sink.head(&self.head, self.body).await;
        sent.map_err(Lost::Upstream)?;
        let size = self.body;
        let mut answer = pin!(answer(&mut source));
        if size != BodySize::Empty {
            tokio::select! {
                biased;
                answer = &mut answer => return answer,
                sent = self.upload(&mut sink) => sent?,
            }
        }
        answer.await
    }

    async fn upload<S: RequestSink>(&mut self, sink: &mut S) -> Result<(), Lost> {
        loop {
            // Without its end, the copy lost touch with the original.
            let piece = self.from.recv().await.ok_or(Lost::Touch)?;
            self.behind
                .fetch_sub(size(piece.as_ref()), Ordering::Relaxed);
            let sent = match piece {
                Some(Piece::Data(data)) => sink.data(data).await,
                Some(Piece::Trailers(fields)) => {
                    return sink.finish(Some(&fields)).await.map_err(Lost::Upstream);
                }
                None => return sink.finish(None).await.map_err(Lost::Upstream),
            };
            sent.map_err(Lost::Upstream)?;
            // Otherwise the next piece takes it along.
            if self.from.is_empty() {
                sink.flush().await.map_err(Lost::Upstream)?;
            }
        }
    }
}

/// Reads a response to its end, and returns what it says.
async fn answer<S: ResponseSource>(source: &mut S) -> Result<Outcome, Lost> {
    let mut response = ResponseHead::default();
    loop {
        let head = source.head(&mut response).await;
        head.map_err(Lost::Upstream)?;
        if !response.status.is_informational() {
            break;
        }
    }
    loop {
        match source.next().await {
            Ok(Some(Piece::Data(_))) => {}
            Ok(None) => return Ok(retry::outcome(&response)),
            Ok(Some(Piece::Trailers(fields))) => {
                let code = retry::grpc_status(&fields);
                return Ok(code.map_or_else(|| retry::outcome(&response), Outcome::Grpc));
            }
            Err(_) => return Ok(Outcome::Reset),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Page(Arc<Vec<u8>>);

    impl AsRef<[u8]> for Page {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }

    #[test]
    fn a_small_piece_that_waits_holds_nothing_but_itself() {
        let (to, mut from) = mpsc::channel(PIECES);
        let mut tee = Tee {
            to: Some(to),
            behind: Arc::default(),
            most: 1000,
        };
        let page = Arc::new(vec![7; 64 * 1024]);
        let read = Bytes::from_owner(Page(Arc::clone(&page)));
        let piece = Piece::Data(read.slice(..2));
        tee.piece(Some(&piece));
        drop((piece, read));
        assert_eq!(Arc::strong_count(&page), 1);
        let got = from.try_recv().unwrap();
        assert_eq!(got, Some(Piece::Data(Bytes::from_static(&[7, 7]))));
    }
}
