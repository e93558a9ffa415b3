//! What the compiler makes: the same tables that the kernel has, with names.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use mesh_common::addr::Addr;
use mesh_common::flow::FlowRecord;
use mesh_common::policy::{
    Direction, MAX_RANGES, Question, Range, RangeList, TableAddress, Tables, Verdict, VerdictKey,
    answer,
};
use mesh_common::workload::{WORKLOAD_EGRESS_POLICY, WORKLOAD_INGRESS_POLICY};

use crate::model::policy::PolicyName;
use crate::model::policy::RuleName;
use crate::model::workload::WorkloadName;
use crate::policy::blocks::masked;
use crate::policy::rules::UNTOLD;

/// A subject: a workload of this node, whether policies apply to it or not.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SubjectTable {
    /// Its name.
    pub name: WorkloadName,
    /// Directions in which any policy applies: `WORKLOAD_*_POLICY`.
    pub flags: u32,
    /// Those in which one applies that is not in dry-run mode.
    pub enforced: u32,
    /// Policies that isolate it for ingress.
    pub isolated_ingress: Vec<PolicyName>,
    /// Policies that isolate it for egress.
    pub isolated_egress: Vec<PolicyName>,
}

/// The verdict lists of a class, of all subjects; ordered by key.
pub type ClassRows = Arc<Vec<(VerdictKey, u32)>>;

/// The tables of this node.
#[derive(Clone, Debug, Default)]
pub struct PolicyTables {
    /// Number of the table of prefixes: another whenever the peers of the rules that matter are not the same.
    pub table: u32,
    /// Every workload of this node, by handle.
    pub subjects: BTreeMap<u32, SubjectTable>,
    /// Class by address and leading bits of it.
    pub prefixes: BTreeMap<(Addr, u32), u32>,
    /// Rows by class; each names its list in `lists`.
    pub rows: BTreeMap<u32, ClassRows>,
    /// Distinct lists.
    pub lists: Vec<Arc<[Range]>>,
    /// Numbers of rules that were another's before: their counts start anew.
    pub fresh_rules: Vec<u32>,
    /// What could not be represented, each with the policy and the limit.
    pub errors: Vec<String>,
    pub(super) names: Arc<BTreeMap<u32, RuleName>>,
    pub(super) owners: HashMap<Addr, u32>,
    pub(super) host: BTreeSet<Addr>,
    /// Lengths of prefixes that there are, descending.
    pub(super) lengths: Vec<u32>,
}

/// Room that each list is given in the numbers of ranges.
const STRIDE: u32 = MAX_RANGES;

impl Tables for PolicyTables {
    fn class(&self, at: &TableAddress) -> Option<u32> {
        let mut lengths = self.lengths.iter();
        lengths.find_map(|bits| {
            let key = (masked(at.address, *bits), *bits);
            self.prefixes.get(&key).copied()
        })
    }

    fn list(&self, key: &VerdictKey) -> Option<RangeList> {
        let rows = self.rows.get(&key.class)?;
        let at = rows.binary_search_by(|(own, _)| own.cmp(key)).ok()?;
        let (_, list) = rows.get(at)?;
        let ranges = self.lists.get(usize::try_from(*list).ok()?)?;
        Some(RangeList {
            first: list.checked_mul(STRIDE)?,
            count: u32::try_from(ranges.len()).ok()?,
        })
    }

    fn range(&self, index: u32) -> Option<Range> {
        let list = self.lists.get(usize::try_from(index / STRIDE).ok()?)?;
        list.get(usize::try_from(index % STRIDE).ok()?).copied()
    }
}

/// A connection to be judged: addresses as the packets bear them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Connection {
    /// The source's address.
    pub source: Addr,
    /// The destination's.
    pub destination: Addr,
    /// The destination's port.
    pub port: u16,
    /// `service::TCP` or `service::UDP`.
    pub protocol: u8,
}

impl Connection {
    /// Returns that of a flow.
    pub fn of(flow: &FlowRecord) -> Self {
        Self {
            source: flow.source,
            destination: flow.destination,
            port: flow.destination_port.number(),
            protocol: flow.protocol,
        }
    }
}

impl PolicyTables {
    /// Returns the handle of the workload of this node that has an address.
    pub fn owner(&self, address: Addr) -> Option<u32> {
        self.owners.get(&address).copied()
    }

    /// Returns a rule's name, also of one that is gone; `None` for 0 and where it is not known.
    pub fn rule(&self, number: u32) -> Option<&RuleName> {
        (number != UNTOLD).then(|| self.names.get(&number))?
    }

    /// Returns the names of all numbered rules, to be kept.
    pub fn rule_names(&self) -> Arc<BTreeMap<u32, RuleName>> {
        self.names.clone()
    }

    /// Returns every numbered rule.
    pub fn rules(&self) -> impl Iterator<Item = (u32, &RuleName)> {
        self.names.iter().map(|(number, name)| (*number, name))
    }

    /// Returns whether a connection never comes before a policy: a workload's with itself.
    pub(super) fn is_own(&self, connection: &Connection) -> bool {
        let Connection {
            source,
            destination,
            ..
        } = connection;
        destination.is_loopback()
            || source == destination
            || (self.owner(*source).is_some() && self.owner(*source) == self.owner(*destination))
    }

    /// Returns the verdict of one end's policies; `None` where that end is not of this node or nothing applies to it.
    pub fn directed(&self, connection: &Connection, direction: Direction) -> Option<Verdict> {
        if self.is_own(connection) {
            return None;
        }
        let (own, peer, flag) = match direction {
            Direction::Egress => (
                connection.source,
                connection.destination,
                WORKLOAD_EGRESS_POLICY,
            ),
            Direction::Ingress => (
                connection.destination,
                connection.source,
                WORKLOAD_INGRESS_POLICY,
            ),
        };
        let subject = self.owner(own)?;
        if self.subjects.get(&subject)?.flags & flag == 0 {
            return None;
        }
        if direction == Direction::Ingress && self.host.contains(&peer) {
            return None;
        }
        let question = Question {
            subject,
            table: self.table,
            peer,
            direction,
            protocol: connection.protocol,
            port: connection.port,
        };
        Some(answer(self, &question))
    }

    /// Returns the verdict on a connection of which at least one end is of this node.
    pub fn judge(&self, connection: &Connection) -> Verdict {
        let one = |direction| {
            self.directed(connection, direction)
                .unwrap_or(Verdict::UNJUDGED)
        };
        one(Direction::Egress).and(one(Direction::Ingress))
    }

    /// Returns this machine's own addresses, whose traffic is allowed.
    pub fn host(&self) -> impl Iterator<Item = Addr> + '_ {
        self.host.iter().copied()
    }

    /// Returns those of the live flows that the tables deny.
    pub fn denied<'a>(
        &'a self,
        flows: &'a [FlowRecord],
    ) -> impl Iterator<Item = &'a FlowRecord> + 'a {
        let denied = |flow: &&FlowRecord| !self.judge(&Connection::of(flow)).allowed;
        flows.iter().filter(denied)
    }

    /// Returns whether policies apply to anybody.
    pub fn is_empty(&self) -> bool {
        self.subjects.values().all(|subject| subject.flags == 0)
    }
}
