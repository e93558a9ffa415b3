//! The agent as its operator has it: started, killed, stopped, removed, asked, reconfigured. They need root.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    reason = "tests, and what they share, fail by panicking"
)]

mod adopt;
mod all_nodes;
mod chaos;
mod cli;
mod container;
mod counters;
mod enrolment;
mod image;
mod kernel_log;
mod kubernetes;
mod lacking;
mod metrics;
mod pins;
mod privileges;
mod registry;
mod reload;
mod removal;
mod rounds;
mod scale;
mod services;
mod told;
#[path = "../e2e/world.rs"]
#[allow(
    dead_code,
    reason = "shared with the tests of the data path, which use more of it"
)]
mod world;
