//! Keeps policy's tables in the maps in line with what was compiled.
//!
//! The order of writes, so that no connection is judged by anything but the old tables or the new ones, and none is let through
//! that both deny:
//!
//! 1. Lists, then rows, of the new tables. A row of a class that both have changes by one write.
//! 2. Prefixes. Another table's are written beside those in force, where nobody looks yet; in the same table an address passes
//!    from one class to another by one write, and the rows of both are there.
//! 3. Links where look-ups are to be judged.
//! 4. The entry of each subject: flags and table by one write. What has no policy any more is open from here on.
//! 5. Links where they no longer are.
//! 6. After a grace period: rows and prefixes that nobody is led to. The ranges of lists are used again only after that.
//!
//! A workload that is new has its flags, and table 0, from its first write on (`Registry::close`), and its link from before
//! that: it is closed until step 4. What could not be written is missing, and thereby denied; if an address could not be put into
//! its class, the subjects are led to table 0 and closed altogether, except that dry-run policies close nothing.

mod lookups;
mod pool;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use aya::Ebpf;
use mesh_common::addr::Addr;
use mesh_common::limits;
use mesh_common::policy::{Prefix, Range, RangeList, RuleHits, TABLE_BITS, VerdictKey};
use mesh_common::workload::{
    NetnsEntry, WORKLOAD_EGRESS_POLICY, WORKLOAD_INGRESS_POLICY, WORKLOAD_LOOKUP,
};

use crate::kernel::identity::only_address;
use crate::kernel::maps::Maps;
use crate::kernel::policies::lookups::Lookups;
pub use crate::kernel::policies::lookups::OpenNetns;
use crate::kernel::policies::pool::Pool;
use crate::kernel::sys;
use crate::model::policy::RuleName;
use crate::model::workload::Workload;
use crate::policy::{PolicyTables, SubjectTable};

/// Flags of a workload's entry that are written here, and nowhere else once it is there.
const FLAGS: u32 = WORKLOAD_EGRESS_POLICY | WORKLOAD_INGRESS_POLICY | WORKLOAD_LOOKUP;

/// What of policy the maps hold.
#[derive(Debug)]
pub(super) struct Policies {
    pool: Pool,
    rows: HashMap<VerdictKey, RangeList>,
    prefixes: HashMap<Prefix, u32>,
    host: BTreeSet<Addr>,
    lookups: Lookups,
    errors: Vec<String>,
    /// What the tables have no room for.
    not_represented: Vec<String>,
    rules: Arc<BTreeMap<u32, RuleName>>,
}

/// A subject and where it is.
#[derive(Debug)]
pub(super) struct Place<'a> {
    pub(super) netns: u64,
    pub(super) workload: &'a Workload,
    pub(super) subject: &'a SubjectTable,
}

impl Policies {
    /// Starts from what an earlier agent left.
    pub(super) fn adopt(
        maps: &Maps,
        links: PathBuf,
        ebpf: &Ebpf,
        failed: &[(String, String)],
    ) -> io::Result<Self> {
        let mut policies = Self {
            pool: Pool::default(),
            rows: HashMap::new(),
            prefixes: HashMap::new(),
            host: BTreeSet::new(),
            lookups: Lookups::adopt(links, ebpf, failed)?,
            errors: Vec::new(),
            not_represented: Vec::new(),
            rules: Arc::default(),
        };
        maps.verdicts.for_each(|key, lists| {
            policies
                .rows
                .extend(lists.first().map(|list| (*key, *list)));
        })?;
        let read = |at| maps.ranges.get(at).map(|range: Range| word(&range));
        let pool = &mut policies.pool;
        let broken: Vec<VerdictKey> = policies
            .rows
            .iter()
            .filter(|(_, list)| pool.adopt(**list, read).is_none())
            .map(|(key, _)| *key)
            .collect();
        for key in broken {
            maps.verdicts.remove(&key)?;
            policies.rows.remove(&key);
        }
        for prefix in maps.prefixes.keys()? {
            let class = maps.prefixes.get(&prefix)?;
            policies.prefixes.extend(class.map(|class| (prefix, class)));
        }
        maps.host_addresses.for_each(|address, _| {
            policies.host.insert(*address);
        })?;
        Ok(policies)
    }

    /// Returns the highest numbers of a table and a class that the maps know.
    pub(super) fn last_numbers(&self) -> (u32, u32) {
        let tables = self.prefixes.keys().map(|prefix| prefix.table);
        let classes = self.prefixes.values().copied();
        let classes = classes.chain(self.rows.keys().map(|key| key.class));
        (tables.max().unwrap_or(0), classes.max().unwrap_or(0))
    }

    /// Judges look-ups in these namespaces from now on, and no longer in those that are no workload's. Step 3, and for new
    /// workloads the very first.
    pub(super) fn watch(
        &mut self,
        judged: &[u64],
        placed: &BTreeSet<u64>,
        open: OpenNetns<'_>,
    ) -> Vec<String> {
        let mut errors = Vec::new();
        let kept = self.lookups.keep(|netns| placed.contains(&netns));
        errors.extend(
            kept.err()
                .map(|error| format!("failed to remove a link: {error}")),
        );
        for netns in judged {
            if let Err(error) = self.lookups.attach(*netns, open) {
                errors.push(format!(
                    "failed to judge what comes to the network namespace with cookie {netns}: {error}; only workloads of this node are"
                ));
            }
        }
        errors
    }

    /// Brings the maps in line. What goes wrong is told, and met again at the next call.
    pub(super) fn sync(
        &mut self,
        maps: &Maps,
        tables: &PolicyTables,
        places: &[Place<'_>],
        open: OpenNetns<'_>,
    ) -> Vec<String> {
        let now = Instant::now();
        let mut errors = Vec::new();
        self.rules = tables.rule_names();
        self.not_represented.clone_from(&tables.errors);
        self.start_counts(maps, tables, &mut errors);
        self.write_host(maps, tables, &mut errors);
        let stale_rows = self.write_rows(maps, tables, &mut errors);
        let (stale_prefixes, complete) = self.write_prefixes(maps, tables, &mut errors);
        let judged: Vec<u64> = places
            .iter()
            .filter(|place| place.subject.enforced & WORKLOAD_INGRESS_POLICY != 0)
            .map(|place| place.netns)
            .collect();
        let placed = places.iter().map(|place| place.netns).collect();
        errors.extend(self.watch(&judged, &placed, open));
        let lead = |place: &Place<'_>| {
            let judged_there = self.lookups.is_attached(place.netns);
            lead(
                maps,
                place,
                tables.table,
                complete,
                judged_there && judged.contains(&place.netns),
            )
        };
        for outcome in places.iter().map(lead) {
            errors.extend(
                outcome
                    .err()
                    .map(|error| format!("failed to lead a workload to its policies: {error}")),
            );
        }
        let judged: BTreeSet<u64> = judged.into_iter().collect();
        let kept = self.lookups.keep(|netns| judged.contains(&netns));
        errors.extend(
            kept.err()
                .map(|error| format!("failed to remove a link: {error}")),
        );
        if !stale_rows.is_empty() || !stale_prefixes.is_empty() || self.pool.rests() {
            let grace = sys::rcu_grace_period().is_ok();
            self.pool.free(grace, now);
            self.remove(maps, stale_rows, stale_prefixes, &mut errors);
        }
        self.errors.clone_from(&errors);
        errors
    }

    /// Returns the names of all rules, by number.
    pub(super) fn rules(&self) -> Arc<BTreeMap<u32, RuleName>> {
        self.rules.clone()
    }

    /// Returns what went wrong the last time.
    pub(super) fn errors(&self) -> Vec<String> {
        let program = self.lookups.error();
        let program = program.map(|error| format!("`mesh_lookup` was not loaded: {error}"));
        program
            .into_iter()
            .chain(self.not_represented.iter().cloned())
            .chain(self.errors.iter().cloned())
            .collect()
    }

    /// Returns the number of namespaces in which look-ups are judged.
    pub(super) fn lookups(&self) -> usize {
        self.lookups.count()
    }

    /// Returns what is used of the maps of policy: name, entries, limit.
    pub(super) fn fill(&self) -> [(&'static str, u64, u64); 3] {
        let ranges = limits::RANGES as u64 - self.pool.free_ranges();
        [
            (
                "prefixes",
                self.prefixes.len() as u64,
                limits::PREFIXES as u64,
            ),
            ("verdicts", self.rows.len() as u64, limits::VERDICTS as u64),
            ("ranges", ranges, limits::RANGES as u64),
        ]
    }

    fn start_counts(&self, maps: &Maps, tables: &PolicyTables, errors: &mut Vec<String>) {
        for rule in &tables.fresh_rules {
            let started = maps.rule_hits.set(rule, &RuleHits::default());
            errors.extend(
                started
                    .err()
                    .map(|error| format!("failed to reset a rule's counts: {error}")),
            );
        }
    }

    fn write_host(&mut self, maps: &Maps, tables: &PolicyTables, errors: &mut Vec<String>) {
        let wanted: BTreeSet<Addr> = tables.host().take(limits::HOST_ADDRESSES).collect();
        for gone in self.host.difference(&wanted) {
            let removed = maps.host_addresses.remove(gone);
            errors.extend(
                removed
                    .err()
                    .map(|error| format!("failed to forget address {gone}: {error}")),
            );
        }
        for new in wanted.difference(&self.host) {
            let added = maps.host_addresses.set(new, &1);
            errors.extend(
                added
                    .err()
                    .map(|error| format!("failed to note this machine's address {new}: {error}")),
            );
        }
        self.host = wanted;
    }

    /// Step 1. Returns the rows that are not wanted any more.
    fn write_rows(
        &mut self,
        maps: &Maps,
        tables: &PolicyTables,
        errors: &mut Vec<String>,
    ) -> Vec<VerdictKey> {
        let now = Instant::now();
        let contents: Vec<Arc<[u64]>> = tables
            .lists
            .iter()
            .map(|list| list.iter().map(word).collect())
            .collect();
        let mut wanted: HashSet<VerdictKey> = HashSet::new();
        let mut missing = 0usize;
        for (key, list) in tables.rows.values().flat_map(|rows| rows.iter()) {
            wanted.insert(*key);
            let content = usize::try_from(*list).ok().and_then(|at| contents.get(at));
            let named = content.and_then(|content| Some((content, self.pool.name(content)?)));
            let Some((content, (list, is_new))) = named else {
                // Closed, also if it was open before.
                missing += 1;
                wanted.remove(key);
                continue;
            };
            if is_new {
                (list.first..)
                    .zip(content.iter())
                    .for_each(|(at, range)| maps.ranges.store(at, *range));
            }
            let before = self.rows.get(key).copied();
            if before == Some(list) {
                self.pool.unname(list, now);
                continue;
            }
            if let Err(error) = maps.verdicts.set(key, &list) {
                self.pool.unname(list, now);
                wanted.remove(key);
                missing += 1;
                tracing::debug!(%error, "a row of the verdicts could not be written");
                continue;
            }
            self.rows.insert(*key, list);
            if let Some(before) = before {
                self.pool.unname(before, now);
            }
        }
        if missing > 0 {
            errors.push(format!(
                "{missing} verdict lists found no room ({} lists, {} port ranges): what they are about is denied",
                limits::VERDICTS,
                limits::RANGES
            ));
        }
        let rows = self.rows.keys();
        rows.filter(|key| !wanted.contains(*key)).copied().collect()
    }

    /// Step 2. Returns the prefixes that are not wanted any more, and whether all that are were written.
    fn write_prefixes(
        &mut self,
        maps: &Maps,
        tables: &PolicyTables,
        errors: &mut Vec<String>,
    ) -> (Vec<Prefix>, bool) {
        let mut wanted: HashSet<Prefix> = HashSet::with_capacity(tables.prefixes.len());
        let mut failed = None;
        for ((address, bits), class) in &tables.prefixes {
            let prefix = Prefix {
                bits: TABLE_BITS + bits,
                table: tables.table,
                address: *address,
            };
            wanted.insert(prefix);
            if self.prefixes.get(&prefix) == Some(class) {
                continue;
            }
            match maps.prefixes.set(&prefix, class) {
                Ok(()) => drop(self.prefixes.insert(prefix, *class)),
                Err(error) => failed = Some(error),
            }
        }
        if let Some(error) = &failed {
            errors.push(format!(
                "{} addresses and blocks of peers do not fit ({} prefixes of two tables): workloads with policies are closed: {error}",
                wanted.len(),
                limits::PREFIXES
            ));
        }
        let prefixes = self.prefixes.keys();
        let stale = prefixes.filter(|prefix| !wanted.contains(*prefix));
        (stale.copied().collect(), failed.is_none())
    }

    /// Step 6.
    fn remove(
        &mut self,
        maps: &Maps,
        rows: Vec<VerdictKey>,
        prefixes: Vec<Prefix>,
        errors: &mut Vec<String>,
    ) {
        let now = Instant::now();
        let mut failed = None;
        for prefix in prefixes {
            match maps.prefixes.remove(&prefix) {
                Ok(()) => drop(self.prefixes.remove(&prefix)),
                Err(error) => failed = Some(error),
            }
        }
        for key in rows {
            match maps.verdicts.remove(&key) {
                Ok(()) => {
                    if let Some(list) = self.rows.remove(&key) {
                        self.pool.unname(list, now);
                    }
                }
                Err(error) => failed = Some(error),
            }
        }
        errors.extend(failed.map(|error| format!("failed to remove old policy: {error}")));
    }
}

/// Step 4: writes what a subject's entry says of policy, if that changes.
fn lead(
    maps: &Maps,
    place: &Place<'_>,
    table: u32,
    complete: bool,
    judged_there: bool,
) -> io::Result<()> {
    let Some(before) = maps.workloads.get(&place.netns)? else {
        return Ok(());
    };
    let mut policy = if complete {
        place.subject.flags
    } else {
        place.subject.enforced
    };
    if judged_there {
        policy |= WORKLOAD_LOOKUP;
    }
    let after = NetnsEntry {
        flags: before.flags & !FLAGS | policy,
        table: if complete { table } else { 0 },
        v4: only_address(place.workload, true),
        v6: only_address(place.workload, false),
        ..before
    };
    if after == before {
        return Ok(());
    }
    maps.workloads.set(&place.netns, &after)
}

fn word(range: &Range) -> u64 {
    bytemuck::cast(*range)
}

/// Returns the directions in which workloads are closed until their policies are there, by namespace.
pub(super) fn closed(enforced: &[(u64, u32)]) -> BTreeMap<u64, u32> {
    let flags = WORKLOAD_EGRESS_POLICY | WORKLOAD_INGRESS_POLICY;
    enforced
        .iter()
        .map(|(netns, enforced)| (*netns, enforced & flags))
        .collect()
}
