//! What exchanges work with: configuration from outside, and what the data threads have themselves.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::time::Instant;

use crate::l7::cluster::{Cluster, Now};
use crate::l7::limit::shed::{BYTES_MAX, REQUESTS_MAX, Shedder};
use crate::l7::message::Version;
use crate::l7::route::Tables;
use crate::l7::session::SessionKey;
use crate::model::balanced::PortId;
use crate::model::traffic::Traffic;
use crate::proxy::exchange::governor::Governor;
use crate::proxy::exchange::run::Scratch;
use crate::proxy::pool::{Pool, Wrap};
use crate::proxy::record::Observer;
use crate::proxy::shelf::Shelf;

/// How the endpoints of a service port are spoken to.
#[derive(Clone, Debug)]
pub struct Destination {
    /// Who they are.
    pub cluster: Arc<Cluster>,
    /// Which version.
    pub speaks: Speaks,
    /// What is around connections to them.
    pub wrap: Option<Wrapped>,
    /// What policies say of them.
    pub traffic: Option<Arc<Traffic>>,
}

/// What is around connections, by what is spoken inside: it says so itself (ALPN). Or why there can be none.
#[derive(Clone, Debug)]
pub struct Wrapped {
    /// Around HTTP/1.1.
    pub http1: Result<Arc<dyn Wrap>, String>,
    /// Around HTTP/2.
    pub http2: Result<Arc<dyn Wrap>, String>,
}

impl Destination {
    /// Returns what is around connections that this version is spoken on; `None`: nothing.
    ///
    /// # Errors
    ///
    /// Where a policy wants something that cannot be had, and why. Then nothing is sent.
    pub(super) fn wrap(&self, speaks: Speaks) -> Result<Option<&Arc<dyn Wrap>>, &str> {
        let Some(wrapped) = &self.wrap else {
            return Ok(None);
        };
        let wrap = match speaks {
            Speaks::Http2 => &wrapped.http2,
            Speaks::Http1 | Speaks::AsClient => &wrapped.http1,
        };
        wrap.as_ref().map(Some).map_err(String::as_str)
    }
}

/// Version of HTTP that endpoints speak.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Speaks {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 from the first byte.
    Http2,
    /// What the client speaks: nothing is said, and it expected to be understood.
    AsClient,
}

impl Speaks {
    /// Returns what a request is sent by that came by this version: never `AsClient`.
    pub(super) fn to(self, client: Version) -> Self {
        match self {
            Self::AsClient if client == Version::Http2 => Self::Http2,
            Self::AsClient => Self::Http1,
            said @ (Self::Http1 | Self::Http2) => said,
        }
    }
}

/// What requests go by. Immutable; a change is another one.
#[derive(Debug, Default)]
pub struct Config {
    /// Another one for each change.
    pub number: u64,
    /// Routes and policies.
    pub tables: Arc<Tables>,
    /// Whoever may be a backend, or is dialled. Shared by pointer: what did not change keeps its `Arc`.
    pub destinations: HashMap<PortId, Arc<Destination>>,
    /// What is kept for the policies of ports that limit rates or make faults.
    pub governors: HashMap<PortId, Arc<Governor>>,
}

/// Times and bounds of exchanges.
#[derive(Clone, Debug)]
pub struct Limits {
    /// How long a client may be silent in the middle of a body; not in calls of gRPC.
    pub request_idle: Duration,
    /// How long an upstream may be silent before a response or in the middle of it; not in tunnels and calls of gRPC.
    pub response_idle: Duration,
    /// How long a tunnel may be silent.
    pub tunnel_idle: Duration,
    /// How long the upstream may leave a client waiting that asked whether to go on.
    pub expect: Duration,
    /// The least pause before a retry, where a policy says nothing.
    pub backoff: Duration,
    /// Bytes of a request that are kept for another attempt; as Linkerd.
    pub replay_bytes: usize,
    /// Requests in progress on all data threads together; beyond, they are turned away at once.
    pub in_flight: u64,
    /// Bytes of all their bodies together that are kept for another attempt; beyond, no more is kept, and such
    /// requests are sent once.
    pub kept_bytes: u64,
    /// Bytes of a request that a mirror may be behind.
    pub mirror_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            request_idle: Duration::from_secs(60),
            response_idle: Duration::from_secs(300),
            tunnel_idle: Duration::from_secs(3600),
            expect: Duration::from_secs(1),
            backoff: Duration::from_millis(25),
            replay_bytes: 64 * 1024,
            in_flight: REQUESTS_MAX,
            kept_bytes: BYTES_MAX,
            mirror_bytes: 256 * 1024,
        }
    }
}

/// What all exchanges of a data thread have in common.
pub struct Room {
    /// What requests go by, for all threads.
    pub config: Arc<ArcSwap<Config>>,
    /// This thread's connections.
    pub pool: Arc<Pool>,
    /// Who hears of what has ended.
    pub observer: Arc<dyn Observer>,
    /// Bounds.
    pub limits: Limits,
    /// What seals sessions; without it there are none.
    pub sessions: Option<SessionKey>,
    /// Requests in progress, on all threads.
    pub shedder: Arc<Shedder>,
    /// What clusters count their time from; the same for all threads.
    pub epoch: Instant,
    /// What requests work with.
    pub scratches: Shelf<Scratch>,
}

impl Room {
    /// Returns the time as clusters count it.
    pub fn now(&self, at: Instant) -> Now {
        nanoseconds(at.saturating_duration_since(self.epoch))
    }
}

impl std::fmt::Debug for Room {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Room")
            .field("pool", &self.pool)
            .finish_non_exhaustive()
    }
}

/// Returns a duration in nanoseconds.
pub(super) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
