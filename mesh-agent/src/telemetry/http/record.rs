//! What is known of a request once it has ended: everything that a log line, a metric or a span needs.

use std::net::SocketAddr;
use std::sync::Arc;

use http::StatusCode;

use crate::l7::flag::Flag;
use crate::l7::message::RequestHead;
use crate::l7::route::CompiledRule;
use crate::model::balanced::PortId;
use crate::model::workload::WorkloadName;
use crate::telemetry::http::trace::SpanContext;

/// Whose connection it is, and what it is to.
#[derive(Clone, PartialEq, Debug)]
pub struct Client {
    /// The workload.
    pub workload: Arc<WorkloadName>,
    /// Cookie of its network namespace.
    pub netns: u64,
    /// Its end of the connection.
    pub address: SocketAddr,
    /// The service port that it dialled.
    pub port: Arc<PortId>,
    /// The address that it dialled.
    pub dialled: SocketAddr,
}

/// Where a request's time went, in nanoseconds. The whole is their sum.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Times {
    /// In the agent: deciding, delays on purpose, pauses between attempts.
    pub agent_ns: u64,
    /// Waiting for connections.
    pub connect_ns: u64,
    /// From when an attempt had a connection until the head of its response, or until it failed.
    pub upstream_ns: u64,
    /// From the final head to the end.
    pub transfer_ns: u64,
}

impl Times {
    /// Returns the whole.
    pub fn total_ns(&self) -> u64 {
        self.agent_ns + self.connect_ns + self.upstream_ns + self.transfer_ns
    }
}

/// At most three flags, in the order in which they were raised.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Flags([Option<Flag>; 3]);

impl Flags {
    /// Raises one, unless it is raised already.
    pub fn raise(&mut self, flag: Flag) {
        if !self.has(flag)
            && let Some(free) = self.0.iter_mut().find(|it| it.is_none())
        {
            *free = Some(flag);
        }
    }

    /// Raises [`Flag::LocalReset`], in the place of what it looked like.
    pub fn cut(&mut self) {
        let taken = Some(Flag::DownstreamClosed);
        match self.0.iter_mut().find(|it| **it == taken) {
            Some(closed) => *closed = Some(Flag::LocalReset),
            None => self.raise(Flag::LocalReset),
        }
    }

    /// Returns whether one was raised.
    pub fn has(&self, flag: Flag) -> bool {
        self.0.contains(&Some(flag))
    }

    /// Returns those that were raised.
    pub fn iter(&self) -> impl Iterator<Item = Flag> {
        self.0.iter().flatten().copied()
    }

    /// Returns the one that tells most: a delay on purpose is no reason, and that there is no other attempt says nothing of why there
    /// were several.
    pub fn cause(&self) -> Option<Flag> {
        let is_cause = |flag: &Flag| !matches!(flag, Flag::FaultDelay | Flag::RetriesExhausted);
        self.iter().find(is_cause).or(self.0[0])
    }

    /// Returns the same whatever the order in which they were raised.
    pub fn sorted(mut self) -> Self {
        // Those that are none stay at the end.
        self.0.sort_unstable_by_key(|it| (it.is_none(), *it));
        self
    }

    /// Returns whether none was.
    pub fn is_empty(&self) -> bool {
        self.0[0].is_none()
    }
}

impl FromIterator<Flag> for Flags {
    fn from_iter<T: IntoIterator<Item = Flag>>(all: T) -> Self {
        let mut flags = Self::default();
        all.into_iter().for_each(|flag| flags.raise(flag));
        flags
    }
}

/// Messages of a call of gRPC.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Messages {
    /// Those that came from the client.
    pub received: u64,
    /// Those of the response that were passed on.
    pub sent: u64,
}

/// A request that has ended.
#[derive(Debug)]
pub struct RequestRecord<'r> {
    /// Whose it was.
    pub client: &'r Client,
    /// Its head, as it was sent last.
    pub request: &'r RequestHead,
    /// Path, normalised, and authority as they came, where a filter has changed them.
    pub original: Option<&'r (String, String)>,
    /// The status that the client got; `None`: it got none.
    pub status: Option<StatusCode>,
    /// `grpc-status` of the response, if it was in its head or trailers.
    pub grpc_status: Option<u32>,
    /// What stood against it.
    pub flags: Flags,
    /// The rule that it went by; `None`: no route applied, or none matched.
    pub rule: Option<&'r Arc<CompiledRule>>,
    /// The service port whose endpoints it was for.
    pub destination: Option<&'r Arc<PortId>>,
    /// The endpoint that got it last.
    pub endpoint: Option<SocketAddr>,
    /// The workload behind it, where that is known and [asked for](Observer::is_detailed).
    pub workload: Option<&'r Arc<WorkloadName>>,
    /// Attempts that got an endpoint.
    pub attempts: u32,
    /// Bytes of the request's body that came.
    pub received: u64,
    /// Bytes of the response's body that were passed on.
    pub sent: u64,
    /// Of a call of gRPC, where they are [asked for](Observer::is_detailed).
    pub messages: Option<Messages>,
    /// Where its time went.
    pub times: Times,
    /// What [`Observer::begin`] returned for it.
    pub span: Option<SpanContext>,
}

/// How a connection that was passed on byte by byte ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RelayEnd {
    /// Both ends closed.
    Closed,
    /// The client reset it.
    ClientReset,
    /// The endpoint did.
    UpstreamReset,
    /// Nothing was moved for too long.
    Idle,
    /// The agent ended it: it stops, or the workload is gone.
    Agent,
    /// Nobody is there for it: no rule, no endpoint, or TLS that is only for HTTP.
    NoEndpoint,
    /// Too many connections to the service.
    Overflow,
    /// Policy denies it.
    Denied,
    /// No connection to the endpoint came about.
    ConnectFailed,
}

impl RelayEnd {
    /// Every end, in the order of its declaration.
    pub const ALL: [Self; 9] = [
        Self::Closed,
        Self::ClientReset,
        Self::UpstreamReset,
        Self::Idle,
        Self::Agent,
        Self::NoEndpoint,
        Self::Overflow,
        Self::Denied,
        Self::ConnectFailed,
    ];

    /// Returns its word in labels and logs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::ClientReset => "client_reset",
            Self::UpstreamReset => "upstream_reset",
            Self::Idle => "idle",
            Self::Agent => "agent",
            Self::NoEndpoint => "no_endpoint",
            Self::Overflow => "overflow",
            Self::Denied => "denied",
            Self::ConnectFailed => "connect_failed",
        }
    }
}

/// A connection that was passed on byte by byte, and has ended.
#[derive(Debug)]
pub struct RelayRecord<'r> {
    /// Whose it was.
    pub client: &'r Client,
    /// The service port whose endpoints it was for.
    pub destination: Option<&'r Arc<PortId>>,
    /// The endpoint.
    pub endpoint: Option<SocketAddr>,
    /// The name that its `ClientHello` asked for.
    pub server_name: Option<&'r str>,
    /// How it ended.
    pub end: RelayEnd,
    /// Bytes that went to the endpoint.
    pub received: u64,
    /// Bytes that went to the client.
    pub sent: u64,
    /// How long connecting took.
    pub connect_ns: u64,
    /// How long all of it took.
    pub total_ns: u64,
}

/// Hears of what has ended.
pub trait Observer: Send + Sync {
    /// A request begins: adds what goes upstream with it (trace context, request id) to its head. Called on the data path, before
    /// routes may edit the head.
    fn begin(&self, request: &mut RequestHead) -> Option<SpanContext> {
        let _ = request;
        None
    }

    /// Returns whether records are to say what takes some time to find out. It stays as it is.
    fn is_detailed(&self) -> bool {
        false
    }

    /// A request has ended. Called on the data path: it must not wait.
    fn request(&self, record: &RequestRecord<'_>);

    /// A connection that was passed on has ended. As above.
    fn relayed(&self, record: &RelayRecord<'_>);

    /// A connection sent what is no request, which was answered with this status.
    fn refused(&self, client: &Client, status: StatusCode, why: &'static str);
}
