//! How many objects there may be.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::Version;
use super::settle::Draft;
use crate::config::key::{Key, Kind};
use crate::config::limits;
use crate::config::problem::Finding;

/// Objects in force that count together.
#[derive(Debug, Default)]
pub(super) struct Counts(HashMap<Group, usize>);

/// Objects that have a limit together.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Group {
    Kind(Kind),
    /// Workloads of one node, or those that say none.
    Node(Option<String>),
}

impl Group {
    fn limit(&self) -> usize {
        match self {
            Self::Kind(Kind::Pod) => limits::PODS,
            Self::Kind(Kind::Namespace) => limits::NAMESPACES,
            Self::Kind(Kind::Node) => limits::NODES_OF_MESH,
            Self::Kind(Kind::Service) => limits::SERVICES,
            Self::Kind(Kind::EndpointSlice) => limits::ENDPOINT_SLICES,
            Self::Kind(Kind::NetworkPolicy | Kind::AuthorizationPolicy) => limits::POLICIES,
            Self::Kind(
                Kind::HTTPRoute
                | Kind::GRPCRoute
                | Kind::TLSRoute
                | Kind::TCPRoute
                | Kind::UDPRoute,
            ) => limits::ROUTES,
            Self::Kind(
                Kind::BackendTLSPolicy
                | Kind::ReferenceGrant
                | Kind::XBackendTrafficPolicy
                | Kind::TrafficPolicy
                | Kind::ConfigMap
                | Kind::XMesh,
            ) => limits::SERVICES,
            Self::Node(_) => limits::WORKLOADS,
        }
    }

    fn problem(&self) -> (String, &'static str) {
        let limit = self.limit();
        match self {
            Self::Kind(kind) => (
                format!(
                    "there are more than {limit} objects of the kind {}",
                    kind.word()
                ),
                "remove those that are not needed on this node",
            ),
            Self::Node(_) => (
                format!("the node has more than {limit} workloads"),
                "spread them over more nodes",
            ),
        }
    }
}

fn groups(key: &Key, version: &Version) -> Vec<Group> {
    let mut groups = vec![Group::Kind(key.kind)];
    if let Some(pod) = version.pod()
        && pod.live
    {
        groups.push(Group::Node(pod.node.clone()));
    }
    groups
}

impl Counts {
    /// Counts what changes, and refuses what is new and goes beyond a limit; what is in force stays.
    pub(super) fn limit(&mut self, drafts: &mut BTreeMap<Arc<Key>, Draft>) {
        for (key, draft) in &*drafts {
            for group in draft.before.iter().flat_map(|before| groups(key, before)) {
                self.add(&group, false);
            }
        }
        for is_new in [false, true] {
            for (key, draft) in drafts.iter_mut() {
                let Some(now) = draft.now.clone() else {
                    continue;
                };
                if draft.before.is_none() != is_new {
                    continue;
                }
                let groups = groups(key, &now);
                if let Some(group) = groups.iter().find(|group| is_new && self.is_full(group)) {
                    let (problem, help) = group.problem();
                    let path = now.place.path.clone();
                    let finding = Finding::error(now.place.line, path, problem, help);
                    draft.problems.push(now.place.problem(Some(key), finding));
                    draft.beyond = true;
                    draft.now = None;
                    continue;
                }
                for group in groups {
                    self.add(&group, true);
                }
            }
        }
    }

    fn is_full(&self, group: &Group) -> bool {
        self.0
            .get(group)
            .is_some_and(|count| *count >= group.limit())
    }

    fn add(&mut self, group: &Group, is_more: bool) {
        let count = self.0.entry(group.clone()).or_default();
        *count = if is_more {
            *count + 1
        } else {
            count.saturating_sub(1)
        };
    }
}
