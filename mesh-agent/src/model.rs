//! Plain data that the rooms of the agent hand to each other. No I/O, no logic beyond constructors.

pub mod api;
pub mod balanced;
pub mod endpoint;
pub mod enrolment;
pub mod labels;
pub mod observed;
pub mod policy;
pub mod route;
pub mod service;
pub mod snapshot;
pub mod status;
pub mod traffic;
pub mod workload;
