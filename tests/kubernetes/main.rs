//! The agent's source `kubernetes` on the test API server. No root, no kernel: what comes out is a configuration.
#![expect(
    clippy::unwrap_used,
    reason = "what fails here fails the test, in helpers too"
)]

mod breakdowns;
mod chaos;
mod deployment;
mod kinds;
mod references;
mod refusals;
mod restart;
mod scale;
mod transcripts;
mod world;
