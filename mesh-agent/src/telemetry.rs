//! What the node counted, made readable: flow records with names, and metrics.
//!
//! Nothing here counts traffic: the kernel does, and every number is read from it when somebody asks.

#![forbid(unsafe_code)]

pub mod applied;
pub mod clock;
pub mod data_path;
pub mod dns;
pub mod filter;
pub mod flow;
pub mod http;
pub mod hub;
pub mod metrics;

#[cfg(test)]
pub(crate) mod fake;
