//! The kernel side: loading and attaching programs, keeping maps in line with the snapshot, reading what was counted.
//!
//! The only module that imports aya.

mod admission;
mod attach;
mod loader;
mod maps;
pub mod mounts;
mod offsets;
mod plan;
mod probe;
mod stall;
mod sys;
