//! The way of an attempt to its endpoint: a connection that is there, one that is made, or one that is waited for.

use std::sync::Arc;

use tokio::time::Instant;

use crate::l7::cluster::{Cluster, Picked};
use crate::l7::flag::Flag;
use crate::l7::message::ResponseHead;
use crate::l7::route::edit::Cause;
use crate::model::balanced::{Carries, Upstream};
use crate::proxy::exchange::attempt::{Attempt, End, Verdict};
use crate::proxy::exchange::fate::{Failure, Fate, Refusal};
use crate::proxy::exchange::replay::Replay;
use crate::proxy::exchange::room::{Destination, Speaks};
use crate::proxy::exchange::rounds::{TOO_MUCH, Terms};
use crate::proxy::exchange::run::{Scratch, Way};
use crate::proxy::exchange::{Incoming, Responder, UpstreamError};
use crate::proxy::h2;
use crate::proxy::pool::{ConnectError, Key, Leased, Turn, Wrap};

/// No endpoint's fault: none was asked.
const NO_TURN: Refusal = Refusal {
    cause: Cause::Timeout,
    flag: Flag::UpstreamTimeout,
    why: "no connection to the service became free in time",
};

/// A way to the endpoint.
pub(super) enum Link {
    H1(Leased),
    H2(h2::Upstream),
}

impl Link {
    /// Makes an attempt, and gives the connection back.
    pub(super) async fn make<I: Incoming, R: Responder>(
        self,
        attempt: &mut Attempt<'_, R>,
        body: &mut Replay<'_, I>,
        judge: &mut (dyn FnMut(&mut ResponseHead, Instant) -> Verdict + Send),
    ) -> End {
        match self {
            Self::H1(mut leased) => {
                let end = attempt.make(&mut *leased.connection, body, judge).await;
                leased.give_back();
                end
            }
            Self::H2(mut stream) => {
                if attempt.request.protocol.is_some() && !stream.takes_websocket().await {
                    return End::Failed(UpstreamError::NoTunnel);
                }
                attempt.make(&mut stream, body, judge).await
            }
        }
    }
}

/// Returns what is around connections there.
fn wrap_of(destination: &Destination, speaks: Speaks) -> Result<Option<&Arc<dyn Wrap>>, Fate> {
    // Never in plain text instead.
    destination.wrap(speaks).map_err(|_| {
        let why = std::io::Error::other("the policy for TLS is invalid");
        let error = ConnectError::Tls(Arc::new(why));
        Fate::Answer(Failure::Connect(error).refusal())
    })
}

impl Way<'_> {
    /// Returns an idle connection to the endpoint, or a new one.
    pub(super) async fn connect<R: Responder>(
        &mut self,
        picked: &Picked,
        terms: &Terms<'_>,
        limit: Option<Instant>,
        scratch: &mut Scratch,
        to: &mut R,
    ) -> Result<Link, Fate> {
        let wrap = wrap_of(&terms.plan.destination, terms.speaks)?;
        let key = Key {
            netns: self.client.netns,
            address: picked.address(),
            wrap: wrap.map_or(0, |it| it.id()),
        };
        let upstream = Upstream {
            service: &self.client.port,
            dialled: self.client.dialled,
            backend: &terms.plan.destination.cluster.id,
            address: key.address,
            carries: Carries::Requests,
        };
        let pool = &self.room.pool;
        let existing = match terms.speaks {
            Speaks::Http2 => pool.shared(&key).map(Link::H2),
            Speaks::Http1 | Speaks::AsClient => pool.idle(key, self.story.mark).map(Link::H1),
        };
        if let Some(link) = existing {
            return Ok(link);
        }
        let cluster = &terms.plan.destination.cluster;
        let pending = cluster.admit_pending();
        let _pending = pending.map_err(|_| Fate::Answer(TOO_MUCH))?;
        let admitted = match terms.speaks {
            // Its pool asks for itself: streams are of more use than connections.
            Speaks::Http2 => None,
            Speaks::Http1 | Speaks::AsClient => match cluster.admit_connection() {
                Ok(admitted) => Some(admitted),
                Err(_) => match self.turn(key, cluster, limit, scratch, to).await? {
                    Turn::Connection(leased) => {
                        // The endpoint has no part in the wait.
                        self.story.times.connect_ns += self.story.lap(Instant::now());
                        return Ok(Link::H1(leased));
                    }
                    Turn::Place(admitted) => Some(admitted),
                },
            },
        };
        // Seldom, and far larger than anything else here.
        let connecting = Box::pin(async {
            match admitted {
                None => {
                    let stream = pool.stream(key, cluster, &upstream, wrap).await?;
                    Ok(Link::H2(stream))
                }
                Some(admitted) => {
                    let leased = pool.connect(key, admitted, &upstream, wrap).await;
                    leased.map(Link::H1)
                }
            }
        });
        let connected = async {
            tokio::select! {
                connected = connecting => Some(connected),
                () = to.gone() => None,
            }
        };
        // Streams of others may never end.
        let most = Instant::now() + self.room.limits.response_idle;
        let at = limit.map_or(most, |limit| limit.min(most));
        let connected = scratch.timer.within(at, connected).await;
        match connected {
            Ok(Some(Ok(link))) => {
                self.story.times.connect_ns += self.story.lap(Instant::now());
                Ok(link)
            }
            Ok(Some(Err(error))) => Err(Fate::Failed(Failure::Connect(error))),
            Ok(None) => Err(self.ended(End::Gone, None)),
            Err(_) if limit.is_none_or(|limit| at < limit) => Err(Fate::Answer(NO_TURN)),
            Err(_) => Err(Fate::Failed(Failure::TimedOut)),
        }
    }

    /// Waits until a connection of the cluster is free, or there is room for another.
    async fn turn<R: Responder>(
        &mut self,
        key: Key,
        cluster: &Cluster,
        limit: Option<Instant>,
        scratch: &mut Scratch,
        to: &mut R,
    ) -> Result<Turn, Fate> {
        let room = self.room;
        let turn = Box::pin(room.pool.turn(key, cluster));
        let turn = async {
            tokio::select! {
                turn = turn => Some(turn),
                () = to.gone() => None,
            }
        };
        // No longer than an upstream may be silent: nobody has to set a time-out for that.
        let most = Instant::now() + room.limits.response_idle;
        let at = limit.map_or(most, |limit| limit.min(most));
        let turn = scratch.timer.within(at, turn).await;
        match turn {
            Ok(Some(turn)) => Ok(turn),
            Ok(None) => Err(self.ended(End::Gone, None)),
            Err(_) => Err(Fate::Answer(NO_TURN)),
        }
    }
}
