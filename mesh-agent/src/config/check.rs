//! `node-agent check DIR`: one reading of a directory, with nothing in force before.
#![forbid(unsafe_code)]

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use crate::config::dir::DirReader;
use crate::config::problem::{Finding, Problem, Severity};
use crate::config::resolve::{self, Running};
use crate::model::workload::{Acceleration, Workload, WorkloadName};

/// What a check found.
///
/// `Display` prints every problem and then `N workloads, M errors`. The JSON form is `{"workloads": N, "errors": M, "problems":
/// [...]}`; see [`Problem`] for its fields.
#[derive(Clone, Debug)]
pub struct CheckReport {
    /// The workloads that the directory describes.
    pub workloads: Vec<Arc<Workload>>,
    /// What is wrong, ordered by place.
    pub problems: Vec<Problem>,
    /// Whether the directory could be listed at all.
    pub readable: bool,
    running: Running,
}

/// Reads a directory (or a single file) of manifests as the agent would at its start. Changes nothing.
pub fn check(dir: &Path, default: Acceleration) -> CheckReport {
    let contents = DirReader::default().read(dir);
    let contents = contents.as_deref().map_err(AsRef::as_ref);
    let resolved = resolve::resolve(contents, &Running::default(), default);
    CheckReport {
        workloads: resolved.workloads,
        problems: resolved.problems,
        readable: contents.is_ok(),
        running: resolved.running,
    }
}

impl CheckReport {
    /// Adds a warning about a workload of this report: such as why it is not found on this machine.
    pub fn warn(&mut self, name: &WorkloadName, problem: &str, help: &str) {
        let Some((key, place)) = self.running.pod(name) else {
            return;
        };
        let finding = Finding::error(place.line, "", problem, help).with(Severity::Warning);
        self.problems.push(place.problem(Some(key), finding));
        self.problems.sort();
    }

    /// Returns the number of errors; warnings and notes do not count.
    pub fn errors(&self) -> usize {
        let is_error = |problem: &&Problem| problem.severity == Severity::Error;
        self.problems.iter().filter(is_error).count()
    }

    /// Returns the exit code of `node-agent check`: 0 valid, 1 errors, 2 directory unreadable.
    pub fn exit_code(&self) -> u8 {
        match (self.readable, self.errors()) {
            (false, _) => 2,
            (true, 0) => 0,
            (true, _) => 1,
        }
    }
}

impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.problems {
            writeln!(f, "{problem}")?;
        }
        let plural = |count: usize| if count == 1 { "" } else { "s" };
        let (workloads, errors) = (self.workloads.len(), self.errors());
        write!(
            f,
            "{workloads} workload{}, {errors} error{}",
            plural(workloads),
            plural(errors)
        )
    }
}

impl Serialize for CheckReport {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Json<'a> {
            workloads: usize,
            errors: usize,
            problems: &'a [Problem],
        }
        let json = Json {
            workloads: self.workloads.len(),
            errors: self.errors(),
            problems: &self.problems,
        };
        json.serialize(serializer)
    }
}
