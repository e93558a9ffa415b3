//! `cargo xtask test --cluster`: the suite of `tests/cluster`, with the images that it needs.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::Context as _;

use crate::image::{self, What};
use crate::process::{cargo, run, shown, target_dir};

/// Builds what the suite needs, and turns this process into it.
///
/// # Errors
///
/// When the build fails or the program cannot be started; it does not return otherwise.
pub(crate) fn test(args: &[String]) -> anyhow::Result<()> {
    // The agent says what it does not understand of what is rendered.
    run(cargo("build").args([
        "-p",
        "mesh-agent",
        "-p",
        "mesh-tests",
        "--bin",
        "node-agent",
        "--bin",
        "cluster",
    ]))?;
    let mut command = Command::new(target_dir()?.join("debug/cluster"));
    if needs_images(args) {
        for (flag, what) in [
            ("--agent-archive", What::Agent),
            ("--peer-archive", What::TestPeer),
        ] {
            if !args.iter().any(|arg| arg.starts_with(flag)) {
                command.arg(flag).arg(image::release(what)?);
            }
        }
    }
    command.args(args);
    Err(command.exec()).with_context(|| format!("failed to start `{}`", shown(&command)))
}

/// Returns whether images go anywhere.
fn needs_images(args: &[String]) -> bool {
    let brings = |arg: &String| arg.starts_with("--image-import") || arg.starts_with("--registry");
    let only_says = |arg: &String| ["--help", "-h", "--dry-run"].contains(&arg.as_str());
    args.iter().any(brings) && !args.iter().any(only_says)
}

#[cfg(test)]
mod tests {
    use super::needs_images;

    #[test]
    fn images_are_built_only_where_they_go_somewhere() {
        let of = |args: &[&str]| {
            needs_images(&args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>())
        };
        assert!(of(&["--image-import", "ctr images import -"]));
        assert!(of(&["--registry=r.example/u"]));
        assert!(!of(&["--registry=r.example/u", "--dry-run"]));
        assert!(!of(&["--help"]));
        assert!(!of(&[]));
    }
}
