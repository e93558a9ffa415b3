//! The kernel programs by themselves: each is loaded and driven by real sockets, and what it left in its maps is checked.
//! They need root.
#![allow(
    clippy::unwrap_used,
    reason = "tests, and what they share, fail by panicking"
)]

mod accounts;
mod admissions;
mod beside;
mod capture;
mod cells;
mod drain;
mod eagain;
mod edge;
mod established;
mod forged;
mod ground;
mod listeners;
mod load;
mod names;
mod opens;
mod options;
mod owners;
mod policy;
mod proxied;
mod reuse;
mod services;
mod services_sync;
mod shares;
mod short;
mod stall;
mod sys;
mod tables;
