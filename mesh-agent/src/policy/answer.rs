//! Answers for a person: who may dial whom, and why.

use std::net::IpAddr;

use mesh_common::addr::Addr;
use mesh_common::policy::{Direction, Verdict};
use serde::{Deserialize, Serialize};

use crate::model::policy::RuleName;
use crate::model::service::Protocol;
use crate::model::snapshot::Snapshot;
use crate::model::workload::{Workload, WorkloadName};
use crate::policy::tables::{Connection, PolicyTables};

/// One end of a connection that is asked after.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Party {
    /// A pod of the mesh.
    Pod(WorkloadName),
    /// Whoever has this address.
    Address(IpAddr),
}

/// Why there is no answer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum UnknownParty {
    /// There is no such pod.
    #[error("there is no pod {0}")]
    Pod(WorkloadName),
    /// The ends have no address family in common.
    #[error("the two have no addresses of the same family")]
    Family,
}

/// What one end's policies say.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Judgement {
    /// Whose policies: `namespace/name`.
    pub subject: String,
    /// Whether they allow it.
    pub allowed: bool,
    /// Whether they would not if those in dry-run mode counted.
    pub would_deny: bool,
    /// The rule that decides; `None`: no rule allows it, or it comes before any.
    pub rule: Option<RuleName>,
    /// Policies because of which what no rule allows is denied.
    pub isolated_by: Vec<String>,
    /// Where it is enforced: `connect` of the client, `sk_lookup` of the server.
    pub enforced_at: Vec<String>,
    /// Why no policy was asked, where none was.
    pub exempt: Option<String>,
}

/// Whether one may dial the other.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PolicyAnswer {
    /// The address that it would come from.
    pub source: IpAddr,
    /// The address that it would go to.
    pub destination: IpAddr,
    /// Whether both ends allow it, as far as this node knows.
    pub allowed: bool,
    /// Whether a policy in dry-run mode would not.
    pub would_deny: bool,
    /// What the source's policies for egress say; `None` where it is not a workload of this node.
    pub egress: Option<Judgement>,
    /// What the destination's policies for ingress say; `None` where it is not a workload of this node.
    pub ingress: Option<Judgement>,
}

impl PolicyTables {
    /// Returns whether `from` may dial `to` on a port, and why.
    ///
    /// # Errors
    ///
    /// Where a pod is not known, or the two have no family in common.
    pub fn test(
        &self,
        snapshot: &Snapshot,
        (from, to): (&Party, &Party),
        port: u16,
        protocol: Protocol,
    ) -> Result<PolicyAnswer, UnknownParty> {
        let (sources, destinations) = (addresses(snapshot, from)?, addresses(snapshot, to)?);
        let pairs = sources.iter().flat_map(|source| {
            destinations
                .iter()
                .map(move |destination| (source, destination))
        });
        let pair = pairs.into_iter().find(|(a, b)| a.is_ipv4() == b.is_ipv4());
        let (source, destination) = pair.ok_or(UnknownParty::Family)?;
        let connection = Connection {
            source: Addr::from(*source),
            destination: Addr::from(*destination),
            port,
            protocol: protocol.number(),
        };
        let verdict = self.judge(&connection);
        Ok(PolicyAnswer {
            source: *source,
            destination: *destination,
            allowed: verdict.allowed,
            would_deny: verdict.would_deny,
            egress: self.judgement(&connection, Direction::Egress),
            ingress: self.judgement(&connection, Direction::Ingress),
        })
    }

    fn judgement(&self, connection: &Connection, direction: Direction) -> Option<Judgement> {
        let own = match direction {
            Direction::Egress => connection.source,
            Direction::Ingress => connection.destination,
        };
        let subject = self.subjects.get(&self.owner(own)?)?;
        let verdict = self.directed(connection, direction);
        let exempt = match verdict {
            Some(_) => None,
            None if self.is_own(connection) => Some("a pod may always talk to itself"),
            None if direction == Direction::Ingress && self.host.contains(&connection.source) => {
                Some("it comes from the machine that the pod runs on")
            }
            None => Some("no policy applies"),
        };
        let isolating = match direction {
            Direction::Egress => &subject.isolated_egress,
            Direction::Ingress => &subject.isolated_ingress,
        };
        let local_client = self.owner(connection.source).is_some();
        let at = [
            (local_client, "connect"),
            (direction == Direction::Ingress, "sk_lookup"),
        ];
        let enforced_at = match verdict {
            Some(_) => at
                .iter()
                .filter(|(is, _)| *is)
                .map(|(_, at)| (*at).to_owned())
                .collect(),
            None => Vec::new(),
        };
        let verdict = verdict.unwrap_or(Verdict::UNJUDGED);
        Some(Judgement {
            subject: subject.name.to_string(),
            allowed: verdict.allowed,
            would_deny: verdict.would_deny,
            rule: self.rule(verdict.rule).cloned(),
            isolated_by: isolating.iter().map(ToString::to_string).collect(),
            enforced_at,
            exempt: exempt.map(str::to_owned),
        })
    }
}

fn addresses(snapshot: &Snapshot, party: &Party) -> Result<Vec<IpAddr>, UnknownParty> {
    match party {
        Party::Address(address) => Ok(vec![*address]),
        Party::Pod(name) => {
            let mut all = snapshot.workloads.iter().map(AsRef::<Workload>::as_ref);
            let pod = all.find(|workload| workload.name == *name);
            let pod = pod.ok_or_else(|| UnknownParty::Pod(name.clone()))?;
            Ok(pod.addresses.clone())
        }
    }
}
