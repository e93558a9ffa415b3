//! Counting requests by labels: a table on each data thread, added up when somebody asks.
//!
//! The way of a request takes one lock, which no other data thread ever takes, and allocates nothing for labels that its thread
//! knows. The book of all labels is locked when a thread meets new ones and at a scrape.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::telemetry::http::cell::{Cell, Sums};
use crate::telemetry::http::labels::{How, Labels, hash};
use crate::telemetry::http::record::RequestRecord;

/// Sets of labels with series of their own. A node of 110 pods that call ten services each, with statuses and flags, has fewer;
/// about 600 bytes for each data thread that meets one.
pub(super) const SETS_MAX: usize = 10_000;

/// How long series stay that nothing is added to, nor to any of the same source and service.
pub(super) const IDLE: Duration = Duration::from_secs(600);

/// Counts requests for all data threads.
#[derive(Debug)]
pub(super) struct Counts {
    /// Whether statuses are counted one by one, not by class.
    is_exact: bool,
    sets_max: usize,
    book: Mutex<Book>,
    /// Another one whenever sets went, so that those without a place ask again.
    freed: AtomicU64,
}

/// Which sets of labels there are.
#[derive(Debug, Default)]
struct Book {
    sets: HashMap<Arc<Labels>, Set>,
    /// What sets of a route said that went before others of their source and service: it shows in sums that those have a part in. Goes
    /// with the last of them.
    past: BTreeMap<Arc<Labels>, Sums>,
    tables: Vec<Arc<Table>>,
}

/// What was counted.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// By the labels of each set.
    pub(super) sets: BTreeMap<Arc<Labels>, Sums>,
    /// What there was besides of what sets that went had a part in: by route, and only of those that there is a set of as well.
    pub(super) past: BTreeMap<Arc<Labels>, Sums>,
}

#[derive(Debug)]
struct Set {
    hash: u64,
    cells: Vec<Arc<Cell>>,
    /// Requests at the last look, and since when there are no others.
    requests: u64,
    since: Instant,
}

/// What one data thread knows.
#[derive(Debug, Default)]
pub(super) struct Table(Mutex<Slots>);

#[derive(Debug, Default)]
struct Slots {
    known: HashMap<u64, Slot, BuildHasherDefault<AsIs>>,
    /// What [`Counts::freed`] was when those without a place were forgotten last.
    emptied: u64,
    /// For what has no place of its own.
    other: Option<Arc<Cell>>,
}

#[derive(Debug)]
struct Slot {
    /// Labels that the slot is for, whatever they are counted under.
    labels: Arc<Labels>,
    cell: Arc<Cell>,
    /// What [`Counts::freed`] was when they found no place.
    homeless: Option<u64>,
}

impl Counts {
    pub(super) fn new(is_exact: bool, sets_max: usize) -> Self {
        Self {
            is_exact,
            sets_max,
            book: Mutex::default(),
            freed: AtomicU64::default(),
        }
    }

    /// Returns the table of one more data thread.
    pub(super) fn table(&self) -> Arc<Table> {
        let table = Arc::<Table>::default();
        self.book().tables.push(table.clone());
        table
    }

    /// Counts a request on the thread that `table` belongs to.
    pub(super) fn count(&self, table: &Table, record: &RequestRecord<'_>) {
        let how = How::of(record, self.is_exact);
        let hash = hash(record, how);
        {
            let slots = lock(&table.0);
            if let Some(slot) = slots.find(hash, record, how)
                && slot
                    .homeless
                    .is_none_or(|then| then == self.freed.load(Ordering::Relaxed))
            {
                return slot.cell.count(record);
            }
        }
        // Never both locks at once this way round: a look at the book takes them the other way.
        let labels = Arc::new(Labels::of(record, how));
        let cell = self.book().place(&labels, hash, self.sets_max);
        let freed = self.freed.load(Ordering::Relaxed);
        let mut slots = lock(&table.0);
        let (cell, homeless) = match cell {
            Some(cell) => (cell, None),
            None => (self.other(&mut slots), Some(freed)),
        };
        cell.count(record);
        // As many again may be known to have no place; the rest asks each time. Who has one is always known, or would get another cell
        // with each request: of those there are no more than sets.
        let mut is_full = slots.known.len() >= 2 * self.sets_max;
        if is_full && (homeless.is_none() || slots.emptied != freed) {
            slots.known.retain(|_, slot| slot.homeless.is_none());
            (is_full, slots.emptied) = (false, freed);
        }
        if !is_full {
            let slot = Slot {
                labels,
                cell,
                homeless,
            };
            slots.put(hash, slot);
        }
    }

    /// Returns the sums of all sets, by labels. Those that nothing was added to for [`IDLE`] go, all that may be added up in a row
    /// of requests together: a sum that falls is taken for a restart.
    pub(super) fn sums(&self, now: Instant) -> Seen {
        let mut book = self.book();
        let mut all = book.look(now);
        let mut other = Sums::default();
        for table in &book.tables {
            if let Some(cell) = &lock(&table.0).other {
                cell.add_to(&mut other);
            }
        }
        if other.requests() > 0 {
            let labels = Labels {
                whose: None,
                how: How::default(),
            };
            all.insert(Arc::new(labels), other);
        }
        for group in book.idle(now) {
            if book.forget(&group) {
                self.freed.fetch_add(1, Ordering::Relaxed);
                for labels in &group {
                    if let Some(sums) = all.remove(labels) {
                        book.past(labels).add(&sums);
                    }
                }
            }
        }
        book.end_past();
        Seen {
            sets: all,
            past: book.past.clone(),
        }
    }

    fn other(&self, slots: &mut Slots) -> Arc<Cell> {
        slots.other.get_or_insert_default().clone()
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        lock(&self.book)
    }
}

impl Book {
    /// Returns a new cell of these labels; `None`: there is no place for more of them.
    fn place(&mut self, labels: &Arc<Labels>, hash: u64, sets_max: usize) -> Option<Arc<Cell>> {
        let cell = Arc::<Cell>::default();
        let now = Instant::now();
        if let Some(set) = self.sets.get_mut(labels) {
            set.cells.push(cell.clone());
            set.since = now;
            return Some(cell);
        }
        if self.sets.len() + self.past.len() >= sets_max {
            return None;
        }
        let set = Set {
            hash,
            cells: vec![cell.clone()],
            requests: 0,
            since: now,
        };
        self.sets.insert(labels.clone(), set);
        Some(cell)
    }

    /// Returns the sums of all sets, and remembers which have moved.
    fn look(&mut self, now: Instant) -> BTreeMap<Arc<Labels>, Sums> {
        let mut all = BTreeMap::new();
        for (labels, set) in &mut self.sets {
            let sums = set.sums();
            if sums.requests() != set.requests {
                set.requests = sums.requests();
                set.since = now;
            }
            all.insert(labels.clone(), sums);
        }
        all
    }

    /// Returns what is kept of sets that went, with the same route as this one.
    fn past(&mut self, labels: &Labels) -> &mut Sums {
        let labels = Arc::new(labels.of_route());
        self.past.entry(labels).or_default()
    }

    /// Forgets what is past of each source and service that there is no set of.
    fn end_past(&mut self) {
        if self.past.is_empty() {
            return;
        }
        let ends = |labels: &Labels| {
            labels
                .group()
                .map(|(source, service, _)| (source.clone(), service.clone()))
        };
        let left: HashSet<_> = self.sets.keys().map(|labels| ends(labels)).collect();
        self.past.retain(|labels, _| left.contains(&ends(labels)));
    }

    /// Returns the sets that are idle, in groups of which nobody is not.
    fn idle(&self, now: Instant) -> Vec<Vec<Arc<Labels>>> {
        let mut groups = HashMap::<_, (bool, Vec<_>)>::new();
        for (labels, set) in &self.sets {
            let (is_idle, group) = groups.entry(labels.group()).or_insert((true, Vec::new()));
            *is_idle &= now.saturating_duration_since(set.since) >= IDLE;
            group.push(labels.clone());
        }
        let idle = groups.into_values().filter(|(is_idle, _)| *is_idle);
        idle.map(|(_, group)| group).collect()
    }

    /// Forgets sets everywhere, unless somebody counted meanwhile; returns whether nobody did.
    fn forget(&mut self, group: &[Arc<Labels>]) -> bool {
        // Nobody counts in between: a thread counts with its table locked, and locks no other.
        let mut tables: Vec<_> = self.tables.iter().map(|table| lock(&table.0)).collect();
        let mut sets = group.iter().filter_map(|labels| self.sets.get(labels));
        if sets.any(|set| set.sums().requests() != set.requests) {
            return false;
        }
        for labels in group {
            if let Some(set) = self.sets.remove(labels) {
                tables.iter_mut().for_each(|it| it.remove(set.hash, labels));
            }
        }
        true
    }
}

impl Set {
    fn sums(&self) -> Sums {
        let mut sums = Sums::default();
        for cell in &self.cells {
            cell.add_to(&mut sums);
        }
        sums
    }
}

impl Slots {
    fn find(&self, hash: u64, record: &RequestRecord<'_>, how: How) -> Option<&Slot> {
        // Where two sets have one hash, the second is a place further.
        let mut at = hash;
        loop {
            let slot = self.known.get(&at)?;
            if slot.labels.are_of(record, how) {
                return Some(slot);
            }
            at = at.wrapping_add(1);
        }
    }

    fn put(&mut self, hash: u64, slot: Slot) {
        let mut at = hash;
        while let Some(there) = self.known.get(&at)
            && there.labels != slot.labels
        {
            at = at.wrapping_add(1);
        }
        self.known.insert(at, slot);
    }

    /// A second set of the same hash is not found again: its next request puts it here once more.
    fn remove(&mut self, hash: u64, labels: &Arc<Labels>) {
        let mut at = hash;
        while let Some(there) = self.known.get(&at) {
            if there.labels == *labels {
                self.known.remove(&at);
                return;
            }
            at = at.wrapping_add(1);
        }
    }
}

/// The key is a hash already.
#[derive(Default)]
struct AsIs(u64);

impl Hasher for AsIs {
    fn write(&mut self, _: &[u8]) {}

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic in between leaves counters and tables whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
