//! The agent's source `kubernetes` and the controller on the test API server. No root, no kernel: what comes out is a configuration,
//! and what is written to the server.
#![expect(
    clippy::unwrap_used,
    reason = "what fails here fails the test, in helpers too"
)]

mod breakdowns;
mod chaos;
mod controller;
mod deployment;
mod election;
mod kinds;
mod references;
mod refusals;
mod registered;
mod restart;
mod scale;
mod told;
mod transcripts;
mod world;
mod writes;
