//! The routes of HTTP and gRPC that hold for one service port and one group of clients.

use std::sync::Arc;

use crate::l7::route::candidate::{Candidate, Misfit, Rank};
use crate::l7::route::index::Index;
use crate::l7::route::opaque::same_pointers;
use crate::l7::route::rule::CompiledRule;
use crate::l7::route::view::RequestView;
use crate::model::route::{Route, Rules};

/// All rules of a port's routes, ready to be selected from. A port with a table answers 404 (gRPC `UNIMPLEMENTED`) to what none of
/// them fits.
#[derive(Debug)]
pub struct Table {
    rules: Vec<Arc<CompiledRule>>,
    /// In the order in which they are tried.
    candidates: Vec<Candidate>,
    index: Index,
    /// What it was made of, in the order of the routes' names.
    made_of: Vec<Arc<Route>>,
}

/// The rule that a request goes by.
#[derive(Clone, Copy, Debug)]
pub struct Selected<'t> {
    /// The rule.
    pub rule: &'t Arc<CompiledRule>,
    /// Bytes of the path that a prefix took, for rewrites and redirects; `None` where it was no prefix.
    pub prefix: Option<usize>,
}

/// A match that was tried, for people.
#[derive(Clone, Copy, Debug)]
pub struct Tried<'t> {
    candidate: &'t Candidate,
    /// The rule that it is of.
    pub rule: &'t Arc<CompiledRule>,
    /// Why it did not fit; `None`: it did.
    pub misfit: Option<Misfit<'t>>,
}

impl Tried<'_> {
    /// Returns what it asks of the path.
    pub fn path(&self) -> String {
        self.candidate.path_words()
    }
}

impl Table {
    /// Compiles routes of HTTP or of gRPC; those of other kinds are left out. Costs some microseconds for each match.
    pub fn new(routes: Vec<Arc<Route>>) -> Self {
        let mut rules = Vec::new();
        let mut found = Vec::new();
        for route in &routes {
            let number = rules.len();
            let mut add = |rule: CompiledRule, matches: Vec<Candidate>| {
                for (at, candidate) in matches.into_iter().enumerate() {
                    found.push((Rank::new(route, rule.index, at, &candidate), candidate));
                }
                rules.push(Arc::new(rule));
            };
            match &route.rules {
                Rules::Http(all) => {
                    for (index, rule) in all.iter().enumerate() {
                        let of_rule = |it| Candidate::http(number + index, it);
                        let matches = rule.matches.iter().map(of_rule).collect();
                        add(CompiledRule::http(&route.name, rule), matches);
                    }
                }
                Rules::Grpc(all) => {
                    for (index, rule) in all.iter().enumerate() {
                        let of_rule = |it| Candidate::grpc(number + index, it);
                        let matches = rule.matches.iter().map(of_rule).collect();
                        add(CompiledRule::new(&route.name, rule), matches);
                    }
                }
                Rules::Tls(..) | Rules::Opaque(_) => {}
            }
        }
        found.sort_by(|(one, _), (other, _)| one.cmp(other));
        let candidates: Vec<Candidate> = found.into_iter().map(|(_, it)| it).collect();
        Self {
            index: Index::new(&candidates),
            rules,
            candidates,
            made_of: routes,
        }
    }

    /// Returns the rule that a request goes by, or `None` where no rule fits it.
    ///
    /// Cost: a look-up for each element of the path, as far as there are routes below it, and one for each name of a field or
    /// parameter that tells many matches apart. Regular expressions are tried one by one where they share the elements before
    /// the first special character. No allocation, unless a field has several lines or a query has escapes.
    pub fn select(&self, request: &RequestView<'_>) -> Option<Selected<'_>> {
        let rank = self.index.first(request, &self.candidates)?;
        let candidate = &self.candidates[rank as usize];
        Some(Selected {
            rule: &self.rules[candidate.rule],
            prefix: candidate.prefix(),
        })
    }

    /// Returns every match in the order in which they are tried, up to the one that fits. Linear in all matches: for people.
    pub fn explain(&self, request: &RequestView<'_>) -> Vec<Tried<'_>> {
        let mut tried = Vec::new();
        for candidate in &self.candidates {
            let misfit = candidate.test(request).err();
            tried.push(Tried {
                candidate,
                rule: &self.rules[candidate.rule],
                misfit,
            });
            if misfit.is_none() {
                break;
            }
        }
        tried
    }

    /// Returns all rules.
    pub fn rules(&self) -> &[Arc<CompiledRule>] {
        &self.rules
    }

    /// Returns whether it was made of these very routes.
    pub(super) fn is_of(&self, routes: &[Arc<Route>]) -> bool {
        same_pointers(&self.made_of, routes)
    }
}
