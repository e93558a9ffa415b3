//! How the agent treats requests to a service port beyond its routes: what Gateway API has no field for, and what it says of
//! backends rather than of routes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, StatusCode};

use crate::model::balanced::PortId;
use crate::model::route::{Retry, SessionPersistence};

/// Settings by service port. Shared by pointer: what did not change keeps its `Arc`.
pub type TrafficPolicies = BTreeMap<PortId, Arc<Traffic>>;

/// TLS to backends, by service port.
pub type BackendTlsPolicies = BTreeMap<PortId, Arc<BackendTls>>;

/// All that policies say of one service port (`TrafficPolicy` of `underpass.dev/v1alpha1`, `XBackendTrafficPolicy`). `None` and
/// empty: the agent's default.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Traffic {
    /// Objects that it is from, as `Kind namespace/name`.
    pub from: Vec<String>,
    /// How an endpoint is picked.
    pub balancing: Option<Balancing>,
    /// Which answers eject an endpoint.
    pub outlier: Option<OutlierDetection>,
    /// How much may be in flight.
    pub breaker: Option<CircuitBreaker>,
    /// Rate limits; all of them apply.
    pub limits: Vec<RateLimit>,
    /// Failures on purpose.
    pub fault: Option<Fault>,
    /// Whether requests in flight are limited by latency.
    pub adaptive: Option<AdaptiveConcurrency>,
    /// When to try again, for rules that do not say.
    pub retry: Option<Retry>,
    /// `retryConstraint`.
    pub budget: Option<RetryBudget>,
    /// `sessionPersistence`, for rules that do not say.
    pub session: Option<SessionPersistence>,
    /// What becomes of connections while the agent is away.
    pub away: Option<WhenAway>,
    /// Whether requests are counted, which alone brings the agent in.
    pub request_metrics: bool,
}

impl Traffic {
    /// Returns what of it takes the agent for connections to the port that it is for, as words, and to other ports whose routes lead
    /// there; where there is nothing, the kernel alone can serve them.
    pub fn needs(&self, part: Part) -> Vec<&'static str> {
        use Part::{Answers, Dialled};
        let needs = [
            (self.balancing.is_some(), Answers, "balancing by request"),
            (
                self.outlier.is_some(),
                Answers,
                "outlier detection by answers",
            ),
            (self.breaker.is_some(), Answers, "circuit breaking"),
            (!self.limits.is_empty(), Dialled, "rate limits"),
            (self.fault.is_some(), Dialled, "fault injection"),
            (self.adaptive.is_some(), Answers, "adaptive concurrency"),
            (self.retry.is_some(), Dialled, "retries"),
            (self.session.is_some(), Answers, "session persistence"),
            (self.request_metrics, Part::Either, "request metrics"),
        ];
        let of = needs.iter().filter(|(is, of, _)| {
            *is && (*of == part || *of == Part::Either || part == Part::Either)
        });
        of.map(|it| it.2).collect()
    }
}

/// The part that a service port has in a request. Without routes it has both.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// It is the one that was dialled.
    Dialled,
    /// It is the one whose endpoints answer.
    Answers,
    /// Either of them, or both.
    Either,
}

/// `balancing`.
#[derive(Clone, PartialEq, Debug)]
pub struct Balancing {
    /// `algorithm`.
    pub algorithm: Algorithm,
    /// `hash`: what algorithms that hash go by; without it, the source.
    pub hash: Option<HashOn>,
}

/// `balancing.algorithm`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Algorithm {
    /// `PeakEwma`: the cheaper of two by latency and requests in flight.
    PeakEwma,
    /// `LeastRequest`: the one of two with fewer requests in flight.
    LeastRequest,
    /// `RoundRobin`, by weight.
    RoundRobin,
    /// `WeightedRandom`.
    WeightedRandom,
    /// `Random`, whatever the weight.
    Random,
    /// `RingHash`.
    RingHash,
    /// `Maglev`.
    Maglev,
    /// `Rendezvous`.
    Rendezvous,
}

impl Algorithm {
    /// All of them with their words.
    pub const ALL: [(Self, &'static str); 8] = [
        (Self::PeakEwma, "PeakEwma"),
        (Self::LeastRequest, "LeastRequest"),
        (Self::RoundRobin, "RoundRobin"),
        (Self::WeightedRandom, "WeightedRandom"),
        (Self::Random, "Random"),
        (Self::RingHash, "RingHash"),
        (Self::Maglev, "Maglev"),
        (Self::Rendezvous, "Rendezvous"),
    ];

    /// Returns whether it goes by a hash of the request.
    pub fn hashes(self) -> bool {
        matches!(self, Self::RingHash | Self::Maglev | Self::Rendezvous)
    }
}

/// `balancing.hash`: exactly one of its fields.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HashOn {
    /// `header`: its value.
    Header(HeaderName),
    /// `cookie`: its value.
    Cookie(String),
    /// `source: true`: the client's address.
    Source,
}

/// `outlierDetection`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OutlierDetection {
    /// `consecutiveErrors`: answers of 500 and above, or none, in a row.
    pub consecutive: Option<u32>,
    /// `interval`: how often endpoints are compared.
    pub interval: Option<Duration>,
    /// `baseEjection`: how long the first ejection is.
    pub ejection: Option<Duration>,
    /// `maxEjectionPercent`: how many of the endpoints at most.
    pub max_percent: Option<u32>,
    /// `successRate`: whether one that fails far more often than the others is ejected.
    pub success_rate: bool,
}

/// `circuitBreaker`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CircuitBreaker {
    /// `maxConnections`.
    pub connections: Option<u32>,
    /// `maxPending`.
    pub pending: Option<u32>,
    /// `maxRequests`.
    pub requests: Option<u32>,
    /// `maxRetries`.
    pub retries: Option<u32>,
}

/// `rateLimits[]`. Local to a node: each agent counts for itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RateLimit {
    /// `name`.
    pub name: Option<String>,
    /// `requests`.
    pub requests: u32,
    /// `per`.
    pub per: Duration,
    /// `burst`: how many at once; without it, `requests`.
    pub burst: Option<u32>,
    /// `algorithm`.
    pub by: LimitBy,
    /// `key`: what is counted apart; empty: all requests together.
    pub key: Vec<LimitKey>,
    /// `route`: only requests that go by this route, as `namespace/name`, or by its rule, as `namespace/name/rule`.
    pub route: Option<String>,
}

/// `algorithm` of a rate limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LimitBy {
    /// `TokenBucket`.
    TokenBucket,
    /// `SlidingWindow`.
    SlidingWindow,
}

/// `key` of a rate limit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LimitKey {
    /// `workload: true`: the client.
    Workload,
    /// `header`: the value of this field.
    Header(HeaderName),
}

/// `fault`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Fault {
    /// `delay`: for how long, and how many requests in a hundred.
    pub delay: Option<(Duration, u32)>,
    /// `abort`: with which status, and how many requests in a hundred.
    pub abort: Option<(FaultStatus, u32)>,
}

/// What an aborted request is answered with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultStatus {
    /// `httpStatus`; calls of gRPC get the code that it means there.
    Http(StatusCode),
    /// `grpcStatus`; other requests get 503.
    Grpc(u8),
}

/// `adaptiveConcurrency`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct AdaptiveConcurrency {
    /// `min`.
    pub min: Option<u32>,
    /// `max`.
    pub max: Option<u32>,
}

/// `retryConstraint` of an `XBackendTrafficPolicy` (GEP-3388).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RetryBudget {
    /// `budget.percent`.
    pub percent: u32,
    /// `budget.interval`.
    pub interval: Duration,
    /// `minRetryRate.count`.
    pub min_count: u32,
    /// `minRetryRate.interval`.
    pub min_interval: Duration,
}

/// `whenAgentIsAway`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WhenAway {
    /// `Fail`: connections are refused.
    Fail,
    /// `Continue`: the kernel balances them, without what takes the agent.
    Continue,
}

/// TLS to the endpoints of a service port (`BackendTLSPolicy`): never plain text in its place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BackendTls {
    /// The object, as `namespace/name`.
    pub from: String,
    /// What connections are made with, or why there can be none.
    pub to: Result<TlsName, String>,
}

/// Whom TLS to a backend speaks to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsName {
    /// `hostname`: sent as SNI, and verified unless there are names below.
    pub hostname: String,
    /// `subjectAltNames`: where there are any, one of these has to be in the certificate.
    pub names: Vec<SubjectAltName>,
    /// Who has to have signed it.
    pub roots: Roots,
}

/// `subjectAltNames[]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SubjectAltName {
    /// `hostname`.
    Hostname(String),
    /// `uri`.
    Uri(String),
}

/// Certificates of authorities.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Roots {
    /// `wellKnownCACertificates: System`.
    System,
    /// `caCertificateRefs`: PEM, of all references that are good.
    Pem(Arc<str>),
}
