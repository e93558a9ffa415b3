//! Plain data that the rooms of the agent hand to each other. No I/O, no logic beyond constructors.

pub mod observed;
pub mod snapshot;
pub mod workload;
