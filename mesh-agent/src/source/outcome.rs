//! What came of the objects that are in force: the snapshot, and what is wrong.
#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use crate::config::problem::{Problem, Severity};
use crate::config::resolve::Resolver;
use crate::model::snapshot::{Made, Snapshot};
use crate::source::Loaded;

/// The latest snapshot with its problems.
#[derive(Debug)]
pub(super) struct Outcome {
    snapshot: Arc<Snapshot>,
    problems: Arc<[Problem]>,
}

impl Default for Outcome {
    /// Returns what there is before anything was read: the snapshot of generation 0.
    fn default() -> Self {
        Self {
            snapshot: Arc::default(),
            problems: Arc::new([]),
        }
    }
}

impl Outcome {
    /// Returns it for others.
    pub(super) fn loaded(&self) -> Loaded {
        Loaded {
            snapshot: self.snapshot.clone(),
            problems: self.problems.clone(),
        }
    }

    /// Returns whether anything was read yet.
    pub(super) fn is_first(&self) -> bool {
        self.snapshot.generation == 0
    }

    /// Takes over what `resolver` made of a change that came at `begun`; `changed` is what its update returned. Returns whether
    /// anything is different.
    ///
    /// The generation counts up when something in force or an error changed, and the first time.
    pub(super) fn take(&mut self, resolver: &Resolver, changed: bool, begun: Instant) -> bool {
        let problems = resolver.problems();
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
        if !changed && self.snapshot.errors == errors && !self.is_first() {
            return problems_changed;
        }
        let generation = self.snapshot.generation + 1;
        let snapshot = resolver.resolved().snapshot(generation, errors);
        let at = Instant::now();
        let took = at.saturating_duration_since(begun);
        let made = Some(Made { at, took });
        self.snapshot = Arc::new(Snapshot { made, ..snapshot });
        true
    }

    /// Logs that there is another configuration.
    pub(super) fn log(&self) {
        let made = self.snapshot.made.as_ref();
        tracing::info!(
            generation = self.snapshot.generation,
            workloads = self.snapshot.workloads.len(),
            services = self.snapshot.services.len(),
            policies = self.snapshot.policies.len(),
            errors = self.snapshot.errors.len(),
            took = made.map(|made| tracing::field::debug(made.took)),
            "configuration changed"
        );
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
