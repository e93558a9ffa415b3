//! The node agent of Underpass, as a library: `node-agent` is a thin binary over it.
//!
//! Data goes one way through the modules: `source` and `config` turn manifests into a `model::snapshot::Snapshot`, `kernel`
//! brings the maps in line with it, the programs in the kernel count, `telemetry` and `admin` show what they counted, and
//! `ctl` prints that for a person.

pub mod config;
pub mod locate;
pub mod model;
pub mod source;
