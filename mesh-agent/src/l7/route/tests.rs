//! Tables against a model that tries every match of every route, and the cost of a selection.

mod speed;

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use http::{HeaderName, Method};
use proptest::prelude::*;

use crate::l7::message::Fields;
use crate::l7::route::kernel::{Needs, needs};
use crate::l7::route::{Input, RequestView, Routed, Table, Tables};
use crate::model::balanced::{PortId, Split};
use crate::model::route::{
    Backend, BackendTarget, BadRef, Filter, GrpcMatch, GrpcMethodMatch, HeaderEdit, HeaderMatch,
    HttpMatch, Parent, PathMatch, Pattern, QueryMatch, Route, RouteKind, RouteName, Routes, Rule,
    Rules, ValueMatch,
};
use crate::model::service::{
    Balance, Distribution, Port, Protocol, Service, ServiceKind, ServiceName, Services,
};
use crate::model::traffic::Traffic;

pub(super) fn rule<M>(matches: Vec<M>) -> Rule<M> {
    Rule {
        name: None,
        matches,
        filters: Vec::new(),
        backends: Vec::new(),
        request_timeout: None,
        backend_timeout: None,
        retry: None,
        session: None,
    }
}

pub(super) fn route(kind: RouteKind, name: &str, created: Option<i64>, rules: Rules) -> Route {
    Route {
        name: Arc::new(RouteName {
            kind,
            namespace: "shop".to_owned(),
            name: name.to_owned(),
        }),
        created,
        parents: Vec::new(),
        rules,
        origin: String::new(),
    }
}

pub(super) fn view<'r>(
    method: &'r Method,
    path: &'r str,
    query: Option<&'r str>,
    fields: &'r Fields,
) -> RequestView<'r> {
    RequestView {
        method,
        authority: "cart",
        path,
        query,
        fields,
    }
}

fn value() -> impl Strategy<Value = ValueMatch> {
    prop_oneof![
        4 => "[ab]".prop_map(ValueMatch::Exact),
        1 => prop_oneof![Just("[ab]"), Just("a|x"), Just("b*")]
            .prop_map(|it| ValueMatch::Regex(Pattern::new(it).unwrap())),
    ]
}

fn path() -> impl Strategy<Value = PathMatch> {
    let regex = prop_oneof![
        Just("/a/.*"),
        Just("/[ab](/.*)?"),
        Just(".*b"),
        Just("/a|/b/a"),
        Just("/a/b/?a?"),
        Just("/b/a+")
    ];
    prop_oneof![
        3 => "(/[ab]){1,3}/?".prop_map(PathMatch::Exact),
        3 => "(/[ab]){0,3}".prop_map(PathMatch::Prefix),
        1 => regex.prop_map(|it| PathMatch::Regex(Pattern::new(it).unwrap())),
    ]
}

fn headers() -> impl Strategy<Value = Vec<HeaderMatch>> {
    let name = prop_oneof![Just("x-a"), Just("x-b"), Just("host")];
    let all = prop::collection::btree_map(name, value(), 0..3);
    all.prop_map(|all| {
        let one = |(name, value)| HeaderMatch {
            name: HeaderName::from_static(name),
            value,
        };
        all.into_iter().map(one).collect()
    })
}

fn http_match() -> impl Strategy<Value = HttpMatch> {
    let method =
        prop_oneof![2 => Just(None), 1 => Just(Some(Method::GET)), 1 => Just(Some(Method::PUT))];
    let query = prop::collection::btree_map("[pq]", value(), 0..2);
    (path(), method, headers(), query).prop_map(|(path, method, headers, query)| HttpMatch {
        path,
        method,
        headers,
        query: query
            .into_iter()
            .map(|(name, value)| QueryMatch { name, value })
            .collect(),
    })
}

fn grpc_match() -> impl Strategy<Value = GrpcMatch> {
    let name = || {
        prop_oneof![
            1 => Just(None),
            3 => "[ab]{1,2}".prop_map(|it| Some(ValueMatch::Exact(it))),
            1 => Just(Some(ValueMatch::Regex(Pattern::new("a.?").unwrap()))),
        ]
    };
    (name(), name(), headers()).prop_map(|(service, method, headers)| GrpcMatch {
        method: (service.is_some() || method.is_some())
            .then_some(GrpcMethodMatch { service, method }),
        headers,
    })
}

/// Routes with some ages, rules and matches.
fn routes<M: std::fmt::Debug + Clone>(
    kind: RouteKind,
    matches: impl Strategy<Value = M>,
    most: usize,
    rules: fn(Vec<Rule<M>>) -> Rules,
) -> impl Strategy<Value = Vec<Arc<Route>>> {
    let one = prop::collection::vec(prop::collection::vec(matches, 1..4), 1..4);
    let age = prop_oneof![Just(None), (0i64..3).prop_map(Some)];
    prop::collection::vec((age, one), 1..most).prop_map(move |all| {
        let route = |(at, (created, of_rules)): (usize, (Option<i64>, Vec<Vec<M>>))| {
            let of_rules = of_rules.into_iter().map(rule).collect();
            Arc::new(route(kind, &format!("r{at}"), created, rules(of_rules)))
        };
        all.into_iter().enumerate().map(route).collect()
    })
}

fn fits_value(wanted: &ValueMatch, given: Option<&str>) -> bool {
    given.is_some_and(|given| match wanted {
        ValueMatch::Exact(wanted) => wanted == given,
        ValueMatch::Regex(pattern) => pattern.is_match(given),
    })
}

fn fits_headers(wanted: &[HeaderMatch], request: &RequestView<'_>) -> bool {
    wanted.iter().all(|it| {
        let lines: Vec<String> = match it.name.as_str() {
            "host" => vec![request.authority.to_owned()],
            name => request
                .fields
                .get_all(name)
                .map(|value| String::from_utf8_lossy(value).into_owned())
                .collect(),
        };
        let joined = (!lines.is_empty()).then(|| lines.join(","));
        fits_value(&it.value, joined.as_deref())
    })
}

fn fits_http(of: &HttpMatch, request: &RequestView<'_>) -> bool {
    let elements = |path: &str| {
        path.split('/')
            .skip(1)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let path = match &of.path {
        PathMatch::Exact(path) => path == request.path,
        PathMatch::Prefix(prefix) => elements(request.path).starts_with(&elements(prefix)),
        PathMatch::Regex(pattern) => pattern.is_match(request.path),
    };
    let query = of.query.iter().all(|it| {
        let mut pairs = request.query.unwrap_or_default().split('&');
        let given = pairs.find_map(|pair| pair.strip_prefix(&format!("{}=", it.name)));
        fits_value(&it.value, given)
    });
    path && query
        && of.method.as_ref().is_none_or(|it| it == request.method)
        && fits_headers(&of.headers, request)
}

fn fits_grpc(of: &GrpcMatch, request: &RequestView<'_>) -> bool {
    let parts: Vec<&str> = request.path.split('/').collect();
    let call = match (&of.method, parts.as_slice()) {
        (None, _) => true,
        (Some(call), ["", service, method]) => {
            call.service
                .as_ref()
                .is_none_or(|it| fits_value(it, Some(service)))
                && call
                    .method
                    .as_ref()
                    .is_none_or(|it| fits_value(it, Some(method)))
        }
        (Some(_), _) => false,
    };
    call && fits_headers(&of.headers, request)
}

fn length(value: Option<&ValueMatch>) -> (usize, u8) {
    match value {
        None => (0, 0),
        Some(ValueMatch::Regex(pattern)) => (pattern.as_str().len(), 1),
        Some(ValueMatch::Exact(text)) => (text.len(), 2),
    }
}

/// What orders matches, in Gateway API's own words one after the other; the greatest wins.
type Order = (
    bool,
    (usize, usize),
    (u8, u8),
    bool,
    usize,
    usize,
    Reverse<i64>,
    Reverse<String>,
    Reverse<usize>,
);

/// Returns route and rule by trying everything.
fn model(routes: &[Arc<Route>], request: &RequestView<'_>) -> Option<(String, usize)> {
    let mut best: Option<(Order, (String, usize))> = None;
    for route in routes {
        let created = Reverse(route.created.unwrap_or(i64::MAX));
        let name = route.name.name.clone();
        let mut note = |order: Order, rule: usize| {
            if best.as_ref().is_none_or(|(has, _)| order > *has) {
                best = Some((order, (name.clone(), rule)));
            }
        };
        match &route.rules {
            Rules::Http(rules) => {
                for (index, rule) in rules.iter().enumerate() {
                    for of in rule.matches.iter().filter(|of| fits_http(of, request)) {
                        let (exact, length, sort) = match &of.path {
                            PathMatch::Exact(path) => (true, path.len(), 2),
                            PathMatch::Regex(pattern) => (false, pattern.as_str().len(), 1),
                            PathMatch::Prefix(path) => (false, path.len(), 0),
                        };
                        let (headers, query) = (of.headers.len(), of.query.len());
                        let order = (
                            exact,
                            (length, 0),
                            (sort, 0),
                            of.method.is_some(),
                            headers,
                            query,
                        );
                        let (a, b, c, d, e, f) = order;
                        note(
                            (
                                a,
                                b,
                                c,
                                d,
                                e,
                                f,
                                created,
                                Reverse(name.clone()),
                                Reverse(index),
                            ),
                            index,
                        );
                    }
                }
            }
            Rules::Grpc(rules) => {
                for (index, rule) in rules.iter().enumerate() {
                    for of in rule.matches.iter().filter(|of| fits_grpc(of, request)) {
                        let call = of.method.as_ref();
                        let service = length(call.and_then(|it| it.service.as_ref()));
                        let method = length(call.and_then(|it| it.method.as_ref()));
                        let lengths = (service.0, method.0);
                        let sorts = (service.1, method.1);
                        let headers = of.headers.len();
                        note(
                            (
                                false,
                                lengths,
                                sorts,
                                false,
                                headers,
                                0,
                                created,
                                Reverse(name.clone()),
                                Reverse(index),
                            ),
                            index,
                        );
                    }
                }
            }
            Rules::Tls(..) | Rules::Opaque(_) => {}
        }
    }
    best.map(|(_, found)| found)
}

fn check(routes: &[Arc<Route>], requests: &[Request]) -> Result<(), TestCaseError> {
    let table = Table::new(routes.to_vec());
    for (method, path, query, fields) in requests {
        let lines = fields
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        let fields: Fields = lines.collect();
        let view = view(method, path, query.as_deref(), &fields);
        let selected = table.select(&view);
        let found = selected.map(|it| (it.rule.route.name.clone(), it.rule.index));
        prop_assert_eq!(&found, &model(routes, &view), "{} {:?}", path, query);
        let last = table.explain(&view).pop().filter(|it| it.misfit.is_none());
        let explained = last.map(|it| (it.rule.route.name.clone(), it.rule.index));
        prop_assert_eq!(explained, found);
    }
    Ok(())
}

type Request = (Method, String, Option<String>, Vec<(String, String)>);

fn request(path: &'static str) -> impl Strategy<Value = Request> {
    let method = prop_oneof![Just(Method::GET), Just(Method::PUT), Just(Method::POST)];
    let fields = prop::collection::vec(("[xX]-[ab]", "[abx]"), 0..3);
    (method, path, prop::option::of("([pq]=[abx]&){0,2}"), fields)
}

proptest! {
    #[test]
    fn http_is_selected_as_by_trying_everything(
        routes in routes(RouteKind::Http, http_match(), 12, Rules::Http),
        requests in prop::collection::vec(request("(/[ab]){1,4}/?|/"), 1..12),
    ) {
        check(&routes, &requests)?;
    }

    #[test]
    fn grpc_is_selected_as_by_trying_everything(
        routes in routes(RouteKind::Grpc, grpc_match(), 12, Rules::Grpc),
        requests in prop::collection::vec(request("/[ab]{1,2}/[ab]{1,2}(/a)?|/"), 1..12),
    ) {
        check(&routes, &requests)?;
    }
}

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
            balance: Balance::default(),
            portless: Vec::new(),
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

fn needed(
    routes: Vec<Route>,
    traffic: &[(PortId, Traffic)],
) -> BTreeMap<PortId, super::kernel::PortNeeds> {
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
        assert_eq!(all[&id("a", 80)].split(&id("a", 80)), Some(&expected));
        assert_eq!(all.len(), 1);
    }
    let invalid = Backend {
        to: BackendTarget::Invalid(BadRef::BackendNotFound, "gone".to_owned()),
        ..to("b", 1)
    };
    let rules = Rules::Opaque(vec![to("b", 2), invalid.clone()]);
    let all = needed(vec![bound(RouteKind::Tcp, "shop", "r", rules)], &[]);
    let split = all[&id("a", 80)].split(&id("a", 80)).unwrap();
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

#[test]
fn whatever_looks_or_acts_takes_the_agent_and_says_why() {
    let with = |change: &dyn Fn(&mut Rule<HttpMatch>)| {
        let mut rule = Rule {
            backends: vec![to("b", 1)],
            ..rule(vec![all()])
        };
        change(&mut rule);
        bound(RouteKind::Http, "shop", "r", Rules::Http(vec![rule]))
    };
    let why = |route: Route, traffic: &[(PortId, Traffic)]| match &needed(vec![route], traffic)
        [&id("a", 80)]
        .clients
    {
        Needs::Agent(why) => why.join("; "),
        Needs::Kernel(split) => panic!("{split:?}"),
    };
    for (change, word) in [
        (
            &|it: &mut Rule<HttpMatch>| it.matches[0].path = PathMatch::Prefix("/x".to_owned()),
            "path",
        ),
        (
            &|it: &mut Rule<HttpMatch>| it.matches[0].method = Some(Method::GET),
            "method",
        ),
        (
            &|it: &mut Rule<HttpMatch>| {
                it.filters
                    .push(Filter::RequestHeaders(HeaderEdit::default()))
            },
            "filters",
        ),
        (
            &|it: &mut Rule<HttpMatch>| {
                it.backends[0]
                    .filters
                    .push(Filter::RequestHeaders(HeaderEdit::default()))
            },
            "filters",
        ),
        (
            &|it: &mut Rule<HttpMatch>| {
                it.request_timeout = Some(std::time::Duration::from_secs(1))
            },
            "time-outs",
        ),
        (
            &|it: &mut Rule<HttpMatch>| it.backends.clear(),
            "no backend",
        ),
        (
            &|it: &mut Rule<HttpMatch>| it.matches.push(all()),
            "more than one match",
        ),
    ] as [(&dyn Fn(&mut Rule<HttpMatch>), &str); 7]
    {
        let why = why(with(change), &[]);
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
    let of_backend = why(with(&|_| {}), &[(id("b", 80), metrics.clone())]);
    assert_eq!(
        of_backend,
        "request metrics of backend shop/b:80 (TrafficPolicy shop/m)"
    );
    let own = needed(Vec::new(), &[(id("a", 80), metrics)]);
    assert_eq!(
        own[&id("a", 80)].clients,
        Needs::Agent(vec!["request metrics (TrafficPolicy shop/m)".to_owned()])
    );
}

#[test]
fn consumer_routes_concern_their_own_clients_only() {
    let own = bound(RouteKind::Http, "mine", "r", split_http(vec![to("b", 1)]));
    let all = needed(vec![own.clone()], &[]);
    let needs = &all[&id("a", 80)];
    assert_eq!(needs.split(&id("a", 80)), None);
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
