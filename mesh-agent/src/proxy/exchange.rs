//! The way of one request: from a client, by route and endpoint, to an upstream, and back.

mod ends;

pub use ends::{
    BodyError, BodySize, Gone, Incoming, Outgoing, Piece, RequestSink, Responder, ResponseSource,
    Service, UpstreamError,
};
