//! The texts of licences that go with the program: this repository's own, and those of each crate in it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::Context as _;

use super::crates::{Crates, Package};
use crate::process::{first_line, root};

/// Those of this repository.
const OWN: [&str; 3] = ["LICENSE-APACHE", "LICENSE-GPL-2.0", "LICENSE-MIT"];

/// What the libc of the target asks for; its words are those of LICENSE-MIT.
const MUSL: &str = "Copyright © 2005-2020 Rich Felker, et al.";

/// How names of files begin that say what may be done with a crate.
const BEGINNINGS: [&str; 5] = ["copying", "copyright", "licence", "license", "notice"];

/// Returns names and texts, in order.
///
/// # Errors
///
/// When one cannot be read.
pub(super) fn of(crates: &Crates) -> anyhow::Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for name in OWN {
        found.insert(name.to_owned(), read(&root().join(name))?);
    }
    found.insert("THIRD-PARTY".to_owned(), third_parties(crates)?);
    Ok(found)
}

/// Returns the texts of all crates, each once, below the names of those that it is for.
fn third_parties(crates: &Crates) -> anyhow::Result<String> {
    let mut by_text: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut without = Vec::new();
    for package in crates.shipped().filter(|it| it.source.is_some()) {
        let texts = texts(package.folder())?;
        if texts.is_empty() {
            without.push(format!(
                "{} ({})",
                title(package),
                package.license.as_deref().unwrap_or("?")
            ));
        }
        for text in texts {
            by_text.entry(text).or_default().push(title(package));
        }
    }
    let musl = format!("{MUSL}\n\n{}", words_of_mit()?);
    by_text.entry(musl).or_default().push("musl".to_owned());
    for (name, text) in compiler()? {
        by_text.entry(text).or_default().push(name);
    }
    let mut all = "The program holds the crates that follow, each under the text below its name.\n"
        .to_owned();
    if !without.is_empty() {
        writeln!(
            all,
            "\nThese bring no text and say so in their manifests: {}. LICENSE-MIT and LICENSE-APACHE have the words.",
            without.join(", ")
        )?;
    }
    let mut parts: Vec<(Vec<String>, String)> = by_text
        .into_iter()
        .map(|(text, names)| (names, text))
        .collect();
    parts.sort();
    for (names, text) in parts {
        let line = "=".repeat(80);
        write!(
            all,
            "\n{line}\n{}\n{line}\n\n{}\n",
            names.join(", "),
            text.trim_end()
        )?;
    }
    Ok(all)
}

/// Returns LICENSE-MIT without whose copyright it is.
fn words_of_mit() -> anyhow::Result<String> {
    let text = read(&root().join("LICENSE-MIT"))?;
    let at = text
        .find("Permission is hereby granted")
        .context("LICENSE-MIT is another text")?;
    Ok(text[at..].to_owned())
}

fn title(package: &Package) -> String {
    format!("{} {}", package.name, package.version)
}

/// Returns the texts in a crate's folder.
fn texts(folder: &Path) -> anyhow::Result<Vec<String>> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("failed to list `{}`", folder.display()))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .to_lowercase();
        if path.is_file() && BEGINNINGS.iter().any(|it| name.starts_with(it)) {
            files.push(path);
        }
    }
    files.sort();
    files.iter().map(|file| read(file)).collect()
}

/// Returns what the compiler says of its standard library and of the libc that it links.
fn compiler() -> anyhow::Result<Vec<(String, String)>> {
    let sysroot = first_line("rustc", &["--print", "sysroot"]).context("failed to run `rustc`")?;
    let folder = Path::new(&sysroot).join("share/doc");
    let library = folder.join("rust/COPYRIGHT-library.html");
    // Some distributions' compilers come without.
    if !library.is_file() {
        return Ok(Vec::new());
    }
    Ok(vec![(
        "the Rust standard library".to_owned(),
        read(&library)?,
    )])
}

fn read(file: &Path) -> anyhow::Result<String> {
    let bytes = fs::read(file).with_context(|| format!("failed to read `{}`", file.display()))?;
    Ok(String::from_utf8_lossy(&bytes).replace("\r\n", "\n"))
}
