//! Reads the directory against what was in force before, and makes a snapshot when something is different.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use crate::config::content::Content;
use crate::config::dir::DirReader;
use crate::config::problem::Problem;
use crate::config::resolve::Resolver;
use crate::heap;
use crate::model::service::Services;
use crate::model::workload::Acceleration;
use crate::source::Loaded;
use crate::source::outcome::Outcome;

/// The state of a directory of manifests between two readings.
#[derive(Debug)]
pub(super) struct Loader {
    dir: PathBuf,
    reader: DirReader,
    /// What the files held last; `None` when the directory could not be listed.
    contents: Option<Vec<Arc<Content>>>,
    resolver: Resolver,
    outcome: Outcome,
}

impl Loader {
    /// Returns a loader that has read nothing yet, and knows what programs registered.
    pub(super) fn new(dir: PathBuf, default: Acceleration, registered: Arc<Services>) -> Self {
        let mut resolver = Resolver::new(default);
        resolver.set_registered(registered);
        Self {
            dir,
            reader: DirReader::default(),
            contents: None,
            resolver,
            outcome: Outcome::default(),
        }
    }

    /// Takes over what programs registered, and returns whether anything is different from before.
    pub(super) fn set_registered(&mut self, registered: Arc<Services>) -> bool {
        let begun = Instant::now();
        let changed = self.resolver.set_registered(registered);
        // Endpoints come and go all the time, and routes do not see them.
        changed && self.publish(changed, begun)
    }

    /// Returns the directory.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns what was read last.
    pub(super) fn loaded(&self) -> Loaded {
        self.outcome.loaded()
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
        self.publish(changed, begun)
    }

    fn publish(&mut self, changed: bool, begun: Instant) -> bool {
        let is_new = self.outcome.take(&self.resolver, changed, begun);
        if is_new {
            self.outcome.log();
        }
        is_new
    }
}

/// Returns whether no file was read anew with another result.
fn is_same(now: &[Arc<Content>], before: &[Arc<Content>]) -> bool {
    let mut pairs = now.iter().zip(before);
    now.len() == before.len() && pairs.all(|(now, before)| Arc::ptr_eq(now, before))
}
