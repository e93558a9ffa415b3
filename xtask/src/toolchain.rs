//! Which compiler builds the kernel object: the one place that decides.
//!
//! `mesh-agent/build.rs` includes this file by path, so it uses nothing but the standard library. What installs a toolchain
//! is `setup`, not this.

use std::fmt;
use std::path::Path;
use std::process::{Command, Stdio};

/// The LLVM that `bpf-linker` is built for. It reads what the compiler wrote, so the compiler's LLVM may not be newer.
pub(crate) const LLVM_MAJOR: u32 = 22;

/// The name under which `setup` links Debian's compiler for rustup.
pub(crate) const DEBIAN_TOOLCHAIN: &str = "bpf";

/// A compiler that can build for `bpfel-unknown-none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Toolchain {
    /// rustup's nightly, which builds `core` from the component `rust-src`.
    Nightly,
    /// Debian's `rustc-web`, which has `core` for the BPF target prebuilt (`libstd-rust-web-dev-bpf`).
    Debian,
}

impl Toolchain {
    /// Returns the toolchain to use, or `None` where neither is complete.
    ///
    /// Nightly comes first because it is there on any distribution.
    pub(crate) fn choose() -> Option<Self> {
        [Self::Nightly, Self::Debian]
            .into_iter()
            .find(|toolchain| toolchain.is_complete())
    }

    /// The name by which rustup knows it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nightly => "nightly",
            Self::Debian => DEBIAN_TOOLCHAIN,
        }
    }

    /// Returns whether it is installed, has `core` for the BPF target, and has an LLVM that `bpf-linker` can read.
    fn is_complete(self) -> bool {
        let Some(sysroot) = self.rustc(&["--print", "sysroot"]) else {
            return false;
        };
        let core = match self {
            Self::Nightly => "lib/rustlib/src/rust/library/core",
            Self::Debian => "lib/rustlib/bpfel-unknown-none/lib",
        };
        Path::new(sysroot.trim()).join(core).is_dir()
            && self
                .rustc(&["-vV"])
                .and_then(|version| llvm_major(&version))
                .is_some_and(|llvm| llvm <= LLVM_MAJOR)
    }

    /// Runs its `rustc` and returns what it printed, or `None` where that does not work.
    fn rustc(self, args: &[&str]) -> Option<String> {
        let output = Command::new("rustup")
            .args(["run", self.name(), "rustc"])
            .args(args)
            .stderr(Stdio::null())
            .output()
            .ok()?;
        let stdout = String::from_utf8(output.stdout).ok()?;
        output.status.success().then_some(stdout)
    }
}

impl fmt::Display for Toolchain {
    /// The toolchain and its compiler's version.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = self.rustc(&["--version"]).unwrap_or_default();
        write!(f, "toolchain `{}`, {}", self.name(), version.trim())
    }
}

/// Reads `LLVM version: 22.1.8` from what `rustc -vV` prints.
fn llvm_major(version: &str) -> Option<u32> {
    let llvm = version
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version: "))?;
    llvm.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::llvm_major;

    #[test]
    fn llvm_is_read_from_rustc() {
        let version = "rustc 1.96.0\nhost: x86_64-unknown-linux-gnu\nLLVM version: 22.1.8\n";
        assert_eq!(llvm_major(version), Some(22));
        assert_eq!(llvm_major("rustc 1.96.0\n"), None);
    }
}
