//! Which workload has which handle, namespace and addresses, and how each stands: the maps' counterpart in the agent.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::time::Instant;

use mesh_common::addr::Addr;
use mesh_common::behaviour;
use mesh_common::flow::FlowRecord;
use mesh_common::pair::PairKey;
use mesh_common::sock::SockKey;
use mesh_common::workload::{ADMISSION_OFF, AddrEntry, NetnsEntry};

use crate::kernel::admission::{Candidate, Terms};
use crate::kernel::flags::Flags;
use crate::kernel::gone::Gone;
use crate::kernel::identity::Identities;
use crate::kernel::maps::Maps;
use crate::kernel::plan::{Installed, Wanted, Write, needs_handles, plan};
use crate::kernel::stall::Stalled;
use crate::model::enrolment::Absent;
use crate::model::observed::{WorkloadState, WorkloadStatus};
use crate::model::workload::{Placed, Workload, WorkloadName};

/// What the maps hold, and what leads to it.
#[derive(Debug)]
pub(super) struct Registry {
    installed: Installed,
    candidates: BTreeMap<u32, Candidate>,
    statuses: BTreeMap<WorkloadName, WorkloadStatus>,
    /// Names by handle, kept until the handle is given to another: records of ended flows come late.
    names: HashMap<u32, WorkloadName>,
    gone: Gone,
    identities: Identities,
    flags: Flags,
    /// Namespaces and handles of the workloads whose listening sockets were looked for.
    searched: BTreeSet<(u64, u32)>,
    /// Directions (`WORKLOAD_*_POLICY`) in which workloads that are not there yet are closed from their first moment on.
    closed: BTreeMap<u64, u32>,
}

impl Registry {
    /// Starts from what an earlier agent left in the maps.
    pub(super) fn adopt(maps: &Maps) -> io::Result<Self> {
        let mut installed = Installed::default();
        maps.workloads.for_each(|netns, entries| {
            installed.workloads.extend(
                entries
                    .first()
                    .map(|entry| (*netns, (entry.id, entry.uid_hash))),
            );
        })?;
        maps.addresses.for_each(|address, entries| {
            installed.addresses.extend(
                entries
                    .first()
                    .map(|entry| (*address, (entry.netns, entry.id))),
            );
        })?;
        let mut gone = Gone::default();
        let owned: BTreeSet<u32> = installed.workloads.values().map(|(id, _)| *id).collect();
        maps.pairs.for_each(|key, _| {
            let ends = [key.source_id, key.destination_id];
            for id in ends.into_iter().filter(|id| !owned.contains(id)) {
                gone.left(id, Instant::now());
            }
        })?;
        // The other end of flows that leave the node, and the row of what found no other, are nobody's handles.
        gone.taken(0);
        gone.taken(PairKey::OVERFLOW.source_id);
        gone.taken(PairKey::OVERFLOW.destination_id);
        installed.next_id = installed
            .workloads
            .values()
            .map(|(id, _)| *id)
            .max()
            .unwrap_or(0);
        Ok(Self {
            installed,
            candidates: BTreeMap::new(),
            statuses: BTreeMap::new(),
            names: HashMap::new(),
            gone,
            flags: Flags::default(),
            searched: BTreeSet::new(),
            identities: Identities::default(),
            closed: BTreeMap::new(),
        })
    }

    /// Sets in which directions a workload is closed when it is added, by the cookie of its namespace.
    pub(super) fn close(&mut self, closed: BTreeMap<u64, u32>) {
        self.closed = closed;
    }

    /// Returns the handle of the workload in a namespace; `None` where it is none.
    pub(super) fn handle(&self, netns: u64) -> Option<u32> {
        self.installed.workloads.get(&netns).map(|(id, _)| *id)
    }

    /// Writes what leads to these workloads. `flows` is asked for the live flows when a handle is to be given: one that a
    /// live flow still bears stays with it, or its bytes would be counted as the new owner's.
    pub(super) fn apply(
        &mut self,
        maps: &Maps,
        placed: &[Placed],
        flows: impl FnOnce() -> io::Result<Vec<FlowRecord>>,
    ) -> io::Result<()> {
        self.name_adopted(placed);
        let wanted: Vec<Wanted> = placed.iter().filter_map(wanted).collect();
        let mut busy = BTreeSet::new();
        if needs_handles(&self.installed, &wanted) {
            busy.extend(
                flows()?
                    .iter()
                    .flat_map(|flow| [flow.source_id, flow.destination_id]),
            );
        }
        let before = self.installed.clone();
        for write in plan(&mut self.installed, &wanted, &busy) {
            if let Err(error) = perform(maps, &write, &self.flags, &self.closed) {
                // What is in the maps is known again after reading them; the next call goes on from there.
                self.installed = Self::adopt(maps).map_or(before, |fresh| fresh.installed);
                return Err(error);
            }
            match write {
                Write::RemoveWorkload { netns, id } => {
                    self.gone.left(id, Instant::now());
                    self.identities.forget(netns);
                }
                Write::AddWorkload { netns, id, .. } => {
                    self.gone.taken(id);
                    self.identities.forget(netns);
                    self.searched.retain(|(searched, _)| *searched != netns);
                }
                Write::RemoveAddress(_) | Write::Reset(_) | Write::SetAddress { .. } => {}
            }
        }
        for placed in placed {
            self.identities.write(maps, placed)?;
        }
        self.statuses = placed
            .iter()
            .map(|placed| (placed.workload.name.clone(), self.status(placed)))
            .collect();
        let named = self.statuses.values().filter(|status| status.id != 0);
        self.names
            .extend(named.map(|status| (status.id, status.name.clone())));
        // A set: a cluster's pods elsewhere are among the statuses, by the thousand.
        let ids: BTreeSet<u32> = self.statuses.values().map(|status| status.id).collect();
        self.candidates.retain(|id, _| ids.contains(id));
        Ok(())
    }

    /// Returns the workloads whose listening sockets have not been looked for, each by namespace and handle.
    pub(super) fn unsearched(&mut self) -> Vec<(u64, u32)> {
        let installed = self.installed.workloads.iter();
        let installed: BTreeSet<(u64, u32)> =
            installed.map(|(netns, (id, _))| (*netns, *id)).collect();
        self.searched.retain(|found| installed.contains(found));
        installed.difference(&self.searched).copied().collect()
    }

    /// Notes that the listening sockets of a workload were looked for.
    pub(super) fn searched(&mut self, workload: (u64, u32)) {
        self.searched.insert(workload);
    }

    /// Gives a flag (`WORKLOAD_*`) to the workloads in these network namespaces, and takes it from all others.
    pub(super) fn set_flag(
        &mut self,
        maps: &Maps,
        flag: u32,
        netns: BTreeSet<u64>,
    ) -> io::Result<()> {
        let installed = self.installed.workloads.keys().copied();
        self.flags.set(maps, flag, netns, installed)
    }

    /// Names the handles that an earlier agent gave, also to workloads that are gone: records of their flows may still come.
    fn name_adopted(&mut self, placed: &[Placed]) {
        let handles = self.installed.workloads.values();
        let handles: HashMap<u64, u32> = handles.map(|(id, hash)| (*hash, *id)).collect();
        for Placed { workload, .. } in placed {
            if let Some(id) = handles.get(&uid_hash(workload)) {
                self.names.insert(*id, workload.name.clone());
            }
        }
    }

    /// Decides on every workload's admission; returns whether any is to be observed.
    pub(super) fn decide(&mut self, maps: &Maps, terms: &Terms, now: Instant) -> io::Result<bool> {
        let mut any_observed = false;
        for status in self.statuses.values_mut().filter(|status| status.id != 0) {
            let seen = maps.admissions.get(status.id).unwrap_or_default();
            let candidate = self
                .candidates
                .entry(status.id)
                .or_insert_with(|| Candidate::new(status.acceleration));
            candidate.set_mode(status.acceleration);
            let decision = candidate.decide(&seen, terms, now);
            any_observed |= decision.observed;
            let observed = u32::from(decision.observed);
            if (seen.admission, seen.observed) != (decision.admission, observed) {
                maps.admissions
                    .decide(status.id, decision.admission, observed);
                tracing::info!(workload = %status.name, state = ?decision.state, why = decision.why, "admission changed");
            }
            status.behaviours = seen.behaviours;
            if status.absent.is_none() {
                status.state = decision.state;
                status.why = decision.why;
            }
        }
        Ok(any_observed)
    }

    /// Removes the counters of workloads that have been gone for a while: handles are used again only after thousands of
    /// others, and the table of pairs would be full long before.
    pub(super) fn forget(&mut self, maps: &Maps, now: Instant) -> io::Result<()> {
        let due: BTreeSet<u32> = self.gone.due(now).into_iter().collect();
        if due.is_empty() {
            return Ok(());
        }
        remove_pairs(maps, &due)?;
        due.iter().for_each(|id| self.gone.taken(*id));
        Ok(())
    }

    /// Returns every workload as it stands, by name.
    pub(super) fn statuses(&self) -> Vec<WorkloadStatus> {
        self.statuses.values().cloned().collect()
    }

    /// Returns the name behind a handle.
    pub(super) fn name(&self, id: u32) -> Option<WorkloadName> {
        self.names.get(&id).cloned()
    }

    /// Returns the socket that does not read, and its workload's handle; `None` when the workload is gone.
    pub(super) fn reader(&self, stalled: &Stalled) -> Option<(SockKey, u32)> {
        let client = stalled.flow;
        if stalled.client_reads {
            return Some((client, self.installed.workloads.get(&client.netns)?.0));
        }
        let netns = self.server_netns(&client)?;
        let id = self.installed.workloads.get(&netns)?.0;
        Some((client.mirrored(netns), id))
    }

    /// Returns the network namespace of the server that a client's socket talks to; `None` when it is gone.
    pub(super) fn server_netns(&self, client: &SockKey) -> Option<u64> {
        if client.remote.is_loopback() {
            return Some(client.netns);
        }
        let owner = self.installed.addresses.get(&client.remote);
        owner.map(|(netns, _)| *netns)
    }

    /// Takes a workload's admission away because it left bytes unread.
    pub(super) fn mark_stalled(&self, maps: &Maps, id: u32) {
        maps.admissions.note(id, behaviour::STALLED);
    }

    fn status(&self, placed: &Placed) -> WorkloadStatus {
        let Workload {
            name,
            addresses,
            acceleration,
            ..
        } = placed.workload.as_ref();
        let netns = placed.netns.as_ref().copied().unwrap_or(0);
        let id = self
            .installed
            .workloads
            .get(&netns)
            .map_or(0, |(id, _)| *id);
        let (absent, why) = match &placed.netns {
            Err(absence) => (Some(absence.reason), absence.why.clone()),
            Ok(_) if id == 0 => {
                let why = "the table of workloads is full".to_owned();
                (Some(Absent::TableFull), why)
            }
            Ok(_) => match &placed.uncaptured {
                Some(absence) => (Some(absence.reason), absence.why.clone()),
                None => (None, String::new()),
            },
        };
        WorkloadStatus {
            name: name.clone(),
            id,
            netns,
            addresses: addresses.clone(),
            acceleration: *acceleration,
            state: match absent {
                Some(Absent::NotEnrolled) => WorkloadState::NotEnrolled,
                Some(Absent::Outside) => WorkloadState::NotAccelerated,
                _ => WorkloadState::NotFound,
            },
            why,
            note: placed.note.clone(),
            absent,
            behaviours: 0,
        }
    }
}

fn wanted(placed: &Placed) -> Option<Wanted> {
    let netns = *placed.netns.as_ref().ok()?;
    let workload = &placed.workload;
    let addresses = workload
        .addresses
        .iter()
        .map(|address| Addr::from(*address))
        .collect();
    Some(Wanted {
        netns,
        uid_hash: uid_hash(workload),
        addresses,
    })
}

/// FNV-1a of name and UID. Not the standard library's hash, which another compiler may change: an upgraded agent has to
/// find the same handles.
fn uid_hash(workload: &Workload) -> u64 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    let Workload { name, uid, .. } = workload;
    let words = [
        &name.namespace,
        "/",
        &name.name,
        "/",
        uid.as_deref().unwrap_or(""),
    ];
    let bytes = words.iter().flat_map(|word| word.bytes());
    bytes.fold(OFFSET, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(PRIME)
    })
}

fn perform(
    maps: &Maps,
    write: &Write,
    flags: &Flags,
    closed: &BTreeMap<u64, u32>,
) -> io::Result<()> {
    match *write {
        Write::RemoveAddress(address) => maps.addresses.remove(&address),
        Write::RemoveWorkload { netns, id } => {
            maps.workloads.remove(&netns)?;
            // Its live flows are nobody's to decide on any more.
            maps.admissions.decide(id, ADMISSION_OFF, 0);
            Ok(())
        }
        Write::Reset(id) => reset(maps, id),
        Write::AddWorkload {
            netns,
            id,
            uid_hash,
        } => maps.workloads.set(
            &netns,
            &NetnsEntry {
                id,
                // A policy's flags without its tables let nothing through.
                flags: flags.of(netns) | closed.get(&netns).copied().unwrap_or(0),
                uid_hash,
                ..NetnsEntry::default()
            },
        ),
        Write::SetAddress { address, netns, id } => maps
            .addresses
            .set(&address, &AddrEntry { netns, id, _pad: 0 }),
    }
}

/// Clears what an earlier owner of the handle left.
fn reset(maps: &Maps, id: u32) -> io::Result<()> {
    maps.admissions.clear(id);
    remove_listeners(maps, id)?;
    remove_pairs(maps, &BTreeSet::from([id]))
}

/// Removes what is known of the ports of a handle. Sockets that still count there are nobody's from then on.
fn remove_listeners(maps: &Maps, id: u32) -> io::Result<()> {
    let mut stale = Vec::new();
    maps.listeners.for_each(|key, _| {
        if key.workload == id {
            stale.push(*key);
        }
    })?;
    stale.iter().try_for_each(|key| maps.listeners.remove(key))
}

/// Removes the counters of every pair that one of these handles is an end of.
fn remove_pairs(maps: &Maps, ids: &BTreeSet<u32>) -> io::Result<()> {
    let mut stale = Vec::new();
    maps.pairs.for_each(|key, _| {
        if ids.contains(&key.source_id) || ids.contains(&key.destination_id) {
            stale.push(*key);
        }
    })?;
    stale.iter().try_for_each(|key| maps.pairs.remove(key))
}
