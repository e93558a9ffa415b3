//! Workloads that were let go while they run: nothing new of theirs is captured, and what goes through the agent goes on.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::locate::find::Tie;
use crate::locate::inside::Place;
use crate::locate::machine::Machine;
use crate::model::workload::{Workload, WorkloadName};

/// After this time what still goes through the agent is cut off: longer than any upgrade waits for connections, and short enough for
/// an operator who wants the agent out of a pod to see it go.
const AT_MOST: Duration = Duration::from_secs(60 * 60);

/// The workloads, by name.
#[derive(Debug, Default)]
pub(super) struct Released(BTreeMap<WorkloadName, One>);

#[derive(Debug)]
struct One {
    /// As it was last in the mesh.
    workload: Arc<Workload>,
    tie: Tie,
    since: Duration,
}

impl Released {
    pub(super) fn add(&mut self, workload: Arc<Workload>, tie: Tie, now: Duration) {
        let name = workload.name.clone();
        let since = now;
        let one = One {
            workload,
            tie,
            since,
        };
        self.0.insert(name, one);
    }

    pub(super) fn remove(&mut self, name: &WorkloadName) {
        self.0.remove(name);
    }

    /// Forgets those that are gone, and those that had their time.
    pub(super) fn check(&mut self, machine: &impl Machine) {
        let now = machine.now();
        self.0
            .retain(|_, one| one.tie.holds(machine) && now - one.since < AT_MOST);
    }

    pub(super) fn ties(&self) -> impl Iterator<Item = &Tie> {
        self.0.values().map(|one| &one.tie)
    }

    /// Returns each, for how long it has been let go, and where it is.
    pub(super) fn all(
        &self,
        now: Duration,
    ) -> impl Iterator<Item = (&Arc<Workload>, Duration, Place)> {
        let all = self.0.values();
        all.map(move |one| (&one.workload, now - one.since, one.tie.place()))
    }
}
