//! `cargo xtask fuzz`: one target, led by coverage, for as long as you like.
//!
//! libFuzzer asks the compiler for nothing but counters at branches, which stable has; so there is no nightly here, and no
//! `cargo-fuzz`. What it does ask for is a C++ compiler.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::process::{cargo, first_line, root, run, shown, target_dir};

/// Counters at branches, their places, and the operands of comparisons, in all code that is compiled.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1";

/// Builds the program of `mesh-fuzz`, and turns this process into it. `args` go to libFuzzer; without any it runs until it finds
/// something or a signal comes. New inputs are kept in the target folder; what is worth it is for you to put into the corpus.
///
/// # Errors
///
/// When there is no such target, the build fails or the program cannot be started.
pub(crate) fn fuzz(target: &str, args: &[String]) -> anyhow::Result<()> {
    let corpus = root().join("tests/fuzz/corpus").join(target);
    if !corpus.is_dir() {
        bail!("there is no target `{target}`: they are the folders of `tests/fuzz/corpus`");
    }
    // With a target's name the flags are not for build scripts, which have no counters to be linked with.
    let machine = first_line("rustc", &["--print", "host-tuple"]);
    let machine = machine.context("failed to ask rustc for the machine")?;
    let place = target_dir()?.join("fuzz");
    run(cargo("build")
        .args(["--profile", "fuzz", "-p", "mesh-fuzz", "--bin", "fuzz"])
        .args(["--features", "libfuzzer", "--target", &machine])
        .arg("--target-dir")
        .arg(&place)
        .env("RUSTFLAGS", COVERAGE))?;
    let found = place.join("found").join(target);
    fs::create_dir_all(&found).with_context(|| format!("failed to make `{}`", found.display()))?;
    let program = place.join(&machine).join("fuzz").join("fuzz");
    let mut command = Command::new(program);
    command.env("FUZZ_TARGET", target).current_dir(root());
    command.arg(&found).arg(&corpus);
    command.arg(format!("-artifact_prefix={}/failed-", found.display()));
    command.args(["-timeout=20", "-max_len=16384"]).args(args);
    Err(command.exec()).with_context(|| format!("failed to start `{}`", shown(&command)))
}
