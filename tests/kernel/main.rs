//! The kernel programs by themselves: each is loaded and driven by real sockets, and what it left in its maps is checked.
//! They need root.
#![allow(
    clippy::unwrap_used,
    reason = "tests, and what they share, fail by panicking"
)]

mod accounts;
mod admissions;
mod capture;
mod cells;
mod eagain;
mod established;
mod ground;
mod load;
mod options;
mod owners;
mod reuse;
mod short;
mod stall;
mod sys;
