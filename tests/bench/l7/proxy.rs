//! What is compared, and where each is dialled.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};

use super::backend;

/// A way from the client to the backend.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Proxy {
    /// The agent: the client dials a service's address and knows of no proxy.
    Underpass,
    Nginx,
    Haproxy,
    Envoy,
    Pingora,
    /// No proxy: the client dials the backend. What client and backend can do at best.
    Direct,
}

impl Proxy {
    pub(crate) const ALL: [Self; 6] = [
        Self::Underpass,
        Self::Nginx,
        Self::Haproxy,
        Self::Envoy,
        Self::Pingora,
        Self::Direct,
    ];

    /// Those that the agent is compared with.
    pub(crate) const PEERS: [Self; 4] = [Self::Nginx, Self::Haproxy, Self::Envoy, Self::Pingora];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Underpass => "underpass",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Envoy => "envoy",
            Self::Pingora => "pingora",
            Self::Direct => "direct",
        }
    }

    /// Returns where the client dials this way in, or `None` where there is no such way.
    pub(crate) fn address(self, entry: Entry, backend: Ipv4Addr) -> Option<SocketAddr> {
        let peer = |first: u16| Some((Ipv4Addr::LOCALHOST, first + entry.number()).into());
        match self {
            Self::Underpass => {
                let [_, number] = entry.number().to_be_bytes();
                Some((Ipv4Addr::new(172, 30, 0, 1 + number), SERVICE_PORT).into())
            }
            Self::Nginx => peer(9100),
            Self::Haproxy => peer(9200),
            Self::Envoy => peer(9300),
            Self::Pingora => peer(9400),
            // The client itself speaks no TLS.
            Self::Direct => {
                (entry != Entry::Tls).then(|| SocketAddr::from((backend, entry.backend_port())))
            }
        }
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The port of every service.
pub(crate) const SERVICE_PORT: u16 = 80;

/// Bound of circuit breakers: more than any case has on its way. The default of 1,024, Envoy's and the agent's, would count as
/// overload.
pub(crate) const PLENTY: u32 = 100_000;

/// Routes behind [`Entry::Routes`], by prefixes `/route-0/` and so on.
pub(crate) const ROUTES: usize = 1_000;

/// A way into a proxy: a listener of a peer, a service of the mesh.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Entry {
    /// HTTP/1.1 on both sides.
    Plain,
    /// HTTP/1.1, and TLS to the backend.
    Tls,
    /// HTTP/1.1, by one of [`ROUTES`] to the backend.
    Routes,
    /// HTTP/2 with prior knowledge on both sides.
    Streams,
}

impl Entry {
    pub(crate) const ALL: [Self; 4] = [Self::Plain, Self::Tls, Self::Routes, Self::Streams];

    fn number(self) -> u16 {
        match self {
            Self::Plain => 0,
            Self::Tls => 1,
            Self::Routes => 2,
            Self::Streams => 3,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Tls => "tls",
            Self::Routes => "routes",
            Self::Streams => "streams",
        }
    }

    /// Returns the port of the backend that it leads to.
    pub(crate) fn backend_port(self) -> u16 {
        match self {
            Self::Plain | Self::Routes => backend::PLAIN,
            Self::Tls => backend::TLS,
            Self::Streams => backend::STREAMS,
        }
    }
}
