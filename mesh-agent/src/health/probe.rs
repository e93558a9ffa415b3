//! One check: what is asked, and which answer is good.
#![forbid(unsafe_code)]

use std::io;
use std::net::SocketAddr;

use tokio::time::timeout;

use crate::chain::chain;
use crate::health::{dial, grpc, http};
use crate::locate::inside::Place;
use crate::model::service::{HealthCheck, Probe};

/// A check that failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// No connection.
    #[error("no connection")]
    Connect(#[source] io::Error),
    /// The connection broke, or what came was not the protocol.
    #[error("no valid answer")]
    Protocol(#[from] hyper::Error),
    /// The request cannot be made from what is configured.
    #[error("the check cannot be asked")]
    Request(#[from] hyper::http::Error),
    /// An HTTP status that is not good.
    #[error("answered with HTTP status {0}")]
    Status(u16),
    /// A gRPC status other than OK.
    #[error("answered with gRPC status {0}")]
    Grpc(String),
    /// The service says that it does not serve.
    #[error("answered {0}")]
    NotServing(&'static str),
    /// The answer is no message of the health protocol.
    #[error("answered with a message that is not of grpc.health.v1")]
    Message,
}

/// Asks once, over a connection of its own. The error is for people.
pub(super) async fn probe(
    place: Option<&Place>,
    address: SocketAddr,
    check: &HealthCheck,
) -> Result<(), String> {
    match timeout(check.timeout, ask(place, address, &check.probe)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(failure)) => Err(chain(&failure)),
        Err(_) => Err(format!("no answer within {:?}", check.timeout)),
    }
}

async fn ask(place: Option<&Place>, address: SocketAddr, probe: &Probe) -> Result<(), Failure> {
    let stream = dial::dial(place, address).await.map_err(Failure::Connect)?;
    match probe {
        Probe::Tcp => Ok(()),
        Probe::Http { path } => http::get(stream, address, path).await,
        Probe::Grpc { service } => grpc::check(stream, address, service).await,
    }
}
