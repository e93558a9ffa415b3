//! Which service port has which number, table and backends: the maps' counterpart in the agent.
//!
//! Each call compares pointers with the last one's, so that what did not change costs nothing. An endpoint takes 4 bytes here
//! (its number; its place is read from the map), a frontend 20 and its entry among the owners.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::time::Instant;

use mesh_common::addr::Addr;
use mesh_common::service::Frontend;

use crate::kernel::services::arrays::Arrays;
use crate::kernel::services::captures::Captures;
use crate::kernel::services::names::Names;
use crate::kernel::services::numbers::Numbers;
use crate::kernel::services::pool::{Pool, Region};
use crate::kernel::services::retired::Retired;
use crate::kernel::services::wanted::{FAMILIES, IpFamily, frontends};
use crate::model::balanced::{Balanced, PortId, Unbalanced};
use crate::model::service::Drain;

/// A service port in one address family.
#[derive(Debug, Default)]
pub(super) struct Family {
    /// Its number.
    pub(super) number: u32,
    /// Where its table is; empty without backends.
    pub(super) table: Region,
    /// What is to lead to it.
    pub(super) frontends: Box<[Frontend]>,
    /// Numbers of its backends, in the order of their places.
    pub(super) backends: Box<[u32]>,
}

/// A service port that was wanted at the last call.
#[derive(Debug)]
pub(super) struct Port {
    wanted: Arc<Balanced>,
    /// Not all of it is in force: to be tried again.
    failed: bool,
    pub(super) families: [Option<Family>; 2],
}

/// What the maps hold.
#[derive(Debug)]
pub(in crate::kernel) struct State {
    pub(super) ports: BTreeMap<Arc<PortId>, Port>,
    /// What an earlier agent left, by number, until it is known what is wanted.
    pub(super) adopted: HashMap<u32, Family>,
    /// Names by number.
    pub(in crate::kernel) names: Names,
    /// Where each frontend leads.
    pub(super) owners: HashMap<Frontend, u32>,
    pub(super) numbers: Numbers,
    pub(super) slots: Numbers,
    pub(super) pool: Pool,
    pub(super) retired: Retired,
    pub(super) captures: Captures,
    pub(super) node_addresses: BTreeSet<Addr>,
    /// Whether this call has waited for a grace period.
    pub(super) made_room: bool,
    /// When it was last looked at what sockets dialled.
    pub(super) dials_looked_at: Option<Instant>,
}

/// One difference to the last call.
struct Change {
    id: Arc<PortId>,
    wanted: Option<Arc<Balanced>>,
}

impl State {
    /// Brings the maps in line; returns what could not be.
    ///
    /// # Errors
    ///
    /// The kernel's; the state is to be adopted anew then.
    pub(super) fn balance(
        &mut self,
        arrays: Arrays<'_>,
        wanted: &BTreeMap<PortId, Arc<Balanced>>,
        now: Instant,
    ) -> io::Result<Vec<Unbalanced>> {
        self.made_room = false;
        let changes = self.changes(wanted);
        let mut failures: BTreeMap<Arc<PortId>, String> = BTreeMap::new();
        let mut gone: Vec<(Family, Drain)> = Vec::new();
        let mut free = HashSet::new();
        let mut changed = Vec::new();
        for Change { id, wanted } in changes {
            let port = self.ports.remove(&id);
            let Some(wanted) = wanted else {
                let drain = port.as_ref().map_or(Drain::Keep, |port| port.wanted.drain);
                let families = port.into_iter().flat_map(|port| port.families).flatten();
                gone.extend(families.map(|family| (family, drain)));
                continue;
            };
            let mut old = port.map_or_else(|| self.claim(&wanted), |port: Port| port.families);
            let mut families = [None, None];
            let mut failed = false;
            for ((family, old), new) in FAMILIES.into_iter().zip(&mut old).zip(&mut families) {
                let frontends = frontends(&wanted, family);
                if frontends.is_empty() {
                    gone.extend(old.take().map(|old| (old, wanted.drain)));
                    continue;
                }
                let outcome = self.publish(arrays, old.take(), &wanted, family, now);
                let (published, why) = outcome;
                if let Some(why) = why {
                    failures.insert(id.clone(), why.to_owned());
                    failed = true;
                }
                let Some(mut published) = published else {
                    continue;
                };
                let unwanted = |own: &&Frontend| frontends.binary_search(own).is_err();
                free.extend(self.held(&published).filter(unwanted).copied());
                published.frontends = frontends.into();
                self.names.insert(published.number, family, &id);
                *new = Some(published);
            }
            changed.push(id.clone());
            let port = Port {
                wanted,
                failed,
                families,
            };
            self.ports.insert(id, port);
        }
        gone.extend(
            self.adopted
                .drain()
                .map(|(_, family)| (family, Drain::Keep)),
        );
        free.extend(gone.iter().flat_map(|(family, _)| self.held(family)));
        self.lead(arrays, &changed, free, &mut failures)?;
        for (family, drain) in gone {
            self.retire(arrays, family, drain, now);
        }
        for id in failures.keys() {
            if let Some(port) = self.ports.get_mut(id) {
                port.failed = true;
            }
        }
        let unbalanced = |(id, why): (Arc<PortId>, String)| Unbalanced { id, why };
        Ok(failures.into_iter().map(unbalanced).collect())
    }

    /// Returns what is not as it was at the last call, in the order of names.
    fn changes(&self, wanted: &BTreeMap<PortId, Arc<Balanced>>) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut own = self.ports.iter().peekable();
        let removal = |id: &Arc<PortId>| Change {
            id: id.clone(),
            wanted: None,
        };
        for (id, balanced) in wanted {
            let same = |(_, port): &(&Arc<PortId>, &Port)| {
                Arc::ptr_eq(&port.wanted, balanced) && !port.failed
            };
            if own.next_if(same).is_some() {
                continue;
            }
            while let Some((gone, _)) = own.next_if(|(own, _)| own.as_ref() < id) {
                changes.push(removal(gone));
            }
            debug_assert_eq!(balanced.id, *id, "each under its own name");
            let known = own.next_if(|(own, _)| own.as_ref() == id);
            if known.as_ref().is_some_and(same) {
                continue;
            }
            let id = known.map_or_else(|| Arc::new(id.clone()), |(id, _)| id.clone());
            let wanted = Some(balanced.clone());
            changes.push(Change { id, wanted });
        }
        changes.extend(own.map(|(gone, _)| removal(gone)));
        changes
    }

    /// Returns the families that an earlier agent left of a service port, found by what leads to them.
    fn claim(&mut self, wanted: &Balanced) -> [Option<Family>; 2] {
        let mut claim = |family: IpFamily| {
            if self.adopted.is_empty() {
                return None;
            }
            frontends(wanted, family).iter().find_map(|frontend| {
                let number = self.owners.get(frontend)?;
                // Number 0 stands for frontends that lead nowhere.
                self.adopted.remove(number).filter(|_| *number != 0)
            })
        };
        FAMILIES.map(&mut claim)
    }

    /// Returns the frontends that lead to a family: of those that it wants, another may have some.
    fn held<'a>(&'a self, family: &'a Family) -> impl Iterator<Item = &'a Frontend> {
        let own = |frontend: &&Frontend| {
            family.number == 0 || self.owners.get(frontend) == Some(&family.number)
        };
        family.frontends.iter().filter(own)
    }

    /// Makes the frontends of the ports that changed lead to them; `free` are those that nobody wants of those who had them.
    fn lead(
        &mut self,
        arrays: Arrays<'_>,
        changed: &[Arc<PortId>],
        mut free: HashSet<Frontend>,
        failures: &mut BTreeMap<Arc<PortId>, String>,
    ) -> io::Result<()> {
        let (mut moved, mut new) = (Vec::new(), Vec::new());
        for id in changed {
            let port = self.ports.get(id).into_iter();
            for family in port.flat_map(|port| port.families.iter().flatten()) {
                for frontend in &family.frontends {
                    let owner = self.owners.get(frontend).copied();
                    if owner == Some(family.number) {
                        free.remove(frontend);
                        continue;
                    }
                    match owner {
                        Some(other) if !free.remove(frontend) => {
                            let why = taken(frontend, self.names.get(other).as_deref());
                            failures.insert(id.clone(), why);
                            continue;
                        }
                        Some(_) => moved.push((*frontend, family.number)),
                        None => new.push((*frontend, family.number)),
                    }
                    self.owners.insert(*frontend, family.number);
                }
            }
        }
        put(arrays, &moved).1?;
        // One that was never put, because the map was full, is nobody's and is not there.
        let free: Vec<Frontend> = free
            .into_iter()
            .filter(|frontend| self.owners.remove(frontend).is_some())
            .collect();
        arrays.calls.remove_frontends(&free)?;
        let (done, outcome) = put(arrays, &new);
        let Err(error) = outcome else {
            return Ok(());
        };
        if error.raw_os_error() != Some(libc::E2BIG) {
            return Err(error);
        }
        for (frontend, number) in new.iter().skip(done) {
            self.owners.remove(frontend);
            if let Some(id) = self.names.get(*number) {
                failures.insert(id, "the table of frontends is full".to_owned());
            }
        }
        Ok(())
    }

    /// Takes a family out of use that nothing leads to any more.
    fn retire(&mut self, arrays: Arrays<'_>, family: Family, drain: Drain, now: Instant) {
        if family.number == 0 {
            return;
        }
        for number in family.backends {
            self.leave(arrays, family.number, number, drain, now);
        }
        self.retired.service(family.number, family.table);
    }
}

fn put(arrays: Arrays<'_>, entries: &[(Frontend, u32)]) -> (usize, io::Result<()>) {
    let (frontends, numbers): (Vec<Frontend>, Vec<u32>) = entries.iter().copied().unzip();
    arrays.calls.put_frontends(&frontends, &numbers)
}

fn taken(frontend: &Frontend, owner: Option<&PortId>) -> String {
    let address = std::net::SocketAddr::new(frontend.address.into(), frontend.port.number());
    let owner = owner.map_or_else(String::new, |owner| format!(" by `{}`", owner.service));
    format!("`{address}` is taken{owner}")
}
