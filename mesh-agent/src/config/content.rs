//! What one file holds: its objects, and what is wrong with it.
#![forbid(unsafe_code)]

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
use std::sync::{Arc, LazyLock};

use crate::config::key::Place;
use crate::config::limits;
use crate::config::object::{self, Item, Outcome};
use crate::config::problem::{Finding, Problem, Severity};
use crate::config::yaml::{self, Document, Documents, Used};

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
    parts: Vec<Part>,
}

/// Documents that were read without trouble: while the text stays the same, they need not be read again.
#[derive(Clone, PartialEq, Debug)]
struct Part {
    text: Fingerprint,
    first_line: u64,
    /// Number of the document before.
    after: usize,
    used: Used,
    items: Range<usize>,
}

/// Tells one text from another. With 128 bits under keys that nobody knows no two texts ever look the same.
type Fingerprint = [u64; 2];

fn fingerprint(text: &str) -> Fingerprint {
    static KEYS: LazyLock<[RandomState; 2]> = LazyLock::new(Default::default);
    [KEYS[0].hash_one(text), KEYS[1].hash_one(text)]
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
            parts: Vec::new(),
        }
    }

    /// Returns an object of an API server as what its place holds: nothing else does, so all rules for files hold for it.
    pub(crate) fn of_object(item: Item) -> Self {
        Self {
            file: item.place.file.clone(),
            has_problems: !item.problems.is_empty(),
            complete: item.outcome != Outcome::Invalid(None),
            items: vec![item],
            problems: Vec::new(),
            parts: Vec::new(),
        }
    }

    /// Reads the bytes of a file. Never fails: what is wrong is in the result.
    ///
    /// Documents that stand in `before`, what the file held last, are taken from there: reading costs 50 times what
    /// comparing does. The result is the same.
    pub(crate) fn parse(file: &str, bytes: &[u8], before: Option<&Self>) -> Self {
        if bytes.len() > limits::FILE_BYTES {
            let problem = format!("is larger than {} KiB", limits::FILE_BYTES / 1024);
            return Self::unreadable(file, Problem::of_file(file, problem, "split the file"));
        }
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::parse_text(file, text, before),
            Err(error) => Self::unreadable(file, not_utf8(file, bytes, error.valid_up_to())),
        }
    }

    fn parse_text(file: &str, text: &str, before: Option<&Self>) -> Self {
        let file: Arc<str> = before.map_or_else(|| file.into(), |before| before.file.clone());
        let known = before.into_iter().flat_map(|before| {
            let parts = before.parts.iter();
            parts.map(|part| (part.text, (part, &before.items[part.items.clone()])))
        });
        let known: HashMap<Fingerprint, (&Part, &[Item])> = known.collect();
        let mut documents = Documents::default();
        let mut items = Vec::new();
        let mut parts = Vec::new();
        for chunk in yaml::chunks(text) {
            if let Some(end) = documents.end(&chunk) {
                read_document(&file, end, &mut items);
                break;
            }
            let (text, first_line) = (fingerprint(chunk.text), chunk.first_line);
            let (after, first) = (documents.number(), items.len());
            let part = |used, end| Part {
                text,
                first_line,
                after,
                used,
                items: first..end,
            };
            if let Some((known, of_part)) = known.get(&text)
                && documents.pass(known.used)
            {
                let lines = (known.first_line, first_line);
                let numbers = (known.after, after);
                items.extend(of_part.iter().map(|item| item.moved(lines, numbers)));
                parts.push(part(known.used, items.len()));
                continue;
            }
            let (found, used) = documents.read(&chunk);
            let is_sound = found.iter().all(|document| document.finding.is_none());
            for document in found {
                read_document(&file, document, &mut items);
            }
            if is_sound {
                parts.push(part(used, items.len()));
            }
        }
        // Kept for as long as the file stays as it is.
        items.shrink_to_fit();
        parts.shrink_to_fit();
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
            parts,
        }
    }
}

fn read_document(file: &Arc<str>, document: Document, items: &mut Vec<Item>) {
    let mut of_document = match &document.node {
        Some(node) => object::read(file, document.number, node),
        None => Vec::new(),
    };
    if let Some(finding) = document.finding {
        spoil(file, document.number, &mut of_document, finding);
    }
    items.append(&mut of_document);
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
            rejected: None,
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
