//! A rule as it is carried out, and which of its backends a request goes to.

use std::sync::Arc;
use std::time::Duration;

use crate::model::balanced::PortId;
use crate::model::route::{
    Backend as Ref, BackendTarget, Filter, HttpMatch, PathMatch, Retry, RouteName, Rule,
    SessionPersistence,
};

/// A rule of an `HTTPRoute` or `GRPCRoute`.
#[derive(Clone, PartialEq, Debug)]
pub struct CompiledRule {
    /// The route that it is of.
    pub route: Arc<RouteName>,
    /// Its place in the manifest.
    pub index: usize,
    /// `name`.
    pub name: Option<String>,
    /// Filters in their order, before those of the backend.
    pub filters: Vec<Filter>,
    /// Who answers.
    pub backends: Backends,
    /// Time for the whole of it.
    pub request_timeout: Option<Duration>,
    /// Time for each attempt.
    pub backend_timeout: Option<Duration>,
    /// When to try again.
    pub retry: Option<Retry>,
    /// What binds a client to an endpoint.
    pub session: Option<SessionPersistence>,
    /// `Path` of its cookie: the prefix that all of its matches have; `None`: every path.
    pub cookie_path: Option<String>,
}

impl CompiledRule {
    /// Returns a rule of a route as it is carried out.
    pub fn new<M>(route: &Arc<RouteName>, rule: &Rule<M>) -> Self {
        Self {
            route: route.clone(),
            index: rule.index,
            name: rule.name.clone(),
            filters: rule.filters.clone(),
            backends: Backends::new(&rule.backends),
            request_timeout: rule.request_timeout,
            backend_timeout: rule.backend_timeout,
            retry: rule.retry.clone(),
            session: rule.session.clone(),
            cookie_path: None,
        }
    }

    /// Returns a rule of an `HTTPRoute` as it is carried out.
    pub fn http(route: &Arc<RouteName>, rule: &Rule<HttpMatch>) -> Self {
        Self {
            cookie_path: prefix(&rule.matches).map(str::to_owned),
            ..Self::new(route, rule)
        }
    }

    /// Returns whether `route` is its route, as `namespace/name`, or the rule itself, with its name behind that.
    pub fn is_of(&self, route: &str) -> bool {
        let mut parts = route.splitn(3, '/');
        parts.next() == Some(&self.route.namespace)
            && parts.next() == Some(&self.route.name)
            && parts
                .next()
                .is_none_or(|name| self.name.as_deref() == Some(name))
    }

    /// Returns what tells it from all other rules, alike in every agent.
    pub fn scope(&self) -> String {
        format!("{} {}", self.route.kind.word(), self.label())
    }

    /// Returns what metrics and logs call it: its name, or its place. A name that looks like a place is in quotes.
    pub fn label(&self) -> String {
        let RouteName {
            namespace, name, ..
        } = &*self.route;
        match &self.name {
            Some(rule) if rule.bytes().all(|it| it.is_ascii_digit()) => {
                format!("{namespace}/{name}/'{rule}'")
            }
            Some(rule) => format!("{namespace}/{name}/{rule}"),
            None => format!("{namespace}/{name}/{}", self.index),
        }
    }
}

/// Returns the prefix that all matches have, if a cookie can name it.
fn prefix(matches: &[HttpMatch]) -> Option<&str> {
    let (first, rest) = matches.split_first()?;
    let PathMatch::Prefix(prefix) = &first.path else {
        return None;
    };
    let is_one = rest.iter().all(|it| it.path == first.path);
    // A semicolon would end the attribute, and the root is every path.
    let is_plain = prefix.bytes().all(|it| it.is_ascii_graphic() && it != b';');
    (is_one && is_plain && !prefix.is_empty()).then_some(prefix)
}

/// Why a share of requests has nobody to answer: 500, gRPC `UNAVAILABLE`, or a reset.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Invalid(pub String);

/// One backend of a rule.
#[derive(Clone, PartialEq, Debug)]
pub struct Backend {
    /// Who answers, or why nobody does.
    pub to: Result<Arc<PortId>, Invalid>,
    /// Its share, by the sum of all.
    pub weight: u32,
    /// Filters of this backend, after the rule's.
    pub filters: Vec<Filter>,
}

/// All backends of a rule with their shares, invalid ones among them.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Backends {
    all: Vec<Backend>,
    total: u64,
}

impl Backends {
    /// Takes over the references of a rule.
    pub fn new(refs: &[Ref]) -> Self {
        let backend = |one: &Ref| Backend {
            to: match &one.to {
                BackendTarget::Port(id) => Ok(Arc::new(id.clone())),
                BackendTarget::Invalid(_, why) => Err(Invalid(why.clone())),
            },
            weight: one.weight,
            filters: one.filters.clone(),
        };
        Self {
            total: refs.iter().map(|one| u64::from(one.weight)).sum(),
            all: refs.iter().map(backend).collect(),
        }
    }

    /// Returns all of them.
    pub fn all(&self) -> &[Backend] {
        &self.all
    }

    /// Draws one by its weight; `chance` is from 0 to below 1. `None`: no weight is above 0, so nobody answers.
    pub fn draw(&self, chance: f64) -> Option<&Backend> {
        if let [only] = self.all.as_slice() {
            return (only.weight > 0).then_some(only);
        }
        let mut left = part(self.total, chance);
        self.all.iter().find(|backend| {
            let weight = u64::from(backend.weight);
            let is_it = left < weight;
            left = left.saturating_sub(weight);
            is_it
        })
    }
}

/// Returns whether a request is among `share` of `of`; `chance` is from 0 to below 1, drawn for each filter and request anew.
pub fn is_sampled(share: u32, of: u32, chance: f64) -> bool {
    part(u64::from(of), chance) < u64::from(share)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "totals are below 2^37, and the chance below 1"
)]
fn part(total: u64, chance: f64) -> u64 {
    (total as f64 * chance) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::route::BadRef;

    fn backends(weights: &[u32]) -> Backends {
        let one = |weight: &u32| Ref {
            weight: *weight,
            to: BackendTarget::Invalid(BadRef::BackendNotFound, weight.to_string()),
            filters: Vec::new(),
        };
        Backends::new(&weights.iter().map(one).collect::<Vec<_>>())
    }

    #[test]
    fn shares_are_weights_by_their_sum() {
        let three = backends(&[1, 0, 3]);
        let drawn = |chance| three.draw(chance).map(|it| it.weight);
        assert_eq!(
            [0.0, 0.2499, 0.25, 0.999].map(drawn),
            [1, 1, 3, 3].map(Some)
        );
        assert_eq!(backends(&[0]).draw(0.5), None);
        assert_eq!(backends(&[0, 0]).draw(0.5), None);
        assert_eq!(backends(&[]).draw(0.0), None);
        assert_eq!(backends(&[7]).draw(0.9).map(|it| it.weight), Some(7));
    }

    #[test]
    fn no_two_rules_are_called_alike() {
        let called = |kind, name: Option<&str>, index| {
            let route = RouteName {
                kind,
                namespace: "shop".to_owned(),
                name: "r".to_owned(),
            };
            let rule = Rule::<HttpMatch> {
                index,
                name: name.map(str::to_owned),
                matches: Vec::new(),
                filters: Vec::new(),
                backends: Vec::new(),
                request_timeout: None,
                backend_timeout: None,
                retry: None,
                session: None,
            };
            let rule = CompiledRule::new(&Arc::new(route), &rule);
            (rule.label(), rule.scope())
        };
        use crate::model::route::RouteKind::{Grpc, Http};
        let place = called(Http, None, 1);
        assert_eq!(place.0, "shop/r/1");
        assert_ne!(called(Http, Some("1"), 0).0, place.0);
        assert_eq!(called(Http, Some("one"), 0).0, "shop/r/one");
        assert_ne!(called(Grpc, None, 1).1, place.1);
        assert_ne!(called(Http, Some("1"), 0).1, place.1);
    }

    #[test]
    fn a_cookie_is_for_the_only_prefix_of_its_rule() {
        let by = |path| HttpMatch {
            path,
            method: None,
            headers: Vec::new(),
            query: Vec::new(),
        };
        let of = |paths: &[PathMatch]| {
            let matches: Vec<_> = paths.iter().cloned().map(by).collect();
            prefix(&matches).map(str::to_owned)
        };
        let cart = || PathMatch::Prefix("/cart".to_owned());
        assert_eq!(of(&[cart()]).as_deref(), Some("/cart"));
        assert_eq!(of(&[cart(), cart()]).as_deref(), Some("/cart"));
        assert_eq!(of(&[cart(), PathMatch::Prefix("/pay".to_owned())]), None);
        assert_eq!(of(&[PathMatch::Exact("/cart".to_owned())]), None);
        for none in ["", "/a;Domain=b", "/ä"] {
            assert_eq!(of(&[PathMatch::Prefix(none.to_owned())]), None, "{none}");
        }
    }

    #[test]
    fn a_sample_is_a_share() {
        assert!(!is_sampled(0, 100, 0.0));
        assert!(is_sampled(100, 100, 0.999));
        assert!(is_sampled(1, 3, 0.33) && !is_sampled(1, 3, 0.34));
    }
}
