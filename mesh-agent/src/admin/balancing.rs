//! Routes that show how services are balanced: what the balancer decided, and what the kernel counted of it.
//!
//! Services are put together one by one while the answer is written, so that ten thousand of them are in memory once, as text.

#![forbid(unsafe_code)]

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::{Serialize, Serializer};
use tokio::sync::watch;

use crate::admin::Admin;
use crate::admin::api::Shared;
use crate::admin::error::ApiError;
use crate::admin::services::kind;
use crate::admin::types::balancing::{
    AGENT, BALANCING_SCHEMA, BOTH, Backend, BalancedPort, BalancedService, CLUSTER_IP, KERNEL,
};
use crate::balance::Balancing;
use crate::balance::live::Live;
use crate::model::balanced::{BackendCounters, Clients, PortId, Proxied, ProxiedPorts, Unbalanced};
use crate::model::endpoint::{EndpointHealth, EndpointState, Why};
use crate::model::service::{Port, Protocol, Service, ServiceKind, ServiceName, Services};
use crate::telemetry::metrics::services::{ServiceSample, ServiceState};

/// What is known of services on this node, and where.
#[derive(Clone, Debug)]
pub struct ServiceSources {
    /// All services, registered ones too.
    pub services: watch::Receiver<Arc<Services>>,
    /// Who answers.
    pub live: Arc<Live>,
    /// Ports that are not balanced as configured.
    pub unbalanced: watch::Receiver<Vec<Unbalanced>>,
    /// Those whose connections go to the agent.
    pub proxied: watch::Receiver<Arc<ProxiedPorts>>,
    /// What is in force, and what was counted.
    pub kernel: Arc<dyn Balancing>,
}

/// Adds the routes.
pub(super) fn routes(routes: Router<Shared>) -> Router<Shared> {
    routes
        .route("/v1/balancing", get(get_all))
        .route("/v1/balancing/{namespace}/{name}", get(get_one))
}

async fn get_all(State(shared): State<Shared>) -> Result<Response, ApiError> {
    answer(&shared, None).await
}

async fn get_one(
    State(shared): State<Shared>,
    Path((namespace, name)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let wanted = ServiceName { namespace, name };
    if !services(&shared.admin).contains_key(&wanted) {
        let unknown = format!(
            "there is no service {}/{}",
            wanted.namespace.escape_debug(),
            wanted.name.escape_debug()
        );
        return Err(ApiError::new(StatusCode::NOT_FOUND, unknown));
    }
    answer(&shared, Some(wanted)).await
}

async fn answer(shared: &Shared, wanted: Option<ServiceName>) -> Result<Response, ApiError> {
    let write = move |admin: &Admin| {
        let services = Each {
            services: services(admin),
            looks: Looks::new(&admin.sources.services),
            wanted,
        };
        let schema = BALANCING_SCHEMA;
        serde_json::to_vec(&Answer { schema, services })
    };
    let body = shared.admin.read(write).await?;
    let body = body.map_err(anyhow::Error::from)?;
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

/// Returns every service with an address of its own as metrics show it, by name.
pub(super) fn samples(sources: &ServiceSources) -> Vec<ServiceSample> {
    let mut samples = Vec::new();
    each(sources, |service| {
        if service.kind == CLUSTER_IP {
            samples.push(sample(service));
        }
    });
    samples
}

/// Calls `look` with every service, by name, one after the other.
pub(super) fn each(sources: &ServiceSources, mut look: impl FnMut(BalancedService)) {
    let services = sources.services.borrow().clone();
    let looks = Looks::new(sources);
    let services = services.values().map(|service| looks.service(service));
    services.for_each(&mut look);
}

/// Returns how a service stands.
pub(super) fn state(service: &BalancedService) -> ServiceState {
    if !service.balanced {
        ServiceState::NotInForce
    } else if service.without_backend().next().is_some() {
        ServiceState::WithoutBackend
    } else if service.ports.iter().any(|port| port.panic) {
        ServiceState::Panic
    } else {
        ServiceState::Balanced
    }
}

fn sample(service: BalancedService) -> ServiceSample {
    let backends = service.ports.iter().flat_map(|port| &port.backends);
    ServiceSample {
        state: state(&service),
        connects: service.ports.iter().map(|port| port.picks).sum(),
        refused: service.ports.iter().map(|port| port.refused).sum(),
        backends: backends.map(|backend| backend.health).collect(),
        name: ServiceName {
            namespace: service.namespace,
            name: service.name,
        },
    }
}

fn services(admin: &Admin) -> Arc<Services> {
    admin.sources.services.services.borrow().clone()
}

/// [`BalancedServices`](crate::admin::types::balancing::BalancedServices), to be written.
#[derive(Serialize)]
struct Answer<'a> {
    schema: &'static str,
    services: Each<'a>,
}

/// The services, each put together when it is written.
struct Each<'a> {
    services: Arc<Services>,
    looks: Looks<'a>,
    wanted: Option<ServiceName>,
}

impl Serialize for Each<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let one = self.wanted.as_ref().and_then(|it| self.services.get(it));
        let all = self.services.values().filter(|_| self.wanted.is_none());
        serializer.collect_seq(one.into_iter().chain(all).map(|it| self.looks.service(it)))
    }
}

/// Looks at services, all with the same list of ports that are not balanced, and of those that nobody listens on any more.
#[derive(Debug)]
pub(super) struct Looks<'a> {
    sources: &'a ServiceSources,
    closed: HashSet<SocketAddr>,
    unbalanced: HashMap<Arc<PortId>, String>,
    proxied: Arc<ProxiedPorts>,
}

impl<'a> Looks<'a> {
    pub(super) fn new(sources: &'a ServiceSources) -> Self {
        let unbalanced = sources.unbalanced.borrow();
        let unbalanced = unbalanced.iter().map(|it| (it.id.clone(), it.why.clone()));
        Self {
            unbalanced: unbalanced.collect(),
            proxied: sources.proxied.borrow().clone(),
            closed: sources.kernel.closed(),
            sources,
        }
    }

    /// Returns a service as it is balanced.
    pub(super) fn service(&self, service: &Service) -> BalancedService {
        let mut reasons = Vec::new();
        reasons.extend(match &service.kind {
            ServiceKind::ClusterIp => None,
            ServiceKind::Headless => {
                Some("headless: clients get the endpoints' addresses".to_owned())
            }
            ServiceKind::ExternalName(name) => {
                Some(format!("an external name: clients dial {name} themselves"))
            }
        });
        let mut ports = Vec::with_capacity(service.ports.len());
        if reasons.is_empty() {
            let states = self.sources.live.states(Some(&service.name));
            for port in first_of_each(&service.ports) {
                let (shown, why) = self.port(service, port, &states);
                let tell = |why| format!("port {}/{}: {why}", port.number, port.protocol.word());
                reasons.extend(why.map(tell));
                ports.push(shown);
            }
        }
        BalancedService {
            namespace: service.name.namespace.clone(),
            name: service.name.name.clone(),
            kind: kind(&service.kind).to_owned(),
            origin: service.origin.clone(),
            addresses: service.addresses.clone(),
            external_addresses: service.external_addresses.clone(),
            balanced: reasons.is_empty(),
            why_not: (!reasons.is_empty()).then(|| reasons.join("; ")),
            ports,
        }
    }

    /// Returns a port, and why it is not in force as configured.
    fn port(
        &self,
        service: &Service,
        port: &Port,
        states: &[EndpointState],
    ) -> (BalancedPort, Option<String>) {
        let id = PortId {
            service: service.name.clone(),
            port: port.number,
            protocol: port.protocol,
        };
        let counted = self.sources.kernel.counted(&id);
        let why = match (self.unbalanced.get(&id), &counted) {
            (Some(why), _) => Some(why.clone()),
            (None, None) if !service.is_dialled(port) => {
                Some("the service has no address: nobody can dial it".to_owned())
            }
            (None, None) => Some("the kernel was not told of it yet".to_owned()),
            (None, Some(_)) => None,
        };
        let (totals, backends) = counted.unwrap_or_default();
        let counters: HashMap<SocketAddr, BackendCounters> = backends.into_iter().collect();
        let ours = |state: &&EndpointState| state.port == id.port && state.protocol == id.protocol;
        let mut backends: Vec<Backend> = states
            .iter()
            .filter(ours)
            .map(|state| backend(state, counters.get(&state.address).copied()))
            .collect();
        if id.protocol == Protocol::Tcp {
            pass_over(&mut backends, &self.closed);
        }
        let shown = BalancedPort {
            port: port.number,
            name: port.name.clone(),
            protocol: port.protocol,
            node_port: port.node_port,
            carried_by: carrier(self.proxied.get(&id)).to_owned(),
            algorithm: service.balance.algorithm.label().replace('_', "-"),
            affinity_seconds: service.affinity.map(|affinity| affinity.as_secs()),
            picks: totals.picks,
            refused: totals.refused,
            panic: backends.iter().any(|backend| backend.panic),
            backends,
        };
        (shown, why)
    }
}

fn carrier(proxied: Option<&Proxied>) -> &'static str {
    match proxied.map(|it| &it.clients) {
        None => KERNEL,
        Some(Clients::All) => AGENT,
        Some(Clients::Namespaces(_)) => BOTH,
    }
}

/// Of ports with the same number and protocol, the first counts.
fn first_of_each(ports: &[Port]) -> impl Iterator<Item = &Port> {
    let key = |port: &Port| (port.number, port.protocol);
    let is_first = move |(at, port): &(usize, &Port)| {
        let mut before = ports[..*at].iter();
        before.all(|other| key(other) != key(port))
    };
    let first = ports.iter().enumerate().filter(is_first);
    first.map(|(_, port)| port)
}

/// Shows backends that nobody listens on any more as the kernel treats them: their share is the others'.
fn pass_over(backends: &mut [Backend], closed: &HashSet<SocketAddr>) {
    let is_closed = |it: &Backend| closed.contains(&SocketAddr::new(it.address, it.port));
    if !backends.iter().any(is_closed) {
        return;
    }
    for backend in backends.iter_mut().filter(|backend| is_closed(backend)) {
        if matches!(
            backend.health,
            EndpointHealth::Ready | EndpointHealth::Healthy
        ) {
            backend.health = EndpointHealth::Closed;
        }
        if backend.weight > 0 {
            (backend.weight, backend.share) = (0, 0.0);
            (backend.slow_start, backend.panic) = (false, false);
            backend.why = Some(Why::Closed);
        }
    }
    for v4 in [true, false] {
        let of_family = |backend: &&mut Backend| backend.address.is_ipv4() == v4;
        let weights = backends.iter_mut().filter(of_family);
        let sum: f64 = weights.map(|backend| f64::from(backend.weight)).sum();
        let shown = backends.iter_mut().filter(of_family);
        for backend in shown.filter(|backend| backend.weight > 0) {
            backend.share = f64::from(backend.weight) / sum;
        }
    }
}

fn backend(state: &EndpointState, counters: Option<BackendCounters>) -> Backend {
    let counters = counters.unwrap_or_default();
    Backend {
        address: state.address.ip(),
        port: state.address.port(),
        workload: state.workload.clone(),
        node: state.node.clone(),
        zone: state.zone.clone(),
        priority: state.priority,
        health: state.health,
        weight: state.weight,
        share: state.share,
        slow_start: state.slow_start,
        panic: state.panic,
        why: state.why.clone(),
        open: counters.open,
        picked: counters.picked,
        failed: counters.failed,
        reset: counters.reset,
        retransmits: counters.retransmits,
    }
}
