//! What of an object is taken, and what is refused, by the manifest as somebody writes it.
#![forbid(unsafe_code)]

mod policies;
mod routes;

use std::sync::Arc;

use crate::config::content::Content;
use crate::config::gateway::link::Linked;
use crate::config::resolve::Resolver;
use crate::model::route::{HttpMatch, Route, Rule, Rules};
use crate::model::workload::Acceleration;

/// A service with a port of each sort, another one, and one without an address.
const SERVICES: &str = "---
apiVersion: v1
kind: Service
metadata: {name: cart}
spec:
  clusterIP: 10.96.0.1
  ports:
    - {name: http, port: 80, appProtocol: http}
    - {name: plain, port: 81}
    - {name: https, port: 443, appProtocol: https}
    - {name: db, port: 5432, appProtocol: tcp}
    - {name: dns, port: 53, protocol: UDP}
---
apiVersion: v1
kind: Service
metadata: {name: other}
spec: {clusterIP: 10.96.0.2, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: set}
spec: {clusterIP: None, ports: [{port: 80}]}
";

/// Returns what follows from these objects and the services above.
fn linked(objects: &str) -> Linked {
    let text = format!("{SERVICES}{objects}");
    let content = Arc::new(Content::parse("a.yaml", text.as_bytes(), None));
    let mut resolver = Resolver::new(Acceleration::Auto);
    resolver.update(Ok(&[content]));
    resolver.resolved().linked.clone()
}

/// Returns a condition of an object for each of its parents: status, reason and message.
fn conditions(linked: &Linked, object: &str, kind: &str) -> Vec<(String, String, String)> {
    let mut all = linked.statuses.iter();
    let (_, status) = all
        .find(|(name, _)| format!("{} {}", name.kind, name.name) == object)
        .unwrap();
    let found = status.parents.iter().filter_map(|it| it.condition(kind));
    found
        .map(|it| (it.status.clone(), it.reason.clone(), it.message.clone()))
        .collect()
}

fn route<'l>(linked: &'l Linked, name: &str) -> Option<&'l Arc<Route>> {
    let mut all = linked.routes.iter();
    all.find(|(route, _)| route.name == name).map(|it| it.1)
}

/// Returns the only rule of an `HTTPRoute` that is written so, or why it does not count.
fn rule(text: &str) -> Result<Rule<HttpMatch>, String> {
    let linked = linked(&format!(
        "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: r}}
spec:
  parentRefs: [{{group: '', kind: Service, name: cart, port: 80}}]
  rules: [{text}]
"
    ));
    match route(&linked, "r").map(|it| &it.rules) {
        Some(Rules::Http(rules)) => Ok(rules[0].clone()),
        _ => Err(conditions(&linked, "HTTPRoute r", "Accepted")[0].2.clone()),
    }
}
