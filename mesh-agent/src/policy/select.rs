//! Which policies apply to a workload.

use std::sync::Arc;

use mesh_common::policy::Direction;
use mesh_common::workload::{WORKLOAD_EGRESS_POLICY, WORKLOAD_INGRESS_POLICY};

use crate::model::policy::{Policies, Policy, PolicyKind, PolicyName, Rule};
use crate::model::workload::Workload;

/// Both, ingress first.
pub(super) const DIRECTIONS: [Direction; 2] = [Direction::Ingress, Direction::Egress];

/// Returns the policies that apply to a workload in some direction, by name. Looks at those of its namespace only.
pub(super) fn applying<'a>(
    policies: &'a Policies,
    workload: &'a Workload,
) -> impl Iterator<Item = &'a Arc<Policy>> {
    let namespace = &workload.name.namespace;
    let kinds = [PolicyKind::NetworkPolicy, PolicyKind::AuthorizationPolicy];
    kinds.into_iter().flat_map(move |kind| {
        let first = PolicyName {
            kind,
            namespace: namespace.clone(),
            name: String::new(),
        };
        policies
            .range(first..)
            .take_while(move |(name, _)| name.kind == kind && name.namespace == *namespace)
            .map(|(_, policy)| policy)
            .filter(|policy| policy.subject.matches(&workload.labels))
    })
}

/// Returns the rules of a policy in a direction, or `None` where it does not apply in it.
pub(super) fn rules(policy: &Policy, direction: Direction) -> Option<&[Rule]> {
    match direction {
        Direction::Ingress => policy.ingress.as_deref(),
        Direction::Egress => policy.egress.as_deref(),
    }
}

/// Returns the flag (`WORKLOAD_*_POLICY`) of a direction.
pub(super) fn flag(direction: Direction) -> u32 {
    match direction {
        Direction::Ingress => WORKLOAD_INGRESS_POLICY,
        Direction::Egress => WORKLOAD_EGRESS_POLICY,
    }
}

/// Returns the flags (`WORKLOAD_*_POLICY`) of the directions in which any policy applies to a workload, in dry-run mode or not.
pub fn directions(policies: &Policies, workload: &Workload) -> u32 {
    flags(policies, workload, |_| true)
}

/// As [`directions`], of policies that are not in dry-run mode: what is to be closed until its tables are there.
pub fn enforced(policies: &Policies, workload: &Workload) -> u32 {
    flags(policies, workload, |policy| !policy.dry_run)
}

fn flags(policies: &Policies, workload: &Workload, which: impl Fn(&Policy) -> bool) -> u32 {
    let applying = applying(policies, workload).filter(|policy| which(policy));
    applying.fold(0, |flags, policy| {
        let own = DIRECTIONS.iter().filter(|d| rules(policy, **d).is_some());
        own.fold(flags, |flags, direction| flags | flag(*direction))
    })
}
