//! Takes over what an earlier agent left in the maps.

use std::collections::HashMap;
use std::io;

use mesh_common::service::Frontend;

use crate::kernel::services::arrays::Arrays;
use crate::kernel::services::captures::Captures;
use crate::kernel::services::names::Names;
use crate::kernel::services::numbers::Numbers;
use crate::kernel::services::pool::{Pool, Region};
use crate::kernel::services::retired::Retired;
use crate::kernel::services::state::{Family, State};
use crate::kernel::services::table::chunks_of;

/// What the maps have room for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    pub(super) services: u32,
    pub(super) backends: u32,
    pub(super) chunks: u32,
}

/// What was found of one family.
#[derive(Default)]
struct Found {
    frontends: Vec<Frontend>,
    backends: Vec<u32>,
}

impl State {
    /// Reads the maps. Whatever bears the number of a service port is kept with it, until it is known what is wanted.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub(super) fn adopt(arrays: Arrays<'_>, room: Room) -> io::Result<Self> {
        let mut state = Self {
            ports: std::collections::BTreeMap::new(),
            adopted: HashMap::new(),
            names: Names::default(),
            owners: HashMap::new(),
            numbers: Numbers::new(room.services),
            slots: Numbers::new(room.backends),
            pool: Pool::new(room.chunks),
            retired: Retired::default(),
            node_addresses: arrays.calls.node_addresses()?.into_iter().collect(),
            captures: Captures::adopt(arrays.calls.captures()?),
            made_room: false,
            dials_looked_at: None,
        };
        let mut found: HashMap<u32, Found> = HashMap::new();
        for (frontend, number) in arrays.calls.frontends()? {
            state.owners.insert(frontend, number);
            // One that leads nowhere is nobody's.
            let valid = if number < room.services { number } else { 0 };
            found.entry(valid).or_default().frontends.push(frontend);
        }
        for number in 1..room.backends {
            let entry = arrays.backends.get(number).unwrap_or_default();
            if entry.service != 0 && entry.service < room.services {
                state.slots.claim(number);
                let family = found.entry(entry.service).or_default();
                family.backends.push(number);
            }
        }
        for number in 1..room.services {
            let set = arrays.services.get(number).map_or(0, |entry| entry.set);
            if set != 0 {
                found.entry(number).or_default();
            }
        }
        if !found.is_empty() {
            // Programs may still read tables that the earlier agent had replaced. Where the kernel offers no grace period, a
            // program that began before an agent's start would have to run on until now.
            match arrays.calls.grace_period() {
                Err(error) if error.kind() != io::ErrorKind::Unsupported => return Err(error),
                _ => {}
            }
        }
        for (number, found) in found {
            let family = state.take_over(arrays, number, found);
            state.adopted.insert(number, family);
        }
        Ok(state)
    }

    fn take_over(&mut self, arrays: Arrays<'_>, number: u32, mut found: Found) -> Family {
        self.numbers.claim(number);
        found
            .backends
            .sort_by_cached_key(|backend| arrays.place(*backend));
        found.frontends.sort_unstable();
        let start = arrays.services.get(number).map_or(0, |entry| entry.set);
        let chunks = arrays.chunks.get(start).and_then(chunks_of).unwrap_or(0);
        let region = Region { start, chunks };
        // A table that is none, or that another has, is replaced as soon as it is known what is wanted.
        let sound = number != 0 && start != 0 && chunks != 0 && self.pool.claim(region);
        Family {
            number,
            table: if sound { region } else { Region::default() },
            frontends: found.frontends.into(),
            backends: found.backends.into(),
        }
    }
}
