//! Programs in Go, built as tests need them.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds `tests/peers/SOURCE` into the directory `into`, and returns the program: one that needs no C library, as containers
/// have it. What Go compiles of its own library is kept for the next build.
pub(crate) fn build(source: &str, into: &Path) -> PathBuf {
    let program = into.join(source.trim_end_matches(".go"));
    let mut build = Command::new("go");
    build.args(["build", "-o"]).arg(&program);
    build.arg(
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("peers")
            .join(source),
    );
    build
        .env("GO111MODULE", "off")
        .env("GOFLAGS", "")
        .env("CGO_ENABLED", "0")
        .env("GOCACHE", concat!(env!("CARGO_TARGET_TMPDIR"), "/go"));
    let status = build.status().unwrap();
    assert!(status.success(), "failed to build `{source}`: {status}");
    program
}
