//! Response flags: the closed set of words for why a request did not simply end well. Logs, metrics and flow records use these
//! and no others. They stand in Envoy's order, in which it joins them; `TLS` alone it does not have.

macro_rules! flags {
    ($($(#[doc = $doc:literal])+ $name:ident = $word:literal, $meaning:literal;)+) => {
        /// Why a request did not simply end well.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        pub enum Flag {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Flag {
            /// Every flag, in the order of its declaration.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// Returns its word in logs and labels.
            pub const fn word(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)+
                }
            }

            /// Returns what it means, in a phrase for people.
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$name => $meaning,)+
                }
            }
        }
    };
}

flags! {
    /// The cluster has no endpoint to pick.
    NoHealthyUpstream = "UH", "no endpoint answers for the service";
    /// The request's or an attempt's time ran out.
    UpstreamTimeout = "UT", "the endpoint did not answer in time";
    /// The agent ended it midway: its workload is gone, or the agent stops.
    LocalReset = "LR", "the agent ended it: the workload is gone or the agent stops";
    /// The endpoint reset the request's stream.
    UpstreamReset = "UR", "the endpoint reset the request";
    /// No connection to the endpoint came about.
    UpstreamConnectFailure = "UF", "the endpoint could not be connected to";
    /// The endpoint went away before the response ended.
    UpstreamClosed = "UC", "the endpoint closed before the response ended";
    /// A circuit breaker, the retry budget or the concurrency limit said no.
    Overflow = "UO", "a limit on what is in flight to the service was reached";
    /// A table applies and none of its rules matches.
    NoRoute = "NR", "no route matches the request";
    /// Fault injection made the request wait.
    FaultDelay = "DI", "delayed by fault injection";
    /// Fault injection answered.
    FaultAbort = "FI", "aborted by fault injection";
    /// A rate limit said no.
    RateLimited = "RL", "more requests than the rate limit allows";
    /// An authorization policy said no.
    Denied = "UAEX", "denied by policy";
    /// The client went away before the response ended.
    DownstreamClosed = "DC", "the client closed before the response ended";
    /// Every allowed attempt failed.
    RetriesExhausted = "URX", "every attempt failed";
    /// Nothing went over the stream for too long.
    StreamIdle = "SI", "the stream was idle for too long";
    /// The client broke the protocol.
    DownstreamProtocol = "DPE", "the client broke the protocol";
    /// The endpoint broke the protocol.
    UpstreamProtocol = "UPE", "the endpoint broke the protocol";
    /// The route names a backend that does not exist.
    NoCluster = "NC", "the backend that the route names does not exist";
    /// The agent has too much in flight.
    Shed = "OM", "refused because the agent has too much in flight";
    /// TLS with the endpoint failed.
    Tls = "TLS", "TLS with the endpoint failed";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn words_are_unique_and_short() {
        let words: BTreeSet<&str> = Flag::ALL.iter().map(|flag| flag.word()).collect();
        assert_eq!(words.len(), Flag::ALL.len());
        assert!(words.iter().all(|word| (2..=4).contains(&word.len())));
        assert!(Flag::ALL.iter().all(|flag| !flag.meaning().is_empty()));
    }
}
