//! Series of policy rules: what each decided.

#![forbid(unsafe_code)]

use mesh_common::policy::RuleHits;

use crate::model::policy::{PolicyKind, RuleName};
use crate::telemetry::metrics::page::Page;
use crate::telemetry::metrics::table::{self, OTHER};

/// Rules with series of their own, up to 3 each. A node of 110 pods with nine rules each has fewer.
const RULES_MAX: usize = 1_000;

/// Puts what each rule decided on the page; rules that decided nothing are left out, and those beyond [`RULES_MAX`] are added up.
///
/// A rule that goes takes its series with it, and its part of the sum: Prometheus takes that for a restart.
pub(super) fn show(rules: &[(Option<RuleName>, RuleHits)], page: &mut Page) {
    let decided = |(_, hits): &&(Option<RuleName>, RuleHits)| *hits != RuleHits::default();
    let mut other = RuleHits::default();
    for (place, (name, hits)) in rules.iter().filter(decided).enumerate() {
        if place >= RULES_MAX {
            other.allowed += hits.allowed;
            other.denied += hits.denied;
            other.would_deny += hits.would_deny;
            continue;
        }
        match name {
            None => one(["", "", "", "", ""], hits, page),
            Some(name) => {
                let kind = match name.policy.kind {
                    PolicyKind::NetworkPolicy => "NetworkPolicy",
                    PolicyKind::AuthorizationPolicy => "AuthorizationPolicy",
                };
                let policy = &name.policy;
                let labels = [
                    kind,
                    &policy.namespace,
                    &policy.name,
                    &name.direction,
                    &name.rule,
                ];
                one(labels, hits, page);
            }
        }
    }
    one([OTHER; 5], &other, page);
}

fn one(labels: [&str; 5], hits: &RuleHits, page: &mut Page) {
    let [a, b, c, d, e] = labels;
    for (verdict, count) in [
        ("allowed", hits.allowed),
        ("denied", hits.denied),
        ("would_deny", hits.would_deny),
    ] {
        if count > 0 {
            page.count(&table::POLICY_DECISIONS, &[a, b, c, d, e, verdict], count);
        }
    }
}
