//! Bytes from anywhere against what the agent reads: each target takes any bytes, and panics where the agent does not keep a
//! promise.
//!
//! `tests/bounded.rs` runs all of them for a moment on whatever compiler there is, from the corpus and by blind mutation; the
//! program of this crate runs one for as long as you like, led by coverage (`cargo xtask fuzz`).
#![forbid(unsafe_code)]

mod draw;
pub mod mutate;
mod reference;
mod scripted;
mod stage;
pub mod targets;
mod wire;

use std::path::PathBuf;

/// Something to run on any bytes.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, and that of its directory in the corpus.
    pub name: &'static str,
    /// Panics where the agent does not keep a promise.
    pub run: fn(&[u8]),
    /// What its input is made of.
    pub words: &'static [&'static str],
    /// Bytes of an input, at most: beyond, more of them find nothing new.
    pub longest: usize,
}

/// All targets.
pub const TARGETS: [Target; 8] = [
    targets::detect::TARGET,
    targets::frames::TARGET,
    targets::manifests::TARGET,
    targets::path::TARGET,
    targets::request::TARGET,
    targets::response::TARGET,
    targets::routes::TARGET,
    targets::session::TARGET,
];

/// Returns a target.
pub fn target(name: &str) -> Option<Target> {
    TARGETS.into_iter().find(|target| target.name == name)
}

/// Returns where the inputs of a target are kept: each a file that once was of interest.
pub fn corpus(target: &Target) -> PathBuf {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    root.join("corpus").join(target.name)
}
