//! What is wrong with a configuration, said so that a person can put it right.
#![forbid(unsafe_code)]

use std::fmt;

use serde::Serialize;

/// How much a problem matters.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// The object is rejected.
    Error,
    /// The object is used, but likely not as meant.
    Warning,
    /// The object is left out on purpose.
    Note,
}

/// One thing that is wrong, with its place, and what to do about it.
///
/// `Display` prints the problem on one line and the help on the next. The JSON form is stable: fields are only added.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize)]
pub struct Problem {
    /// File, relative to the directory.
    pub file: String,
    /// Document in the file, counted from 1; `null` when the whole file or directory is meant.
    pub document: Option<usize>,
    /// Line in the file, counted from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// Kind and name of the object, such as `Pod shop/web`, as far as they can be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// Path of the field in the document, such as `status.podIPs[0].ip`; empty when the whole document is meant.
    pub path: String,
    /// What is wrong.
    pub problem: String,
    /// What to do about it.
    pub help: String,
    /// How much it matters.
    pub severity: Severity,
}

impl Problem {
    /// Returns an error that concerns a whole file.
    pub(crate) fn of_file(file: &str, problem: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            file: file.to_owned(),
            document: None,
            line: None,
            object: None,
            path: String::new(),
            problem: problem.into(),
            help: help.into(),
            severity: Severity::Error,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if let Some(document) = self.document {
            write!(f, ": document {document}")?;
        }
        if let Some(object) = &self.object {
            write!(f, ": {object}")?;
        }
        if !self.path.is_empty() {
            write!(f, ": {}", self.path)?;
        }
        let severity = match self.severity {
            Severity::Error => "",
            Severity::Warning => "warning: ",
            Severity::Note => "note: ",
        };
        write!(f, ": {severity}{}\n  help: {}", self.problem, self.help)
    }
}

/// A problem found in a document, before file, document and object are known.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Finding {
    pub(crate) line: u64,
    pub(crate) path: String,
    pub(crate) problem: String,
    pub(crate) help: String,
    pub(crate) severity: Severity,
}

impl Finding {
    /// Returns an error at a line.
    pub(crate) fn error(
        line: u64,
        path: impl Into<String>,
        problem: impl Into<String>,
        help: impl Into<String>,
    ) -> Self {
        Self {
            line,
            path: path.into(),
            problem: problem.into(),
            help: help.into(),
            severity: Severity::Error,
        }
    }

    /// Returns this finding with another severity.
    pub(crate) fn with(self, severity: Severity) -> Self {
        Self { severity, ..self }
    }
}
