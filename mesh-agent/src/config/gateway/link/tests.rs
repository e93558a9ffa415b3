//! However a configuration came about, what follows from it is the same; and what did not change keeps its pointer.
#![forbid(unsafe_code)]

use std::sync::Arc;

use proptest::prelude::*;

use crate::config::content::Content;
use crate::config::resolve::Resolver;
use crate::model::route::RouteKind;
use crate::model::workload::Acceleration;

/// A document: a service by number with some ports, a route, or a policy.
#[derive(Clone, Debug)]
enum Doc {
    Service {
        name: u8,
        ports: Vec<u16>,
    },
    Route {
        kind: RouteKind,
        name: u8,
        namespace: u8,
        parent: u8,
        port: Option<u16>,
        backend: u8,
    },
    Policy {
        name: u8,
        target: u8,
        metrics: bool,
    },
    Tls {
        name: u8,
        target: u8,
    },
}

impl Doc {
    fn key(&self) -> (u8, u8) {
        match self {
            Self::Service { name, .. } => (0, *name),
            Self::Route {
                kind,
                name,
                namespace,
                ..
            } => (1 + *kind as u8, name * 2 + namespace),
            Self::Policy { name, .. } => (7, *name),
            Self::Tls { name, .. } => (8, *name),
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Service { name, ports } => {
                let ports: Vec<String> = ports
                    .iter()
                    .map(|port| format!("{{name: p{port}, port: {port}}}"))
                    .collect();
                let ports = ports.join(", ");
                format!(
                    "apiVersion: v1\nkind: Service\nmetadata: {{name: s{name}}}\nspec: {{clusterIP: 10.96.0.{}, ports: [{ports}]}}\n",
                    name + 1
                )
            }
            Self::Route {
                kind,
                name,
                namespace,
                parent,
                port,
                backend,
            } => {
                let namespace = if *namespace == 0 { "default" } else { "other" };
                let port = port.map_or(String::new(), |port| format!(", port: {port}"));
                format!(
                    "apiVersion: gateway.networking.k8s.io/v1\nkind: {}\nmetadata: {{name: r{name}, namespace: {namespace}}}\nspec: {{parentRefs: [{{group: '', kind: Service, namespace: default, name: s{parent}{port}}}], rules: [{{backendRefs: [{{namespace: default, name: s{backend}, port: 80}}]}}]}}\n",
                    kind.word()
                )
            }
            Self::Policy {
                name,
                target,
                metrics,
            } => {
                format!(
                    "apiVersion: underpass.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: t{name}}}\nspec: {{targetRefs: [{{name: s{target}}}], requestMetrics: {metrics}}}\n"
                )
            }
            Self::Tls { name, target } => {
                format!(
                    "apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {{name: b{name}}}\nspec: {{targetRefs: [{{group: '', kind: Service, name: s{target}, sectionName: p80}}], validation: {{hostname: a.example, wellKnownCACertificates: System}}}}\n"
                )
            }
        }
    }
}

fn doc() -> impl Strategy<Value = Doc> {
    let port = || prop_oneof![Just(80u16), Just(81)];
    let kind = prop_oneof![
        Just(RouteKind::Http),
        Just(RouteKind::Grpc),
        Just(RouteKind::Tcp)
    ];
    prop_oneof![
        (0u8..3, prop::collection::btree_set(port(), 1..3)).prop_map(|(name, ports)| {
            Doc::Service {
                name,
                ports: ports.into_iter().collect(),
            }
        }),
        (
            kind,
            0u8..3,
            0u8..2,
            0u8..3,
            prop::option::of(port()),
            0u8..3
        )
            .prop_map(
                |(kind, name, namespace, parent, port, backend)| Doc::Route {
                    kind,
                    name,
                    namespace,
                    parent,
                    port,
                    backend
                }
            ),
        (0u8..2, 0u8..3, any::<bool>()).prop_map(|(name, target, metrics)| Doc::Policy {
            name,
            target,
            metrics
        }),
        (0u8..2, 0u8..3).prop_map(|(name, target)| Doc::Tls { name, target }),
    ]
}

fn contents(docs: &[Doc]) -> Vec<Arc<Content>> {
    let mut docs = docs.to_vec();
    docs.sort_by_key(Doc::key);
    docs.dedup_by_key(|doc| doc.key());
    let file = |doc: &Doc| {
        let (kind, name) = doc.key();
        let text = doc.text();
        Arc::new(Content::parse(
            &format!("{kind}-{name:03}.yaml"),
            text.as_bytes(),
            None,
        ))
    };
    docs.iter().map(file).collect()
}

proptest! {
    #[test]
    fn step_by_step_is_as_at_once(steps in prop::collection::vec(prop::collection::vec(doc(), 0..10), 1..6)) {
        let mut resolver = Resolver::new(Acceleration::Auto);
        for docs in &steps {
            let contents = contents(docs);
            resolver.update(Ok(&contents));
            let mut fresh = Resolver::new(Acceleration::Auto);
            fresh.update(Ok(&contents));
            let (now, wanted) = (&resolver.resolved().linked, &fresh.resolved().linked);
            prop_assert_eq!(&now.routes, &wanted.routes);
            prop_assert_eq!(&now.traffic, &wanted.traffic);
            prop_assert_eq!(&now.tls, &wanted.tls);
            prop_assert_eq!(&now.statuses, &wanted.statuses);
            prop_assert_eq!(resolver.problems(), fresh.problems());
        }
    }
}

proptest! {
    /// Services that programs registered are as good as those among the objects, whichever come first.
    #[test]
    fn registered_services_are_as_good(docs in prop::collection::vec(doc(), 0..16), later in any::<bool>()) {
        let (services, rest): (Vec<Doc>, Vec<Doc>) =
            docs.into_iter().partition(|doc| matches!(doc, Doc::Service { .. }));
        let mut of_services = Resolver::new(Acceleration::Auto);
        of_services.update(Ok(&contents(&services)));
        let registered = of_services.resolved().services.clone();
        let mut wanted = Resolver::new(Acceleration::Auto);
        wanted.update(Ok(&contents(&[services, rest.clone()].concat())));
        let mut resolver = Resolver::new(Acceleration::Auto);
        if !later {
            prop_assert!(!resolver.set_registered(registered.clone()));
        }
        resolver.update(Ok(&contents(&rest)));
        resolver.set_registered(registered.clone());
        prop_assert!(!resolver.set_registered(registered), "nothing is different");
        let (now, wanted) = (&resolver.resolved().linked, &wanted.resolved().linked);
        prop_assert_eq!(&now.routes, &wanted.routes);
        prop_assert_eq!(&now.traffic, &wanted.traffic);
        prop_assert_eq!(&now.tls, &wanted.tls);
        prop_assert_eq!(&now.statuses, &wanted.statuses);
        prop_assert!(resolver.resolved().services.is_empty());
        // And when they go, nothing of them is left.
        resolver.set_registered(Arc::default());
        let mut without = Resolver::new(Acceleration::Auto);
        without.update(Ok(&contents(&rest)));
        let (now, wanted) = (&resolver.resolved().linked, &without.resolved().linked);
        prop_assert_eq!(&now.routes, &wanted.routes);
        prop_assert_eq!(&now.statuses, &wanted.statuses);
    }
}

#[test]
fn what_did_not_change_keeps_its_pointer() {
    let service = |name, ports: &[u16]| Doc::Service {
        name,
        ports: ports.to_vec(),
    };
    let route = |name, parent| Doc::Route {
        kind: RouteKind::Http,
        name,
        namespace: 0,
        parent,
        port: None,
        backend: parent,
    };
    let mut docs = vec![
        service(0, &[80]),
        service(1, &[80]),
        route(0, 0),
        route(1, 1),
    ];
    let mut resolver = Resolver::new(Acceleration::Auto);
    resolver.update(Ok(&contents(&docs)));
    let before = resolver.resolved().linked.clone();
    assert_eq!(before.routes.len(), 2);
    docs[1] = service(1, &[80, 81]);
    assert!(resolver.update(Ok(&contents(&docs))));
    let now = &resolver.resolved().linked;
    let same: Vec<bool> = before
        .routes
        .iter()
        .map(|(name, route)| Arc::ptr_eq(route, &now.routes[name]))
        .collect();
    assert_eq!(same, [true, false]);
    docs.remove(2);
    resolver.update(Ok(&contents(&docs)));
    assert_eq!(resolver.resolved().linked.routes.len(), 1);
    assert_eq!(resolver.resolved().linked.statuses.len(), 1);
}
