//! The proof that a service port takes no user space: that the kernel, which picks an endpoint by weight for each connection and knows nothing of
//! bytes, does all that routes and policies ask for.
//!
//! That is so where each connection may go to any backend of one rule whatever is said on it, and nothing is to be done on the
//! way. The kernel balances alike for all clients of a node: so clients with routes of their own (consumer routes) go by the agent,
//! unless those routes say the same.

use std::collections::BTreeMap;

use crate::l7::route::compile::{Groups, Input, grouped};
use crate::model::balanced::{PortId, Split};
use crate::model::route::{
    Backend, BackendTarget, GrpcMatch, HttpMatch, PathMatch, Route, RouteKind, Rule, Rules,
};
use crate::model::traffic::{Part, WhenAway};

/// Who carries the connections to a service port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Needs {
    /// The kernel, which spreads them so.
    Kernel(Split),
    /// The agent, and why, for people; never empty.
    Agent(Vec<String>),
}

/// The same by client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortNeeds {
    /// For clients that are in none of the namespaces below.
    pub clients: Needs,
    /// For clients of these namespaces.
    pub consumers: BTreeMap<String, Needs>,
    /// What becomes of connections that need the agent while it is away: they fail where TLS would be missed; else what the policy
    /// says; else they fail where routes or rate limits would not be kept to, and go on by the kernel where only features would be
    /// missed.
    pub away: WhenAway,
    /// How the kernel spreads connections that it carries, if need be in the agent's place; `None`: as if there were no routes.
    split: Option<Split>,
}

impl PortNeeds {
    /// Returns who carries the connections of a client in this namespace.
    pub fn of(&self, client_namespace: &str) -> &Needs {
        self.consumers
            .get(client_namespace)
            .unwrap_or(&self.clients)
    }

    /// Returns how the kernel spreads what does not go by the agent, and what goes on without it while it is away; `None`: as if
    /// there were no routes.
    pub fn split(&self) -> Option<&Split> {
        self.split.as_ref()
    }
}

/// Returns who carries the connections to each service port that has a route or a policy; of any other port that is the kernel.
pub fn needs(input: &Input<'_>) -> BTreeMap<PortId, PortNeeds> {
    let mut ports = grouped(input.routes);
    for id in input.traffic.keys().chain(input.tls.keys()) {
        if !ports.contains_key(id) {
            ports.insert(id.clone(), Groups::new());
        }
    }
    let needs = ports
        .iter()
        .map(|(id, groups)| (id.clone(), port(input, id, groups)));
    needs.collect()
}

fn port(input: &Input<'_>, id: &PortId, groups: &Groups) -> PortNeeds {
    let (clients, split) = group(input, id, groups.get(&None).map_or(&[], Vec::as_slice));
    let mut consumers = BTreeMap::new();
    for (namespace, routes) in groups {
        let Some(namespace) = namespace else {
            continue;
        };
        let own = match group(input, id, routes).0 {
            Needs::Kernel(split) if clients == Needs::Kernel(split.clone()) => continue,
            Needs::Kernel(_) => Needs::Agent(vec![format!(
                "{} holds for clients of namespace {namespace} only, and the kernel balances alike for all",
                routes
                    .first()
                    .map(|it| it.name.to_string())
                    .unwrap_or_default()
            )]),
            agent => agent,
        };
        consumers.insert(namespace.clone(), own);
    }
    PortNeeds {
        clients,
        consumers,
        away: away(input, id, groups),
        split: split.filter(|split| !split.is_own(id)),
    }
}

/// Returns what becomes of connections while the agent is away.
fn away(input: &Input<'_>, id: &PortId, groups: &Groups) -> WhenAway {
    let routes = || groups.values().flatten();
    let mut against = Vec::new();
    let backends = routes().flat_map(|route| route_backends(route, &mut against));
    let backends: Vec<&Backend> = backends.collect();
    let encrypted =
        |it: &&Backend| matches!(&it.to, BackendTarget::Port(id) if input.tls.contains_key(id));
    if input.tls.contains_key(id) || backends.iter().any(encrypted) {
        // Nobody may have plain text in its place, whatever the policy says.
        return WhenAway::Fail;
    }
    let traffic = input.traffic.get(id);
    let limited = traffic.is_some_and(|traffic| !traffic.limits.is_empty());
    let said = traffic.and_then(|traffic| traffic.away);
    said.unwrap_or(match limited || !against.is_empty() {
        true => WhenAway::Fail,
        false => WhenAway::Continue,
    })
}

/// Returns what the routes of one group of clients need, and how the kernel would spread connections, if the routes let it.
fn group(
    input: &Input<'_>,
    id: &PortId,
    routes: &[std::sync::Arc<Route>],
) -> (Needs, Option<Split>) {
    let mut against = Vec::new();
    let own = || Split {
        backends: vec![(id.clone(), 1)],
        refused: 0,
    };
    let kind = routes.iter().map(|route| route.name.kind).min();
    let mut of_kind = routes.iter().filter(|it| Some(it.name.kind) == kind);
    let backends = match kind {
        None => None,
        Some(RouteKind::Tcp | RouteKind::Udp) => {
            let oldest = of_kind.min_by_key(|it| (it.created.unwrap_or(i64::MAX), &it.name));
            oldest.map(|route| route_backends(route, &mut against))
        }
        Some(RouteKind::Grpc | RouteKind::Http | RouteKind::Tls) => {
            let first = of_kind.next();
            let more = of_kind.count();
            if more > 0 {
                against.push(format!("{} routes hold for the port", more + 1));
            }
            first.map(|route| route_backends(route, &mut against))
        }
    };
    let split = backends.map_or_else(own, split);
    let by_kernel = against.is_empty().then(|| split.clone());
    for (to, _) in &split.backends {
        let part = if to == id {
            Part::Either
        } else {
            Part::Answers
        };
        policies(input, id, to, part, &mut against);
    }
    if !split.backends.iter().any(|(to, _)| to == id) {
        policies(input, id, id, Part::Dialled, &mut against);
    }
    if against.is_empty() {
        return (Needs::Kernel(split), by_kernel);
    }
    (Needs::Agent(against), by_kernel)
}

/// Adds what the policies of `to` need, where connections to `id` go to it.
fn policies(input: &Input<'_>, id: &PortId, to: &PortId, part: Part, against: &mut Vec<String>) {
    if id.protocol == crate::model::service::Protocol::Udp {
        return;
    }
    let of = match to == id {
        true => String::new(),
        false => format!(" of backend {}:{}", to.service, to.port),
    };
    if let Some(traffic) = input.traffic.get(to) {
        let from = traffic.from.join(", ");
        let needs = traffic.needs(part);
        against.extend(needs.iter().map(|need| format!("{need}{of} ({from})")));
    }
    if let Some(tls) = input.tls.get(to) {
        against.push(format!(
            "TLS to the backend{of} (BackendTLSPolicy {})",
            tls.from
        ));
    }
}

/// Returns the backends of the one rule of a route, and adds what stands against the kernel.
fn route_backends<'r>(route: &'r Route, against: &mut Vec<String>) -> &'r [Backend] {
    let name = &route.name;
    let mut one = |problem: &str| against.push(format!("{name} {problem}"));
    match &route.rules {
        Rules::Http(rules) => one_rule(rules, matches_http, &mut one),
        Rules::Grpc(rules) => one_rule(rules, matches_grpc, &mut one),
        Rules::Tls(_, backends) => {
            one("looks at the name of the server in ClientHello");
            backends
        }
        // Where none has a share, all connections are refused.
        Rules::Opaque(backends) => backends,
    }
}

fn one_rule<'r, M>(
    rules: &'r [Rule<M>],
    asks: fn(&M) -> Option<&'static str>,
    one: &mut dyn FnMut(&str),
) -> &'r [Backend] {
    let [rule] = rules else {
        one(match rules.is_empty() {
            true => "has no rule: requests are answered with an error",
            false => "has more than one rule",
        });
        return &[];
    };
    if rule.matches.len() > 1 {
        one("has more than one match");
    }
    if let Some(what) = rule.matches.iter().find_map(asks) {
        one(what);
    }
    let filters = !rule.filters.is_empty() || rule.backends.iter().any(|it| !it.filters.is_empty());
    let invalid = |it: &Backend| matches!(it.to, BackendTarget::Invalid(..)) && it.weight > 0;
    for (stands, what) in [
        (filters, "has filters"),
        (
            rule.request_timeout.is_some() || rule.backend_timeout.is_some(),
            "has time-outs",
        ),
        (rule.retry.is_some(), "has retries"),
        (rule.session.is_some(), "has session persistence"),
        (
            rule.backends.iter().all(|it| it.weight == 0),
            "has no backend with a share: requests are answered with an error",
        ),
        (
            rule.backends.iter().any(invalid),
            "has a backend that is not valid, whose share is answered with an error",
        ),
    ] {
        if stands {
            one(what);
        }
    }
    &rule.backends
}

fn matches_http(of: &HttpMatch) -> Option<&'static str> {
    let is_all = matches!(&of.path, PathMatch::Prefix(path) if path.is_empty());
    let asks = [
        (!is_all, "looks at the path"),
        (of.method.is_some(), "looks at the method"),
        (!of.headers.is_empty(), "looks at header fields"),
        (!of.query.is_empty(), "looks at the query"),
    ];
    asks.iter().find(|it| it.0).map(|it| it.1)
}

fn matches_grpc(of: &GrpcMatch) -> Option<&'static str> {
    let asks = [
        (of.method.is_some(), "looks at service or method"),
        (!of.headers.is_empty(), "looks at header fields"),
    ];
    asks.iter().find(|it| it.0).map(|it| it.1)
}

fn split(backends: &[Backend]) -> Split {
    let mut split = Split::default();
    for backend in backends.iter().filter(|it| it.weight > 0) {
        let BackendTarget::Port(id) = &backend.to else {
            split.refused += backend.weight;
            continue;
        };
        match split.backends.iter_mut().find(|(known, _)| known == id) {
            Some((_, weight)) => *weight += backend.weight,
            None => split.backends.push((id.clone(), backend.weight)),
        }
    }
    split
}
