//! Address blocks, nested: which block peers match an address.

use mesh_common::addr::Addr;

use crate::model::policy::Block;

/// A prefix of the address space that both families share: the address and its leading bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(super) struct Net {
    pub(super) address: Addr,
    pub(super) bits: u32,
}

impl Net {
    /// All IPv4 addresses.
    const V4: Self = Self {
        address: Addr::v4([0; 4]),
        bits: 96,
    };
    /// All addresses.
    const ALL: Self = Self {
        address: Addr::UNSPECIFIED,
        bits: 0,
    };

    /// Returns a single address.
    pub(super) fn host(address: Addr) -> Self {
        Self { address, bits: 128 }
    }

    pub(super) fn of(block: &Block) -> Self {
        let address = Addr::from(block.address);
        let own = u32::from(block.prefix);
        let bits = if block.address.is_ipv4() {
            96 + own
        } else {
            own
        }
        .min(128);
        Self {
            address: masked(address, bits),
            bits,
        }
    }

    /// Returns whether IPv4 addresses are what it contains.
    fn is_v4(self) -> bool {
        self.bits >= 96 && self.address.is_v4()
    }

    /// Returns whether it contains all of `other`, which is of the same family.
    pub(super) fn contains(self, other: Self) -> bool {
        self.bits <= other.bits
            && self.is_v4() == other.is_v4()
            && masked(other.address, self.bits) == self.address
    }
}

/// Returns the address with all but its leading bits cleared.
pub(super) fn masked(address: Addr, bits: u32) -> Addr {
    let mask = u128::MAX.checked_shl(128 - bits.min(128)).unwrap_or(0);
    Addr((u128::from_be_bytes(address.0) & mask).to_be_bytes())
}

/// A prefix with the block peers that match what is in it, and in none nested in it.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) net: Net,
    /// The next larger one that contains it.
    pub(super) parent: Option<usize>,
    /// Numbers of the peers, ascending.
    pub(super) matched: Vec<u32>,
}

/// All prefixes that any block or exception begins at, and one for each family; ordered.
#[derive(Clone, Debug, Default)]
pub(super) struct Blocks {
    pub(super) nodes: Vec<Node>,
}

impl Blocks {
    /// Nests the block peers: each with its number, its block and its exceptions.
    pub(super) fn new(peers: &[(u32, &Block, &[Block])]) -> Self {
        let mut events: Vec<(Net, bool, u32)> = Vec::new();
        for (number, block, except) in peers {
            let net = Net::of(block);
            let except = except.iter().map(Net::of);
            if except.clone().any(|except| except.contains(net)) {
                continue;
            }
            events.push((net, false, *number));
            let inside = except.filter(|except| net.contains(*except));
            events.extend(inside.map(|except| (except, true, *number)));
        }
        events.sort_unstable();
        let mut nets: Vec<Net> = events.iter().map(|(net, ..)| *net).collect();
        nets.extend([Net::ALL, Net::V4]);
        nets.sort_unstable();
        nets.dedup();
        let mut nodes: Vec<Node> = Vec::with_capacity(nets.len());
        let mut events = events.as_slice();
        for net in nets {
            let parent = enclosing(&nodes, net);
            // Nothing of the other family is inherited.
            let inherits = parent.filter(|at| nodes[*at].net.contains(net));
            let mut matched = inherits.map_or_else(Vec::new, |at| nodes[at].matched.clone());
            let own = events.iter().take_while(|(at, ..)| *at == net).count();
            let (mine, rest) = events.split_at(own);
            for (_, leaves, number) in mine {
                if *leaves {
                    matched.retain(|other| other != number);
                } else {
                    matched.push(*number);
                }
            }
            matched.sort_unstable();
            matched.dedup();
            events = rest;
            nodes.push(Node {
                net,
                parent,
                matched,
            });
        }
        Self { nodes }
    }

    /// Returns the smallest prefix that contains an address.
    pub(super) fn at(&self, address: Addr) -> Option<&Node> {
        let host = Net::host(address);
        let after = self.nodes.partition_point(|node| node.net <= host);
        let at = climb(&self.nodes, after.checked_sub(1), host)?;
        self.nodes.get(at)
    }
}

/// Returns the smallest of the ordered `nodes` that contains `net`, which comes after all of them.
fn enclosing(nodes: &[Node], net: Net) -> Option<usize> {
    climb(nodes, nodes.len().checked_sub(1), net)
}

fn climb(nodes: &[Node], from: Option<usize>, net: Net) -> Option<usize> {
    let mut at = from;
    while let Some(node) = at.and_then(|at| nodes.get(at)) {
        if node.net.bits <= net.bits && masked(net.address, node.net.bits) == node.net.address {
            break;
        }
        at = node.parent;
    }
    at
}
