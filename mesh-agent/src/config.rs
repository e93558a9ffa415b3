//! Manifests to a valid configuration: what is read (Kubernetes `Pod` and `Namespace`), what is wrong with it, and what of
//! it counts.
//!
//! [`check::check`] reads a directory once, for `node-agent check`; `source::manifests` reads it again and again.

#![forbid(unsafe_code)]

pub mod address;
pub mod check;
pub(crate) mod content;
pub(crate) mod dir;
pub(crate) mod key;
mod known;
pub mod limits;
pub(crate) mod mark;
pub(crate) mod metadata;
pub(crate) mod name;
pub(crate) mod namespace;
pub(crate) mod node;
pub(crate) mod object;
pub(crate) mod pod;
pub mod problem;
pub(crate) mod reader;
pub(crate) mod resolve;
pub(crate) mod yaml;
