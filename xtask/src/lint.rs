//! `cargo xtask lint`: every check that runs nothing of the product.

use anyhow::bail;

use crate::process::{cargo, run};
use crate::{ebpf, rules};

/// A check's name, and how to run it.
type Check = (&'static str, fn() -> anyhow::Result<()>);

/// The quick ones first.
const CHECKS: [Check; 6] = [
    ("house rules", rules::check),
    ("rustfmt", || run(cargo("fmt").args(["--all", "--check"]))),
    ("licences, sources and duplicates", deny),
    ("clippy, kernel object", ebpf::clippy),
    ("clippy", clippy),
    ("rustdoc", docs),
];

/// Runs every check, also after one has failed.
///
/// # Errors
///
/// When at least one fails: names those.
pub(crate) fn lint() -> anyhow::Result<()> {
    let mut failed = Vec::new();
    for (name, check) in CHECKS {
        println!("lint: {name}");
        if let Err(error) = check() {
            eprintln!("error: {error:#}");
            failed.push(name);
        }
    }
    if !failed.is_empty() {
        bail!("lint found something: {}", failed.join("; "));
    }
    println!("lint: ok");
    Ok(())
}

fn clippy() -> anyhow::Result<()> {
    let what = ["--workspace", "--exclude", "mesh-ebpf", "--all-targets"];
    run(cargo("clippy").args(what).args(["--", "-D", "warnings"]))
}

fn docs() -> anyhow::Result<()> {
    let what = ["--workspace", "--exclude", "mesh-ebpf", "--no-deps"];
    run(cargo("doc").args(what).env("RUSTDOCFLAGS", "-D warnings"))
}

/// Not advisories: their database is fetched over the network at each run, and a new one would fail old commits.
fn deny() -> anyhow::Result<()> {
    let args = ["--workspace", "check", "--hide-inclusion-graph"];
    run(cargo("deny")
        .args(args)
        .args(["bans", "licenses", "sources"]))
}
