//! What is measured.

use super::proxy::Entry;

/// How a client uses its connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// HTTP/1.1, one request after another on each connection.
    KeepAlive,
    /// HTTP/1.1, a new connection for each request.
    Fresh,
    /// The same, by a service's address, from which a rule leads to the peers as to the sidecars of a mesh.
    Led,
    /// HTTP/2, so many streams open on each connection all the time.
    Streams(usize),
    /// The same with gRPC's unary calls.
    Grpc(usize),
}

/// A case.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    /// Fixed name, as in the JSON file.
    pub(crate) name: &'static str,
    /// Name for people.
    pub(crate) title: &'static str,
    pub(crate) entry: Entry,
    pub(crate) kind: Kind,
    pub(crate) connections: usize,
    /// Bytes of a response's body.
    pub(crate) body: usize,
    /// Whether a quick run has it.
    pub(crate) quick: bool,
}

/// The path of a request to one of a thousand routes: in the middle of them, as the average of all is.
const ROUTED: &str = "/route-500/1kb";

impl Case {
    /// Returns the path that is asked for; the backend answers with [`Case::body`] bytes there.
    pub(crate) fn path(&self) -> &'static str {
        match (self.entry, self.kind, self.body) {
            (Entry::Routes, ..) => ROUTED,
            (_, Kind::Grpc(_), _) => "/bench.Echo/Unary",
            (_, _, 0) => "/0b",
            (_, _, SMALL) => "/1kb",
            (..) => "/64kb",
        }
    }

    /// Returns how many requests are on their way at a time.
    pub(crate) fn concurrency(&self) -> usize {
        match self.kind {
            Kind::KeepAlive | Kind::Fresh | Kind::Led => self.connections,
            Kind::Streams(streams) | Kind::Grpc(streams) => self.connections * streams,
        }
    }
}

/// Bytes of the smaller body.
pub(crate) const SMALL: usize = 1_000;
/// Bytes of the larger body.
pub(crate) const LARGE: usize = 64_000;
/// Bytes of a gRPC message, its five bytes of framing included, in both directions.
pub(crate) const MESSAGE: usize = 105;

const fn keep_alive(
    name: &'static str,
    title: &'static str,
    connections: usize,
    body: usize,
    quick: bool,
) -> Case {
    Case {
        name,
        title,
        entry: Entry::Plain,
        kind: Kind::KeepAlive,
        connections,
        body,
        quick,
    }
}

const fn streams(name: &'static str, title: &'static str, kind: Kind, connections: usize) -> Case {
    let body = match kind {
        Kind::Grpc(_) => MESSAGE,
        Kind::Streams(_) | Kind::KeepAlive | Kind::Fresh | Kind::Led => SMALL,
    };
    Case {
        name,
        title,
        entry: Entry::Streams,
        kind,
        connections,
        body,
        quick: connections > 1,
    }
}

const fn special(name: &'static str, title: &'static str, entry: Entry, kind: Kind) -> Case {
    Case {
        name,
        title,
        entry,
        kind,
        connections: 64,
        body: SMALL,
        quick: true,
    }
}

/// Every case, in groups: the agent is started and removed once for each group, so that what is compared lies close
/// together in time.
pub(crate) const GROUPS: [&[Case]; 4] = [
    &[
        keep_alive("h1_16_0b", "16 connections, no body", 16, 0, false),
        keep_alive("h1_64_0b", "64 connections, no body", 64, 0, true),
        keep_alive("h1_256_0b", "256 connections, no body", 256, 0, false),
        keep_alive("h1_16_1kb", "16 connections, 1 kB", 16, SMALL, false),
        keep_alive("h1_64_1kb", "64 connections, 1 kB", 64, SMALL, false),
        keep_alive("h1_256_1kb", "256 connections, 1 kB", 256, SMALL, false),
    ],
    &[
        keep_alive("h1_16_64kb", "16 connections, 64 kB", 16, LARGE, true),
        keep_alive("h1_64_64kb", "64 connections, 64 kB", 64, LARGE, false),
        keep_alive("h1_256_64kb", "256 connections, 64 kB", 256, LARGE, false),
    ],
    &[
        streams(
            "h2_1",
            "HTTP/2, 1 connection of 32 streams, 1 kB",
            Kind::Streams(32),
            1,
        ),
        streams(
            "h2_16",
            "HTTP/2, 16 connections of 4 streams, 1 kB",
            Kind::Streams(4),
            16,
        ),
        streams(
            "grpc_1",
            "gRPC, 1 connection of 32 calls, 100 B",
            Kind::Grpc(32),
            1,
        ),
        streams(
            "grpc_16",
            "gRPC, 16 connections of 4 calls, 100 B",
            Kind::Grpc(4),
            16,
        ),
    ],
    &[
        special(
            "h1_fresh",
            "new connection for each request, 1 kB",
            Entry::Plain,
            Kind::Fresh,
        ),
        special(
            "h1_led",
            "the same, peers dialled as sidecars of a mesh",
            Entry::Plain,
            Kind::Led,
        ),
        special(
            "h1_routes",
            "64 connections, 1,000 routes, 1 kB",
            Entry::Routes,
            Kind::KeepAlive,
        ),
        special(
            "h1_tls",
            "64 connections, TLS to the backend, 1 kB",
            Entry::Tls,
            Kind::KeepAlive,
        ),
    ],
];
