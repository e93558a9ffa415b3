//! Reads the directory against what was in force before, and makes a snapshot when something is different.
#![forbid(unsafe_code)]

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use crate::config::content::Content;
use crate::config::dir::DirReader;
use crate::config::problem::{Problem, Severity};
use crate::config::resolve::Resolver;
use crate::heap;
use crate::model::snapshot::{Made, Snapshot};
use crate::model::workload::Acceleration;
use crate::source::manifests::Loaded;

/// The state of a directory of manifests between two readings.
#[derive(Debug)]
pub(super) struct Loader {
    dir: PathBuf,
    reader: DirReader,
    /// What the files held last; `None` when the directory could not be listed.
    contents: Option<Vec<Arc<Content>>>,
    resolver: Resolver,
    snapshot: Arc<Snapshot>,
    problems: Arc<[Problem]>,
}

impl Loader {
    /// Returns a loader that has read nothing yet.
    pub(super) fn new(dir: PathBuf, default: Acceleration) -> Self {
        Self {
            dir,
            reader: DirReader::default(),
            contents: None,
            resolver: Resolver::new(default),
            snapshot: Arc::default(),
            problems: Arc::new([]),
        }
    }

    /// Returns the directory.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns what was read last.
    pub(super) fn loaded(&self) -> Loaded {
        Loaded {
            snapshot: self.snapshot.clone(),
            problems: self.problems.clone(),
        }
    }

    /// Reads the directory and returns whether anything is different from before.
    ///
    /// The generation counts up when workloads or errors changed, and at the first reading.
    pub(super) fn load(&mut self) -> bool {
        let begun = Instant::now();
        let contents = self.reader.read(&self.dir);
        let changed = self.take(contents, begun);
        if changed {
            // Reading a whole directory takes several times what is kept of it.
            heap::give_back();
        }
        changed
    }

    /// As [`load`](Self::load), where only files of these names can be different.
    pub(super) fn load_some(&mut self, names: &BTreeSet<String>) -> bool {
        let begun = Instant::now();
        // After a failure nobody knows what the others hold.
        let some = match self.contents {
            Some(_) => self.reader.read_some(&self.dir, names),
            None => None,
        };
        match some {
            Some(contents) => self.take(Ok(contents), begun),
            None => self.load(),
        }
    }

    fn take(&mut self, contents: Result<Vec<Arc<Content>>, Box<Problem>>, begun: Instant) -> bool {
        if let (Ok(now), Some(before)) = (&contents, &self.contents)
            && is_same(now, before)
        {
            // To resolve the same again would change nothing, and this happens every second.
            return false;
        }
        let files = contents.as_deref().map_err(AsRef::as_ref);
        let changed = self.resolver.update(files);
        self.contents = contents.ok();
        let problems = self.resolver.problems();
        let problems_changed = *self.problems != *problems;
        if problems_changed {
            self.report(&problems);
            self.problems = problems.into();
        }
        let errors: Vec<String> = self
            .problems
            .iter()
            .filter(|problem| problem.severity == Severity::Error)
            .map(Problem::to_string)
            .collect();
        let first = self.snapshot.generation == 0;
        if !changed && self.snapshot.errors == errors && !first {
            return problems_changed;
        }
        let generation = self.snapshot.generation + 1;
        let snapshot = self.resolver.resolved().snapshot(generation, errors);
        let at = Instant::now();
        let took = at.saturating_duration_since(begun);
        let made = Some(Made { at, took });
        self.snapshot = Arc::new(Snapshot { made, ..snapshot });
        tracing::info!(
            generation = self.snapshot.generation,
            workloads = self.snapshot.workloads.len(),
            services = self.snapshot.services.len(),
            policies = self.snapshot.policies.len(),
            errors = self.snapshot.errors.len(),
            ?took,
            "configuration changed"
        );
        true
    }

    /// Logs what was not there before.
    fn report(&self, problems: &[Problem]) {
        let before: HashSet<&Problem> = self.problems.iter().collect();
        for problem in problems.iter().filter(|problem| !before.contains(problem)) {
            match problem.severity {
                Severity::Error | Severity::Warning => tracing::warn!("{problem}"),
                Severity::Note => tracing::debug!("{problem}"),
            }
        }
    }
}

/// Returns whether no file was read anew with another result.
fn is_same(now: &[Arc<Content>], before: &[Arc<Content>]) -> bool {
    let mut pairs = now.iter().zip(before);
    now.len() == before.len() && pairs.all(|(now, before)| Arc::ptr_eq(now, before))
}
