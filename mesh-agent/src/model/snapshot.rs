//! The whole configuration at one moment.

use std::sync::Arc;

use crate::model::workload::Workload;

/// A valid configuration. Immutable: a change makes another, with a higher generation.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Counts snapshots from 1 since the agent started; 0 is the empty one it starts with.
    pub generation: u64,
    /// Valid workloads, ordered by name.
    pub workloads: Vec<Arc<Workload>>,
    /// What was rejected on the way to this snapshot, one whole message each (file, path, problem, help).
    pub errors: Vec<String>,
}
