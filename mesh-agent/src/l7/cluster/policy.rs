//! How a cluster picks, ejects and limits. Plain values; the defaults are Envoy's unless said otherwise, and what is off by
//! default there is off here.

/// One millisecond.
const MS: u64 = 1_000_000;

/// One second.
const S: u64 = 1_000 * MS;

/// Everything that can be set of a cluster.
#[derive(Clone, PartialEq, Debug)]
pub struct ClusterPolicy {
    /// How an endpoint is picked.
    pub algorithm: Algorithm,
    /// Which endpoints are left out for what they answered; `None`: none ever is.
    pub outlier: Option<OutlierPolicy>,
    /// How much may be in flight.
    pub breaker: BreakerPolicy,
    /// The retry budget; `None`: only [`BreakerPolicy::retries`] limits retries. Where it is set, that does not apply.
    pub budget: Option<BudgetPolicy>,
    /// The adaptive limit on requests in flight; `None`: only [`BreakerPolicy::requests`].
    pub concurrency: Option<ConcurrencyPolicy>,
    /// When less than this share of the endpoints is not ejected, ejections are ignored: few endpoints with all of the load would
    /// fail too.
    pub panic_percent: u32,
}

impl Default for ClusterPolicy {
    fn default() -> Self {
        Self {
            algorithm: Algorithm::default(),
            outlier: Some(OutlierPolicy::default()),
            breaker: BreakerPolicy::default(),
            budget: None,
            concurrency: None,
            panic_percent: 50,
        }
    }
}

/// How an endpoint is picked.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Algorithm {
    /// The cheaper of two at random, by peak-sensitive moving average of latency times requests in flight.
    PeakEwma(PeakEwma),
    /// The fewer requests in flight of two at random; where weights differ, in turn by `weight / (active + 1)^bias`.
    LeastRequest {
        /// How much requests in flight weigh against the weight; 0 is weighted round robin.
        bias: f64,
    },
    /// Each in turn, more often the more weight it has.
    RoundRobin,
    /// By weight at random.
    WeightedRandom,
    /// At random, whatever the weight.
    Random,
    /// A ring of hashes: the next endpoint after the request's hash.
    RingHash {
        /// Ring entries at least; more where weights ask for it, up to 8 Mi.
        min_size: u32,
        /// Bounded load.
        bound: Option<BoundedLoad>,
    },
    /// Maglev's table of 65,537 slots.
    Maglev {
        /// Bounded load.
        bound: Option<BoundedLoad>,
    },
    /// Highest random weight. No table: best for few endpoints.
    Rendezvous {
        /// Bounded load.
        bound: Option<BoundedLoad>,
    },
}

impl Algorithm {
    /// The ring hash with Envoy's defaults.
    pub const RING_HASH: Self = Self::RingHash {
        min_size: 1024,
        bound: None,
    };

    /// Maglev with Envoy's defaults.
    pub const MAGLEV: Self = Self::Maglev { bound: None };

    /// Returns whether it picks by [`super::Ask::hash`].
    pub fn is_by_hash(&self) -> bool {
        match self {
            Self::RingHash { .. } | Self::Maglev { .. } | Self::Rendezvous { .. } => true,
            Self::PeakEwma(_)
            | Self::LeastRequest { .. }
            | Self::RoundRobin
            | Self::WeightedRandom
            | Self::Random => false,
        }
    }
}

impl Default for Algorithm {
    fn default() -> Self {
        Self::PeakEwma(PeakEwma::default())
    }
}

/// How latencies are averaged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeakEwma {
    /// After this time a latency counts for 1/e of what it did (Linkerd's 10 s), if those before it were like it; else sooner.
    pub decay_ns: u64,
    /// A failed request counts as one that took at least this long, so that an endpoint that fails fast does not look fast. One
    /// second is far above what most services answer in, and forgotten after about four times `decay_ns`.
    pub penalty_ns: u64,
}

impl Default for PeakEwma {
    fn default() -> Self {
        Self {
            decay_ns: 10 * S,
            penalty_ns: S,
        }
    }
}

/// No endpoint gets more than this share of the mean load, whatever the hash says (Mirrokni et al., SODA 2018).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BoundedLoad {
    /// Percent of the mean; at least 100. 150 is usual.
    pub percent: u32,
}

/// When an endpoint is ejected, and for how long.
#[derive(Clone, PartialEq, Debug)]
pub struct OutlierPolicy {
    /// Answers of 500 and above in a row. Local failures count too, unless `split_local` is set.
    pub consecutive_5xx: Option<u32>,
    /// Answers of 502, 503 and 504 in a row; local failures as above. Off by default.
    pub consecutive_gateway: Option<u32>,
    /// Whether failures that no endpoint answered (connect, reset, timeout) are counted by themselves.
    pub split_local: bool,
    /// Those in a row, where they are counted by themselves.
    pub consecutive_local: Option<u32>,
    /// How often endpoints are compared with each other, and after which time without ejection one ejection is forgotten.
    pub interval_ns: u64,
    /// The first ejection; the n-th is n times as long.
    pub ejection_ns: u64,
    /// No ejection is longer, save where `ejection_ns` is.
    pub ejection_max_ns: u64,
    /// Up to this is added by chance.
    pub jitter_max_ns: u64,
    /// Share of the endpoints that may be ejected at a time; one always may.
    pub max_percent: u32,
    /// Comparison of success rates.
    pub success_rate: Option<SuccessRate>,
    /// A fixed bound on the share of failures. Off by default.
    pub failure_percentage: Option<FailurePercentage>,
}

impl Default for OutlierPolicy {
    fn default() -> Self {
        Self {
            consecutive_5xx: Some(5),
            consecutive_gateway: None,
            split_local: false,
            consecutive_local: Some(5),
            interval_ns: 10 * S,
            ejection_ns: 30 * S,
            ejection_max_ns: 300 * S,
            jitter_max_ns: 0,
            max_percent: 10,
            success_rate: Some(SuccessRate::default()),
            failure_percentage: None,
        }
    }
}

/// Ejects endpoints whose success rate is far below the others'.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct SuccessRate {
    /// Standard deviations below the mean.
    pub deviations: f64,
    /// Endpoints with enough requests, below which nothing is compared.
    pub min_hosts: u32,
    /// Requests in an interval that are enough.
    pub min_requests: u32,
}

impl Default for SuccessRate {
    fn default() -> Self {
        Self {
            deviations: 1.9,
            min_hosts: 5,
            min_requests: 100,
        }
    }
}

/// Ejects endpoints of which too large a share of requests fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FailurePercentage {
    /// Failed requests in a hundred that are too many.
    pub threshold: u32,
    /// Endpoints with enough requests, below which nobody is ejected.
    pub min_hosts: u32,
    /// Requests in an interval that are enough.
    pub min_requests: u32,
}

impl Default for FailurePercentage {
    fn default() -> Self {
        Self {
            threshold: 85,
            min_hosts: 5,
            min_requests: 50,
        }
    }
}

/// How much may be in flight to a cluster from this agent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BreakerPolicy {
    /// Connections.
    pub connections: u32,
    /// Requests that wait for a connection.
    pub pending: u32,
    /// Requests.
    pub requests: u32,
    /// Retries.
    pub retries: u32,
}

impl Default for BreakerPolicy {
    fn default() -> Self {
        Self {
            connections: 1024,
            pending: 1024,
            requests: 1024,
            retries: 3,
        }
    }
}

/// How many retries there may be for the requests of the last while (`XBackendTrafficPolicy.spec.retryConstraint`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BudgetPolicy {
    /// Retries for each hundred requests of the last interval.
    pub percent: u32,
    /// How long a request counts: 1 s to 1 h.
    pub interval_ns: u64,
    /// Retries that are always allowed: this many ...
    pub min_count: u32,
    /// ... in this time.
    pub min_interval_ns: u64,
}

impl Default for BudgetPolicy {
    fn default() -> Self {
        Self {
            percent: 20,
            interval_ns: 10 * S,
            min_count: 10,
            min_interval_ns: S,
        }
    }
}

/// The gradient controller's settings.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct ConcurrencyPolicy {
    /// How often the limit is set anew.
    pub update_ns: u64,
    /// How often the least latency is measured anew.
    pub min_rtt_interval_ns: u64,
    /// Up to this share of that interval is added by chance, in percent.
    pub jitter_percent: u32,
    /// Requests that the measurement takes.
    pub min_rtt_requests: u32,
    /// Latency above the least that is still good, in percent.
    pub buffer_percent: u32,
    /// The least limit, which also applies while the least latency is measured.
    pub min: u32,
    /// The greatest limit.
    pub max: u32,
}

impl Default for ConcurrencyPolicy {
    fn default() -> Self {
        Self {
            update_ns: 100 * MS,
            min_rtt_interval_ns: 60 * S,
            jitter_percent: 15,
            min_rtt_requests: 50,
            buffer_percent: 25,
            min: 3,
            max: 1000,
        }
    }
}
