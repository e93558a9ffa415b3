//! What is in the files now, against what was in force before, to the configuration that counts.
//!
//! What counts, precisely. An object is told by kind, namespace and name.
//!
//! - A valid object counts as it stands.
//! - An invalid one does not. If it was valid before, its **last valid version stays in force** until the object is valid
//!   again or gone.
//! - An object is gone when no file holds it any more; its last version then goes too. But where a file cannot be read, or
//!   holds something whose kind and name cannot be made out, nobody can say that an object is gone from it: **what the
//!   file held at its last good reading stays in force**. The same holds for everything while the directory cannot be listed.
//! - Where two objects claim one name, one address, one address and port of a service, or one node port, the one that has it
//!   already keeps it; else the first in the order of file name and place does. The other one is invalid.
//!
//! [`Resolver`] does no I/O, and its outcome depends on nothing but what was in force and what the files hold. It is
//! incremental: the work is in proportion to what changed. `choice` decides which version of each object counts and returns
//! the changes, `index` finds the services whose endpoints these concern, and `endpoints` joins only those anew.
#![forbid(unsafe_code)]

mod choice;
mod endpoints;
mod enrolled;
mod index;
mod leaving;
mod limit;
mod settle;
#[cfg(test)]
mod tests;
mod token;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::config::content::Content;
use crate::config::endpoint_slice::EndpointSlice;
use crate::config::gateway::link::{self, Linked, Linker, Named};
use crate::config::key::{Key, Kind, Place};
use crate::config::limits;
use crate::config::object::Object;
use crate::config::pod::Pod;
use crate::config::problem::Problem;
use crate::config::service::Service;
use crate::model::policy::{Policies, Policy};
use crate::model::service::{ServiceName, Services};
use crate::model::snapshot::{Node, RejectedPod, Snapshot};
use crate::model::workload::{Acceleration, Workload, WorkloadName};

use choice::{Change, Choice};
use index::Index;
use leaving::Leaving;
use token::Token;

/// Label that every namespace has in Kubernetes.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// A version of an object, and where it stands.
#[derive(Clone, PartialEq, Debug)]
struct Version {
    place: Place,
    object: Arc<Object>,
}

impl Version {
    /// Returns the pod, if this is one.
    fn pod(&self) -> Option<&Pod> {
        if let Object::Pod(pod) = &*self.object {
            return Some(pod);
        }
        None
    }

    /// Returns the service, if this is one.
    fn service(&self) -> Option<&Service> {
        if let Object::Service(service) = &*self.object {
            return Some(service);
        }
        None
    }

    /// Returns the slice, if this is one.
    fn slice(&self) -> Option<&EndpointSlice> {
        if let Object::EndpointSlice(slice) = &*self.object {
            return Some(slice);
        }
        None
    }

    /// Returns the policy with its origin, if this is one.
    fn policy(&self) -> Option<Policy> {
        if let Object::Policy(policy) = &*self.object {
            return Some(Policy {
                origin: self.place.to_string(),
                ..(**policy).clone()
            });
        }
        None
    }
}

/// The objects in force, and what follows from them.
#[derive(Debug)]
pub(crate) struct Resolver {
    default: Acceleration,
    choice: Choice,
    index: Index,
    linker: Linker,
    /// Services that programs registered.
    registered: Arc<Services>,
    /// Whether these are all that there are.
    knows_registered: bool,
    workloads: BTreeMap<WorkloadName, Arc<Workload>>,
    /// Pods that are being deleted, by the addresses that they still have.
    leaving: Leaving,
    /// Number of workloads in each namespace.
    populated: BTreeMap<String, usize>,
    namespaces: BTreeMap<String, Namespace>,
    now: Resolved,
    /// Why the directory cannot be listed.
    unlisted: Option<Problem>,
}

#[derive(Debug, Default)]
struct Namespace {
    labels: BTreeMap<String, String>,
    acceleration: Option<Acceleration>,
    mesh: Option<bool>,
}

/// What follows from the objects in force. What did not change stays the same pointer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Resolved {
    /// Ordered by name.
    pub(crate) workloads: Vec<Arc<Workload>>,
    pub(crate) host_pods: Arc<BTreeMap<WorkloadName, Option<String>>>,
    pub(crate) rejected_pods: Arc<BTreeMap<WorkloadName, RejectedPod>>,
    pub(crate) services: Arc<Services>,
    pub(crate) policies: Arc<Policies>,
    pub(crate) namespaces: Arc<BTreeMap<String, BTreeMap<String, String>>>,
    pub(crate) nodes: Arc<BTreeMap<String, Node>>,
    pub(crate) linked: Linked,
}

impl Resolved {
    /// Returns it as a snapshot of this generation.
    pub(crate) fn snapshot(&self, generation: u64, errors: Vec<String>) -> Snapshot {
        let Self {
            workloads,
            host_pods,
            rejected_pods,
            services,
            policies,
            namespaces,
            nodes,
            linked,
        } = self.clone();
        Snapshot {
            generation,
            workloads,
            host_pods,
            rejected_pods,
            services,
            policies,
            namespaces,
            nodes,
            routes: linked.routes,
            traffic: linked.traffic,
            backend_tls: linked.tls,
            statuses: linked.statuses,
            errors,
            made: None,
        }
    }
}

/// What one update touched.
#[derive(Debug, Default)]
struct Touched {
    workloads: bool,
    namespaces: bool,
    /// Services to be joined anew.
    services: BTreeSet<Arc<Key>>,
}

impl Resolver {
    /// Returns a resolver with nothing in force. `default` is the mode of workloads that neither they nor their namespace give one.
    pub(crate) fn new(default: Acceleration) -> Self {
        Self {
            default,
            choice: Choice::default(),
            index: Index::default(),
            linker: Linker::default(),
            registered: Arc::default(),
            knows_registered: true,
            workloads: BTreeMap::new(),
            leaving: Leaving::default(),
            populated: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            now: Resolved::default(),
            unlisted: None,
        }
    }

    /// Says that programs register services where nobody sees it from here.
    pub(crate) fn know_no_registered(&mut self) {
        self.knows_registered = false;
    }

    /// Takes over what the files hold now, and returns whether anything of [`resolved`](Self::resolved) is different.
    ///
    /// `contents` is the directory, or why it cannot be listed.
    pub(crate) fn update(&mut self, contents: Result<&[Arc<Content>], &Problem>) -> bool {
        match contents {
            Ok(contents) => {
                self.unlisted = None;
                let changes = self.choice.update(contents);
                self.apply(&changes)
            }
            Err(problem) => {
                self.unlisted = Some(problem.clone());
                false
            }
        }
    }

    /// Takes over what some files hold now, or that they are gone; all others are as they were. Returns whether anything of
    /// [`resolved`](Self::resolved) is different. The cost is in proportion to what changed.
    pub(crate) fn update_some(
        &mut self,
        files: impl IntoIterator<Item = (Arc<str>, Option<Arc<Content>>)>,
    ) -> bool {
        let changes = self.choice.update_some(files);
        self.apply(&changes)
    }

    /// Takes over which services programs registered: routes and policies may name these, too. Returns whether anything of
    /// [`resolved`](Self::resolved) is different; services there are those among the objects alone.
    pub(crate) fn set_registered(&mut self, registered: Arc<Services>) -> bool {
        let before = std::mem::replace(&mut self.registered, registered);
        let names = before.keys().chain(self.registered.keys());
        let is_other = |name: &&ServiceName| {
            let of = |services: &Services| services.get(*name).cloned();
            let (before, now) = (of(&before), of(&self.registered));
            !self.now.services.contains_key(*name)
                && !link::is_same_shape(before.as_deref(), now.as_deref())
        };
        let shapes: BTreeSet<ServiceName> = names.filter(is_other).cloned().collect();
        self.link(&[], &shapes)
    }

    /// Returns what follows from the objects in force.
    pub(crate) fn resolved(&self) -> &Resolved {
        &self.now
    }

    /// Returns everything that is wrong, ordered by place.
    pub(crate) fn problems(&self) -> Vec<Problem> {
        let Some(problem) = &self.unlisted else {
            let mut problems = self.choice.problems();
            let room = limits::PROBLEMS.saturating_sub(problems.len());
            problems.extend(self.linker.problems().into_iter().take(room));
            if room > 0 {
                problems.sort();
            }
            return problems;
        };
        let keeps = !self.choice.is_empty();
        let kept = keeps.then_some("; all objects stay in force meanwhile");
        vec![Problem {
            help: format!("{}{}", problem.help, kept.unwrap_or_default()),
            ..problem.clone()
        }]
    }

    /// Returns the key of a workload's pod, and where it stands.
    pub(crate) fn pod(&self, name: &WorkloadName) -> Option<(&Key, &Place)> {
        let (key, version) = self.choice.entry(&pod_key(name))?;
        Some((key, &version.place))
    }

    /// Returns namespace and name of each `ConfigMap` that a `BackendTLSPolicy` in force names.
    pub(crate) fn authorities(&self) -> impl Iterator<Item = (&str, &str)> {
        let policies = self.choice.of_kind(Kind::BackendTLSPolicy);
        policies.flat_map(|(key, version)| {
            let mut authorities = &[][..];
            if let Object::BackendTls(raw) = &*version.object {
                authorities = &raw.authorities;
            }
            let names = authorities.iter().flatten();
            names.map(move |name| (key.namespace.as_str(), name.as_str()))
        })
    }

    /// Returns a resolver that has the same objects in force and nothing else yet: its next update decides on all of them.
    #[cfg(test)]
    fn again(&self) -> Self {
        let mut again = Self::new(self.default);
        let changes = again.choice.adopt(&self.choice);
        again.apply(&changes);
        again
    }

    fn apply(&mut self, changes: &[Change]) -> bool {
        let mut touched = Touched::default();
        let mut changed = false;
        // Nodes and namespaces first, and all pods before any service: each reads what the ones before it left.
        for change in changes {
            match change.key.kind {
                Kind::Namespace => self.namespace(change, &mut touched),
                Kind::Node => changed |= self.node(change, &mut touched),
                Kind::Pod => self.pod_changed(change, &mut touched),
                Kind::Service | Kind::EndpointSlice => {
                    self.index.service_or_slice(change, &mut touched.services);
                }
                Kind::NetworkPolicy | Kind::AuthorizationPolicy => changed |= self.policy(change),
                // Linked below, when the services are as they are now.
                Kind::HTTPRoute
                | Kind::GRPCRoute
                | Kind::TLSRoute
                | Kind::TCPRoute
                | Kind::UDPRoute
                | Kind::BackendTLSPolicy
                | Kind::ReferenceGrant
                | Kind::XBackendTrafficPolicy
                | Kind::TrafficPolicy
                | Kind::ConfigMap
                | Kind::XMesh => {}
            }
        }
        for key in self.leaving.concerned(changes) {
            let version = self.choice.get(&key).cloned();
            touched.workloads |= self.set_workload(&key, version.as_deref());
        }
        self.index
            .pods(changes, &self.choice, &mut touched.services);
        if touched.workloads {
            self.now.workloads = self.workloads.values().cloned().collect();
            changed = true;
        }
        if touched.namespaces {
            changed |= self.label_namespaces();
        }
        changed |= self.name_rejected();
        let (joined, shapes) = self.join(&touched.services);
        changed | joined | self.link(changes, &shapes)
    }

    /// Puts routes and policies together with the services, where any of these changed.
    fn link(&mut self, changes: &[Change], shapes: &BTreeSet<ServiceName>) -> bool {
        let linked = changes.iter().filter(|it| link::is_linked(it.key.kind));
        let now = |change: &'_ Change| change.now.clone();
        let versions: Vec<_> = linked.map(|it| (it.key.clone(), now(it))).collect();
        let changed: Vec<link::Changed<'_>> = versions
            .iter()
            .map(|(key, now)| (key, now.as_ref().map(|now| (&now.object, &now.place))))
            .collect();
        if changed.is_empty() && shapes.is_empty() {
            return false;
        }
        let services = Named {
            configured: &self.now.services,
            registered: &self.registered,
            is_all: self.knows_registered,
        };
        let is_new = self.linker.update(&changed, services, shapes);
        if is_new {
            self.now.linked = self.linker.linked().clone();
        }
        is_new
    }

    fn namespace(&mut self, change: &Change, touched: &mut Touched) {
        let name = &change.key.name;
        let before = self.namespaces.remove(name).unwrap_or_default();
        let mut now = Namespace::default();
        if let Some(Object::Namespace(namespace)) = change.now_object() {
            now.labels.clone_from(&namespace.labels);
            now.acceleration = namespace.acceleration;
            now.mesh = namespace.mesh;
        }
        if (before.acceleration, before.mesh) != (now.acceleration, now.mesh) {
            let of_namespace = self.choice.of_namespace(Kind::Pod, name);
            let pods: Vec<_> = of_namespace
                .map(|(key, version)| (key.clone(), version.clone()))
                .collect();
            if change.now.is_some() {
                self.namespaces.insert(name.clone(), now);
            }
            for (key, version) in pods {
                touched.workloads |= self.set_workload(&key, Some(&version));
            }
        } else if change.now.is_some() {
            self.namespaces.insert(name.clone(), now);
        }
        touched.namespaces = true;
    }

    fn node(&mut self, change: &Change, touched: &mut Touched) -> bool {
        let name = &change.key.name;
        let before = self.now.nodes.get(name).cloned();
        let now = match change.now_object() {
            Some(Object::Node(node)) => Some(node.clone()),
            _ => None,
        };
        if before == now {
            return false;
        }
        let place = |node: &Option<Node>| node.clone().map(|node| (node.zone, node.region));
        if place(&before) != place(&now) {
            let on_it = self.now.services.values().filter(|service| {
                let endpoints = service.ports.iter().flat_map(|port| &port.endpoints);
                endpoints
                    .into_iter()
                    .any(|endpoint| endpoint.node.as_deref() == Some(name))
            });
            let keys =
                on_it.map(|service| service_key(&service.name.namespace, &service.name.name));
            touched.services.extend(keys.map(Arc::new));
        }
        let nodes = Arc::make_mut(&mut self.now.nodes);
        match now {
            Some(node) => nodes.insert(name.clone(), node),
            None => nodes.remove(name),
        };
        true
    }

    fn policy(&mut self, change: &Change) -> bool {
        let policy = |version: &Option<Arc<Version>>| version.as_ref()?.policy();
        let (before, now) = (policy(&change.before), policy(&change.now));
        if before == now {
            return false;
        }
        let policies = Arc::make_mut(&mut self.now.policies);
        match (now, before) {
            (Some(policy), _) => {
                policies.insert(policy.name.clone(), Arc::new(policy));
            }
            (None, Some(policy)) => {
                policies.remove(&policy.name);
            }
            (None, None) => {}
        }
        true
    }

    fn pod_changed(&mut self, change: &Change, touched: &mut Touched) {
        let namespaces = self.populated.len();
        touched.workloads |= self.set_workload(&change.key, change.now.as_deref());
        touched.namespaces |= namespaces != self.populated.len();
    }

    /// Brings the workload of a pod up to date, and returns whether it is different.
    fn set_workload(&mut self, key: &Key, version: Option<&Version>) -> bool {
        let name = WorkloadName {
            namespace: key.namespace.clone(),
            name: key.name.clone(),
        };
        self.leaving.set(key, version.and_then(Version::pod));
        let is_new = self.set_host_pod(&name, version);
        let now = version.and_then(|version| self.workload(&name, version));
        let before = self.workloads.get(&name);
        if before.map(|workload| &**workload) == now.as_ref() {
            return is_new;
        }
        let count = self.populated.entry(name.namespace.clone()).or_default();
        match (before.is_some(), now) {
            (was, Some(workload)) => {
                *count += usize::from(!was);
                self.workloads.insert(name, Arc::new(workload));
            }
            (_, None) => {
                *count -= 1;
                if *count == 0 {
                    self.populated.remove(&name.namespace);
                }
                self.workloads.remove(&name);
            }
        }
        true
    }

    /// Returns the addresses that are a pod's. One that is being deleted may have lost some to another: networks give them away as
    /// soon as a pod's is taken down, and the API server is told of that in any order.
    fn addresses(&self, name: &WorkloadName, pod: &Pod) -> Vec<IpAddr> {
        let all = pod.addresses.iter().map(|address| address.ip);
        let is_its = |ip: &IpAddr| {
            !pod.terminating
                || self.leaving.is_first(*ip, name) && !self.choice.is_claimed(Token::Address(*ip))
        };
        all.filter(is_its).collect()
    }

    fn workload(&self, name: &WorkloadName, version: &Version) -> Option<Workload> {
        let pod = version.pod().filter(|pod| pod.live)?;
        let namespace = self.namespaces.get(&name.namespace);
        Some(Workload {
            name: name.clone(),
            uid: pod.uid.clone(),
            labels: pod.labels.clone(),
            service_account: pod.service_account.clone(),
            addresses: self.addresses(name, pod),
            node: pod.node.clone(),
            ready: pod.ready.unwrap_or(true),
            terminating: pod.terminating,
            ports: pod.ports.clone(),
            location: pod.location.clone(),
            enrolled: self.is_enrolled(&name.namespace, version.place.is_api(), pod),
            started: pod.started,
            containers: pod.containers.clone(),
            acceleration: pod
                .acceleration
                .or_else(|| namespace?.acceleration)
                .unwrap_or(self.default),
            origin: version.place.to_string(),
        })
    }

    /// Brings the labels of the namespaces up to date, and returns whether any is different.
    fn label_namespaces(&mut self) -> bool {
        let names = self.populated.keys().chain(self.namespaces.keys());
        let labelled = names.map(|name| {
            let given = self.namespaces.get(name);
            let mut labels = given.map_or_else(BTreeMap::new, |given| given.labels.clone());
            labels.insert(NAMESPACE_NAME.to_owned(), name.clone());
            (name.clone(), labels)
        });
        let labelled: BTreeMap<_, _> = labelled.collect();
        if labelled == *self.now.namespaces {
            return false;
        }
        self.now.namespaces = Arc::new(labelled);
        true
    }

    /// Joins these services with their endpoints anew; returns whether any is different, and those whose ports are.
    fn join(&mut self, keys: &BTreeSet<Arc<Key>>) -> (bool, BTreeSet<ServiceName>) {
        let mut shapes = BTreeSet::new();
        let mut new = Vec::new();
        for key in keys {
            let name = ServiceName {
                namespace: key.namespace.clone(),
                name: key.name.clone(),
            };
            let service = endpoints::join(&name, &self.choice, &self.index, &self.now.nodes);
            let before = self.now.services.get(&name);
            let before = before.map(|before| &**before);
            if !link::is_same_shape(before, service.as_ref()) {
                shapes.insert(name.clone());
            }
            if before != service.as_ref() {
                new.push((name, service));
            }
        }
        if new.is_empty() {
            return (false, shapes);
        }
        let services = Arc::make_mut(&mut self.now.services);
        for (name, service) in new {
            match service {
                Some(service) => services.insert(name, Arc::new(service)),
                None => services.remove(&name),
            };
        }
        (true, shapes)
    }
}

fn pod_key(name: &WorkloadName) -> Key {
    Key {
        kind: Kind::Pod,
        namespace: name.namespace.clone(),
        name: name.name.clone(),
    }
}

fn service_key(namespace: &str, name: &str) -> Key {
    Key {
        kind: Kind::Service,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    }
}
