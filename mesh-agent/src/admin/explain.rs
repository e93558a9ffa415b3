//! Routes that follow a connection which is not made: to which service it leads, who would answer, whether policy lets it, and
//! whether its messages would be redirected.

#![forbid(unsafe_code)]

use std::net::{IpAddr, SocketAddr};

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use mesh_common::reason::Reason;

use crate::admin::Admin;
use crate::admin::api::{Answer, Shared};
use crate::admin::balancing::Looks;
use crate::admin::error::ApiError;
use crate::admin::routes::{View, carrier};
use crate::admin::status;
use crate::admin::types::balancing::{Backend, BalancedPort, BalancedService, CLUSTER_IP};
use crate::admin::types::explain::{
    ConnectionQuery, Destination, Dialled, Dialler, EXPLAIN_SCHEMA, Explanation,
    POLICY_TEST_SCHEMA, Place, PolicyAnswer, PolicyTest, Verdict, Who,
};
use crate::admin::types::{ServiceRef, WorkloadRef};
use crate::l7::route::kernel::Needs;
use crate::model::balanced::{PortId, Split};
use crate::model::endpoint::Why;
use crate::model::observed::{WorkloadState, WorkloadStatus};
use crate::model::service::{Protocol, Service, ServiceName};
use crate::policy::Party;

/// Adds the routes.
pub(super) fn routes(routes: Router<Shared>) -> Router<Shared> {
    routes
        .route("/v1/explain", get(get_explain))
        .route("/v1/policy/test", get(get_policy_test))
}

type ConnectionAsked = Result<Query<ConnectionQuery>, QueryRejection>;

async fn get_explain(State(shared): State<Shared>, query: ConnectionAsked) -> Answer<Explanation> {
    let ask = Ask::of(query?.0)?;
    let explain = move |admin: &Admin| explain(admin, &ask);
    Ok(Json(shared.admin.read(explain).await?))
}

async fn get_policy_test(
    State(shared): State<Shared>,
    query: ConnectionAsked,
) -> Answer<PolicyTest> {
    let ask = Ask::of(query?.0)?;
    let explain = move |admin: &Admin| explain(admin, &ask);
    let explanation = shared.admin.read(explain).await?;
    let policies = explanation.destinations.into_iter();
    let answers: Vec<PolicyAnswer> = policies.filter_map(|it| it.policy).collect();
    if answers.is_empty() {
        let why = explanation.why.into_iter().next();
        let why = why.unwrap_or_else(|| "there is nobody to judge".to_owned());
        return Err(ApiError::new(StatusCode::NOT_FOUND, why));
    }
    Ok(Json(PolicyTest {
        schema: POLICY_TEST_SCHEMA.to_owned(),
        allowed: answers.iter().all(|answer| answer.allowed),
        answers,
    }))
}

/// A connection that somebody asks after.
struct Ask {
    from: Who,
    to: Who,
    port: u16,
    protocol: Protocol,
}

impl Ask {
    fn of(query: ConnectionQuery) -> Result<Self, ApiError> {
        let who = |text: &str| {
            text.parse()
                .map_err(|error: String| ApiError::new(StatusCode::BAD_REQUEST, error))
        };
        Ok(Self {
            from: who(&query.from)?,
            to: who(&query.to)?,
            port: query.port,
            protocol: query.protocol,
        })
    }
}

/// Where the dialled name or address leads.
enum Lead {
    Service(Box<BalancedService>),
    Workload(WorkloadStatus),
    Address(IpAddr),
    Nowhere(String),
}

/// An explanation in the making.
struct Trail<'a> {
    admin: &'a Admin,
    ask: &'a Ask,
    workloads: Vec<WorkloadStatus>,
    from: Dialler,
    /// Why it fails.
    against: Vec<String>,
    /// What else there is to say.
    notes: Vec<String>,
}

fn explain(admin: &Admin, ask: &Ask) -> Explanation {
    let workloads = status::workloads(admin);
    let dialler = workloads.iter().find(|it| is(it, &ask.from));
    let mut trail = Trail {
        from: from(&ask.from, dialler),
        admin,
        ask,
        workloads,
        against: Vec::new(),
        notes: Vec::new(),
    };
    if let (Who::Name(name), None) = (&ask.from, &trail.from.workload) {
        trail.against.push(format!("there is no workload {name}"));
    }
    let mut service = None;
    let destinations = match trail.lead() {
        Lead::Service(found) => {
            service = trail.dialled(&found);
            trail.of_service(&found)
        }
        Lead::Workload(workload) => trail.of_workload(&workload),
        Lead::Address(address) => vec![trail.destination(address, ask.port, None)],
        Lead::Nowhere(why) => {
            trail.against.push(why);
            Vec::new()
        }
    };
    trail.judge(&destinations);
    let (verdict, why) = trail.verdict();
    Explanation {
        schema: EXPLAIN_SCHEMA.to_owned(),
        from: trail.from,
        to: ask.to.to_string(),
        port: ask.port,
        protocol: ask.protocol,
        service,
        destinations,
        verdict,
        why,
    }
}

fn is(workload: &WorkloadStatus, who: &Who) -> bool {
    match who {
        Who::Name(name) => WorkloadRef::from(workload.name.clone()) == *name,
        Who::Address(address) => workload.addresses.contains(address),
    }
}

fn is_here(state: WorkloadState) -> bool {
    !matches!(
        state,
        WorkloadState::NotFound
            | WorkloadState::Elsewhere
            | WorkloadState::NotEnrolled
            | WorkloadState::HostNetwork
            | WorkloadState::Rejected
    )
}

fn from(who: &Who, workload: Option<&WorkloadStatus>) -> Dialler {
    let address = match who {
        Who::Address(address) => vec![*address],
        Who::Name(_) => Vec::new(),
    };
    match workload {
        None => Dialler {
            workload: None,
            addresses: address,
            state: None,
            why: String::new(),
            captured: false,
        },
        Some(workload) => Dialler {
            workload: Some(workload.name.clone().into()),
            addresses: match address.is_empty() {
                true => workload.addresses.clone(),
                false => address,
            },
            state: Some(workload.state),
            why: workload.why.clone(),
            captured: is_here(workload.state),
        },
    }
}

impl Trail<'_> {
    /// Finds what is dialled: a service before a workload of the same name, as a frontend comes before an address.
    fn lead(&self) -> Lead {
        let sources = &self.admin.sources.services;
        let services = sources.services.borrow().clone();
        let found = match &self.ask.to {
            Who::Name(WorkloadRef { namespace, name }) => services.get(&ServiceName {
                namespace: namespace.clone(),
                name: name.clone(),
            }),
            Who::Address(address) => services.values().find(|it| self.leads(it, *address)),
        };
        if let Some(service) = found {
            return Lead::Service(Box::new(Looks::new(sources).service(service)));
        }
        if let Some(found) = self.workloads.iter().find(|it| is(it, &self.ask.to)) {
            return Lead::Workload(found.clone());
        }
        match &self.ask.to {
            Who::Name(name) => Lead::Nowhere(format!("there is no service or workload {name}")),
            Who::Address(address) => Lead::Address(*address),
        }
    }

    /// Returns whether this address and the asked port are a frontend of the service, or its node port.
    fn leads(&self, service: &Service, address: IpAddr) -> bool {
        let kernel = &self.admin.sources.services.kernel;
        let is_node = || kernel.is_node_address(address);
        let own = service
            .addresses
            .iter()
            .chain(&service.external_addresses)
            .any(|it| *it == address);
        let mut ports = service.ports.iter();
        ports.any(|port| {
            port.protocol == self.ask.protocol
                && (own && port.number == self.ask.port
                    || port.node_port == Some(self.ask.port) && is_node())
        })
    }

    fn port<'a>(&self, service: &'a BalancedService) -> Option<&'a BalancedPort> {
        let by_node = |port: &BalancedPort| {
            matches!(self.ask.to, Who::Address(_)) && port.node_port == Some(self.ask.port)
        };
        let mut ports = service.ports.iter();
        ports.find(|port| {
            port.protocol == self.ask.protocol && (port.port == self.ask.port || by_node(port))
        })
    }

    fn dialled(&self, service: &BalancedService) -> Option<Dialled> {
        let port = self.port(service);
        if service.kind == CLUSTER_IP && port.is_none() {
            return None;
        }
        let addresses = service.addresses.iter().chain(&service.external_addresses);
        Some(Dialled {
            id: ServiceRef {
                namespace: service.namespace.clone(),
                name: service.name.clone(),
                port: port.map_or(self.ask.port, |port| port.port),
            },
            kind: service.kind.clone(),
            addresses: addresses.copied().collect(),
            balanced: service.balanced,
            algorithm: port.map(|port| port.algorithm.clone()).unwrap_or_default(),
            affinity_seconds: port.and_then(|port| port.affinity_seconds),
            carrier: carrier(self.needs(service).as_ref()),
        })
    }

    /// Returns who carries connections to the service port, for the namespace of who dials.
    fn needs(&self, service: &BalancedService) -> Option<Needs> {
        let from = self.from.workload.as_ref();
        let namespace = from.map_or("", |from| from.namespace.as_str());
        let id = PortId {
            service: ServiceName {
                namespace: service.namespace.clone(),
                name: service.name.clone(),
            },
            port: self.port(service)?.port,
            protocol: self.ask.protocol,
        };
        View::new(self.admin).needs(&id, namespace)
    }

    /// Returns the backends that a route spreads the port over, each endpoint with its share of the whole.
    fn split(&mut self, split: &Split) -> Vec<Backend> {
        let sources = &self.admin.sources.services;
        let services = sources.services.borrow().clone();
        let weights = split.backends.iter().map(|it| it.1);
        let weights = weights.chain(std::iter::once(split.refused));
        let total: u64 = weights.clone().map(u64::from).sum();
        let whole: f64 = weights.map(f64::from).sum();
        let mut found = Vec::new();
        for (id, weight) in &split.backends {
            let PortId { service, port, .. } = id;
            self.notes.push(format!(
                "a route gives {service}:{port} {weight} of {total}"
            ));
            let Some(service) = services.get(service) else {
                continue;
            };
            let looked = Looks::new(sources).service(service);
            let is_it = |it: &BalancedPort| it.port == *port && it.protocol == id.protocol;
            let part = f64::from(*weight) / whole;
            for mut backend in looked
                .ports
                .into_iter()
                .filter(is_it)
                .flat_map(|it| it.backends)
            {
                backend.share *= part;
                found.push(backend);
            }
        }
        if split.refused > 0 {
            let note = format!("a route gives nobody {} of {total}: refused", split.refused);
            self.notes.push(note);
        }
        found
    }

    /// Follows a service to its backends.
    fn of_service(&mut self, service: &BalancedService) -> Vec<Destination> {
        let name = format!("{}/{}", service.namespace, service.name);
        let why_not = service.why_not.clone().unwrap_or_default();
        if service.kind != CLUSTER_IP {
            let why = format!("{name} is not balanced here ({why_not}): ask for an endpoint");
            self.against.push(why);
            return Vec::new();
        }
        let Some(port) = self.port(service) else {
            let (number, word) = (self.ask.port, self.ask.protocol.word());
            self.against
                .push(format!("{name} has no port {number}/{word}"));
            return Vec::new();
        };
        if !service.balanced {
            self.notes
                .push(format!("not in force as configured: {why_not}"));
        }
        if port.panic {
            let note = "too few backends are healthy: all get connections";
            self.notes.push(note.to_owned());
        }
        // The address that is dialled has a family, and so have the backends behind it.
        let is_behind = |backend: &&Backend| match self.ask.to {
            Who::Address(address) => address.is_ipv4() == backend.address.is_ipv4(),
            Who::Name(_) => true,
        };
        let split = match self.needs(service) {
            Some(Needs::Kernel(split)) => Some(split),
            Some(Needs::Agent(_)) | None => None,
        };
        let own = PortId {
            service: ServiceName {
                namespace: service.namespace.clone(),
                name: service.name.clone(),
            },
            port: port.port,
            protocol: port.protocol,
        };
        let backends = match split.filter(|split| !split.is_own(&own)) {
            Some(split) => self.split(&split),
            None => port.backends.clone(),
        };
        let destinations: Vec<_> = backends
            .iter()
            .filter(is_behind)
            .map(|it| self.destination(it.address, it.port, Some(it)))
            .collect();
        if !destinations.iter().any(gets_connections) {
            let is_closed = |it: &&Backend| it.why == Some(Why::Closed);
            let why = match port.backends.iter().find(is_closed) {
                Some(_) => "no backend listens any more",
                None => "it has no backend",
            };
            self.against
                .push(format!("nobody answers for {name}: {why}"));
        }
        destinations
    }

    fn of_workload(&mut self, workload: &WorkloadStatus) -> Vec<Destination> {
        if workload.state == WorkloadState::NotFound {
            let why = format!("{} was not found here: {}", workload.name, workload.why);
            self.against.push(why);
        }
        let asked = match self.ask.to {
            Who::Address(address) => Some(address),
            Who::Name(_) => None,
        };
        let own = &self.from.addresses;
        let is_same_family = |it: &&IpAddr| own.iter().any(|from| from.is_ipv4() == it.is_ipv4());
        let first = workload.addresses.iter().find(is_same_family);
        let Some(address) = asked.or(first.copied()) else {
            self.against
                .push("the two have no addresses of the same family".to_owned());
            return Vec::new();
        };
        let place = SocketAddr::new(address, self.ask.port);
        let closed = || self.admin.sources.services.kernel.closed();
        if self.ask.protocol == Protocol::Tcp && closed().contains(&place) {
            let why = format!("nobody listens at {place} any more");
            self.against.push(why);
        }
        vec![self.destination(address, self.ask.port, None)]
    }

    fn destination(&self, address: IpAddr, port: u16, backend: Option<&Backend>) -> Destination {
        let workload = self
            .workloads
            .iter()
            .find(|it| it.addresses.contains(&address));
        let named = backend.and_then(|it| it.workload.as_ref()?.parse().ok());
        let at_node = backend.and_then(|it| it.node.as_ref());
        let gets = backend.is_none_or(|backend| backend.weight > 0);
        let against = match gets {
            true => self.against_redirect(workload),
            false => Vec::new(),
        };
        Destination {
            address,
            port,
            workload: workload.map(|it| it.name.clone().into()).or(named),
            place: match workload {
                Some(it) if it.state == WorkloadState::Elsewhere => Place::OtherNode,
                Some(_) => Place::Here,
                None if at_node.is_some_and(|it| *it != self.admin.sources.node) => {
                    Place::OtherNode
                }
                None => Place::Unknown,
            },
            backend: backend.cloned(),
            policy: gets.then(|| self.policy(address, port)).flatten(),
            redirected: gets && against.is_empty(),
            not_redirected_because: against,
        }
    }

    /// Returns what policy says of a destination.
    fn policy(&self, address: IpAddr, port: u16) -> Option<PolicyAnswer> {
        let mut own = self.from.addresses.iter();
        let source = own.find(|it| it.is_ipv4() == address.is_ipv4())?;
        let parties = (&Party::Address(*source), &Party::Address(address));
        let sources = &self.admin.sources;
        let snapshot = sources.snapshot.load();
        let tables = sources.policies.load();
        tables
            .test(&snapshot, parties, port, self.ask.protocol)
            .ok()
    }

    /// Returns everything that keeps messages on TCP.
    fn against_redirect(&self, destination: Option<&WorkloadStatus>) -> Vec<String> {
        let mut against = Vec::new();
        if self.ask.protocol == Protocol::Udp {
            against.push("only TCP is redirected".to_owned());
            return against;
        }
        if !self.admin.sources.control.redirect_allowed() {
            against.push("the kill switch is on".to_owned());
        }
        let mut end = |name: String, state: WorkloadState, why: &str| {
            let word = match state {
                WorkloadState::Accelerated => return,
                WorkloadState::Observing => "is observed",
                WorkloadState::NotAccelerated => "is not accelerated",
                WorkloadState::NotFound => "was not found",
                WorkloadState::Elsewhere => "is on another node",
                WorkloadState::NotEnrolled => "is not in the mesh",
                WorkloadState::HostNetwork => "has the node's own network",
                WorkloadState::Rejected => "is not known",
            };
            let colon = if why.is_empty() { "" } else { ": " };
            against.push(format!("{name} {word}{colon}{why}"));
        };
        if let (Some(name), Some(state)) = (&self.from.workload, self.from.state) {
            end(name.to_string(), state, &self.from.why);
        }
        match destination {
            Some(it) => end(it.name.to_string(), it.state, &it.why),
            None => against.push(Reason::PeerElsewhere.words().to_owned()),
        }
        if self.from.workload.is_none() {
            against.push("the source is not a workload on this node".to_owned());
        }
        against
    }

    /// Takes in what policy says of those that get connections.
    fn judge(&mut self, destinations: &[Destination]) {
        let judged: Vec<_> = destinations
            .iter()
            .filter_map(|it| it.policy.as_ref())
            .collect();
        let denied = judged.iter().filter(|answer| !answer.allowed).count();
        match (denied, judged.len()) {
            (0, _) => {}
            (1, 1) => self.against.push("policy denies it".to_owned()),
            (denied, all) => {
                let why = format!("policy denies {denied} of {all} destinations");
                self.against.push(why);
            }
        }
        if judged.iter().any(|answer| answer.would_deny) {
            let note = "a policy in dry-run mode would deny it";
            self.notes.push(note.to_owned());
        }
    }

    fn verdict(&mut self) -> (Verdict, Vec<String>) {
        let mut why = std::mem::take(&mut self.against);
        let mut verdict = match why.is_empty() {
            true => Verdict::Works,
            false => Verdict::Fails,
        };
        if let Some(WorkloadState::NotEnrolled | WorkloadState::HostNetwork) = self.from.state {
            verdict = Verdict::Bypasses;
            why.insert(0, format!("the source is not captured: {}", self.from.why));
        } else if let Some(name) = self.from.workload.as_ref().filter(|_| !self.from.captured) {
            verdict = Verdict::Fails;
            why.push(match self.from.state {
                Some(WorkloadState::Elsewhere) => {
                    format!("{name} is on another node: ask the agent there")
                }
                _ => format!("{name} was not found here: {}", self.from.why),
            });
        } else if !self.from.captured && matches!(self.ask.from, Who::Address(_)) {
            verdict = Verdict::Bypasses;
            let words = "the source is no workload of this node: no service is balanced for it";
            why.insert(0, words.to_owned());
        }
        why.append(&mut self.notes);
        (verdict, why)
    }
}

fn gets_connections(destination: &Destination) -> bool {
    let backend = destination.backend.as_ref();
    backend.is_none_or(|backend| backend.weight > 0)
}
