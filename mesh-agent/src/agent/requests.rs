//! What the data path goes by, from configuration and balancing: routes, who answers for each backend, and how they are spoken to.
//!
//! Made whole for each change of routes and policies; a change of endpoints alone goes into the clusters, which requests in flight
//! share.

mod wraps;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::time::Instant;

use crate::agent::requests::wraps::Wraps;
use crate::balance::Ports;
use crate::chance::Chance;
use crate::l7::cluster::{Cluster, ClusterPolicy, Now};
use crate::l7::route::kernel::{Needs, PortNeeds};
use crate::l7::route::{AppProtocol, Input, Tables, concerned};
use crate::model::balanced::{Clients, Fail, PortId, Proxied, ProxiedPorts};
use crate::model::route::{BackendTarget, Filter, Route, Rule, Rules};
use crate::model::service::Services;
use crate::model::traffic::WhenAway;
use crate::proxy::exchange::{Config, Destination, Governor, Speaks};

/// Keeps what the data path goes by.
#[derive(Debug)]
pub struct Requests {
    published: Arc<ArcSwap<Config>>,
    /// What clusters count their time from.
    epoch: Instant,
    chance: Chance,
    wraps: Wraps,
    /// Made, and to be published once its clusters have endpoints.
    next: Option<Config>,
    /// What services said of the ports that were looked at for that; `None`: there is no such port.
    said: BTreeMap<PortId, Option<Said>>,
}

/// What matters of a service port, beside its endpoints.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Said {
    protocol: AppProtocol,
    is_dialled: bool,
}

impl Requests {
    /// Returns one that publishes there.
    pub fn new(published: Arc<ArcSwap<Config>>, epoch: Instant) -> Self {
        Self {
            published,
            epoch,
            chance: Chance::random(),
            wraps: Wraps::default(),
            next: None,
            said: BTreeMap::new(),
        }
    }

    /// Returns whether services say something else of a port that matters than they did when [`compile`](Self::compile) looked.
    pub(super) fn is_said_otherwise(&self, services: &Services) -> bool {
        let mut said = self.said.iter();
        said.any(|(id, before)| said_of(services, id) != *before)
    }

    /// Compiles routes and policies.
    pub(super) fn compile(&mut self, input: &Input<'_>) {
        let before = self.published.load_full();
        let tables = Tables::compile(input, &before.tables);
        let now = self.now();
        let said: BTreeMap<_, _> = wanted(input)
            .into_iter()
            .map(|id| {
                let said = said_of(input.services, &id);
                (id, said)
            })
            .collect();
        let mut destinations = HashMap::with_capacity(said.len());
        for (id, said) in &said {
            let known = before.destinations.get(id);
            let protocol = said.map(|it| it.protocol);
            let destination = self.destination(input, id, protocol, known, now);
            destinations.insert(id.clone(), destination);
        }
        self.said = said;
        let governors = tables.ports().filter_map(|port| {
            let traffic = port.policy.traffic.as_ref()?;
            let governor = Governor::new(traffic, before.governors.get(&port.id))?;
            Some((port.id.clone(), governor))
        });
        self.next = Some(Config {
            number: before.number + 1,
            governors: governors.collect(),
            tables: Arc::new(tables),
            destinations,
        });
        self.wraps.sweep(input.tls);
    }

    fn destination(
        &mut self,
        input: &Input<'_>,
        id: &PortId,
        said: Option<AppProtocol>,
        known: Option<&Arc<Destination>>,
        now: Now,
    ) -> Arc<Destination> {
        let traffic = input.traffic.get(id).map(|traffic| &**traffic);
        let policy = ClusterPolicy::of(traffic);
        let cluster = match known {
            Some(known) => known.cluster.clone(),
            None => Arc::new(Cluster::new(Arc::new(id.clone()), policy.clone())),
        };
        cluster.set_policy(policy, now, &mut self.chance);
        let speaks = match said {
            Some(AppProtocol::Http2 | AppProtocol::Grpc) => Speaks::Http2,
            Some(AppProtocol::Http) => Speaks::Http1,
            Some(AppProtocol::Detect | AppProtocol::Tls | AppProtocol::Tcp | AppProtocol::Udp)
            | None => Speaks::AsClient,
        };
        let tls = input.tls.get(id);
        Arc::new(Destination {
            cluster,
            speaks,
            wrap: tls.map(|tls| self.wraps.of(id, tls, speaks)),
            traffic: input.traffic.get(id).cloned(),
        })
    }

    /// Tells clusters their endpoints, and puts in force what was compiled.
    pub(super) fn publish(&mut self, ports: &Ports) {
        let now = self.now();
        let current = self.published.load_full();
        let config = self.next.as_ref().unwrap_or(&current);
        for (id, destination) in &config.destinations {
            let port = ports.get(id);
            let targets = port.map_or(&[][..], |port| &port.targets);
            let candidates = port.map_or(&[][..], |port| &port.candidates);
            let cluster = &destination.cluster;
            cluster.set_levels(targets, candidates, now, &mut self.chance);
        }
        if let Some(next) = self.next.take() {
            self.published.store(Arc::new(next));
        }
    }

    /// Returns the service ports whose connections go to the agent, as the kernel is to have them: of those that are compiled, and that
    /// somebody dials. A headless service is only a backend of routes.
    pub(super) fn proxied(&self, needs: &BTreeMap<PortId, PortNeeds>) -> ProxiedPorts {
        let is_dialled = |id: &PortId| matches!(self.said.get(id), Some(Some(it)) if it.is_dialled);
        let one = |(id, needs): (&PortId, &PortNeeds)| {
            let clients = match &needs.clients {
                Needs::Agent(_) => Clients::All,
                Needs::Kernel(_) => {
                    let agents = needs.consumers.iter();
                    let agents = agents.filter(|(_, needs)| matches!(needs, Needs::Agent(_)));
                    let namespaces: BTreeSet<String> =
                        agents.map(|(name, _)| name.clone()).collect();
                    if namespaces.is_empty() {
                        return None;
                    }
                    Clients::Namespaces(namespaces)
                }
            };
            if !is_dialled(id) {
                return None;
            }
            let when_agent_is_away = match needs.away {
                WhenAway::Fail => Fail::Closed,
                WhenAway::Continue => Fail::Open,
            };
            Some((
                id.clone(),
                Proxied {
                    when_agent_is_away,
                    clients,
                },
            ))
        };
        needs.iter().filter_map(one).collect()
    }

    fn now(&self) -> Now {
        let passed = self.epoch.elapsed().as_nanos();
        u64::try_from(passed).unwrap_or(u64::MAX)
    }
}

/// Returns every service port whose endpoints requests may be for.
fn wanted(input: &Input<'_>) -> BTreeSet<PortId> {
    let mut wanted = concerned(input);
    for route in input.routes.values() {
        wanted.extend(backends(route).filter_map(|target| match target {
            BackendTarget::Port(id) => Some(id.clone()),
            BackendTarget::Invalid(..) => None,
        }));
    }
    wanted
}

fn backends(route: &Route) -> Box<dyn Iterator<Item = &BackendTarget> + '_> {
    match &route.rules {
        Rules::Http(rules) => Box::new(rules.iter().flat_map(of_rule)),
        Rules::Grpc(rules) => Box::new(rules.iter().flat_map(of_rule)),
        Rules::Tls(_, backends) | Rules::Opaque(backends) => {
            Box::new(backends.iter().map(|backend| &backend.to))
        }
    }
}

fn of_rule<M>(rule: &Rule<M>) -> impl Iterator<Item = &BackendTarget> {
    let filters = rule.filters.iter();
    let filters = filters.chain(rule.backends.iter().flat_map(|backend| &backend.filters));
    let mirrors = filters.filter_map(|filter| match filter {
        Filter::Mirror(mirror) => Some(&mirror.to),
        Filter::RequestHeaders(_)
        | Filter::ResponseHeaders(_)
        | Filter::Redirect(_)
        | Filter::Rewrite(_)
        | Filter::Cors(_)
        | Filter::Invalid(_) => None,
    });
    rule.backends
        .iter()
        .map(|backend| &backend.to)
        .chain(mirrors)
}

fn said_of(services: &Services, id: &PortId) -> Option<Said> {
    let service = services.get(&id.service)?;
    let mut ports = service.ports.iter();
    let port = ports.find(|port| port.number == id.port && port.protocol == id.protocol)?;
    Some(Said {
        protocol: AppProtocol::of(port),
        is_dialled: service.is_dialled(port),
    })
}
