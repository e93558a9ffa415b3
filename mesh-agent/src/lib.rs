//! The node agent of Underpass, as a library: `node-agent` is a thin binary over it.
//!
//! Data goes one way through the modules: `source` and `config` turn manifests into a `model::snapshot::Snapshot`, `kernel`
//! brings the maps in line with it, the programs in the kernel count, `telemetry` and `admin` show what they counted, and
//! `ctl` prints that for a person.

pub mod admin;
pub mod agent;
pub mod balance;
pub mod chain;
pub mod chance;
pub mod cli;
pub mod config;
pub mod controller;
pub mod ctl;
pub mod dns;
pub mod health;
pub mod heap;
pub mod kernel;
pub mod l7;
pub mod level;
pub mod locate;
pub mod log;
pub mod model;
pub mod policy;
pub mod proxy;
pub mod settings;
pub mod source;
pub mod telemetry;
