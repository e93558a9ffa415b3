//! Where the configuration comes from. Each source yields one valid [`Snapshot`](crate::model::snapshot::Snapshot) after
//! the other.

#![forbid(unsafe_code)]

pub mod manifests;
pub mod registered;
