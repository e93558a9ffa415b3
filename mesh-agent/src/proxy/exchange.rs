//! The way of one request: from a client, by route and endpoint, to an upstream, and back.

mod affinity;
mod attempt;
mod decide;
mod ends;
mod fate;
mod governor;
mod link;
mod messages;
mod mirror;
mod replay;
mod retry;
mod room;
mod rounds;
mod run;

pub use ends::{
    BodyError, BodySize, Gone, Incoming, Outgoing, Piece, RequestSink, Responder, ResponseSource,
    Service, UpstreamError,
};
pub use governor::Governor;
pub use room::{Config, Destination, Limits, Room, Speaks, Wrapped};
pub use run::{Exchange, Scratch};
