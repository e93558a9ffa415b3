//! Who may talk to whom, as the configuration describes it: one shape for Kubernetes `NetworkPolicy` and `AuthorizationPolicy`
//! (`underpass.dev/v1alpha1`).

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::model::labels::Labelled;
use crate::model::service::Protocol;

/// The kind of a policy object.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum PolicyKind {
    /// `networking.k8s.io/v1`.
    NetworkPolicy,
    /// `underpass.dev/v1alpha1`.
    AuthorizationPolicy,
}

/// Name of a policy: unique with its kind.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct PolicyName {
    /// Its kind.
    pub kind: PolicyKind,
    /// Kubernetes namespace.
    pub namespace: String,
    /// Object name.
    pub name: String,
}

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            PolicyKind::NetworkPolicy => "NetworkPolicy",
            PolicyKind::AuthorizationPolicy => "AuthorizationPolicy",
        };
        write!(f, "{kind} {}/{}", self.namespace, self.name)
    }
}

/// A rule of a policy.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct RuleName {
    /// The policy.
    pub policy: PolicyName,
    /// `ingress` or `egress`.
    pub direction: String,
    /// The rule's own name, or `default` for what no rule of a dry-run policy matches.
    pub rule: String,
}

impl fmt::Display for RuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.policy, self.direction, self.rule)
    }
}

/// All policies of a configuration, by name. Shared by pointer, as services are.
pub type Policies = BTreeMap<PolicyName, Arc<Policy>>;

/// One policy. It applies to the pods of its own namespace that `subject` selects, in each direction that is not `None`.
///
/// All directions of all policies: what any [`Action::Deny`] rule matches is denied. Else, for each kind: where policies of that
/// kind with [`Action::Allow`] apply to a workload in a direction, what none of their rules matches is denied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Policy {
    /// Its name.
    pub name: PolicyName,
    /// The pods that it applies to.
    pub subject: LabelSelector,
    /// What its rules do.
    pub action: Action,
    /// Dry-run: it decides nothing, and what it would deny is counted and shown.
    pub dry_run: bool,
    /// Rules for what dials the subject; an empty list matches nothing.
    pub ingress: Option<Vec<Rule>>,
    /// Rules for what the subject dials; an empty list matches nothing.
    pub egress: Option<Vec<Rule>>,
    /// The manifest it comes from, as `file: path in it`, for messages.
    pub origin: String,
}

/// What rules do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// They allow, and everything else is denied.
    Allow,
    /// They deny.
    Deny,
}

/// Matches a connection whose peer is any of `peers` and whose port is in any of `ports`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// Its name: `spec.ingress[2]`, or the name that it was given.
    pub name: String,
    /// `None`: anybody, also outside the mesh. An empty list matches nobody.
    pub peers: Option<Vec<Peer>>,
    /// `None`: any port and protocol. An empty list matches nothing.
    pub ports: Option<Vec<Ports>>,
}

/// The other end of a connection.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Peer {
    /// An address block, less some of its parts.
    Block {
        /// The block.
        block: Block,
        /// Parts of it that do not match.
        except: Vec<Block>,
    },
    /// Pods.
    Pods {
        /// The namespaces; `None`: the policy's own.
        namespaces: Option<LabelSelector>,
        /// The pods in them.
        pods: LabelSelector,
        /// Their service accounts; `None`: any. Each a name, or `namespace/name`.
        service_accounts: Option<Vec<String>>,
    },
}

/// An address block (CIDR). Bits of `address` beyond `prefix` are zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Block {
    /// First address.
    pub address: IpAddr,
    /// Leading bits that count, in the address's own family.
    pub prefix: u8,
}

/// Ports of one protocol.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ports {
    /// `None`: TCP and UDP (of a kind that has no SCTP).
    pub protocol: Option<Protocol>,
    /// Which.
    pub which: WhichPorts,
}

/// Which ports.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WhichPorts {
    /// All.
    All,
    /// From the first to the last, both included.
    Range(u16, u16),
    /// The container port of this name, of whichever pod is dialled.
    Named(String),
}

/// `LabelSelector`: every term has to hold; empty selects all.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct LabelSelector {
    /// Terms; `matchLabels` are `In` with one value.
    pub terms: Vec<Term>,
}

/// One term of a selector.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Term {
    /// The label has one of these values.
    In(String, Vec<String>),
    /// The label has none of these values, or is not there.
    NotIn(String, Vec<String>),
    /// The label is there.
    Exists(String),
    /// The label is not there.
    DoesNotExist(String),
}

impl LabelSelector {
    /// Returns whether `labels` fulfil every term.
    pub fn matches(&self, labels: &impl Labelled) -> bool {
        let is_one = |key: &str, values: &[String]| {
            let value = labels.label(key);
            value.is_some_and(|value| values.iter().any(|it| it == value))
        };
        self.terms.iter().all(|term| match term {
            Term::In(key, values) => is_one(key, values),
            Term::NotIn(key, values) => !is_one(key, values),
            Term::Exists(key) => labels.label(key).is_some(),
            Term::DoesNotExist(key) => labels.label(key).is_none(),
        })
    }
}
