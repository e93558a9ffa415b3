//! Reads typed fields out of a [`Node`] and collects every finding on the way, instead of stopping at the first.
#![forbid(unsafe_code)]

use std::ops::RangeInclusive;

use crate::config::key::Kind;
use crate::config::known;
use crate::config::name;
use crate::config::node::{Entry, Node, Value};
use crate::config::problem::{Finding, Severity};

/// A mapping with its path in the document.
#[derive(Clone, Debug)]
pub(crate) struct Fields<'n> {
    /// Path of the mapping, empty for the document itself.
    pub(crate) path: String,
    /// Line of the mapping.
    pub(crate) line: u64,
    pub(crate) entries: &'n [Entry],
}

impl<'n> Fields<'n> {
    /// Returns the path of a field in this mapping.
    pub(crate) fn path_of(&self, field: &str) -> String {
        match (self.path.is_empty(), field.contains(['/', '.'])) {
            // `metadata.annotations["underpass.dev/pid"]`, as JSONPath and kubectl have it.
            (_, true) => format!("{}[\"{field}\"]", self.path),
            (true, false) => field.to_owned(),
            (false, false) => format!("{}.{field}", self.path),
        }
    }

    /// Returns the line of a field, or of the mapping where it is not there.
    pub(crate) fn line_of(&self, field: &str) -> u64 {
        self.entry(field).map_or(self.line, |entry| entry.line)
    }

    /// Returns a field that is there and not null.
    pub(crate) fn entry(&self, field: &str) -> Option<&'n Entry> {
        let entry = self.entries.iter().find(|entry| entry.key == field)?;
        (!entry.node.is_null()).then_some(entry)
    }
}

/// What a field that is on no list means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Unknown {
    /// Always a mistake.
    Error,
    /// A mistake if it looks like a field that exists; else one that this version does not know yet: a warning.
    Newer,
}

/// Collects findings.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    /// Kind of the object that is read, once that is known: a misplaced field is looked for in it.
    pub(crate) kind: Option<Kind>,
    pub(crate) findings: Vec<Finding>,
    /// Whether fields that are not known are no mistake: an API server wrote the object, and may be newer.
    pub(crate) knows_less: bool,
    /// Whether a word or field was not known: what a newer version may know.
    pub(crate) unknown: bool,
    /// Whether filters were found that do not go together.
    pub(crate) incompatible: bool,
}

/// Why a part of an object does not count.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Trouble {
    /// Whether a word or field was not known.
    pub(crate) unknown: bool,
    /// Whether filters do not go together.
    pub(crate) incompatible: bool,
    /// The first problem with its path.
    pub(crate) message: String,
}

impl Reader {
    /// Records an error.
    pub(crate) fn error(
        &mut self,
        line: u64,
        path: impl Into<String>,
        problem: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.findings
            .push(Finding::error(line, path, problem, help));
    }

    /// Records something that is used otherwise than it may be meant.
    pub(crate) fn warn(
        &mut self,
        line: u64,
        path: impl Into<String>,
        problem: impl Into<String>,
        help: impl Into<String>,
    ) {
        let finding = Finding::error(line, path, problem, help).with(Severity::Warning);
        self.findings.push(finding);
    }

    /// Records something that is left out on purpose.
    pub(crate) fn note(
        &mut self,
        line: u64,
        path: impl Into<String>,
        problem: impl Into<String>,
        help: impl Into<String>,
    ) {
        let finding = Finding::error(line, path, problem, help).with(Severity::Note);
        self.findings.push(finding);
    }

    /// Returns whether an error was recorded.
    pub(crate) fn failed(&self) -> bool {
        self.findings
            .iter()
            .any(|finding| finding.severity == Severity::Error)
    }

    /// Reads a part whose errors are the part's and not the object's: they become warnings, and the result does not count where
    /// there is any.
    pub(crate) fn softly<T>(&mut self, read: impl FnOnce(&mut Self) -> T) -> (T, Option<Trouble>) {
        let mut part = Self {
            kind: self.kind,
            knows_less: self.knows_less,
            ..Self::default()
        };
        let value = read(&mut part);
        let is_error = |finding: &&Finding| finding.severity == Severity::Error;
        let first = part.findings.iter().find(is_error);
        let trouble = first.map(|first| Trouble {
            unknown: part.unknown,
            incompatible: part.incompatible,
            message: format!("{}: {}", first.path, first.problem),
        });
        let soft = part
            .findings
            .into_iter()
            .map(|finding| match finding.severity {
                Severity::Error => finding.with(Severity::Warning),
                Severity::Warning | Severity::Note => finding,
            });
        self.findings.extend(soft);
        (value, trouble)
    }

    /// Returns `node` as a mapping.
    pub(crate) fn mapping<'n>(&mut self, node: &'n Node, path: String) -> Option<Fields<'n>> {
        let Value::Map(entries) = &node.value else {
            let problem = format!("is {}, not a mapping", node.what());
            self.error(
                node.line,
                path,
                problem,
                "write `field: value` lines below it",
            );
            return None;
        };
        Some(Fields {
            path,
            line: node.line,
            entries,
        })
    }

    /// Returns the mapping `field`, if it is there.
    pub(crate) fn child<'n>(&mut self, fields: &Fields<'n>, field: &str) -> Option<Fields<'n>> {
        let entry = fields.entry(field)?;
        self.mapping(&entry.node, fields.path_of(field))
    }

    /// Records every field that is not in `known`.
    pub(crate) fn only(&mut self, fields: &Fields<'_>, known: &[&str], unknown: Unknown) {
        if self.knows_less {
            return;
        }
        for entry in fields.entries {
            if known.contains(&entry.key.as_str()) {
                continue;
            }
            self.unknown = true;
            let place = if fields.path.is_empty() {
                "the object"
            } else {
                &fields.path
            };
            let problem = format!("unknown field `{}` in {place}", entry.key);
            let path = fields.path_of(&entry.key);
            let near = known::nearest(&entry.key, known).map(|near| fields.path_of(near));
            let finding = match near.or_else(|| known::elsewhere(self.kind, &entry.key)) {
                Some(near) => {
                    Finding::error(entry.line, path, problem, format!("did you mean `{near}`?"))
                }
                None if unknown == Unknown::Newer => {
                    let help =
                        "it is ignored: Kubernetes 1.36 has no such field; check its spelling";
                    Finding::error(entry.line, path, problem, help).with(Severity::Warning)
                }
                None => {
                    let help = format!("known fields are {}", known.join(", "));
                    Finding::error(entry.line, path, problem, help)
                }
            };
            self.findings.push(finding);
        }
    }

    /// Returns the string `field`, if it is there.
    pub(crate) fn text<'n>(&mut self, fields: &Fields<'n>, field: &str) -> Option<&'n str> {
        let entry = fields.entry(field)?;
        self.string(&entry.node, fields.path_of(field))
    }

    /// Returns a string.
    pub(crate) fn string<'n>(&mut self, node: &'n Node, path: String) -> Option<&'n str> {
        if let Some(text) = node.text() {
            return Some(text);
        }
        let help = match &node.value {
            Value::Bool(_) | Value::Number(_) => "put the value in quotes",
            Value::Null | Value::Text(_) | Value::List(_) | Value::Map(_) => "give a string",
        };
        let problem = format!("is {}, not a string", node.what());
        self.error(node.line, path, problem, help);
        None
    }

    /// Returns the DNS label `field`, if it is there and not empty.
    pub(crate) fn label<'n>(&mut self, fields: &Fields<'n>, field: &str) -> Option<&'n str> {
        let text = self.text(fields, field).filter(|text| !text.is_empty())?;
        if name::is_label(text) {
            return Some(text);
        }
        let problem = format!("`{text}` is not a DNS label");
        let help = "use lower-case letters, digits and `-` between them, at most 63";
        self.error(fields.line_of(field), fields.path_of(field), problem, help);
        None
    }

    /// Returns the boolean `field`, if it is there.
    pub(crate) fn boolean(&mut self, fields: &Fields<'_>, field: &str) -> Option<bool> {
        let entry = fields.entry(field)?;
        if let Value::Bool(value) = entry.node.value {
            return Some(value);
        }
        let problem = format!("is {}, not a boolean", entry.node.what());
        let help = "write `true` or `false`, without quotes";
        self.error(entry.line, fields.path_of(field), problem, help);
        None
    }

    /// Returns the whole number `field` if it is there and in `range`.
    pub(crate) fn number(
        &mut self,
        fields: &Fields<'_>,
        field: &str,
        range: RangeInclusive<u32>,
    ) -> Option<u32> {
        let entry = fields.entry(field)?;
        if let Value::Number(text) = &entry.node.value
            && let Ok(number) = text.parse::<u32>()
            && range.contains(&number)
        {
            return Some(number);
        }
        let (what, help) = match &entry.node.value {
            Value::Number(text) => (text.clone(), "write one of these"),
            Value::Null | Value::Bool(_) | Value::Text(_) | Value::List(_) | Value::Map(_) => {
                (entry.node.what(), "write the number without quotes")
            }
        };
        let (first, last) = (range.start(), range.end());
        let problem = format!("is {what}, not a whole number from {first} to {last}");
        self.error(entry.line, fields.path_of(field), problem, help);
        None
    }

    /// Returns the port number `field`, if it is there.
    pub(crate) fn port(&mut self, fields: &Fields<'_>, field: &str) -> Option<u16> {
        let number = self.number(fields, field, 1..=u32::from(u16::MAX))?;
        u16::try_from(number).ok()
    }

    /// Returns `field`, which is one of `words`; the first of them if it is not there.
    pub(crate) fn word<'w>(
        &mut self,
        fields: &Fields<'_>,
        field: &str,
        words: &[&'w str],
    ) -> Option<&'w str> {
        let Some(entry) = fields.entry(field) else {
            return words.first().copied();
        };
        let path = fields.path_of(field);
        let text = self.string(&entry.node, path.clone())?;
        if let Some(word) = words.iter().find(|word| **word == text) {
            return Some(word);
        }
        let help = match known::nearest(text, words) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("write one of {}", words.join(", ")),
        };
        self.unknown = true;
        let problem = format!("`{text}` is not known here");
        self.error(entry.line, path, problem, help);
        None
    }

    /// Returns the mappings in the list `field`; none if it is not there.
    pub(crate) fn mappings<'n>(&mut self, fields: &Fields<'n>, field: &str) -> Vec<Fields<'n>> {
        let list = self.list(fields, field);
        let mut mappings = Vec::with_capacity(list.len());
        for (index, node) in list.iter().enumerate() {
            let path = format!("{}[{index}]", fields.path_of(field));
            mappings.extend(self.mapping(node, path));
        }
        mappings
    }

    /// Returns the strings in the list `field`, each with its path and line; none if it is not there.
    pub(crate) fn strings<'n>(
        &mut self,
        fields: &Fields<'n>,
        field: &str,
    ) -> Vec<(&'n str, String, u64)> {
        let list = self.list(fields, field);
        let mut strings = Vec::with_capacity(list.len());
        for (index, node) in list.iter().enumerate() {
            let path = format!("{}[{index}]", fields.path_of(field));
            if let Some(text) = self.string(node, path.clone()) {
                strings.push((text, path, node.line));
            }
        }
        strings
    }

    /// Returns the list `field`; empty if it is not there.
    pub(crate) fn list<'n>(&mut self, fields: &Fields<'n>, field: &str) -> &'n [Node] {
        let Some(entry) = fields.entry(field) else {
            return &[];
        };
        let Value::List(list) = &entry.node.value else {
            let problem = format!("is {}, not a list", entry.node.what());
            let help = "begin each item with `- `";
            self.error(entry.line, fields.path_of(field), problem, help);
            return &[];
        };
        list
    }
}
