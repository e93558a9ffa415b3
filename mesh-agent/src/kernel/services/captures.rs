//! Whose connections to a service port go to the agent, where that depends on the client's namespace.
//!
//! Namespaces are added before the service's flags ask for them and removed after: in between, clients of more namespaces than are
//! wanted are captured, which costs them a hop and nothing else.

use std::collections::BTreeSet;

use mesh_common::service::CaptureKey;
use mesh_common::workload::namespace;

use crate::kernel::services::arrays::Arrays;
use crate::model::balanced::{Balanced, Clients};

const FULL: &str = "the table of captured namespaces is full";
const UNWRITTEN: &str = "the table of captured namespaces could not be written";

/// What the map holds.
#[derive(Debug, Default)]
pub(super) struct Captures(BTreeSet<CaptureKey>);

impl Captures {
    /// Starts from what an earlier agent left.
    pub(super) fn adopt(keys: Vec<CaptureKey>) -> Self {
        Self(keys.into_iter().collect())
    }

    /// Adds the namespaces that are missing for the service port `number`; adds none where there is no room for all.
    pub(super) fn add(
        &mut self,
        arrays: Arrays<'_>,
        number: u32,
        wanted: &Balanced,
    ) -> Result<(), &'static str> {
        let missing: Vec<CaptureKey> = keys(number, wanted).difference(&self.0).copied().collect();
        let (done, outcome) = arrays.calls.put_captures(&missing);
        let (there, _) = missing.split_at_checked(done).unwrap_or_default();
        self.0.extend(there);
        let Err(error) = outcome else { return Ok(()) };
        let there = there.to_vec();
        self.take_out(arrays, &there);
        Err(if error.raw_os_error() == Some(libc::E2BIG) {
            FULL
        } else {
            UNWRITTEN
        })
    }

    /// Removes those of the service port `number` that are not wanted.
    pub(super) fn keep(&mut self, arrays: Arrays<'_>, number: u32, wanted: &Balanced) {
        let wanted = keys(number, wanted);
        let unwanted = |key: &&CaptureKey| !wanted.contains(key);
        let gone: Vec<CaptureKey> = self.of(number).filter(unwanted).copied().collect();
        self.take_out(arrays, &gone);
    }

    /// Removes all of a number that nobody has any more.
    pub(super) fn clear(&mut self, arrays: Arrays<'_>, number: u32) {
        let gone: Vec<CaptureKey> = self.of(number).copied().collect();
        self.take_out(arrays, &gone);
    }

    /// Returns how many there are.
    pub(super) fn count(&self) -> u64 {
        self.0.len() as u64
    }

    fn of(&self, service: u32) -> impl Iterator<Item = &CaptureKey> {
        let key = |namespace| CaptureKey { service, namespace };
        self.0.range(key(0)..=key(u32::MAX))
    }

    /// What cannot be removed stays known, and goes with the next that does.
    fn take_out(&mut self, arrays: Arrays<'_>, gone: &[CaptureKey]) {
        match arrays.calls.remove_captures(gone) {
            Ok(()) => gone.iter().for_each(|key| {
                self.0.remove(key);
            }),
            Err(error) => {
                tracing::error!(%error, "failed to remove namespaces whose connections are captured");
            }
        }
    }
}

fn keys(service: u32, wanted: &Balanced) -> BTreeSet<CaptureKey> {
    let Some(Clients::Namespaces(names)) = wanted.proxied.as_ref().map(|own| &own.clients) else {
        return BTreeSet::new();
    };
    let key = |name: &String| CaptureKey {
        service,
        namespace: namespace(name),
    };
    names.iter().map(key).collect()
}
