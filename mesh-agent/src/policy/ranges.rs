//! From the rules that match a class of peers to the list of port ranges, with the verdict on each.

use mesh_common::policy::{ALLOW, DENY, Range, WOULD_DENY};

use crate::model::policy::{Action, PolicyKind, WhichPorts};
use crate::model::service::Protocol;
use crate::policy::peers::PortNumbers;

/// A policy that applies to a subject in one direction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Applied {
    pub(super) kind: PolicyKind,
    pub(super) action: Action,
    pub(super) dry_run: bool,
    /// What decides when it allows and no rule of its kind matches; 0 unless it is in dry-run mode.
    pub(super) default: u32,
    pub(super) rules: Vec<CompiledRule>,
}

/// A rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct CompiledRule {
    pub(super) number: u32,
    /// Numbers of its peers; `None`: anybody.
    pub(super) peers: Option<Vec<u32>>,
    /// Protocol (`None`: both) and ports; `None`: all.
    pub(super) ports: Option<Vec<(Option<Protocol>, WhichPorts)>>,
}

impl CompiledRule {
    /// Returns whether it matches peers of a class.
    pub(super) fn matches(&self, class: &[u32]) -> bool {
        self.peers
            .as_ref()
            .is_none_or(|peers| peers.iter().any(|peer| class.binary_search(peer).is_ok()))
    }

    /// Returns its ports of a protocol as ranges, both ends included. Names are those of the class.
    pub(super) fn spans(
        &self,
        protocol: Protocol,
        class: &[u32],
        names: &PortNumbers,
    ) -> Vec<(u16, u16)> {
        let Some(ports) = &self.ports else {
            return vec![(0, u16::MAX)];
        };
        let own = ports
            .iter()
            .filter(|(of, _)| of.is_none_or(|of| of == protocol));
        own.flat_map(|(_, which)| match which {
            WhichPorts::All => vec![(0, u16::MAX)],
            WhichPorts::Range(from, to) => vec![(*from, *to)],
            WhichPorts::Named(name) => {
                let numbers = names.of(class, name, protocol);
                numbers.map(|number| (number, number)).collect()
            }
        })
        .filter(|(from, to)| from <= to)
        .collect()
    }
}

/// Where rules match: for each policy of a list, each matching rule with its ports.
pub(super) type Matched<'a> = Vec<(&'a Applied, Vec<(&'a CompiledRule, Vec<(u16, u16)>)>)>;

/// Returns the ranges that cover all ports, neighbours with the same verdict merged.
pub(super) fn list(matched: &Matched<'_>) -> Vec<Range> {
    let spans = matched
        .iter()
        .flat_map(|(_, rules)| rules.iter().flat_map(|(_, spans)| spans));
    let mut starts: Vec<u16> = spans
        .flat_map(|(from, to)| [Some(*from), to.checked_add(1)])
        .flatten()
        .collect();
    starts.push(0);
    starts.sort_unstable();
    starts.dedup();
    let mut ranges: Vec<Range> = Vec::with_capacity(starts.len());
    for from in starts {
        let range = at(matched, from);
        let same = |last: &Range| {
            (last.action, last.flags, last.rule) == (range.action, range.flags, range.rule)
        };
        if !ranges.last().is_some_and(same) {
            ranges.push(range);
        }
    }
    ranges
}

/// Returns the verdict on one port.
fn at(matched: &Matched<'_>, port: u16) -> Range {
    let (denied, rule) = decide(matched, port, false);
    let range = |action, flags, rule| Range {
        from: port,
        action,
        flags,
        rule,
    };
    if denied {
        return range(DENY, 0, rule);
    }
    if matched.iter().any(|(policy, _)| policy.dry_run)
        && let (true, would) = decide(matched, port, true)
    {
        return range(ALLOW, WOULD_DENY, would);
    }
    range(ALLOW, 0, rule)
}

/// Returns whether the policies deny a port, and by which rule, or by which they allow it.
fn decide(matched: &Matched<'_>, port: u16, with_dry_run: bool) -> (bool, u32) {
    let counting = || {
        matched
            .iter()
            .filter(move |(policy, _)| with_dry_run || !policy.dry_run)
    };
    let hit = |rules: &[(&CompiledRule, Vec<(u16, u16)>)]| {
        rules
            .iter()
            .find(|(_, spans)| spans.iter().any(|(from, to)| (*from..=*to).contains(&port)))
            .map(|(rule, _)| rule.number)
    };
    let denial = counting()
        .filter(|(policy, _)| policy.action == Action::Deny)
        .find_map(|(_, rules)| hit(rules));
    if let Some(rule) = denial {
        return (true, rule);
    }
    let mut by = 0;
    for kind in [PolicyKind::NetworkPolicy, PolicyKind::AuthorizationPolicy] {
        let allowing = || {
            counting().filter(|(policy, _)| policy.kind == kind && policy.action == Action::Allow)
        };
        if allowing().next().is_none() {
            continue;
        }
        match allowing().find_map(|(_, rules)| hit(rules)) {
            Some(rule) => by = rule,
            None => {
                let default = allowing().map(|(policy, _)| policy.default).max();
                return (true, default.unwrap_or(0));
            }
        }
    }
    (false, by)
}
