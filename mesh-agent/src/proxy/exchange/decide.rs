//! Where a request goes, and what its filters make of it.

use std::net::SocketAddr;
use std::sync::Arc;

use http::StatusCode;

use crate::chance::Chance;
use crate::l7::cluster::hash;
use crate::l7::flag::Flag;
use crate::l7::message::{RequestHead, ResponseHead};
use crate::l7::route::edit::{self, Cause, CorsAnswer};
use crate::l7::route::{Backend, CompiledRule, PortTable, RequestView, is_sampled};
use crate::l7::session::SessionKey;
use crate::model::balanced::PortId;
use crate::model::route::{BackendTarget, Cors, Filter, SessionPersistence};
use crate::model::traffic::HashOn;
use crate::proxy::exchange::affinity::{Affinity, Kept};
use crate::proxy::exchange::room::{Config, Destination};

/// What becomes of a request.
pub(super) enum Decision {
    /// The agent answers it.
    Answer(Box<ResponseHead>, Option<Flag>),
    /// It goes to an endpoint.
    Go(Plan),
}

/// How a request goes to an endpoint.
pub(super) struct Plan {
    pub(super) destination: Arc<Destination>,
    /// Which of the rule's backends it is.
    pub(super) backend: Option<usize>,
    /// Who gets copies.
    pub(super) mirrors: Vec<Arc<Destination>>,
    /// What binds the client to an endpoint.
    pub(super) affinity: Option<Affinity>,
}

/// What the filter for CORS found in a request.
#[derive(Clone, Debug, Default)]
pub(super) enum Origin {
    /// No such filter looked at it.
    #[default]
    Unasked,
    /// None that may read the answer.
    Other,
    /// The one that the answer is to be readable for.
    Allowed(String),
}

/// Backends that are kept at hand: more than the routes of one port have, but for unusual ones.
const FOUND_MOST: usize = 16;

/// Backends that requests of a connection went to by one configuration, by the pointers that rules have: to look one up by its name costs
/// as much as to select the rule.
#[derive(Debug, Default)]
pub(super) struct Found(Vec<(Arc<PortId>, Arc<Destination>)>);

impl Found {
    fn get(&mut self, id: &Arc<PortId>, config: &Config) -> Option<Arc<Destination>> {
        let mut known = self.0.iter();
        if let Some((_, known)) = known.find(|(known, _)| Arc::ptr_eq(known, id)) {
            return Some(Arc::clone(known));
        }
        let found = config.destinations.get(&**id)?;
        if self.0.len() < FOUND_MOST {
            self.0.push((Arc::clone(id), Arc::clone(found)));
        }
        Some(Arc::clone(found))
    }
}

/// A request that is decided on.
pub(super) struct Asked<'a> {
    pub(super) config: &'a Config,
    pub(super) table: Option<&'a Arc<PortTable>>,
    /// The endpoints of the port that was dialled.
    pub(super) own: Option<&'a Arc<Destination>>,
    pub(super) found: &'a mut Found,
    pub(super) namespace: &'a str,
    pub(super) port: u16,
    pub(super) is_grpc: bool,
    pub(super) chance: &'a mut Chance,
    /// Path and authority as they came, once a filter changes them.
    pub(super) original: &'a mut Option<(String, String)>,
    pub(super) rule: &'a mut Option<Arc<CompiledRule>>,
    pub(super) origin: &'a mut Origin,
    pub(super) sessions: &'a mut Kept,
    pub(super) key: Option<&'a SessionKey>,
}

impl Asked<'_> {
    /// Decides, and changes the head as filters say.
    pub(super) fn decide(mut self, head: &mut RequestHead) -> Decision {
        let table = self.table.and_then(|it| it.table(self.namespace));
        let Some(table) = table else {
            return match self.own {
                Some(own) => {
                    let affinity = session_of(own).and_then(|it| self.affinity(it, head));
                    go(own, affinity)
                }
                None => self.answer(Cause::NoEndpoint, "nobody answers here", Flag::NoCluster),
            };
        };
        let Some(selected) = table.select(&RequestView::of(head)) else {
            return self.answer(Cause::NoRoute, "no route matches", Flag::NoRoute);
        };
        let (rule, prefix) = (Arc::clone(selected.rule), selected.prefix);
        *self.rule = Some(Arc::clone(&rule));
        let mut mirrors = Vec::new();
        if let Some(answer) = self.filter(&rule.filters, prefix, head, &mut mirrors) {
            return answer;
        }
        // A session beats weights, also one of 0.
        let (mut affinity, bound) = match &rule.session {
            Some(session) => {
                let affinity = self.affinity(session, head);
                let mut all = rule.backends.all().iter();
                let is_to = |it: &&Backend| is_to(affinity.as_ref(), it);
                let bound = all.find(is_to);
                (affinity, bound)
            }
            None => self.bound(&rule, head).unzip(),
        };
        let drawn = bound.or_else(|| rule.backends.draw(self.chance.unit()));
        let Some(backend) = drawn else {
            let why = "no backend has a weight";
            return self.answer(Cause::NoBackend, why, Flag::NoCluster);
        };
        let destination = match &backend.to {
            Ok(id) => self.found.get(id, self.config),
            Err(_) => None,
        };
        let Some(destination) = destination else {
            let why = "the backend does not exist";
            return self.answer(Cause::NoBackend, why, Flag::NoCluster);
        };
        if affinity.is_none() {
            affinity = session_of(&destination).and_then(|it| self.affinity(it, head));
        }
        if let Some(answer) = self.filter(&backend.filters, prefix, head, &mut mirrors) {
            return answer;
        }
        let all = rule.backends.all();
        Decision::Go(Plan {
            destination,
            backend: all.iter().position(|it| std::ptr::eq(it, backend)),
            mirrors,
            affinity,
        })
    }

    /// Returns the backend that the client has a session with, by a policy of the backend's own.
    fn bound<'r>(
        &mut self,
        rule: &'r CompiledRule,
        head: &RequestHead,
    ) -> Option<(Affinity, &'r Backend)> {
        rule.backends.all().iter().find_map(|backend| {
            let destination = self.found.get(backend.to.as_ref().ok()?, self.config)?;
            let affinity = self.affinity(session_of(&destination)?, head)?;
            is_to(Some(&affinity), backend).then_some((affinity, backend))
        })
    }

    /// Returns how a request is bound by sessions of this kind.
    fn affinity(&mut self, session: &SessionPersistence, head: &RequestHead) -> Option<Affinity> {
        let rule = self.rule.as_ref();
        let own = self.own.map(|it| &*it.cluster.id);
        self.sessions.affinity(self.key?, rule, session, own, head)
    }

    fn answer(&self, cause: Cause, why: &str, flag: Flag) -> Decision {
        let head = edit::answer(cause, why, self.is_grpc);
        Decision::Answer(Box::new(head), Some(flag))
    }

    /// Runs filters in their order, until one answers.
    fn filter(
        &mut self,
        filters: &[Filter],
        prefix: Option<usize>,
        head: &mut RequestHead,
        mirrors: &mut Vec<Arc<Destination>>,
    ) -> Option<Decision> {
        for filter in filters {
            match filter {
                Filter::RequestHeaders(edit) => {
                    self.remember(head);
                    edit::request_fields(head, edit);
                }
                Filter::Rewrite(rewrite) => {
                    self.remember(head);
                    edit::rewrite(head, rewrite, prefix);
                }
                Filter::Redirect(redirect) => {
                    let answer = edit::redirect(head, redirect, prefix, self.port);
                    return Some(Decision::Answer(Box::new(answer), None));
                }
                Filter::Cors(cors) => match edit::cors_answer(head, cors) {
                    CorsAnswer::Preflight(answer) => return Some(Decision::Answer(answer, None)),
                    CorsAnswer::Actual(origin) => *self.origin = Origin::Allowed(origin),
                    CorsAnswer::Other => *self.origin = Origin::Other,
                },
                Filter::Mirror(mirror) => {
                    if is_sampled(mirror.share, mirror.of, self.chance.unit())
                        && let BackendTarget::Port(id) = &mirror.to
                        && let Some(to) = self.config.destinations.get(id)
                    {
                        mirrors.push(Arc::clone(to));
                    }
                }
                Filter::ResponseHeaders(_) => {}
                Filter::Invalid(_) => {
                    let why = "a filter of the route cannot be carried out";
                    let cause = Cause::Fault(StatusCode::INTERNAL_SERVER_ERROR);
                    return Some(self.answer(cause, why, Flag::NoCluster));
                }
            }
        }
        None
    }

    fn remember(&mut self, head: &RequestHead) {
        self.original.get_or_insert_with(|| {
            let path = head.target.as_str().to_owned();
            (path, head.authority.clone())
        });
    }
}

/// Returns what policies say of sessions with endpoints, where a rule does not.
fn session_of(destination: &Destination) -> Option<&SessionPersistence> {
    destination.traffic.as_ref()?.session.as_ref()
}

/// Returns whether the client's session is to this backend.
fn is_to(affinity: Option<&Affinity>, backend: &Backend) -> bool {
    let id = backend.to.as_ref().ok();
    affinity
        .zip(id)
        .is_some_and(|(affinity, id)| affinity.is_to(id))
}

fn go(to: &Arc<Destination>, affinity: Option<Affinity>) -> Decision {
    Decision::Go(Plan {
        destination: Arc::clone(to),
        backend: None,
        mirrors: Vec::new(),
        affinity,
    })
}

/// Changes a response as the filters of its rule say, those of the backend last.
pub(super) fn edit_response(
    head: &mut ResponseHead,
    rule: &CompiledRule,
    plan: &Plan,
    origin: &Origin,
) {
    let backend = plan.backend.and_then(|at| rule.backends.all().get(at));
    let filters = backend.map_or(&[][..], |it| &it.filters);
    for filter in rule.filters.iter().chain(filters) {
        match filter {
            Filter::ResponseHeaders(edit) => edit::response_fields(&mut head.fields, edit),
            Filter::Cors(cors) => cors_fields(head, cors, origin),
            Filter::RequestHeaders(_)
            | Filter::Redirect(_)
            | Filter::Rewrite(_)
            | Filter::Mirror(_)
            | Filter::Invalid(_) => {}
        }
    }
}

/// Adds to an answer of the agent's own what lets scripts read it that may read those of the service.
pub(super) fn edit_own(head: &mut ResponseHead, rule: &CompiledRule, origin: &Origin) {
    for filter in &rule.filters {
        if let Filter::Cors(cors) = filter {
            cors_fields(head, cors, origin);
        }
    }
}

fn cors_fields(head: &mut ResponseHead, cors: &Cors, origin: &Origin) {
    match origin {
        Origin::Unasked => {}
        Origin::Other => edit::cors_fields(&mut head.fields, cors, None),
        Origin::Allowed(origin) => edit::cors_fields(&mut head.fields, cors, Some(origin)),
    }
}

/// Returns the hash that the policy of who answers says endpoints are picked by.
pub(super) fn hash_of(to: &Destination, head: &RequestHead, client: SocketAddr) -> Option<u64> {
    let balancing = to.traffic.as_ref()?.balancing.as_ref()?;
    if !balancing.algorithm.hashes() {
        return None;
    }
    match balancing.hash.as_ref().unwrap_or(&HashOn::Source) {
        HashOn::Source => Some(hash::of_source(client.ip())),
        HashOn::Header(name) => hash::of_values(head.fields.get_all(name.as_str())),
        HashOn::Cookie(name) => {
            let lines = head.fields.get_all("cookie");
            let pairs = lines.flat_map(|line| line.split(|byte| *byte == b';'));
            let mut pairs = pairs.map(<[u8]>::trim_ascii);
            pairs.find_map(|pair| {
                let value = pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
                Some(hash::of_bytes(value, 0))
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l7::cluster::ClusterPolicy;
    use crate::proxy::tests::destination;

    #[test]
    fn a_backend_is_looked_up_once_for_each_configuration() {
        let (id, there) = destination("cart", ClusterPolicy::default(), &[]);
        let config = Config {
            destinations: [(id.clone(), there.clone())].into_iter().collect(),
            ..Config::default()
        };
        let id = Arc::new(id);
        let mut found = Found::default();
        let got = found.get(&id, &config).unwrap();
        assert!(Arc::ptr_eq(&got, &there));
        let empty = Config::default();
        assert!(found.get(&id, &empty).is_some(), "by the pointer");
        let other = Arc::new(PortId::clone(&id));
        assert!(found.get(&other, &empty).is_none());
    }
}
