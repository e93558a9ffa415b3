//! Puts routes, policies and services together: what is in force, and the status of each object.
//!
//! Incremental: a change concerns the routes that are different, those that name a service whose ports are, and those that share
//! a parent with one of these, since routes of one kind may take a port from another. Policies are few, and are put together anew
//! when any of them changes, or a service's ports.
#![forbid(unsafe_code)]

mod parents;
mod policies;
mod refs;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::config::gateway::{RawRoute, link::parents::Binding};
use crate::config::key::{Key, Kind, Place};
use crate::config::object::Object;
use crate::config::problem::{Finding, Problem, Severity};
use crate::config::reader::Trouble;
use crate::model::route::{Route, RouteKind, RouteName, Routes, Rules};
use crate::model::service::{Service, ServiceName, Services};
use crate::model::status::{
    CONTROLLER, Condition, ObjectName, ObjectStatus, ParentReference, ParentStatus, Statuses,
};
use crate::model::traffic::{BackendTlsPolicies, TrafficPolicies};

/// What follows from routes and policies. What did not change stays the same pointer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Linked {
    pub(crate) routes: Arc<Routes>,
    pub(crate) traffic: Arc<TrafficPolicies>,
    pub(crate) tls: Arc<BackendTlsPolicies>,
    pub(crate) statuses: Arc<Statuses>,
}

/// An object in force, and where it stands.
#[derive(Clone, Debug)]
struct Held {
    object: Arc<Object>,
    place: Place,
}

impl Held {
    fn route(&self) -> Option<&RawRoute> {
        let Object::Route(route) = &*self.object else {
            return None;
        };
        Some(route)
    }
}

/// The objects in force, and what follows from them.
#[derive(Debug, Default)]
pub(crate) struct Linker {
    routes: BTreeMap<Arc<RouteName>, Held>,
    /// Routes by each service that they name, as parent or backend.
    by_service: HashMap<ServiceName, BTreeSet<Arc<RouteName>>>,
    /// Which kind has each port that routes want.
    winners: parents::Winners,
    /// Policies and what they refer to.
    others: BTreeMap<Arc<Key>, Held>,
    now: Linked,
}

/// The services that routes and policies may name: those among the objects and, where there is none of the name, those that programs
/// registered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Named<'s> {
    pub(crate) configured: &'s Services,
    pub(crate) registered: &'s Services,
    /// Whether the registered ones are all that there are. The controller sees none: each is known to an agent.
    pub(crate) is_all: bool,
}

impl<'s> Named<'s> {
    pub(crate) fn get(&self, name: &ServiceName) -> Option<&'s Arc<Service>> {
        let configured = self.configured.get(name);
        configured.or_else(|| self.registered.get(name))
    }

    /// Returns a service.
    ///
    /// # Errors
    ///
    /// Where there is none, or none is seen: why, as a condition's reason and message. `reason` is that of the former.
    fn find(&self, name: &ServiceName, reason: &'static str) -> Result<&'s Arc<Service>, Refusal> {
        self.get(name).ok_or_else(|| match self.is_all {
            true => (reason, missing(name)),
            false => (UNSEEN, unseen(name)),
        })
    }
}

/// An object that is another now: its key, and what it is.
pub(crate) type Changed<'c> = (&'c Arc<Key>, Option<(&'c Arc<Object>, &'c Place)>);

/// Returns whether objects of this kind are linked here.
pub(crate) fn is_linked(kind: Kind) -> bool {
    kind.route().is_some()
        || matches!(
            kind,
            Kind::BackendTLSPolicy
                | Kind::XBackendTrafficPolicy
                | Kind::TrafficPolicy
                | Kind::ConfigMap
        )
}

/// Returns whether two versions of a service look the same to routes and policies, which see no endpoints.
pub(crate) fn is_same_shape(one: Option<&Service>, other: Option<&Service>) -> bool {
    let (Some(one), Some(other)) = (one, other) else {
        return one.is_none() && other.is_none();
    };
    let ports = || one.ports.iter().zip(&other.ports);
    one.kind == other.kind
        && one.ports.len() == other.ports.len()
        && ports().all(|(one, other)| {
            (one.number, one.protocol) == (other.number, other.protocol)
                && one.name == other.name
                && one.app_protocol == other.app_protocol
        })
}

impl Linker {
    /// Returns what is in force.
    pub(crate) fn linked(&self) -> &Linked {
        &self.now
    }

    /// Takes over what changed, objects and services by their ports, and returns whether anything follows from it.
    pub(crate) fn update(
        &mut self,
        changes: &[Changed<'_>],
        services: Named<'_>,
        shapes: &BTreeSet<ServiceName>,
    ) -> bool {
        let mut touched = BTreeSet::new();
        // Services whose ports may have changed hands.
        let mut contested = BTreeSet::new();
        let mut policies = !shapes.is_empty();
        for (key, now) in changes {
            let held = now.map(|(object, place)| Held {
                object: object.clone(),
                place: place.clone(),
            });
            match key.kind.route() {
                Some(kind) => {
                    let name = self.hold_route(key, kind, held, &mut contested);
                    touched.insert(name);
                }
                None => {
                    policies = true;
                    match held {
                        Some(held) => drop(self.others.insert((*key).clone(), held)),
                        None => drop(self.others.remove(*key)),
                    }
                }
            }
        }
        let mut statuses = BTreeMap::new();
        let mut changed = false;
        let mut concerned = shapes.clone();
        if policies {
            changed |= self.link_policies(services, &mut statuses, &mut concerned);
        }
        for service in &concerned {
            touched.extend(self.by_service.get(service).into_iter().flatten().cloned());
        }
        let raw = touched
            .iter()
            .filter_map(|name| self.routes.get(name)?.route());
        contested.extend(raw.flat_map(parents::services));
        touched.extend(self.contest(&contested, services));
        for name in &touched {
            changed |= self.link_route(name, services, &mut statuses);
        }
        changed | self.put_statuses(statuses, policies, &touched)
    }

    /// Takes over a route; returns its name, and adds the services that it was bound to.
    fn hold_route(
        &mut self,
        key: &Key,
        kind: RouteKind,
        held: Option<Held>,
        contested: &mut BTreeSet<ServiceName>,
    ) -> Arc<RouteName> {
        let name = Arc::new(RouteName {
            kind,
            namespace: key.namespace.clone(),
            name: key.name.clone(),
        });
        let before = self.routes.remove(&name);
        if let Some(raw) = before.as_ref().and_then(Held::route) {
            contested.extend(parents::services(raw));
            for service in refs::services(raw) {
                if let Some(names) = self.by_service.get_mut(&service) {
                    names.remove(&name);
                }
            }
        }
        if let Some(held) = held {
            for service in held.route().map(refs::services).unwrap_or_default() {
                let names = self.by_service.entry(service).or_default();
                names.insert(name.clone());
            }
            self.routes.insert(name.clone(), held);
        }
        name
    }

    /// Settles anew which kind has the ports of these services, and returns the routes that this concerns.
    fn contest(
        &mut self,
        contested: &BTreeSet<ServiceName>,
        services: Named<'_>,
    ) -> BTreeSet<Arc<RouteName>> {
        let mut concerned = BTreeSet::new();
        for service in contested {
            let names = self.by_service.get(service).into_iter().flatten();
            let mut claims = parents::Claims::default();
            for raw in names
                .clone()
                .filter_map(|name| self.routes.get(name)?.route())
            {
                if accepted(raw).is_ok() {
                    claims.add(raw, service, services);
                }
            }
            if self.winners.replace(service, claims) {
                concerned.extend(names.cloned());
            }
        }
        concerned
    }

    fn link_route(
        &mut self,
        name: &Arc<RouteName>,
        services: Named<'_>,
        statuses: &mut BTreeMap<ObjectName, ObjectStatus>,
    ) -> bool {
        let held = self.routes.get(name);
        let Some((raw, place)) = held.and_then(|held| Some((held.route()?, &held.place))) else {
            return Arc::make_mut(&mut self.now.routes).remove(name).is_some();
        };
        if raw.parents.is_empty() {
            // Bound to gateways only: somebody else's.
            return Arc::make_mut(&mut self.now.routes).remove(name).is_some();
        }
        let mut bad = Vec::new();
        let rules = refs::resolved(raw, services, &self.now.tls, &mut bad);
        let mut bound: Vec<Binding> = Vec::new();
        let mut found = Vec::new();
        for parent in &raw.parents {
            let binding =
                accepted(raw).and_then(|()| parents::bind(raw, parent, services, &self.winners));
            let (accepted, lost) = match binding {
                Ok(binding) => {
                    let mut lost = binding.lost.clone();
                    lost.extend(refs::unseen(&raw.rules));
                    bound.push(binding);
                    (Ok(()), lost)
                }
                Err(refusal) => (Err(refusal), Vec::new()),
            };
            found.push(status(raw, parent, accepted, &lost, &bad));
        }
        statuses.insert(
            object_name(name),
            ObjectStatus {
                object: object_name(name),
                generation: raw.generation,
                parents: found,
                problems: raw.dropped.iter().map(|it| it.message.clone()).collect(),
            },
        );
        let parents: Vec<_> = bound.into_iter().map(|it| it.parent).collect();
        if parents.is_empty() {
            return Arc::make_mut(&mut self.now.routes).remove(name).is_some();
        }
        let route = Route {
            name: name.clone(),
            created: raw.created,
            parents,
            rules,
            origin: place.to_string(),
        };
        if self
            .now
            .routes
            .get(name)
            .is_some_and(|before| **before == route)
        {
            return false;
        }
        Arc::make_mut(&mut self.now.routes).insert(name.clone(), Arc::new(route));
        true
    }

    /// Takes over statuses: those of the routes that were looked at, and of all policies where these were.
    fn put_statuses(
        &mut self,
        new: BTreeMap<ObjectName, ObjectStatus>,
        policies: bool,
        touched: &BTreeSet<Arc<RouteName>>,
    ) -> bool {
        let before = &self.now.statuses;
        let mut gone: Vec<ObjectName> = touched.iter().map(|name| object_name(name)).collect();
        if policies {
            let is_policy = |name: &&ObjectName| !name.kind.ends_with("Route");
            gone.extend(before.keys().filter(is_policy).cloned());
        }
        gone.retain(|name| !new.contains_key(name) && before.contains_key(name));
        let changed: Vec<_> = new
            .into_iter()
            .filter(|(name, status)| before.get(name).is_none_or(|it| **it != *status))
            .collect();
        if gone.is_empty() && changed.is_empty() {
            return false;
        }
        let statuses = Arc::make_mut(&mut self.now.statuses);
        gone.iter().for_each(|name| drop(statuses.remove(name)));
        for (name, status) in changed {
            statuses.insert(name, Arc::new(status));
        }
        true
    }

    /// Returns a warning for each condition that says that something does not hold.
    pub(crate) fn problems(&self) -> Vec<Problem> {
        let routes = self
            .routes
            .iter()
            .map(|(name, held)| (object_name(name), held));
        let others = self.others.iter().map(|(key, held)| {
            let name = ObjectName {
                kind: key.kind.word().to_owned(),
                namespace: key.namespace.clone(),
                name: key.name.clone(),
            };
            (name, held)
        });
        let mut problems = Vec::new();
        for (name, held) in routes.chain(others) {
            let Some(status) = self.now.statuses.get(&name) else {
                continue;
            };
            let mut said: BTreeSet<String> = BTreeSet::new();
            for parent in &status.parents {
                for condition in &parent.conditions {
                    if condition.is_true() != (condition.kind == "PartiallyInvalid") {
                        continue;
                    }
                    let text = format!(
                        "{}={} ({}) for {} {}/{}: {}",
                        condition.kind,
                        condition.status,
                        condition.reason,
                        parent.parent.kind,
                        parent.parent.namespace,
                        parent.parent.name,
                        condition.message
                    );
                    if said.insert(text.clone()) {
                        let help = "`node-agent routes` shows the conditions of all objects";
                        let place = &held.place;
                        let finding = Finding::error(place.line, place.path.clone(), text, help);
                        let mut problem = place.problem(None, finding.with(Severity::Warning));
                        problem.object =
                            Some(format!("{} {}/{}", name.kind, name.namespace, name.name));
                        problems.push(problem);
                    }
                }
            }
        }
        problems
    }
}

/// Says that there is no such service.
fn missing(service: &ServiceName) -> String {
    format!(
        "there is no service {service}, neither among the objects nor registered with this agent"
    )
}

/// Says that nobody here can know whether there is such a service.
fn unseen(service: &ServiceName) -> String {
    format!(
        "there is no service {service} among the objects; on nodes where programs registered it with the agent, that says what holds there: `node-agent routes`"
    )
}

/// Reason of a condition that may be true on some nodes: its status is `Unknown`.
const UNSEEN: &str = "ServiceNotSeen";

/// Why a route is not accepted: reason and message.
type Refusal = (&'static str, String);

/// Returns whether a route is fit to be accepted by anybody.
fn accepted(raw: &RawRoute) -> Result<(), Refusal> {
    if let Some(trouble) = &raw.refused {
        return Err(("UnsupportedValue", trouble.message.clone()));
    }
    let left = match &raw.rules {
        Rules::Http(rules) => rules.len(),
        Rules::Grpc(rules) => rules.len(),
        Rules::Tls(_, _) | Rules::Opaque(_) => usize::from(raw.dropped.is_empty()),
    };
    if left > 0 || raw.dropped.is_empty() {
        return Ok(());
    }
    let reason = match raw.dropped.iter().all(|it| it.incompatible) {
        true => "IncompatibleFilters",
        false => "UnsupportedValue",
    };
    Err((
        reason,
        format!("no rule is left: {}", messages(&raw.dropped)),
    ))
}

/// Returns what is wrong with rules, the first three of them.
fn messages(dropped: &[Trouble]) -> String {
    let some = dropped.iter().take(3).map(|it| it.message.as_str());
    let text = some.collect::<Vec<_>>().join("; ");
    match dropped.len().saturating_sub(3) {
        0 => text,
        more => format!("{text}; and {more} more"),
    }
}

fn status(
    raw: &RawRoute,
    parent: &ParentReference,
    accepted: Result<(), Refusal>,
    lost: &[String],
    bad: &[refs::Bad],
) -> ParentStatus {
    let is_accepted = accepted.is_ok();
    let condition = |kind: &str, holds: bool, reason: &str, message: String| {
        condition(raw.generation, kind, holds, reason, message)
    };
    let mut conditions = vec![match accepted {
        Ok(()) if lost.is_empty() => condition("Accepted", true, "Accepted", String::new()),
        Ok(()) => condition(
            "Accepted",
            true,
            "Accepted",
            format!("but for {}", lost.join(", ")),
        ),
        Err((reason, message)) => condition("Accepted", false, reason, message),
    }];
    if is_accepted && !raw.dropped.is_empty() {
        let message = format!("Dropped Rule: {}", messages(&raw.dropped));
        conditions.push(condition(
            "PartiallyInvalid",
            true,
            "UnsupportedValue",
            message,
        ));
    }
    conditions.push(match bad.first() {
        None => condition("ResolvedRefs", true, "ResolvedRefs", String::new()),
        Some(first) => {
            let some = bad.iter().take(3).map(|it| it.message.as_str());
            let message = some.collect::<Vec<_>>().join("; ");
            condition("ResolvedRefs", false, first.reason, message)
        }
    });
    ParentStatus {
        parent: parent.clone(),
        controller_name: CONTROLLER.to_owned(),
        conditions,
    }
}

fn condition(
    generation: Option<i64>,
    kind: &str,
    holds: bool,
    reason: &str,
    message: String,
) -> Condition {
    Condition {
        kind: kind.to_owned(),
        status: match (holds, reason) {
            (true, _) => "True",
            (false, UNSEEN) => "Unknown",
            (false, _) => "False",
        }
        .to_owned(),
        reason: reason.to_owned(),
        message,
        observed_generation: generation,
    }
}

fn object_name(route: &RouteName) -> ObjectName {
    ObjectName {
        kind: route.kind.word().to_owned(),
        namespace: route.namespace.clone(),
        name: route.name.clone(),
    }
}
