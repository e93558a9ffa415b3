//! What is not used any more, and may still be in use: regions, backends and numbers that programs may hold.
//!
//! Time is cut into epochs. What is retired in one may be used again when every program that began in it has ended: after a
//! grace period that began later. Pure.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use crate::kernel::services::pool::Region;
use crate::kernel::services::table::Place;

/// Where the kernel offers no grace period, this stands for one: a program that takes longer would be reported as a stall of
/// RCU (21 s, `CONFIG_RCU_CPU_STALL_TIMEOUT`) long before.
const LONG: Duration = Duration::from_secs(60);

/// A backend that no table names any more.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leaving {
    /// Its number.
    pub(super) number: u32,
    /// When its connections are to be closed.
    pub(super) closed_at: Option<Instant>,
    epoch: u64,
}

/// Everything that waits.
#[derive(Debug, Default)]
pub(super) struct Retired {
    /// The epoch that things are retired in now.
    epoch: u64,
    /// Epochs below this are over for all programs.
    safe: u64,
    /// Ends of epochs that are not safe yet.
    ended: VecDeque<(u64, Instant)>,
    regions: VecDeque<(u64, Region)>,
    services: VecDeque<(u64, u32)>,
    backends: HashMap<(u32, Place), Leaving>,
    /// Whether anything was retired in this epoch.
    dirty: bool,
}

impl Retired {
    /// Retires a region; an empty one is no matter.
    pub(super) fn region(&mut self, region: Region) {
        if region.chunks > 0 {
            self.regions.push_back((self.epoch, region));
            self.dirty = true;
        }
    }

    /// Retires a service port's number.
    pub(super) fn service(&mut self, number: u32) {
        self.services.push_back((self.epoch, number));
        self.dirty = true;
    }

    /// Retires a backend of `service`.
    pub(super) fn backend(
        &mut self,
        service: u32,
        place: Place,
        number: u32,
        closed_at: Option<Instant>,
    ) {
        let leaving = Leaving {
            number,
            closed_at,
            epoch: self.epoch,
        };
        self.backends.insert((service, place), leaving);
        self.dirty = true;
    }

    /// Takes a backend of `service` back into use.
    pub(super) fn revive(&mut self, service: u32, place: Place) -> Option<u32> {
        let leaving = self.backends.remove(&(service, place))?;
        Some(leaving.number)
    }

    /// Returns the backends, each with its service's number and its place.
    pub(super) fn backends(&self) -> impl Iterator<Item = (u32, Place, &Leaving)> {
        self.backends
            .iter()
            .map(|((service, place), leaving)| (*service, *place, leaving))
    }

    /// Ends the epoch; returns what to tell [`Retired::passed`] after a grace period, or `None` where none is needed.
    pub(super) fn end_epoch(&mut self, now: Instant) -> Option<u64> {
        if self.dirty {
            self.ended.push_back((self.epoch, now));
            self.epoch += 1;
            self.dirty = false;
        }
        self.ended.back().map(|(epoch, _)| *epoch)
    }

    /// Notes that a grace period has passed that began after the end of `epoch`.
    pub(super) fn passed(&mut self, epoch: u64) {
        self.safe = self.safe.max(epoch + 1);
        self.ended.retain(|(ended, _)| *ended > epoch);
    }

    /// Notes what time alone has made safe.
    pub(super) fn aged(&mut self, now: Instant) {
        let old = |at: &Instant| now.saturating_duration_since(*at) >= LONG;
        let last = self.ended.iter().rev().find(|(_, at)| old(at));
        if let Some((epoch, _)) = last.copied() {
            self.passed(epoch);
        }
    }

    /// Takes out the regions that may be used again.
    pub(super) fn free_regions(&mut self) -> Vec<Region> {
        let free = safe_part(&mut self.regions, self.safe);
        free.into_iter().map(|(_, region)| region).collect()
    }

    /// Takes out the backends that may be given to another: those that nobody picks any more, and without open flows.
    pub(super) fn free_backends(&mut self, open: impl Fn(u32) -> u64) -> Vec<u32> {
        let mut free = Vec::new();
        self.backends.retain(|_, leaving| {
            let goes = leaving.epoch < self.safe && open(leaving.number) == 0;
            if goes {
                free.push(leaving.number);
            }
            !goes
        });
        free
    }

    /// Takes out the numbers of service ports that no backend bears any more.
    pub(super) fn free_services(&mut self) -> Vec<u32> {
        let borne: HashSet<u32> = self.backends.keys().map(|(service, _)| *service).collect();
        let (keep, free): (Vec<_>, Vec<_>) = safe_part(&mut self.services, self.safe)
            .into_iter()
            .partition(|(_, number)| borne.contains(number));
        for kept in keep.into_iter().rev() {
            self.services.push_front(kept);
        }
        free.into_iter().map(|(_, number)| number).collect()
    }
}

/// Takes out what was retired in an epoch below `safe`; the queue is in the order of epochs.
fn safe_part<T>(queue: &mut VecDeque<(u64, T)>, safe: u64) -> Vec<(u64, T)> {
    let count = queue.partition_point(|(epoch, _)| *epoch < safe);
    queue.drain(..count).collect()
}

#[cfg(test)]
mod tests {
    use mesh_common::addr::{Addr, PortBe};

    use super::*;

    const PLACE: Place = (Addr::v4([10, 0, 0, 1]), PortBe::new(80));

    fn region(start: u32) -> Region {
        Region { start, chunks: 1 }
    }

    #[test]
    fn what_is_retired_during_a_grace_period_waits_for_the_next() {
        let mut retired = Retired::default();
        let now = Instant::now();
        assert_eq!(retired.end_epoch(now), None);
        retired.region(region(1));
        let epoch = retired.end_epoch(now).unwrap();
        retired.region(region(2));
        assert!(retired.free_regions().is_empty());
        retired.passed(epoch);
        assert_eq!(retired.free_regions(), [region(1)]);
        let epoch = retired.end_epoch(now).unwrap();
        retired.passed(epoch);
        assert_eq!(retired.free_regions(), [region(2)]);
        assert_eq!(retired.end_epoch(now), None);
    }

    #[test]
    fn a_backend_with_open_flows_keeps_its_number_and_its_services() {
        let mut retired = Retired::default();
        retired.backend(3, PLACE, 7, None);
        retired.service(3);
        retired.service(4);
        let epoch = retired.end_epoch(Instant::now()).unwrap();
        assert!(retired.free_backends(|_| 0).is_empty());
        retired.passed(epoch);
        assert!(retired.free_backends(|_| 1).is_empty());
        assert_eq!(retired.free_services(), [4]);
        assert_eq!(retired.free_backends(|_| 0), [7]);
        assert_eq!(retired.free_services(), [3]);
    }

    #[test]
    fn a_backend_that_comes_back_has_its_number_again() {
        let mut retired = Retired::default();
        retired.backend(3, PLACE, 7, None);
        assert_eq!(retired.revive(4, PLACE), None);
        assert_eq!(retired.revive(3, PLACE), Some(7));
        assert_eq!(retired.revive(3, PLACE), None);
    }

    #[test]
    fn without_grace_periods_time_has_to_pass() {
        let mut retired = Retired::default();
        let now = Instant::now();
        retired.region(region(1));
        retired.end_epoch(now);
        retired.region(region(2));
        retired.end_epoch(now + LONG / 2);
        retired.aged(now + LONG / 2);
        assert!(retired.free_regions().is_empty());
        retired.aged(now + LONG);
        assert_eq!(retired.free_regions(), [region(1)]);
        retired.aged(now + LONG * 2);
        assert_eq!(retired.free_regions(), [region(2)]);
    }
}
