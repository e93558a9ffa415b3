//! `cargo xtask test`: runs cargo's tests and adds up what they say.

use std::io::{BufRead as _, BufReader, IsTerminal as _};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use clap::ValueEnum;

use crate::image;
use crate::process::{cargo, is_root, run};

/// Which tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// Tests of each crate by itself; no root
    Unit,
    /// Programs in a real kernel; root
    Kernel,
    /// The agent between real clients and servers, in network namespaces; root
    E2e,
    /// The source `kubernetes` on a test API server; no root
    Kubernetes,
    /// The agent itself, as its operator sees it: starting, ending, upkeep, command line, metrics; root
    Upkeep,
    /// The mesh in a cluster of one node: containerd and runc are real, kubelet is not; root
    Node,
    /// All of them, all but the first only as root
    All,
}

/// What a run of tests came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: u64,
    failed: u64,
}

/// Builds and runs tests. `args` go to the test programs: a part of a test's name, or an option such as `--nocapture`.
///
/// Those for root are built and run as one selection of packages, so that no dependency is built twice with different
/// features; and all in cargo's `dev` profile, which `lint` uses too.
///
/// # Errors
///
/// When a test fails, when nothing was run, or, in CI, when there is no root for those that need it.
pub(crate) fn test(kind: Kind, args: &[String]) -> anyhow::Result<()> {
    let is_for_root = !matches!(kind, Kind::Unit | Kind::Kubernetes);
    let kind = if is_for_root && !is_root() {
        without_root(kind)?
    } else {
        kind
    };
    let mut command = cargo("test");
    if matches!(kind, Kind::Upkeep | Kind::Node | Kind::All) {
        image::for_tests()?;
    }
    if let Some(targets) = targets(kind) {
        // Programs too: some tests start them as their users do.
        run(cargo("build").args(WORKSPACE).arg("--bins").args(targets))?;
        command.args(WORKSPACE);
        command.args(targets.iter().filter(|target| **target != "--all-targets"));
    }
    command.args(["--no-fail-fast", "--"]).args(args);
    if std::io::stdout().is_terminal() {
        command.arg("--color=always");
    }
    let (counts, succeeded) = run_counted(&mut command)?;
    println!("{} passed, {} failed", counts.passed, counts.failed);
    if !succeeded || counts.failed > 0 {
        bail!("tests failed");
    }
    if counts.passed == 0 {
        bail!("no test was run");
    }
    Ok(())
}

/// The packages that tests for root are selected from.
const WORKSPACE: [&str; 3] = ["--workspace", "--exclude", "mesh-ebpf"];

/// What to build of `WORKSPACE`. `None`: cargo's default, the packages whose tests need no root.
fn targets(kind: Kind) -> Option<&'static [&'static str]> {
    match kind {
        Kind::Unit => None,
        Kind::Kernel => Some(&["--test", "kernel"]),
        Kind::E2e => Some(&["--test", "e2e"]),
        Kind::Kubernetes => Some(&["--test", "kubernetes", "--test", "kubernetes_tls"]),
        Kind::Upkeep => Some(&["--test", "upkeep"]),
        Kind::Node => Some(&["--test", "node"]),
        Kind::All => Some(&["--all-targets"]),
    }
}

/// Returns what is left to run without root.
fn without_root(kind: Kind) -> anyhow::Result<Kind> {
    const HOW: &str = "kernel, e2e, upkeep and node tests need root: they load programs into the kernel and make network namespaces";
    if kind != Kind::All || std::env::var_os("CI").is_some_and(|ci| ci == "true") {
        bail!("{HOW}");
    }
    println!("\nSKIPPED: {HOW}\n");
    Ok(Kind::Unit)
}

/// Runs the tests, shows what they print, and adds up their summaries. Also returns whether cargo was content.
fn run_counted(command: &mut Command) -> anyhow::Result<(Counts, bool)> {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .context("failed to start `cargo test`")?;
    let stdout = child.stdout.take().context("no output of `cargo test`")?;
    let mut counts = Counts::default();
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line.context("failed to read what the tests print")?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        counts.add(&line);
    }
    let status = child.wait().context("failed to wait for `cargo test`")?;
    Ok((counts, status.success()))
}

impl Counts {
    /// Adds the numbers of a line like `test result: ok. 3 passed; 0 failed; 0 ignored; ...`, if it is one.
    fn add(&mut self, line: &str) {
        if let Some(result) = line.strip_prefix("test result: ") {
            self.passed += number_before(result, " passed");
            self.failed += number_before(result, " failed");
        }
    }
}

/// The number that stands before `word`, or 0.
fn number_before(line: &str, word: &str) -> u64 {
    let before = line.split(word).next().filter(|b| b.len() < line.len());
    let digits = before.and_then(|b| b.rsplit(' ').next());
    digits.and_then(|d| d.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::Counts;

    #[test]
    fn summaries_are_added_up() {
        let mut counts = Counts::default();
        counts.add("test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 9 filtered out; finished in 0.01s");
        counts.add("test result: FAILED. 10 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1s");
        counts.add("test a_result ... ok");
        counts.add("test \u{1b}[32mresult\u{1b}[m: 7 passed");
        assert_eq!(
            counts,
            Counts {
                passed: 13,
                failed: 2
            }
        );
    }

    #[test]
    fn a_coloured_summary_counts_too() {
        let mut counts = Counts::default();
        counts.add("test result: \u{1b}[32mok\u{1b}[m. 3 passed; 0 failed; 1 ignored; 0 measured");
        assert_eq!(counts.passed, 3);
    }
}
