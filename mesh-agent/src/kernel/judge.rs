//! The kernel side's calls for policy, in the order in which they are made when anything has changed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mesh_common::policy::RuleHits;
use mesh_common::workload::WORKLOAD_INGRESS_POLICY;

use crate::kernel::policies::{self, OpenNetns, Place};
use crate::kernel::{Kernel, lock};
use crate::model::policy::RuleName;
use crate::model::workload::Placed;
use crate::policy::{PolicyTables, Subject};

impl Kernel {
    /// Returns the highest numbers of a table and a class that an earlier agent gave: the compiler goes on from there.
    pub fn last_policy_numbers(&self) -> (u32, u32) {
        lock(&self.policies).last_numbers()
    }

    /// First, before [`Kernel::apply`]: closes workloads that are not there yet. `enforced` are the directions in which policies
    /// apply that are not in dry-run mode, by network namespace of each workload that was found. Returns what went wrong.
    pub fn close(&self, enforced: &[(u64, u32)], open: OpenNetns<'_>) -> Vec<String> {
        let placed: BTreeSet<u64> = enforced.iter().map(|(netns, _)| *netns).collect();
        let judged: Vec<u64> = enforced
            .iter()
            .filter(|(_, flags)| flags & WORKLOAD_INGRESS_POLICY != 0)
            .map(|(netns, _)| *netns)
            .collect();
        let errors = lock(&self.policies).watch(&judged, &placed, open);
        lock(&self.registry).close(policies::closed(enforced));
        errors
    }

    /// Then, after [`Kernel::apply`]: returns the workloads that have a handle, in the order of those.
    pub fn subjects(&self, placed: &[Placed]) -> Vec<Subject> {
        let registry = lock(&self.registry);
        let found = placed.iter().filter_map(|placed| {
            let handle = registry.handle(*placed.netns.as_ref().ok()?)?;
            Some((handle, placed.workload.clone()))
        });
        let found: BTreeMap<u32, _> = found.collect();
        let subject = |(handle, workload)| Subject { handle, workload };
        found.into_iter().map(subject).collect()
    }

    /// Last: writes what was compiled for [`Kernel::subjects`]. Returns what went wrong; what it is about is closed, and the
    /// next call tries again.
    pub fn enforce(
        &self,
        tables: &PolicyTables,
        placed: &[Placed],
        open: OpenNetns<'_>,
    ) -> Vec<String> {
        let registry = lock(&self.registry);
        let places = placed.iter().filter_map(|placed| {
            let netns = *placed.netns.as_ref().ok()?;
            let subject = tables.subjects.get(&registry.handle(netns)?)?;
            Some(Place {
                netns,
                workload: &placed.workload,
                subject,
            })
        });
        let places: Vec<Place<'_>> = places.collect();
        lock(&self.policies).sync(&self.maps, tables, &places, open)
    }

    /// Returns what could not be written the last time, and what is closed or not judged by it.
    pub(super) fn errors_of_policy(&self) -> Vec<String> {
        lock(&self.policies).errors()
    }

    /// Returns the number of workloads for which what comes from elsewhere is judged.
    pub fn judged_lookups(&self) -> usize {
        lock(&self.policies).lookups()
    }

    /// Returns how often a rule decided; of rule 0, how often the want of one did.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn hits(&self, rule: u32) -> std::io::Result<RuleHits> {
        let all = self.maps.rule_hits.get_all(&rule)?.unwrap_or_default();
        let add = |sum: RuleHits, one: &RuleHits| RuleHits {
            allowed: sum.allowed + one.allowed,
            denied: sum.denied + one.denied,
            would_deny: sum.would_deny + one.would_deny,
        };
        Ok(all.iter().fold(RuleHits::default(), add))
    }

    /// Returns the names of all rules, by number.
    pub(super) fn rules(&self) -> Arc<BTreeMap<u32, RuleName>> {
        lock(&self.policies).rules()
    }
}
