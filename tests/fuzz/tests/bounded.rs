//! Every target for a moment: first all that its corpus keeps, then neighbours of that.
//!
//! `FUZZ_SECONDS` says how long; an input that fails is printed, and belongs into the corpus with its fix.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod common;

use common::bounded;
use fuzz::corpus;

#[test]
fn detect() {
    bounded("detect");
}

#[test]
fn manifests() {
    bounded("manifests");
}

#[test]
fn path() {
    bounded("path");
}

#[test]
fn request() {
    bounded("request");
}

#[test]
fn response() {
    bounded("response");
}

#[test]
fn routes() {
    bounded("routes");
}

#[test]
fn session() {
    bounded("session");
}

#[test]
fn no_target_is_left_out() {
    // One is run by itself, for its memory.
    let tests = [include_str!("bounded.rs"), include_str!("frames.rs")].concat();
    for target in fuzz::TARGETS {
        let call = format!("bounded(\"{}\");", target.name);
        assert!(tests.contains(&call), "`{}` is never run", target.name);
        assert!(corpus(&target).is_dir(), "`{}` has no corpus", target.name);
    }
}
