//! What takes the agent, whom consumer routes concern, and what is compiled again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::Method;

use super::{route, rule};
use crate::l7::route::kernel::{Needs, PortNeeds, needs};
use crate::l7::route::{Input, Routed, Table, Tables};
use crate::model::balanced::{PortId, Split};
use crate::model::route::{
    Backend, BackendTarget, BadRef, Filter, HeaderEdit, HttpMatch, Parent, PathMatch, Route,
    RouteKind, RouteName, Routes, Rule, Rules,
};
use crate::model::service::{
    Balance, Distribution, Port, Protocol, Service, ServiceKind, ServiceName, Services,
};
use crate::model::traffic::{Traffic, WhenAway};

fn id(name: &str, port: u16) -> PortId {
    PortId {
        service: service_name(name),
        port,
        protocol: Protocol::Tcp,
    }
}

fn service_name(name: &str) -> ServiceName {
    ServiceName {
        namespace: "shop".to_owned(),
        name: name.to_owned(),
    }
}

fn services(names: &[&str]) -> Services {
    let port = |number| Port {
        name: None,
        number,
        protocol: Protocol::Tcp,
        node_port: None,
        app_protocol: None,
        endpoints: Vec::new(),
    };
    let service = |name: &&str| {
        let service = Service {
            name: service_name(name),
            kind: ServiceKind::ClusterIp,
            addresses: Vec::new(),
            external_addresses: Vec::new(),
            ports: vec![port(80), port(81)],
            affinity: None,
            local_only: false,
            distribution: Distribution::Any,
            publish_not_ready: false,
            portless: Vec::new(),
            balance: Balance::default(),
            origin: String::new(),
        };
        (service.name.clone(), Arc::new(service))
    };
    names.iter().map(service).collect()
}

fn all() -> HttpMatch {
    HttpMatch {
        path: PathMatch::Prefix(String::new()),
        method: None,
        headers: Vec::new(),
        query: Vec::new(),
    }
}

fn to(name: &str, weight: u32) -> Backend {
    Backend {
        weight,
        to: BackendTarget::Port(id(name, 80)),
        filters: Vec::new(),
    }
}

/// A route of `namespace` to port 80 of the service `a`.
fn bound(kind: RouteKind, namespace: &str, name: &str, rules: Rules) -> Route {
    Route {
        name: Arc::new(RouteName {
            kind,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }),
        parents: vec![Parent {
            service: service_name("a"),
            ports: vec![80],
        }],
        ..route(kind, name, None, rules)
    }
}

fn split_http(backends: Vec<Backend>) -> Rules {
    Rules::Http(vec![Rule {
        backends,
        ..rule(vec![all()])
    }])
}

fn needed(routes: Vec<Route>, traffic: &[(PortId, Traffic)]) -> BTreeMap<PortId, PortNeeds> {
    let routes: Routes = routes
        .into_iter()
        .map(|it| (it.name.clone(), Arc::new(it)))
        .collect();
    let traffic = traffic
        .iter()
        .map(|(id, it)| (id.clone(), Arc::new(it.clone())))
        .collect();
    needs(&Input {
        generation: 1,
        services: &services(&["a", "b", "c"]),
        routes: &routes,
        traffic: &traffic,
        tls: &BTreeMap::new(),
    })
}

#[test]
fn backends_and_weights_alone_take_the_kernel() {
    for (kind, rules) in [
        (
            RouteKind::Http,
            split_http(vec![to("b", 1), to("c", 3), to("b", 1), to("a", 0)]),
        ),
        (RouteKind::Tcp, Rules::Opaque(vec![to("b", 2), to("c", 3)])),
    ] {
        let all = needed(vec![bound(kind, "shop", "r", rules)], &[]);
        let expected = Split {
            backends: vec![(id("b", 80), 2), (id("c", 80), 3)],
            refused: 0,
        };
        assert_eq!(all[&id("a", 80)].clients, Needs::Kernel(expected.clone()));
        assert_eq!(all[&id("a", 80)].split(), Some(&expected));
        assert_eq!(all.len(), 1);
    }
    let invalid = Backend {
        to: BackendTarget::Invalid(BadRef::BackendNotFound, "gone".to_owned()),
        ..to("b", 1)
    };
    let rules = Rules::Opaque(vec![to("b", 2), invalid.clone()]);
    let all = needed(vec![bound(RouteKind::Tcp, "shop", "r", rules)], &[]);
    let split = all[&id("a", 80)].split().unwrap();
    assert_eq!((split.backends.len(), split.refused), (1, 1));
    let all = needed(
        vec![bound(
            RouteKind::Http,
            "shop",
            "r",
            split_http(vec![to("b", 1), invalid]),
        )],
        &[],
    );
    assert!(
        matches!(&all[&id("a", 80)].clients, Needs::Agent(why) if why[0].contains("not valid"))
    );
}

type Change = &'static dyn Fn(&mut Rule<HttpMatch>);

fn edits() -> Filter {
    Filter::RequestHeaders(HeaderEdit::default())
}

/// What each change of a rule takes the agent for.
const CHANGES: [(Change, &str); 7] = [
    (
        &|it| it.matches[0].path = PathMatch::Prefix("/x".to_owned()),
        "path",
    ),
    (&|it| it.matches[0].method = Some(Method::GET), "method"),
    (&|it| it.filters.push(edits()), "filters"),
    (&|it| it.backends[0].filters.push(edits()), "filters"),
    (
        &|it| it.request_timeout = Some(Duration::from_secs(1)),
        "time-outs",
    ),
    (&|it| it.backends.clear(), "no backend"),
    (&|it| it.matches.push(all()), "more than one match"),
];

fn why(change: Change, traffic: &[(PortId, Traffic)]) -> String {
    let mut rule = Rule {
        backends: vec![to("b", 1)],
        ..rule(vec![all()])
    };
    change(&mut rule);
    let route = bound(RouteKind::Http, "shop", "r", Rules::Http(vec![rule]));
    match &needed(vec![route], traffic)[&id("a", 80)].clients {
        Needs::Agent(why) => why.join("; "),
        Needs::Kernel(split) => panic!("{split:?}"),
    }
}

#[test]
fn whatever_looks_or_acts_takes_the_agent_and_says_why() {
    for (change, word) in CHANGES {
        let why = why(change, &[]);
        assert!(
            why.contains(word) && why.contains("HTTPRoute shop/r"),
            "{why}"
        );
    }
    let metrics = Traffic {
        from: vec!["TrafficPolicy shop/m".to_owned()],
        request_metrics: true,
        ..Traffic::default()
    };
    let of_backend = why(&|_| {}, &[(id("b", 80), metrics.clone())]);
    assert_eq!(
        of_backend,
        "request metrics of backend shop/b:80 (TrafficPolicy shop/m)"
    );
    let route = bound(RouteKind::Http, "shop", "r", split_http(vec![to("b", 1)]));
    let counted = &needed(vec![route], &[(id("a", 80), metrics.clone())])[&id("a", 80)];
    let backends = counted.split().map(|split| split.backends.clone());
    assert_eq!(
        backends,
        Some(vec![(id("b", 80), 1)]),
        "for when the agent is away"
    );
    let own = needed(Vec::new(), &[(id("a", 80), metrics)]);
    let expected = Needs::Agent(vec!["request metrics (TrafficPolicy shop/m)".to_owned()]);
    assert_eq!(own[&id("a", 80)].clients, expected);
    assert_eq!(own[&id("a", 80)].away, WhenAway::Continue);
}

#[test]
fn consumer_routes_concern_their_own_clients_only() {
    let own = bound(RouteKind::Http, "mine", "r", split_http(vec![to("b", 1)]));
    let all = needed(vec![own.clone()], &[]);
    let needs = &all[&id("a", 80)];
    assert_eq!(needs.split(), None);
    assert!(matches!(needs.of("other"), Needs::Kernel(split) if split.is_own(&id("a", 80))));
    assert!(matches!(needs.of("mine"), Needs::Agent(_)));
    let same = bound(RouteKind::Http, "shop", "r", split_http(vec![to("b", 7)]));
    let all = needed(
        vec![
            own,
            bound(RouteKind::Http, "shop", "r", split_http(vec![to("b", 1)])),
        ],
        &[],
    );
    assert!(matches!(all[&id("a", 80)].of("mine"), Needs::Kernel(_)));
    assert!(matches!(
        needed(vec![same], &[])[&id("a", 80)].of("mine"),
        Needs::Kernel(_)
    ));
}

#[test]
fn only_what_changed_is_compiled_again() {
    let producer = Arc::new(bound(
        RouteKind::Http,
        "shop",
        "p",
        split_http(vec![to("b", 1)]),
    ));
    let consumer = Arc::new(bound(
        RouteKind::Http,
        "mine",
        "c",
        split_http(vec![to("c", 1)]),
    ));
    let mut routes = Routes::new();
    for route in [&producer, &consumer] {
        routes.insert(route.name.clone(), route.clone());
    }
    let services = services(&["a", "b", "c"]);
    let empty = BTreeMap::new();
    let tls = BTreeMap::new();
    let compile = |generation, routes: &Routes, before: &Tables| {
        let input = Input {
            generation,
            services: &services,
            routes,
            traffic: &empty,
            tls: &tls,
        };
        Tables::compile(&input, before)
    };
    let first = compile(1, &routes, &Tables::default());
    let port = first.port(&id("a", 80)).unwrap();
    let backend = |table: &Table| {
        table.rules()[0].backends.all()[0]
            .to
            .clone()
            .unwrap()
            .service
            .name
            .clone()
    };
    assert_eq!(backend(port.table("mine").unwrap()), "c");
    assert_eq!(backend(port.table("shop").unwrap()), "b");
    assert!(first.port(&id("a", 81)).is_none());
    let second = compile(2, &routes, &first);
    assert!(Arc::ptr_eq(port, second.port(&id("a", 80)).unwrap()));
    let changed = Arc::new(bound(
        RouteKind::Http,
        "mine",
        "c",
        split_http(vec![to("b", 1)]),
    ));
    routes.insert(changed.name.clone(), changed);
    let third = compile(3, &routes, &second);
    let now = third.port(&id("a", 80)).unwrap();
    let table = |routed: &Option<Routed>| match routed {
        Some(Routed::Http(table)) => table.clone(),
        other => panic!("{other:?}"),
    };
    assert!(Arc::ptr_eq(&table(&port.producer), &table(&now.producer)));
    assert_eq!(backend(now.table("mine").unwrap()), "b");
}

#[test]
fn what_would_not_be_kept_to_fails_while_the_agent_is_away() {
    let with_path = || {
        let mut rule = Rule {
            backends: vec![to("b", 1)],
            ..rule(vec![all()])
        };
        rule.matches[0].path = PathMatch::Prefix("/x".to_owned());
        bound(RouteKind::Http, "shop", "r", Rules::Http(vec![rule]))
    };
    let away =
        |traffic: &[(PortId, Traffic)]| needed(vec![with_path()], traffic)[&id("a", 80)].away;
    assert_eq!(away(&[]), WhenAway::Fail);
    let said = Traffic {
        away: Some(WhenAway::Continue),
        ..Traffic::default()
    };
    assert_eq!(away(&[(id("a", 80), said)]), WhenAway::Continue);
    let none = bound(RouteKind::Tcp, "shop", "r", Rules::Opaque(Vec::new()));
    let none = &needed(vec![none], &[])[&id("a", 80)];
    assert_eq!(none.clients, Needs::Kernel(Split::default()));
    assert_eq!(none.away, WhenAway::Continue);
}
