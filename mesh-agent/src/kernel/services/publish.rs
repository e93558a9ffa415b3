//! Gives a service port its backends, and them their table.

use std::time::Instant;

use crate::kernel::services::arrays::Arrays;
use crate::kernel::services::pool::Region;
use crate::kernel::services::state::{Family, State};
use crate::kernel::services::table::{self, Listed};
use crate::kernel::services::wanted::{IpFamily, Member, affinity_ns, closed_at, flags, members};
use crate::model::balanced::Balanced;
use crate::model::service::Drain;

const NO_NUMBERS: &str = "the table of services is full";
const NO_BACKENDS: &str = "the table of backends is full";
const NO_CHUNKS: &str = "the pool of backend tables is full";

impl State {
    /// Publishes the wanted backends of a family. Returns the family, or `None` where there was none and it cannot be; and why
    /// it is not as wanted: then it keeps the table that it had.
    pub(super) fn publish(
        &mut self,
        arrays: Arrays<'_>,
        old: Option<Family>,
        wanted: &Balanced,
        family: IpFamily,
        now: Instant,
    ) -> (Option<Family>, Option<&'static str>) {
        let known = old.is_some();
        let Some(mut own) = old.or_else(|| self.new_family(arrays)) else {
            return (None, Some(NO_NUMBERS));
        };
        match self.replace(arrays, &mut own, wanted, family, now) {
            Ok(()) => (Some(own), None),
            Err(why) if known => {
                if own.table.chunks == 0 {
                    // What an earlier agent left may be named, but was no table.
                    arrays.name_table(own.number, 0, flags(wanted), 0);
                }
                (Some(own), Some(why))
            }
            Err(why) => {
                // No program has seen it.
                self.numbers.give(own.number);
                (None, Some(why))
            }
        }
    }

    fn new_family(&mut self, arrays: Arrays<'_>) -> Option<Family> {
        let number = self.numbers.take().or_else(|| {
            self.make_room(arrays);
            self.numbers.take()
        })?;
        arrays.clear_service(number);
        self.names.remove(number);
        Some(Family {
            number,
            ..Family::default()
        })
    }

    /// Writes backends and table, names the table, and retires what it stood for. Without room nothing happens.
    fn replace(
        &mut self,
        arrays: Arrays<'_>,
        own: &mut Family,
        wanted: &Balanced,
        family: IpFamily,
        now: Instant,
    ) -> Result<(), &'static str> {
        let members = members(wanted, family);
        let targets = members.iter().filter(|member| member.weight > 0).count();
        let kept = Kept::of(arrays, own, &members);
        let fresh = members
            .iter()
            .zip(&kept.numbers)
            .filter(|(member, kept)| kept.is_none() && member.weight > 0);
        let region = self.room(arrays, wanted, targets, fresh.count())?;
        if let Err(why) = self.captures.add(arrays, own.number, wanted) {
            self.pool.give(region);
            return Err(why);
        }

        let mut backends = Vec::with_capacity(members.len());
        let mut listed = Vec::with_capacity(targets);
        let mut resting = Vec::new();
        for (member, kept) in members.iter().zip(kept.numbers) {
            let Some(number) = kept.or_else(|| self.enlist(arrays, own.number, member)) else {
                continue;
            };
            backends.push(number);
            if member.weight == 0 {
                resting.push(number);
                continue;
            }
            arrays.set_weight(number, member.weight);
            arrays.set_usable(number, true);
            listed.push(Listed {
                number,
                weight: member.weight,
                place: member.place,
            });
        }
        let table = if listed.is_empty() {
            Vec::new()
        } else {
            table::build(wanted.algorithm, &listed)
        };
        if arrays.has_table(own.table, &table) {
            self.pool.give(region);
        } else {
            arrays.write_table(region, &table);
            self.retired
                .region(std::mem::replace(&mut own.table, region));
        }
        let (flags, affinity) = (flags(wanted), affinity_ns(wanted));
        arrays.name_table(own.number, own.table.start, flags, affinity);
        self.captures.keep(arrays, own.number, wanted);
        for number in resting {
            arrays.set_usable(number, false);
        }
        for number in kept.gone {
            self.leave(arrays, own.number, number, wanted.drain, now);
        }
        own.backends = backends.into();
        Ok(())
    }

    /// Takes a region for the table of so many targets, and makes sure of so many free backends.
    fn room(
        &mut self,
        arrays: Arrays<'_>,
        wanted: &Balanced,
        targets: usize,
        fresh: usize,
    ) -> Result<Region, &'static str> {
        if self.slots.free() < fresh {
            self.make_room(arrays);
            if self.slots.free() < fresh {
                return Err(NO_BACKENDS);
            }
        }
        if targets == 0 {
            return Ok(Region::default());
        }
        let chunks = table::chunks(wanted.algorithm, targets);
        let chunks = u32::try_from(chunks).map_err(|_| NO_CHUNKS)?;
        let region = self.pool.take(chunks).or_else(|| {
            self.make_room(arrays);
            self.pool.take(chunks)
        });
        region.ok_or(NO_CHUNKS)
    }

    /// Returns the number of an endpoint that is listed anew: the one it had, while flows of then are still open. One that
    /// rests and has none needs none.
    fn enlist(&mut self, arrays: Arrays<'_>, service: u32, member: &Member) -> Option<u32> {
        if let Some(number) = self.retired.revive(service, member.place) {
            return Some(number);
        }
        if member.weight == 0 {
            return None;
        }
        let number = self.slots.take()?;
        arrays.give_backend(number, service, member.place, member.weight);
        Some(number)
    }

    /// Takes a backend out of use that no table names any more.
    pub(super) fn leave(
        &mut self,
        arrays: Arrays<'_>,
        service: u32,
        number: u32,
        drain: Drain,
        now: Instant,
    ) {
        arrays.set_usable(number, false);
        let place = arrays.place(number);
        self.retired
            .backend(service, place, number, closed_at(drain, now));
    }

    /// Waits for a grace period at once: something is full, and what was retired may make room. Once in each call.
    fn make_room(&mut self, arrays: Arrays<'_>) {
        if std::mem::replace(&mut self.made_room, true) {
            return;
        }
        let Some(epoch) = self.retired.end_epoch(Instant::now()) else {
            return;
        };
        if arrays.calls.grace_period().is_ok() {
            self.retired.passed(epoch);
        }
        self.reclaim(arrays);
    }

    /// Makes everything free that nothing uses any more.
    pub(super) fn reclaim(&mut self, arrays: Arrays<'_>) {
        for (region, named_by) in self.retired.free_regions() {
            if named_by != 0 {
                arrays.name_table(named_by, 0, 0, 0);
            }
            if region.chunks > 0 {
                self.pool.give(region);
            }
        }
        let open = |number| arrays.backends.get(number).map_or(0, |entry| entry.open);
        for number in self.retired.free_backends(open) {
            arrays.free_backend(number);
            self.slots.give(number);
        }
        for number in self.retired.free_services() {
            self.captures.clear(arrays, number);
            self.numbers.give(number);
        }
    }
}

/// Which backends a family keeps.
struct Kept {
    /// For each member the number that it has.
    numbers: Vec<Option<u32>>,
    /// Those that are no members any more.
    gone: Vec<u32>,
}

impl Kept {
    /// Goes through both lists at once; both are in the order of places.
    fn of(arrays: Arrays<'_>, own: &Family, members: &[Member]) -> Self {
        let mut numbers = vec![None; members.len()];
        let mut gone = Vec::new();
        let mut at = 0;
        for number in &own.backends {
            let place = arrays.place(*number);
            while members.get(at).is_some_and(|member| member.place < place) {
                at += 1;
            }
            match (members.get(at), numbers.get_mut(at)) {
                (Some(member), Some(kept)) if member.place == place && kept.is_none() => {
                    *kept = Some(*number);
                }
                _ => gone.push(*number),
            }
        }
        Self { numbers, gone }
    }
}
