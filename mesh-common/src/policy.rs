//! L4 policy as the kernel evaluates it: whose peer, which direction, which port, and the verdict.
//!
//! A **subject** is a workload of this node (its handle) that policies apply to in a direction. A **class** is a set of peers that
//! no policy of this node tells apart. A **table** of prefixes leads from addresses to classes; each subject names the table that
//! it is judged by, so that a new table can be written beside the old one and then be named by one store. A class belongs to one
//! table. For each subject, class, direction and protocol there is a sorted list of port ranges that covers every port. What is
//! missing is denied.

use crate::addr::Addr;
use crate::enums::closed_enum;

closed_enum! {
    /// Which way a connection goes, seen from the subject.
    Direction {
        /// To the subject.
        Ingress = 0, "ingress", "ingress";
        /// From the subject.
        Egress = 1, "egress", "egress";
    }
}

/// Key of the tables from addresses to classes: `BPF_MAP_TYPE_LPM_TRIE`, so the prefix length comes first. IPv4 is v4-mapped,
/// so its addresses have at least 96 leading bits.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct Prefix {
    /// Leading bits that count: [`TABLE_BITS`], and those of the address.
    pub bits: u32,
    /// Number of the table. Never 0: that is the one of subjects that have none, and it is empty.
    pub table: u32,
    /// The address; bits beyond `bits` are zero.
    pub address: Addr,
}

const _: () = assert!(size_of::<Prefix>() == 4 + 4 + 16);

/// Bits of a table's number.
pub const TABLE_BITS: u32 = 32;

/// What is looked up in a table: [`Prefix`] without its length.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TableAddress {
    /// Number of the table.
    pub table: u32,
    /// The address.
    pub address: Addr,
}

const _: () = assert!(size_of::<TableAddress>() == 4 + 16);

/// Whose ports are listed.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct VerdictKey {
    /// Handle of the subject's workload.
    pub subject: u32,
    /// Class of the peer.
    pub class: u32,
    /// `Direction`.
    pub direction: u8,
    /// `service::TCP` or `service::UDP`.
    pub protocol: u8,
    /// Zero.
    pub _pad: [u8; 2],
}

const _: () = assert!(size_of::<VerdictKey>() == 12);

/// A list of port ranges in the pool.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct RangeList {
    /// Index of the first.
    pub first: u32,
    /// Number of ranges; they cover every port, so never 0, and at most [`MAX_RANGES`].
    pub count: u32,
}

const _: () = assert!(size_of::<RangeList>() == 8);

/// Ranges in one list: 2^12, which twelve halvings search. A policy that needs more is refused with an error.
pub const MAX_RANGES: u32 = 1 << SEARCH_STEPS;
const SEARCH_STEPS: u32 = 12;

/// The connection is allowed.
pub const ALLOW: u8 = 1;
/// The connection is denied. So is anything that is not [`ALLOW`].
pub const DENY: u8 = 2;

/// A rule in dry-run mode would have denied what is allowed.
pub const WOULD_DENY: u8 = 1 << 0;

/// Ports from `from` up to the next range's, and what becomes of connections to them.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct Range {
    /// First port, in host order.
    pub from: u16,
    /// [`ALLOW`] or [`DENY`].
    pub action: u8,
    /// [`WOULD_DENY`].
    pub flags: u8,
    /// Number of the rule that decides; 0: denied for want of a rule that allows.
    pub rule: u32,
}

const _: () = assert!(size_of::<Range>() == 8);

/// What became of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// Whether it is allowed.
    pub allowed: bool,
    /// Whether a rule in dry-run mode would have denied it.
    pub would_deny: bool,
    /// Number of the rule that decided.
    pub rule: u32,
}

impl Verdict {
    /// What no policy applies to.
    pub const UNJUDGED: Self = Self {
        allowed: true,
        would_deny: false,
        rule: 0,
    };

    /// What is denied because nothing allows it, or because a table is broken.
    pub const DENIED: Self = Self {
        allowed: false,
        would_deny: false,
        rule: 0,
    };

    /// Returns the verdict on a connection that this one allows its source and `ingress` its destination.
    ///
    /// It names the rule of whoever denies it, or would; else the destination's, unless there is none.
    #[inline(always)]
    #[must_use]
    pub const fn and(self, ingress: Self) -> Self {
        if !self.allowed {
            return self;
        }
        let from_egress =
            ingress.allowed && !ingress.would_deny && (self.would_deny || ingress.rule == 0);
        Self {
            allowed: ingress.allowed,
            would_deny: ingress.allowed && (self.would_deny || ingress.would_deny),
            rule: if from_egress { self.rule } else { ingress.rule },
        }
    }
}

/// Where the tables are: the kernel's maps, or the agent's own copy.
pub trait Tables {
    /// Returns the class of an address by longest prefix.
    fn class(&self, at: &TableAddress) -> Option<u32>;
    /// Returns the list under a key.
    fn list(&self, key: &VerdictKey) -> Option<RangeList>;
    /// Returns a range of the pool.
    fn range(&self, index: u32) -> Option<Range>;
}

/// What is asked of the tables.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    /// Handle of the subject.
    pub subject: u32,
    /// Table that the subject is judged by.
    pub table: u32,
    /// The other end's address.
    pub peer: Addr,
    /// Which way, seen from the subject.
    pub direction: Direction,
    /// `service::TCP` or `service::UDP`.
    pub protocol: u8,
    /// The destination's port, in host order.
    pub port: u16,
}

/// Returns the verdict of the subject's policies in one direction.
///
/// Denied where anything is missing.
#[inline(always)]
pub fn answer(tables: &impl Tables, question: &Question) -> Verdict {
    let at = TableAddress {
        table: question.table,
        address: question.peer,
    };
    let Some(class) = tables.class(&at) else {
        return Verdict::DENIED;
    };
    let key = VerdictKey {
        subject: question.subject,
        class,
        direction: question.direction as u8,
        protocol: question.protocol,
        _pad: [0; 2],
    };
    match tables.list(&key) {
        Some(list) => verdict(list, question.port, |index| tables.range(index)),
        None => Verdict::DENIED,
    }
}

/// Returns the verdict on `port` (host order) by a list of ranges, of which `range` returns each.
///
/// Denied where the list is empty, too long or broken.
#[inline(always)]
pub fn verdict(list: RangeList, port: u16, range: impl Fn(u32) -> Option<Range>) -> Verdict {
    if list.count == 0 || list.count > MAX_RANGES {
        return Verdict::DENIED;
    }
    // The last range that does not begin after the port is at `low`.
    let mut low = 0;
    let mut high = list.count;
    let mut step = 0;
    while step < SEARCH_STEPS {
        step += 1;
        if high - low <= 1 {
            break;
        }
        let middle = low + (high - low) / 2;
        let Some(found) = range(list.first.wrapping_add(middle)) else {
            return Verdict::DENIED;
        };
        if found.from <= port {
            low = middle;
        } else {
            high = middle;
        }
    }
    match range(list.first.wrapping_add(low)) {
        Some(found) if found.from <= port => Verdict {
            allowed: found.action == ALLOW,
            would_deny: found.flags & WOULD_DENY != 0,
            rule: found.rule,
        },
        _ => Verdict::DENIED,
    }
}

/// How often a rule decided; one per CPU.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct RuleHits {
    /// Connections (and first datagrams) that it allowed.
    pub allowed: u64,
    /// Those that it denied.
    pub denied: u64,
    /// Those that it would have denied, in dry-run mode.
    pub would_deny: u64,
}

const _: () = assert!(size_of::<RuleHits>() == 24);

/// Records of denied connections that one workload gets per [`DENIALS_WINDOW_NS`]: 32 each second. 110 workloads that do nothing but
/// retry fill a quarter of the ring between two looks at it, and leave the rest to flows. What goes beyond is only counted.
pub const DENIALS_PER_WINDOW: u32 = 8;
/// As long as the agent's time between two looks at the ring.
pub const DENIALS_WINDOW_NS: u64 = 250_000_000;

/// Denials of one workload that were recorded lately.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct DenialWindow {
    /// When the window began; `CLOCK_MONOTONIC`.
    pub since_ns: u64,
    /// Records in it.
    pub recorded: u64,
}

const _: () = assert!(size_of::<DenialWindow>() == 16);
