//! Numbers of rules: what the kernel counts by and records name.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::model::policy::{PolicyName, RuleName};
use mesh_common::limits;
use mesh_common::policy::Direction;

/// Returns the name of a policy's rule.
pub(super) fn rule_name(policy: &PolicyName, direction: Direction, rule: &str) -> RuleName {
    RuleName {
        policy: policy.clone(),
        direction: direction.label().to_owned(),
        rule: rule.to_owned(),
    }
}

/// The number of rules beyond what the kernel has room for. They decide all the same.
#[allow(clippy::cast_possible_truncation, reason = "far below 2^32")]
pub(super) const UNTOLD: u32 = limits::RULES as u32 - 1;

/// Gives every rule a number while its policy lives. 0 is none's.
///
/// A number starts from a hash of the name, so that an agent that starts anew mostly gives the same ones.
#[derive(Clone, Debug, Default)]
pub(super) struct RuleNumbers {
    live: HashMap<RuleName, u32>,
    /// Also of rules that are gone, until their number is another's: records of ended flows come late.
    names: BTreeMap<u32, RuleName>,
}

impl RuleNumbers {
    /// Takes over the rules that there are now; returns the numbers that were not theirs before, whose counts start anew.
    pub(super) fn set(&mut self, wanted: &HashSet<RuleName>) -> Vec<u32> {
        self.live.retain(|name, _| wanted.contains(name));
        let mut used: HashSet<u32> = self.live.values().copied().collect();
        let mut missing: Vec<&RuleName> = wanted
            .iter()
            .filter(|name| !self.live.contains_key(*name))
            .collect();
        // In a fixed order, whatever the set's is.
        missing.sort_unstable();
        let mut fresh = Vec::new();
        for name in missing {
            let Some(number) = free(name, &used) else {
                self.live.insert(name.clone(), UNTOLD);
                continue;
            };
            used.insert(number);
            self.live.insert(name.clone(), number);
            if self.names.insert(number, name.clone()).as_ref() != Some(name) {
                fresh.push(number);
            }
        }
        fresh
    }

    /// Returns a live rule's number.
    pub(super) fn number(&self, name: &RuleName) -> u32 {
        self.live.get(name).copied().unwrap_or(UNTOLD)
    }

    /// Returns the names by number.
    pub(super) fn names(&self) -> &BTreeMap<u32, RuleName> {
        &self.names
    }

    /// Returns how many rules have no number of their own.
    pub(super) fn untold(&self) -> usize {
        self.live.values().filter(|n| **n == UNTOLD).count()
    }
}

/// Returns the first free number from the name's hash on.
fn free(name: &RuleName, used: &HashSet<u32>) -> Option<u32> {
    // FNV-1a, as for handles: the same in every build.
    let text = name.to_string();
    let hash = text.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    let slots = UNTOLD - 1;
    (0..slots)
        .map(|step| 1 + (hash.wrapping_add(step)) % slots)
        .find(|number| !used.contains(number))
}
