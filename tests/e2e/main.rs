//! Tests with real agents, real programs and real bytes. They need root.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    reason = "tests, and what they share, fail by panicking"
)]

mod accounts;
mod behaviours;
mod bulk;
mod bytes;
mod clients;
mod conformance;
mod differences;
mod dns;
mod drain;
mod filters;
mod go;
mod ground;
mod handed;
mod keys;
mod l7;
mod life;
mod memory;
mod policy;
mod programs;
mod registered;
mod requests;
mod schedules;
mod sequences;
mod services;
mod wall;
mod world;
