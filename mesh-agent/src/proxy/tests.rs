//! The data path between real sockets on loopback: what clients send, what upstreams receive, byte for byte.

mod admission;
mod anyone;
mod bodies;
mod breakers;
mod corpus;
mod deadlines;
mod deaf;
mod departures;
mod grpc;
mod judged;
mod leftovers;
mod lifecycle;
mod limited;
mod mirrors;
mod notes;
mod opening;
mod passed;
mod policies;
mod pooled;
mod relays;
mod replayed;
mod resilience;
mod routes;
mod scene;
mod streams;
mod times;
mod upgrades;
mod versions;

pub(super) use anyone::Anyone;
pub(super) use notes::{Notes, Seen};
pub(super) use scene::{Plain, Scene, destination, port, rule, tables};
