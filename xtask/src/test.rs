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
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    passed: u64,
    failed: u64,
    /// Those that failed, in the order in which they are told.
    failures: Vec<Failure>,
    /// Whether what comes is the output of the last of `failures`.
    is_told: bool,
}

/// A test that failed.
#[derive(Debug, Default, PartialEq, Eq)]
struct Failure {
    name: String,
    /// Its first panic: where, and the first lines of its message.
    panic: Vec<String>,
}

/// Lines of a panic that are repeated at the end. Whatever follows is the state of things, which may be long, and stands above.
const PANIC_LINES: usize = 12;

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
    let (outcome, succeeded) = run_counted(&mut command)?;
    outcome.tell();
    if !succeeded || outcome.failed > 0 {
        bail!("tests failed");
    }
    if outcome.passed == 0 {
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
fn run_counted(command: &mut Command) -> anyhow::Result<(Outcome, bool)> {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .context("failed to start `cargo test`")?;
    let stdout = child.stdout.take().context("no output of `cargo test`")?;
    let mut outcome = Outcome::default();
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line.context("failed to read what the tests print")?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        outcome.add(&line);
    }
    let status = child.wait().context("failed to wait for `cargo test`")?;
    Ok((outcome, status.success()))
}

impl Outcome {
    /// Takes a line of what the tests print: the summary of a program, such as `test result: ok. 3 passed; 0 failed; 0 ignored; ...`, or a
    /// part of what a test that failed had printed.
    fn add(&mut self, line: &str) {
        if let Some(result) = line.strip_prefix("test result: ") {
            self.passed += number_before(result, " passed");
            self.failed += number_before(result, " failed");
        }
        let name = line.strip_prefix("---- ");
        if let Some(name) = name.and_then(|rest| rest.strip_suffix(" stdout ----")) {
            let name = name.to_owned();
            let panic = Vec::new();
            self.failures.push(Failure { name, panic });
            self.is_told = true;
        } else if line == "failures:" {
            self.is_told = false;
        } else if let (true, Some(failure)) = (self.is_told, self.failures.last_mut()) {
            failure.add(line);
        }
    }

    /// Says what came of it all, and of each failure what is found least easily above.
    fn tell(&self) {
        for Failure { name, panic } in &self.failures {
            println!("\nFAILED: {name}");
            panic.iter().for_each(|line| println!("  {line}"));
        }
        println!("{} passed, {} failed", self.passed, self.failed);
    }
}

impl Failure {
    fn add(&mut self, line: &str) {
        let begins =
            self.panic.is_empty() && line.starts_with("thread '") && line.contains(" panicked at ");
        let goes_on = !self.panic.is_empty() && self.panic.len() < PANIC_LINES;
        if begins || goes_on {
            self.panic.push(line.to_owned());
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
    use super::{Failure, Outcome, PANIC_LINES};

    #[test]
    fn summaries_are_added_up() {
        let mut outcome = Outcome::default();
        outcome.add("test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 9 filtered out; finished in 0.01s");
        outcome.add("test result: FAILED. 10 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1s");
        outcome.add("test a_result ... ok");
        outcome.add("test \u{1b}[32mresult\u{1b}[m: 7 passed");
        assert_eq!((outcome.passed, outcome.failed), (13, 2));
    }

    #[test]
    fn who_failed_is_told_with_the_beginning_of_its_panic() {
        let mut outcome = Outcome::default();
        outcome.add("test one ... FAILED");
        outcome.add("failures:");
        outcome.add("---- one stdout ----");
        outcome.add("what it printed");
        outcome.add("thread 'one' (7) panicked at tests/one.rs:3:5:");
        outcome.add("the reason");
        outcome.add("---- two stdout ----");
        outcome.add("thread 'two' (8) panicked at tests/two.rs:9:5:");
        for _ in 0..100 {
            outcome.add("a long state");
        }
        outcome.add("failures:");
        outcome.add("    one");
        let [one, two] = &outcome.failures[..] else {
            panic!("{outcome:?}");
        };
        let panic = [
            "thread 'one' (7) panicked at tests/one.rs:3:5:",
            "the reason",
        ];
        let panic = panic.map(str::to_owned).into();
        let name = "one".to_owned();
        assert_eq!(*one, Failure { name, panic });
        assert_eq!(two.panic.len(), PANIC_LINES);
    }

    #[test]
    fn a_coloured_summary_counts_too() {
        let mut outcome = Outcome::default();
        outcome.add("test result: \u{1b}[32mok\u{1b}[m. 3 passed; 0 failed; 1 ignored; 0 measured");
        assert_eq!(outcome.passed, 3);
    }
}
