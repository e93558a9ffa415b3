//! What tells one object from all others, and where it stands: for the errors that name it.
#![forbid(unsafe_code)]

use std::fmt;
use std::sync::Arc;

use crate::config::problem::{Finding, Problem};

/// Kinds that are objects of their own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Kind {
    Namespace,
    Pod,
}

/// What tells one object from all others.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Key {
    pub(crate) kind: Kind,
    /// Empty for a kind that stands in no namespace.
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Namespace => write!(f, "Namespace {}", self.name),
            Kind::Pod => write!(f, "Pod {}/{}", self.namespace, self.name),
        }
    }
}

/// Where an object stands.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Place {
    pub(crate) file: Arc<str>,
    pub(crate) document: usize,
    /// Path of the object in the document: `items[3]`, or nothing.
    pub(crate) path: String,
    pub(crate) line: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: document {}", self.file, self.document)?;
        if self.path.is_empty() {
            return Ok(());
        }
        write!(f, ": {}", self.path)
    }
}

impl Place {
    /// Returns a finding with this place.
    pub(crate) fn problem(&self, key: Option<&Key>, finding: Finding) -> Problem {
        Problem {
            file: self.file.to_string(),
            document: Some(self.document),
            line: Some(finding.line),
            object: key.map(Key::to_string),
            path: finding.path,
            problem: finding.problem,
            help: finding.help,
            severity: finding.severity,
        }
    }
}
