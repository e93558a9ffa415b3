//! Routes of connections whose bytes nobody looks into: by name of the server in `ClientHello`, or not told apart at all.

use std::collections::HashMap;
use std::sync::Arc;

use crate::l7::route::rule::Backends;
use crate::model::route::{Route, RouteName, Rules};

/// The one rule of a `TLSRoute`, `TCPRoute` or `UDPRoute`.
#[derive(Clone, PartialEq, Debug)]
pub struct OpaqueRule {
    /// The route.
    pub route: Arc<RouteName>,
    /// Who answers. The share of invalid ones is reset, that of UDP dropped.
    pub backends: Backends,
}

/// The `TLSRoute`s of a service port and group of clients.
#[derive(Debug, Default)]
pub struct TlsTable {
    exact: HashMap<String, Arc<OpaqueRule>>,
    /// By what follows the `*`, which begins with a dot.
    suffixes: HashMap<String, Arc<OpaqueRule>>,
    /// What it was made of, in the order of the routes' names.
    made_of: Vec<Arc<Route>>,
}

impl TlsTable {
    /// Compiles routes; those of other kinds are left out. Of two that name a server alike the older one has it.
    pub fn new(routes: Vec<Arc<Route>>) -> Self {
        let mut table = Self::default();
        for route in by_age(&routes) {
            let Rules::Tls(names, backends) = &route.rules else {
                continue;
            };
            let rule = Arc::new(OpaqueRule {
                route: route.name.clone(),
                backends: Backends::new(backends),
            });
            for name in names {
                let name = name.to_ascii_lowercase();
                let (map, key) = match name.strip_prefix('*') {
                    Some(suffix) => (&mut table.suffixes, suffix.to_owned()),
                    None => (&mut table.exact, name),
                };
                map.entry(key).or_insert_with(|| rule.clone());
            }
        }
        table.made_of = routes;
        table
    }

    /// Returns whether it was made of these very routes.
    pub(super) fn is_of(&self, routes: &[Arc<Route>]) -> bool {
        same_pointers(&self.made_of, routes)
    }

    /// Returns the rule for a connection with this name in its `ClientHello`, the most specific one: exact, then the longest
    /// suffix. `None`: no route fits it, and the connection is to be reset.
    pub fn select(&self, server: Option<&str>) -> Option<&Arc<OpaqueRule>> {
        let server = server.unwrap_or_default().trim_end_matches('.');
        let server = server.to_ascii_lowercase();
        if let Some(rule) = self.exact.get(&server) {
            return Some(rule);
        }
        let mut rest = server.as_str();
        while let Some(dot) = rest.get(1..).and_then(|rest| rest.find('.')) {
            rest = &rest[dot + 1..];
            if let Some(rule) = self.suffixes.get(rest) {
                return Some(rule);
            }
        }
        None
    }
}

/// Returns the rule of the oldest `TCPRoute` or `UDPRoute`: two of them for one port cannot be told apart.
pub(super) fn opaque(routes: &[Arc<Route>]) -> Option<Arc<OpaqueRule>> {
    by_age(routes).into_iter().find_map(|route| {
        let Rules::Opaque(backends) = &route.rules else {
            return None;
        };
        Some(Arc::new(OpaqueRule {
            route: route.name.clone(),
            backends: Backends::new(backends),
        }))
    })
}

/// Returns routes from the oldest to the youngest, then by name.
pub(super) fn by_age(routes: &[Arc<Route>]) -> Vec<&Arc<Route>> {
    let mut sorted: Vec<&Arc<Route>> = routes.iter().collect();
    sorted.sort_by_key(|route| (route.created.unwrap_or(i64::MAX), route.name.clone()));
    sorted
}

/// Returns whether these are the same routes by pointer.
pub(super) fn same_pointers(some: &[Arc<Route>], others: &[Arc<Route>]) -> bool {
    let mut pairs = some.iter().zip(others);
    some.len() == others.len() && pairs.all(|(one, other)| Arc::ptr_eq(one, other))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::route::RouteKind;

    fn route(name: &str, created: i64, names: &[&str]) -> Arc<Route> {
        Arc::new(Route {
            name: Arc::new(RouteName {
                kind: RouteKind::Tls,
                namespace: "shop".to_owned(),
                name: name.to_owned(),
            }),
            created: Some(created),
            parents: Vec::new(),
            rules: Rules::Tls(names.iter().map(ToString::to_string).collect(), Vec::new()),
            origin: String::new(),
        })
    }

    #[test]
    fn the_most_specific_name_wins_and_then_the_oldest() {
        let table = TlsTable::new(vec![
            route("any", 5, &["*.example.com", "one.example.com"]),
            route("deep", 4, &["*.a.example.com", "*.example.com"]),
            route("exact", 3, &["one.a.example.com"]),
        ]);
        let select = |name| table.select(name).map(|rule| rule.route.name.clone());
        assert_eq!(select(Some("one.a.example.com")).as_deref(), Some("exact"));
        assert_eq!(select(Some("ONE.A.example.com.")).as_deref(), Some("exact"));
        assert_eq!(select(Some("two.a.example.com")).as_deref(), Some("deep"));
        assert_eq!(select(Some("x.y.a.example.com")).as_deref(), Some("deep"));
        assert_eq!(select(Some("two.example.com")).as_deref(), Some("deep"));
        assert_eq!(select(Some("one.example.com")).as_deref(), Some("any"));
        assert_eq!(select(Some("example.com")), None);
        assert_eq!(select(Some("other.org")), None);
        assert_eq!(select(None), None);
    }
}
