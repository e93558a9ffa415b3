//! What one file holds: its objects, and what is wrong with it.
#![forbid(unsafe_code)]

#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::config::key::Place;
use crate::config::limits;
use crate::config::object::{self, Item, Outcome};
use crate::config::problem::{Finding, Problem, Severity};
use crate::config::yaml;

/// What was read from one file.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Content {
    /// Name of the file, relative to the directory.
    pub(crate) file: Arc<str>,
    /// Its objects, in their order.
    pub(crate) items: Vec<Item>,
    /// What concerns the whole file.
    pub(crate) problems: Vec<Problem>,
    /// Whether there is a problem here or in an item.
    pub(crate) has_problems: bool,
    /// Whether every object in the file could be told by name: then one that is not there is deleted.
    pub(crate) complete: bool,
}

impl Content {
    /// Returns a file that could not be read.
    pub(crate) fn unreadable(file: &str, problem: Problem) -> Self {
        Self {
            file: file.into(),
            items: Vec::new(),
            problems: vec![problem],
            has_problems: true,
            complete: false,
        }
    }

    /// Reads the bytes of a file. Never fails: what is wrong is in the result.
    pub(crate) fn parse(file: &str, bytes: &[u8]) -> Self {
        if bytes.len() > limits::FILE_BYTES {
            let problem = format!("is larger than {} KiB", limits::FILE_BYTES / 1024);
            return Self::unreadable(file, Problem::of_file(file, problem, "split the file"));
        }
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::parse_text(file, text),
            Err(error) => Self::unreadable(file, not_utf8(file, bytes, error.valid_up_to())),
        }
    }

    fn parse_text(file: &str, text: &str) -> Self {
        let file: Arc<str> = file.into();
        let mut items = Vec::new();
        for document in yaml::documents(text) {
            let mut of_document = match &document.node {
                Some(node) => object::read(&file, document.number, node),
                None => Vec::new(),
            };
            if let Some(finding) = document.finding {
                spoil(&file, document.number, &mut of_document, finding);
            }
            items.append(&mut of_document);
        }
        let complete = !items
            .iter()
            .any(|item| item.outcome == Outcome::Invalid(None));
        let mut problems = Vec::new();
        if items.is_empty() {
            let help = "write an object, or remove the file";
            let note = Problem::of_file(&file, "holds no object", help);
            problems.push(Problem {
                severity: Severity::Note,
                ..note
            });
        }
        let has_problems =
            !problems.is_empty() || items.iter().any(|item| !item.problems.is_empty());
        Self {
            file,
            items,
            problems,
            has_problems,
            complete,
        }
    }
}

/// Rejects every object of a document that is not valid YAML.
fn spoil(file: &Arc<str>, document: usize, items: &mut Vec<Item>, finding: Finding) {
    for item in items.iter_mut() {
        item.outcome = Outcome::Invalid(item.outcome.key().cloned());
    }
    let key = match items.as_slice() {
        [only] => only.outcome.key().cloned(),
        _ => None,
    };
    if items.is_empty() {
        items.push(Item {
            place: Place {
                file: file.clone(),
                document,
                path: String::new(),
                line: finding.line,
            },
            outcome: Outcome::Invalid(None),
            problems: Vec::new(),
        });
    }
    let first = &mut items[0];
    let problem = first.place.problem(key.as_deref(), finding);
    first.problems.insert(0, problem);
}

fn not_utf8(file: &str, bytes: &[u8], valid: usize) -> Problem {
    let line = bytes[..valid].split(|byte| *byte == b'\n').count();
    let problem = format!(
        "is not UTF-8 text: the byte {:#04x} cannot stand there",
        bytes[valid]
    );
    let help = if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        "the file is UTF-16: save it as UTF-8"
    } else {
        "save the file as UTF-8"
    };
    Problem {
        line: u64::try_from(line).ok(),
        ..Problem::of_file(file, problem, help)
    }
}
