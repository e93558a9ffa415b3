//! House rules that no other tool checks. They read text, not syntax: enough to catch a slip, not to withstand intent.

mod layers;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use crate::process::root;

/// The folders that hold Rust code.
const CRATES: [&str; 5] = ["mesh-agent", "mesh-common", "mesh-ebpf", "tests", "xtask"];

/// A longer file holds two subjects.
const MAX_LINES: usize = 600;

/// Words for work left undone, and the attribute that hides a failing test; split, lest this file breaks its own rules.
const UNDONE: [&str; 2] = [concat!("TO", "DO"), concat!("FIX", "ME")];
const IGNORED: &str = concat!("#[", "ignore");

/// Checks every Rust file of the repository and prints what breaks a rule.
///
/// # Errors
///
/// When something does, or a file cannot be read.
pub(crate) fn check() -> anyhow::Result<()> {
    let mut files = Vec::new();
    for folder in CRATES {
        collect(&root().join(folder), &mut files)?;
    }
    files.sort();
    let mut count = 0;
    for file in files {
        let text = read(&file)?;
        let path = file.strip_prefix(root()).unwrap_or(&file);
        for problem in problems(&path.to_string_lossy(), &text) {
            println!("{}:{problem}", path.display());
            count += 1;
        }
    }
    if count > 0 {
        bail!("{count} breaches of house rules (CONTRIBUTING.md tells them)");
    }
    Ok(())
}

/// Finds the Rust files below `folder`.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("failed to list `{}`", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() && !path.ends_with("target") {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

fn read(file: &Path) -> anyhow::Result<String> {
    fs::read_to_string(file).with_context(|| format!("failed to read `{}`", file.display()))
}

/// Returns `line: problem` for each rule that the file breaks.
fn problems(path: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    if !text.starts_with("//!") {
        found.push("1: starts without `//!` that says what lives here".to_owned());
    }
    let lines = text.lines().count();
    if lines > MAX_LINES {
        found.push(format!("{lines}: longer than {MAX_LINES} lines"));
    }
    for (line, number) in text.lines().zip(1..) {
        if line.contains(IGNORED) {
            found.push(format!("{number}: a test is ignored; mend or remove it"));
        }
        if UNDONE.iter().any(|word| lacks_issue(line, word)) {
            found.push(format!(
                "{number}: work left undone without an issue, `(#12)`"
            ));
        }
    }
    if let Some(module) = path.strip_prefix("mesh-agent/src/") {
        let module = module.split(['/', '.']).next().unwrap_or(module);
        found.extend(layers::problems(module, text));
    }
    found
}

/// Returns whether `line` has `word` without the number of an issue behind it.
fn lacks_issue(line: &str, word: &str) -> bool {
    line.match_indices(word)
        .any(|(at, _)| !line[at + word.len()..].starts_with("(#"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_good_file_has_no_problems() {
        let text = format!("//! Good.\n\n// {}(#12): later\nfn f() {{}}\n", UNDONE[0]);
        assert_eq!(problems("xtask/src/good.rs", &text), [""; 0]);
    }

    #[test]
    fn each_rule_is_seen() {
        let text = format!("fn f() {{}}\n// {}: later\n{IGNORED}]\n", UNDONE[1]);
        let found = problems("xtask/src/bad.rs", &text);
        let lines: Vec<_> = found.iter().map(|p| p.split(':').next()).collect();
        assert_eq!(lines, [Some("1"), Some("2"), Some("3")]);

        let long = format!("//! Long.\n{}", "\n".repeat(MAX_LINES));
        assert_eq!(
            problems("tests/long.rs", &long),
            ["601: longer than 600 lines"]
        );
    }

    #[test]
    fn layers_are_checked_in_the_agent_only() {
        let text = "//! Model.\nuse crate::proxy::tcp;\n";
        assert_eq!(problems("mesh-agent/src/model/service.rs", text).len(), 1);
        assert_eq!(problems("mesh-agent/src/model.rs", text).len(), 1);
        assert_eq!(problems("xtask/src/model.rs", text), [""; 0]);
    }
}
