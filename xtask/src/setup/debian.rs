//! Debian 12: packages, and Debian's compiler under a name that rustup knows.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context as _, bail};

use super::programs::{DEBIAN_CLIPPY, DEBIAN_COMPILER, needed};
use super::{Need, doing, ok};
use crate::process::{find, is_root, run};
use crate::toolchain::{DEBIAN_TOOLCHAIN, Toolchain};

/// Installs its arguments without starting any service; see the file.
const INSTALL: &str = include_str!("install.sh");

/// Returns whether `/etc/os-release` names the Debian that `install_packages` knows.
pub(super) fn is_supported(os_release: &str) -> bool {
    let has = |line| os_release.lines().any(|l| l.replace('"', "") == line);
    has("ID=debian") && has("VERSION_ID=12")
}

/// Installs the packages that are missing.
///
/// # Errors
///
/// When apt fails, or may not be run: then it says the command for root.
pub(super) fn install_packages(need: Need) -> anyhow::Result<()> {
    let mut wanted: BTreeSet<&str> = needed(need).map(|program| program.package).collect();
    if Toolchain::choose() != Some(Toolchain::Nightly) {
        wanted.extend(DEBIAN_COMPILER);
        if need >= Need::Lint {
            wanted.insert(DEBIAN_CLIPPY);
        }
    }
    let installed = installed(&wanted)?;
    let missing: Vec<&str> = wanted
        .iter()
        .copied()
        .filter(|package| !installed.contains(*package))
        .collect();
    if missing.is_empty() {
        ok(&format!("Debian 12, {} packages", wanted.len()));
        return Ok(());
    }
    let list = missing.join(" ");
    doing(&format!("packages: {list}"));
    let mut install = if is_root() {
        Command::new("sh")
    } else if find("sudo").is_some() {
        let mut sudo = Command::new("sudo");
        sudo.arg("sh");
        sudo
    } else {
        bail!(
            "only root may install packages, and there is no sudo: as root, run\n  apt-get update && apt-get install --no-install-recommends {list}"
        );
    };
    install.args(["-c", INSTALL, "install.sh"]).args(missing);
    let status = install.status().context("failed to start apt-get")?;
    if !status.success() {
        bail!("failed to install packages: {status}; what apt-get said is above");
    }
    Ok(())
}

/// Returns those of `packages` that are installed.
fn installed(packages: &BTreeSet<&str>) -> anyhow::Result<BTreeSet<String>> {
    // It fails when it does not know one of the packages, and still tells of the others.
    let output = Command::new("dpkg-query")
        .args(["-W", "-f", "${Package} ${db:Status-Status}\n"])
        .args(packages)
        .output()
        .context("failed to start `dpkg-query`")?;
    let lines = String::from_utf8_lossy(&output.stdout);
    let names = lines.lines().filter_map(|l| l.strip_suffix(" installed"));
    Ok(names.map(str::to_owned).collect())
}

/// Links Debian's compiler as a rustup toolchain, unless there is a compiler for the kernel object already.
///
/// # Errors
///
/// When rustup refuses.
pub(super) fn link_compiler() -> anyhow::Result<()> {
    if Toolchain::choose().is_some() {
        return Ok(());
    }
    doing(&format!("Debian's Rust as toolchain `{DEBIAN_TOOLCHAIN}`"));
    run(Command::new("rustup").args(["toolchain", "link", DEBIAN_TOOLCHAIN, "/usr"]))
}

#[cfg(test)]
mod tests {
    use super::is_supported;

    #[test]
    fn only_debian_12_is_installed_on() {
        assert!(is_supported("ID=debian\nVERSION_ID=\"12\"\n"));
        assert!(!is_supported("ID=debian\nVERSION_ID=\"13\"\n"));
        assert!(!is_supported(
            "ID=ubuntu\nID_LIKE=debian\nVERSION_ID=\"12\"\n"
        ));
        assert!(!is_supported(""));
    }
}
