//! The data path: connections of workloads that need more than the kernel can decide.
//!
//! Requests and responses of every version of HTTP meet in the terms of [`exchange`]: a body that is pulled, a responder and an
//! upstream that are pushed to.
#![forbid(unsafe_code)]

pub mod detect;
pub mod exchange;
pub mod h1;
pub mod h2;
pub mod life;
pub mod pool;
pub use crate::telemetry::http::record;
pub mod socket;
pub mod stream;
pub mod tcp;
#[cfg(test)]
mod tests;
pub mod timer;
pub mod tls;
pub mod worker;
