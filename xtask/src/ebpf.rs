//! The kernel object, apart from the agent that embeds it.
//!
//! `mesh-agent/build.rs` builds it for the agent, by aya-build. This builds the same for people who look at it, and lets
//! clippy see it.

use std::ffi::OsStr;
use std::fs;
use std::process::Command;

use anyhow::Context as _;

use crate::process::{root, run, target_dir};
use crate::toolchain::Toolchain;

/// The kernel object's target; all machines that we support are little-endian.
const TARGET: &str = "bpfel-unknown-none";

/// Builds the object and says where it is and how large.
///
/// # Errors
///
/// When the build fails.
pub(crate) fn build() -> anyhow::Result<()> {
    run(cargo("build", &[])?.args(["--package", "mesh-ebpf"]))?;
    let object = target_dir()?
        .join("ebpf")
        .join(TARGET)
        .join("release/mesh-ebpf");
    let size = fs::metadata(&object)
        .with_context(|| format!("no object at `{}`", object.display()))?
        .len();
    println!("{} ({size} bytes)", object.display());
    Ok(())
}

/// Runs clippy over it, for the kernel's target; any warning is an error.
///
/// # Errors
///
/// When clippy finds something.
pub(crate) fn clippy() -> anyhow::Result<()> {
    run(cargo("clippy", &["--package", "mesh-ebpf"])?.args(["--", "-D", "warnings"]))
}

/// `cargo` of the toolchain for the kernel object, with the flags that aya-build gives.
fn cargo(command: &str, args: &[&str]) -> anyhow::Result<Command> {
    let toolchain = Toolchain::choose().context("no compiler builds the kernel object")?;
    let mut cargo = Command::new("rustup");
    cargo
        .args(["run", toolchain.name(), "cargo", command])
        .args(["--release", "--bins", "--target", TARGET, "--target-dir"])
        .arg(target_dir()?.join("ebpf"))
        .args(args)
        .env_remove("CARGO_TERM_QUIET")
        .current_dir(root());
    if toolchain == Toolchain::Nightly {
        cargo.args(["-Z", "build-std=core"]);
    }
    let arch = format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH);
    let flags = [arch.as_str(), "-Cdebuginfo=2", "-Clink-arg=--btf"].join("\x1f");
    cargo.env("CARGO_ENCODED_RUSTFLAGS", OsStr::new(&flags));
    Ok(cargo)
}
