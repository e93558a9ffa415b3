//! Manifests to a valid configuration: what is read (`Pod`, `Namespace`, `Node`, `Service`, `EndpointSlice`,
//! `NetworkPolicy`, `AuthorizationPolicy`, the kinds in `gateway`), what is wrong with it, and what of it counts.
//!
//! [`check::check`] reads a directory once, for `node-agent check`; `source::manifests` reads it again and again.

#![forbid(unsafe_code)]

pub mod address;
pub(crate) mod authorization_policy;
pub(crate) mod balance;
pub mod check;
pub(crate) mod content;
#[cfg(test)]
mod definitions;
pub(crate) mod dir;
pub(crate) mod duration;
pub(crate) mod endpoint_slice;
pub(crate) mod gateway;
pub(crate) mod key;
pub(crate) mod known;
pub mod limits;
pub(crate) mod machine;
pub(crate) mod mark;
pub(crate) mod metadata;
pub(crate) mod name;
pub(crate) mod namespace;
pub(crate) mod network_policy;
pub(crate) mod node;
pub(crate) mod object;
pub(crate) mod pod;
pub(crate) mod policy_port;
pub mod problem;
pub(crate) mod reader;
pub(crate) mod resolve;
pub(crate) mod selector;
pub(crate) mod service;
pub(crate) mod yaml;
