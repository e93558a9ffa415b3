//! The data path for connections that need more than the kernel can decide.
//!
//! A connection comes from a workload to a listener in that workload's own network namespace (`listener`), with word of what was
//! dialled (`handover`), and goes on from a socket in the same namespace (`socket`): to networks and policies it is the workload's.
//! What is needed of the kernel are traits, which `agent` wires.

#![forbid(unsafe_code)]

pub mod handover;
pub mod listener;
pub mod socket;
