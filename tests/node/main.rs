//! The mesh in a cluster of one node with a real container runtime: installed as `deploy/kubernetes` says, tested, and removed. They need root,
//! and kubectl.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    reason = "tests, and what they share, fail by panicking"
)]

mod container;
mod definitions;
mod readme;
mod suite;

use std::path::{Path, PathBuf};
use std::process::Command;

use harness::KubeNode;
use serde_json::Value;

/// Images as they are named in archives and manifests; the tag is the version.
const AGENT: &str = concat!("underpass.dev/node-agent:", env!("CARGO_PKG_VERSION"));
const PEER: &str = concat!("underpass.dev/test-peer:", env!("CARGO_PKG_VERSION"));

/// The oldest kubectl that executes over WebSockets, as the server here does: 1.30.
const MINOR: u64 = 30;

/// Starts a cluster. `None`, loudly, without root, or without a kubectl that Debian 12 does not have.
fn cluster() -> Option<KubeNode> {
    if !harness::require_root() {
        return None;
    }
    let version = Command::new("kubectl")
        .args(["version", "--client", "-o", "json"])
        .output();
    let version = version.ok().map(|it| it.stdout).unwrap_or_default();
    let version: Value = serde_json::from_slice(&version).unwrap_or_default();
    let minor = version["clientVersion"]["minor"].as_str();
    let minor = minor.and_then(|it| it.trim_end_matches('+').parse().ok());
    if minor.is_none_or(|minor: u64| minor < MINOR) {
        eprintln!("\n!!! SKIPPED: this needs kubectl 1.{MINOR} or newer !!!\n");
        return None;
    }
    Some(KubeNode::start((PEER, &archive("test-peer-dev"))).unwrap())
}

/// Returns a file of cargo's target folder.
fn built(name: &str) -> PathBuf {
    let agent = harness::agent::program().unwrap();
    let folder = agent.parent().and_then(Path::parent).unwrap();
    folder.join(name)
}

fn archive(name: &str) -> PathBuf {
    let path = built("image").join(format!("{name}.tar"));
    assert!(
        path.is_file(),
        "{}: `cargo xtask image --profile dev`, and the same with `--test-peer`, make it",
        path.display()
    );
    path
}
