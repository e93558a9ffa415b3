//! From what is installed to what is wanted: an ordered list of map writes. Pure.
//!
//! The order keeps every moment between two writes true: an address never names a workload that is not there, and a
//! workload never has an admission left by another.

use std::collections::{BTreeMap, BTreeSet};

use mesh_common::addr::Addr;
use mesh_common::limits;

/// A workload that was found on the machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Wanted {
    /// Cookie of its network namespace.
    pub(crate) netns: u64,
    /// Hash of its name and UID.
    pub(crate) uid_hash: u64,
    /// Its addresses.
    pub(crate) addresses: Vec<Addr>,
}

/// What the maps hold: by namespace the handle and UID hash, by address the namespace and handle.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Installed {
    /// Workloads by namespace cookie.
    pub(crate) workloads: BTreeMap<u64, (u32, u64)>,
    /// Addresses.
    pub(crate) addresses: BTreeMap<Addr, (u64, u32)>,
    /// Where the search for a free handle goes on: handles are used in turn, so that one rests as long as possible.
    pub(crate) next_id: u32,
}

/// One map write.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Write {
    /// Deletes an address.
    RemoveAddress(Addr),
    /// Deletes a workload.
    RemoveWorkload {
        /// Its namespace.
        netns: u64,
        /// Its handle, free from here on.
        id: u32,
    },
    /// Clears what an earlier owner of this handle left: its admission and its counters.
    Reset(u32),
    /// Adds a workload.
    AddWorkload {
        /// Its namespace.
        netns: u64,
        /// Its handle.
        id: u32,
        /// Its UID hash.
        uid_hash: u64,
    },
    /// Adds or changes an address.
    SetAddress {
        /// The address.
        address: Addr,
        /// Its namespace.
        netns: u64,
        /// Its workload.
        id: u32,
    },
}

/// Returns the writes that lead from `installed` to `wanted`, and changes `installed` to what they leave.
///
/// A workload keeps its handle as long as namespace and UID hash stay. Workloads for which no handle is left are not added;
/// the caller finds them missing from `installed`. No workload gets a handle in `busy`. Cost: linear in all.
pub(crate) fn plan(
    installed: &mut Installed,
    wanted: &[Wanted],
    busy: &BTreeSet<u32>,
) -> Vec<Write> {
    let by_netns: BTreeMap<u64, &Wanted> =
        wanted.iter().map(|wanted| (wanted.netns, wanted)).collect();
    let mut writes = removals(installed, &by_netns);
    let installed_ids = installed.workloads.values().map(|(id, _)| *id);
    let mut used: BTreeSet<u32> = installed_ids.chain(busy.iter().copied()).collect();
    for (netns, wanted) in &by_netns {
        let id = match installed.workloads.get(netns) {
            Some((id, _)) => *id,
            None => {
                let Some(id) = free_id(&mut installed.next_id, &used) else {
                    continue;
                };
                used.insert(id);
                let uid_hash = wanted.uid_hash;
                installed.workloads.insert(*netns, (id, uid_hash));
                writes.push(Write::Reset(id));
                writes.push(Write::AddWorkload {
                    netns: *netns,
                    id,
                    uid_hash,
                });
                id
            }
        };
        for address in &wanted.addresses {
            let netns = *netns;
            if installed.addresses.insert(*address, (netns, id)) != Some((netns, id)) {
                let address = *address;
                writes.push(Write::SetAddress { address, netns, id });
            }
        }
    }
    writes
}

/// Removes what is not wanted any more: addresses first, so that none outlives its workload.
fn removals(installed: &mut Installed, by_netns: &BTreeMap<u64, &Wanted>) -> Vec<Write> {
    let mut writes = Vec::new();
    let stays = |netns: &u64, uid_hash: u64| {
        let wanted = by_netns.get(netns);
        wanted.is_some_and(|wanted| wanted.uid_hash == uid_hash)
    };
    let all = by_netns.values();
    let owner: BTreeMap<Addr, u64> = all
        .flat_map(|wanted| {
            wanted
                .addresses
                .iter()
                .map(|address| (*address, wanted.netns))
        })
        .collect();
    let workloads = &installed.workloads;
    installed.addresses.retain(|address, (netns, _)| {
        let hash = workloads.get(netns).map(|(_, hash)| *hash);
        let keep = owner.get(address) == Some(netns) && hash.is_some_and(|hash| stays(netns, hash));
        if !keep {
            writes.push(Write::RemoveAddress(*address));
        }
        keep
    });
    installed.workloads.retain(|netns, (id, uid_hash)| {
        let keep = stays(netns, *uid_hash);
        if !keep {
            writes.push(Write::RemoveWorkload {
                netns: *netns,
                id: *id,
            });
        }
        keep
    });
    writes
}

/// Returns whether [`plan`] would give any handle.
pub(crate) fn needs_handles(installed: &Installed, wanted: &[Wanted]) -> bool {
    wanted.iter().any(|wanted| {
        installed
            .workloads
            .get(&wanted.netns)
            .map(|(_, hash)| *hash)
            != Some(wanted.uid_hash)
    })
}

/// Returns the next handle that is not in use; 0 stands for "not a workload of this node" and is never given.
fn free_id(next: &mut u32, used: &BTreeSet<u32>) -> Option<u32> {
    let last = u32::try_from(limits::WORKLOADS - 1).ok()?;
    for _ in 0..last {
        *next = if *next >= last { 1 } else { *next + 1 };
        if !used.contains(next) {
            return Some(*next);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Applies one write to a model of the maps, and checks that nothing dangles after it.
    fn apply(maps: &mut Installed, write: &Write) {
        match *write {
            Write::RemoveAddress(address) => assert!(maps.addresses.remove(&address).is_some()),
            Write::RemoveWorkload { netns, .. } => assert!(maps.workloads.remove(&netns).is_some()),
            Write::Reset(id) => assert!(maps.workloads.values().all(|(used, _)| *used != id)),
            Write::AddWorkload {
                netns,
                id,
                uid_hash,
            } => {
                assert!(maps.workloads.insert(netns, (id, uid_hash)).is_none());
            }
            Write::SetAddress { address, netns, id } => {
                maps.addresses.insert(address, (netns, id));
            }
        }
        for (netns, id) in maps.addresses.values() {
            assert_eq!(
                maps.workloads.get(netns).map(|(id, _)| *id),
                Some(*id),
                "dangling address"
            );
        }
        let ids: BTreeSet<u32> = maps.workloads.values().map(|(id, _)| *id).collect();
        assert_eq!(ids.len(), maps.workloads.len(), "a handle is used twice");
        assert!(!ids.contains(&0));
    }

    fn wanted() -> impl Strategy<Value = Vec<Wanted>> {
        // Few namespaces, hashes and addresses, so that they collide and move between sets.
        let one = (
            1..8u64,
            0..3u64,
            proptest::collection::btree_set(0..12u8, 0..4),
        );
        proptest::collection::vec(one, 0..8).prop_map(|all| {
            let mut namespaces = BTreeSet::new();
            let mut addresses = BTreeSet::new();
            all.into_iter()
                .filter(|(netns, ..)| namespaces.insert(*netns))
                .map(|(netns, uid_hash, own)| Wanted {
                    netns,
                    uid_hash,
                    addresses: own
                        .into_iter()
                        .filter(|a| addresses.insert(*a))
                        .map(|a| Addr::v4([10, 0, 0, a]))
                        .collect(),
                })
                .collect()
        })
    }

    proptest! {
        #[test]
        fn writes_lead_from_any_state_to_the_wanted_one(sets in proptest::collection::vec(wanted(), 1..6)) {
            let mut installed = Installed::default();
            let mut maps = Installed::default();
            for set in sets {
                let before = installed.clone();
                prop_assert_eq!(needs_handles(&installed, &set), set.iter().any(|w| before.workloads.get(&w.netns).is_none_or(|(_, hash)| *hash != w.uid_hash)));
                for write in plan(&mut installed, &set, &BTreeSet::new()) {
                    apply(&mut maps, &write);
                }
                prop_assert_eq!(&maps.workloads, &installed.workloads);
                prop_assert_eq!(&maps.addresses, &installed.addresses);
                let netns: Vec<u64> = set.iter().map(|w| w.netns).collect();
                prop_assert!(installed.workloads.keys().all(|n| netns.contains(n)));
                prop_assert_eq!(installed.workloads.len(), set.len());
                prop_assert_eq!(installed.addresses.len(), set.iter().map(|w| w.addresses.len()).sum::<usize>());
                for (netns, (id, hash)) in &before.workloads {
                    if let Some((id_now, hash_now)) = installed.workloads.get(netns)
                        && hash == hash_now
                    {
                        prop_assert_eq!(id, id_now, "a workload keeps its handle");
                    }
                }
                prop_assert_eq!(plan(&mut installed, &set, &BTreeSet::new()), vec![], "a second plan has nothing to do");
            }
        }
    }

    #[test]
    fn ten_thousand_comings_and_goings_reuse_handles() {
        let mut installed = Installed::default();
        for n in 0..10_000u64 {
            plan(
                &mut installed,
                &[Wanted {
                    netns: n + 1,
                    uid_hash: n,
                    addresses: vec![Addr::v4([10, 0, 0, 1])],
                }],
                &BTreeSet::from([7, 8]),
            );
            assert!(
                installed
                    .workloads
                    .values()
                    .all(|(id, _)| ![7, 8].contains(id))
            );
            assert_eq!(
                (installed.workloads.len(), installed.addresses.len()),
                (1, 1)
            );
        }
        plan(&mut installed, &[], &BTreeSet::new());
        assert_eq!(
            (installed.workloads.len(), installed.addresses.len()),
            (0, 0)
        );
    }
}
