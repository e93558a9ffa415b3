//! A rule as it is carried out, and which of its backends a request goes to.

use std::sync::Arc;
use std::time::Duration;

use crate::model::balanced::PortId;
use crate::model::route::{
    Backend as Ref, BackendTarget, Filter, Retry, RouteName, Rule, SessionPersistence,
};

/// A rule of an `HTTPRoute` or `GRPCRoute`.
#[derive(Clone, PartialEq, Debug)]
pub struct CompiledRule {
    /// The route that it is of.
    pub route: Arc<RouteName>,
    /// Its place among the route's rules.
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
}

impl CompiledRule {
    /// Returns a rule of a route as it is carried out.
    pub fn new<M>(route: &Arc<RouteName>, index: usize, rule: &Rule<M>) -> Self {
        Self {
            route: route.clone(),
            index,
            name: rule.name.clone(),
            filters: rule.filters.clone(),
            backends: Backends::new(&rule.backends),
            request_timeout: rule.request_timeout,
            backend_timeout: rule.backend_timeout,
            retry: rule.retry.clone(),
            session: rule.session.clone(),
        }
    }

    /// Returns what metrics and logs call it: its name, or its place.
    pub fn label(&self) -> String {
        let RouteName {
            namespace, name, ..
        } = &*self.route;
        match &self.name {
            Some(rule) => format!("{namespace}/{name}/{rule}"),
            None => format!("{namespace}/{name}/{}", self.index),
        }
    }
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
    fn a_sample_is_a_share() {
        assert!(!is_sampled(0, 100, 0.0));
        assert!(is_sampled(100, 100, 0.999));
        assert!(is_sampled(1, 3, 0.33) && !is_sampled(1, 3, 0.34));
    }
}
