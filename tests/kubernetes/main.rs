//! The agent's source `kubernetes` and the controller on the test API server. No root, no kernel: what comes out is a configuration,
//! and what is written to the server.
#![expect(
    clippy::unwrap_used,
    reason = "what fails here fails the test, in helpers too"
)]

mod breakdowns;
mod chaos;
mod deployment;
mod controller;
mod election;
mod kinds;
mod registered;
mod references;
mod refusals;
mod restart;
mod scale;
mod told;
mod transcripts;
mod world;
mod writes;
