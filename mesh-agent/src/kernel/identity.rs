//! What a workload's entry tells programs besides its handle and flags: its Kubernetes namespace, and the address it dials from.

use std::collections::HashMap;
use std::io;

use mesh_common::addr::Addr;
use mesh_common::workload::{NetnsEntry, namespace};

use crate::kernel::maps::Maps;
use crate::model::workload::{Placed, Workload};

/// What was written of each workload, by the cookie of its network namespace.
#[derive(Debug, Default)]
pub(super) struct Identities(HashMap<u64, Identity>);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Identity {
    namespace: u32,
    v4: Addr,
    v6: Addr,
}

impl Identities {
    /// Writes what is new of a workload that has an entry.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub(super) fn write(&mut self, maps: &Maps, placed: &Placed) -> io::Result<()> {
        let Ok(netns) = placed.netns else {
            return Ok(());
        };
        let workload = &placed.workload;
        let own = Identity {
            namespace: namespace(&workload.name.namespace),
            v4: only_address(workload, true),
            v6: only_address(workload, false),
        };
        if self.0.get(&netns) == Some(&own) {
            return Ok(());
        }
        let Some(entry) = maps.workloads.get(&netns)? else {
            return Ok(());
        };
        let Identity { namespace, v4, v6 } = own;
        let after = NetnsEntry {
            namespace,
            v4,
            v6,
            ..entry
        };
        maps.workloads.set(&netns, &after)?;
        self.0.insert(netns, own);
        Ok(())
    }

    /// The entry is gone, or new.
    pub(super) fn forget(&mut self, netns: u64) {
        self.0.remove(&netns);
    }
}

/// Returns the workload's address of this family, or the unspecified one where it has none or several: then nobody knows which it
/// dials from.
pub(super) fn only_address(workload: &Workload, v4: bool) -> Addr {
    let mut own = workload.addresses.iter().filter(|a| a.is_ipv4() == v4);
    match (own.next(), own.next()) {
        (Some(only), None) => Addr::from(*only),
        _ => Addr::UNSPECIFIED,
    }
}
