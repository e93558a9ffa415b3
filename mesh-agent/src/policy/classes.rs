//! Classes of peers: sets that no rule tells apart.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use mesh_common::addr::Addr;

use crate::model::workload::Workload;
use crate::policy::blocks::Blocks;

/// Numbers of classes. One that is gone never comes back under the same number, so that what the kernel has of it cannot be
/// taken for another's.
#[derive(Clone, Debug, Default)]
pub(super) struct Classes {
    numbers: HashMap<Arc<[u32]>, u32>,
    last: u32,
}

impl Classes {
    /// Goes on after these numbers.
    pub(super) fn after(last: u32) -> Self {
        Self {
            numbers: HashMap::new(),
            last,
        }
    }

    /// Forgets all classes: another table begins.
    pub(super) fn clear(&mut self) {
        self.numbers.clear();
    }

    fn number(&mut self, matched: &[u32]) -> u32 {
        if let Some(number) = self.numbers.get(matched) {
            return *number;
        }
        self.last += 1;
        self.numbers.insert(matched.into(), self.last);
        self.last
    }

    /// Returns what each class in use matches; forgets the others.
    pub(super) fn keep(&mut self, used: &HashSet<u32>) -> BTreeMap<u32, Arc<[u32]>> {
        self.numbers.retain(|_, number| used.contains(number));
        let all = self.numbers.iter();
        all.map(|(matched, number)| (*number, Arc::clone(matched)))
            .collect()
    }
}

/// Returns the class of every prefix that is not in the class of the one that it lies in.
pub(super) fn prefixes<'a>(
    blocks: &Blocks,
    pods: impl Iterator<Item = (&'a Workload, &'a [u32])>,
    classes: &mut Classes,
) -> BTreeMap<(Addr, u32), u32> {
    let mut found: Vec<((Addr, u32), u32)> = Vec::new();
    let mut of_node: Vec<u32> = Vec::with_capacity(blocks.nodes.len());
    for node in &blocks.nodes {
        let class = classes.number(&node.matched);
        let inherited = node.parent.and_then(|parent| of_node.get(parent));
        if inherited != Some(&class) {
            found.push(((node.net.address, node.net.bits), class));
        }
        of_node.push(class);
    }
    let mut hosts: Vec<((Addr, u32), u32)> = Vec::new();
    for (pod, own) in pods.filter(|(_, own)| !own.is_empty()) {
        for address in &pod.addresses {
            let address = Addr::from(*address);
            let around = blocks.at(address).map_or(&[][..], |node| &node.matched);
            // Peers that are blocks and those that are pods have numbers of their own; both come in order.
            let class = if around.is_empty() {
                classes.number(own)
            } else {
                let mut all = [around, own].concat();
                all.sort_unstable();
                classes.number(&all)
            };
            hosts.push(((address, 128), class));
        }
    }
    // A pod's own entry stands for a block of that one address.
    found.into_iter().chain(hosts).collect()
}
