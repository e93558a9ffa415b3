//! Programs that cargo and rustup install, on any system.

use std::process::Command;

use anyhow::Context as _;

use super::{doing, ok};
use crate::image;
use crate::process::{first_line, run};
use crate::toolchain::LLVM_MAJOR;

/// Links the kernel object.
pub(super) const LINKER_VERSION: &str = "0.13.0";

/// Checks licences, sources and duplicates of dependencies.
const DENY_VERSION: &str = "0.20.2";

/// Returns whether `program` is there in `version`.
pub(super) fn is_installed(program: &str, version: &str) -> bool {
    first_line(program, &["--version"]).is_some_and(|line| line.ends_with(&format!(" {version}")))
}

/// The arguments for `cargo` that install the linker.
pub(super) fn linker_args() -> Vec<String> {
    let llvm = format!("llvm-{LLVM_MAJOR}");
    let args = [
        "install",
        "bpf-linker",
        "--version",
        LINKER_VERSION,
        "--locked",
    ];
    let features = ["--no-default-features", "--features", &llvm];
    args.into_iter()
        .chain(features)
        .map(str::to_owned)
        .collect()
}

/// The variables by which the linker's build is told where LLVM is: its own, and that of `llvm-sys`.
pub(super) fn llvm_prefix_variables() -> [String; 2] {
    [
        "LLVM_PREFIX".to_owned(),
        format!("LLVM_SYS_{LLVM_MAJOR}1_PREFIX"),
    ]
}

/// Installs `bpf-linker` against Debian's LLVM.
///
/// # Errors
///
/// When its build fails.
pub(super) fn install_linker() -> anyhow::Result<()> {
    let name = format!("bpf-linker {LINKER_VERSION}");
    if is_installed("bpf-linker", LINKER_VERSION) {
        ok(&name);
        return Ok(());
    }
    doing(&format!("{name}, about a minute"));
    let config = format!("llvm-config-{LLVM_MAJOR}");
    let prefix = first_line(&config, &["--prefix"])
        .with_context(|| format!("failed to ask `{config}` where LLVM is"))?;
    let mut cargo = Command::new("cargo");
    cargo.args(linker_args()).args(["--quiet", "--force"]);
    run(cargo.envs(llvm_prefix_variables().map(|name| (name, &prefix))))
}

/// Installs `cargo-deny`.
///
/// # Errors
///
/// When its build fails.
pub(super) fn install_deny() -> anyhow::Result<()> {
    let name = format!("cargo-deny {DENY_VERSION}");
    if is_installed("cargo-deny", DENY_VERSION) {
        ok(&name);
        return Ok(());
    }
    doing(&format!("{name}, a few minutes"));
    let args = ["install", "cargo-deny", "--version", DENY_VERSION];
    run(Command::new("cargo")
        .args(args)
        .args(["--locked", "--quiet", "--force"]))
}

/// Adds the target that images are built for.
///
/// # Errors
///
/// When rustup fails.
pub(super) fn install_target() -> anyhow::Result<()> {
    let target = image::target();
    let mut list = Command::new("rustup");
    let list = list.args(["target", "list", "--installed"]).output();
    let list = list.context("failed to start `rustup`")?;
    if String::from_utf8_lossy(&list.stdout)
        .lines()
        .any(|it| it == target)
    {
        ok(&format!("target {target}"));
        return Ok(());
    }
    doing(&format!("target {target}"));
    run(Command::new("rustup").args(["target", "add", &target]))
}

/// Adds rustfmt and clippy where rustup was installed without them.
///
/// # Errors
///
/// When rustup fails.
pub(super) fn install_components() -> anyhow::Result<()> {
    let versions = ["fmt", "clippy"].map(|tool| first_line("cargo", &[tool, "--version"]));
    if let [Some(fmt), Some(clippy)] = versions {
        ok(&format!("{fmt}; {clippy}"));
        return Ok(());
    }
    doing("rustfmt and clippy");
    run(Command::new("rustup").args(["component", "add", "rustfmt", "clippy"]))
}
