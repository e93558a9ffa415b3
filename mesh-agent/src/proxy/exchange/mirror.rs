//! Copies of requests for other backends, whose answers nobody sees. A mirror that does not keep up loses its copy; it never holds
//! up the original.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::chance::Chance;
use crate::l7::cluster::{Ask, Outcome};
use crate::l7::message::{RequestHead, ResponseHead};
use crate::model::balanced::Upstream;
use crate::proxy::exchange::room::{Destination, Room, nanoseconds};
use crate::proxy::exchange::{
    BodySize, Incoming, Outgoing, Piece, RequestSink, ResponseSource, UpstreamError,
};
use crate::proxy::pool::Key;
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
        if behind > self.most || to.try_send(piece.cloned()).is_err() || is_last {
            self.to = None;
        }
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

impl Copy {
    async fn send(mut self) {
        let mut chance = Chance::random();
        let start = Instant::now();
        let cluster = &self.destination.cluster;
        let ask = Ask {
            v6: self.client.address.is_ipv6(),
            ..Ask::default()
        };
        let picked = cluster.pick(&ask, &mut chance, self.room.now(start));
        let Ok(picked) = picked else { return };
        let wrap = match &self.destination.wrap {
            None => None,
            Some(Ok(wrap)) => Some(wrap),
            Some(Err(_)) => return,
        };
        let key = Key {
            netns: self.client.netns,
            address: picked.address(),
            wrap: wrap.map_or(0, |it| it.id()),
        };
        let upstream = Upstream {
            service: &self.client.port,
            dialled: self.client.dialled,
            backend: &cluster.id,
            address: key.address,
        };
        let connected = self.room.pool.connect(key, cluster, &upstream, wrap);
        let outcome = match connected.await {
            Err(error) => error.outcome(),
            Ok(mut leased) => {
                let status = self.exchange(&mut *leased.connection).await;
                leased.give_back();
                status.map_or(Outcome::Reset, Outcome::Status)
            }
        };
        let end = Instant::now();
        picked.done(outcome, nanoseconds(end - start), self.room.now(end));
    }

    async fn exchange<U: Outgoing>(&mut self, upstream: &mut U) -> Result<u16, UpstreamError> {
        let (mut sink, mut source) = upstream.halves();
        sink.head(&self.head, self.body).await?;
        if self.body != BodySize::Empty {
            loop {
                // Without its end, the copy lost touch with the original.
                let piece = self.from.recv().await.ok_or(UpstreamError::Reset)?;
                self.behind
                    .fetch_sub(size(piece.as_ref()), Ordering::Relaxed);
                match piece {
                    Some(Piece::Data(data)) => sink.data(data).await?,
                    Some(Piece::Trailers(fields)) => {
                        sink.finish(Some(&fields)).await?;
                        break;
                    }
                    None => {
                        sink.finish(None).await?;
                        break;
                    }
                }
            }
        }
        let mut response = ResponseHead::default();
        loop {
            source.head(&mut response).await?;
            if !response.status.is_informational() {
                break;
            }
        }
        while let Ok(Some(Piece::Data(_))) = source.next().await {}
        Ok(response.status.as_u16())
    }
}
