//! Flags of workloads (`WORKLOAD_*`): each part of the agent sets its own, and an entry bears them all.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use mesh_common::workload::NetnsEntry;

use crate::kernel::maps::Maps;

/// Which network namespaces have each flag.
#[derive(Debug, Default)]
pub(super) struct Flags(BTreeMap<u32, BTreeSet<u64>>);

impl Flags {
    /// Returns the flags of the workload in this namespace.
    pub(super) fn of(&self, netns: u64) -> u32 {
        self.0
            .iter()
            .filter(|(_, all)| all.contains(&netns))
            .fold(0, |flags, (flag, _)| flags | flag)
    }

    /// Gives a flag to the workloads in these namespaces, and takes it from all others that are `installed`.
    ///
    /// # Errors
    ///
    /// Where a map cannot be read or written; entries that are written later bear the flag all the same.
    pub(super) fn set(
        &mut self,
        maps: &Maps,
        flag: u32,
        netns: BTreeSet<u64>,
        installed: impl Iterator<Item = u64>,
    ) -> io::Result<()> {
        self.0.insert(flag, netns);
        let own = self.0.keys().fold(0, |all, flag| all | flag);
        for netns in installed {
            let Some(entry) = maps.workloads.get(&netns)? else {
                continue;
            };
            // Policies write their flags themselves, together with the tables that these lead to.
            let flags = entry.flags & !own | self.of(netns);
            if entry.flags != flags {
                maps.workloads.set(&netns, &NetnsEntry { flags, ..entry })?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_bears_the_flags_of_all_parts() {
        let flags = Flags(BTreeMap::from([(1, [7, 8].into()), (4, [8].into())]));
        assert_eq!([7, 8, 9].map(|netns| flags.of(netns)), [1, 5, 0]);
    }
}
