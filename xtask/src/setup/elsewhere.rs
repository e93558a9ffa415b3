//! Any system but Debian 12: says what is missing and installs nothing.

use anyhow::bail;

use super::programs::needed;
use super::tools::{LINKER_VERSION, is_installed, linker_args, llvm_prefix_variables};
use super::{Need, ok};
use crate::process::find;
use crate::toolchain::{LLVM_MAJOR, Toolchain};

/// Checks that all is there.
///
/// # Errors
///
/// When something is missing: names all of it, and how to install what is not the system's.
pub(super) fn check(os_release: &str, need: Need) -> anyhow::Result<()> {
    let os = name(os_release);
    let mut missing: Vec<String> = needed(need)
        .filter(|program| !program.command.is_empty() && find(program.command).is_none())
        // LLVM is there to build the linker; its program has another name on each system.
        .filter(|program| !program.command.starts_with("llvm-config"))
        .map(|p| {
            format!(
                "`{}` ({}; Debian has it in {})",
                p.command, p.purpose, p.package
            )
        })
        .collect();
    if Toolchain::choose().is_none() {
        missing.push(format!(
            "a nightly compiler of LLVM {LLVM_MAJOR} or older, with its sources: `rustup toolchain install nightly --component rust-src`"
        ));
    }
    if !is_installed("bpf-linker", LINKER_VERSION) {
        let [own, sys] = llvm_prefix_variables();
        missing.push(format!(
            "bpf-linker {LINKER_VERSION}, which needs the development files of LLVM {LLVM_MAJOR}: `{own}=$(llvm-config --prefix) {sys}=$(llvm-config --prefix) cargo {}`",
            linker_args().join(" "),
        ));
    }
    if missing.is_empty() {
        ok(&format!("{os}: every program is there"));
        return Ok(());
    }
    bail!(
        "setup installs on Debian 12 only, and this is {os}; please install, then run it again:\n  {}",
        missing.join("\n  ")
    );
}

/// The system's name for people.
fn name(os_release: &str) -> &str {
    os_release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .map_or("an unknown system", |name| name.trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use super::name;

    #[test]
    fn the_system_is_named() {
        assert_eq!(name("ID=x\nPRETTY_NAME=\"Some Linux 3\"\n"), "Some Linux 3");
        assert_eq!(name(""), "an unknown system");
    }
}
