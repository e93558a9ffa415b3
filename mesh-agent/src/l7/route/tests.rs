//! Tables against a model that tries every match of every route, and the cost of a selection.

mod needs;
mod speed;

use std::cmp::Reverse;
use std::sync::Arc;

use http::{HeaderName, Method};
use proptest::prelude::*;

use crate::l7::message::Fields;
use crate::l7::route::{RequestView, Table};
use crate::model::route::{
    GrpcMatch, GrpcMethodMatch, HeaderMatch, HttpMatch, PathMatch, Pattern, QueryMatch, Route,
    RouteKind, RouteName, Rule, Rules, ValueMatch,
};

pub(super) fn rule<M>(matches: Vec<M>) -> Rule<M> {
    Rule {
        index: 0,
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
            let rules_of = of_rules.into_iter().enumerate();
            let of_rules = rules_of.map(|(index, matches)| Rule {
                index,
                ..rule(matches)
            });
            let of_rules = of_rules.collect();
            let mut route = route(kind, &format!("r{at}"), created, rules(of_rules));
            // Namespaces whose order is not that of the names.
            let name = Arc::make_mut(&mut route.name);
            name.namespace = ["shop", "mine", "zoo"][at % 3].to_owned();
            Arc::new(route)
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

/// The escapes that requests have here, and what they mean.
const ESCAPES: [(&str, &str); 3] = [("%61", "a"), ("%62", "b"), ("%70", "p")];

fn decoded(text: String, (escape, letter): &(&str, &str)) -> String {
    text.replace(escape, letter)
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
        let pairs = request.query.unwrap_or_default().split('&');
        let mut pairs = pairs.map(|pair| ESCAPES.iter().fold(pair.to_owned(), decoded));
        let given = pairs.find_map(|pair| {
            let value = pair.strip_prefix(&format!("{}=", it.name))?;
            Some(value.to_owned())
        });
        fits_value(&it.value, given.as_deref())
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

/// What an order is of, beside the match.
type Of = (Reverse<i64>, Reverse<String>, Reverse<usize>);

fn http_order(of: &HttpMatch, (created, name, index): Of) -> Order {
    let (exact, length, sort) = match &of.path {
        PathMatch::Exact(path) => (true, path.len(), 2),
        PathMatch::Regex(pattern) => (false, pattern.as_str().len(), 1),
        PathMatch::Prefix(path) => (false, path.len(), 0),
    };
    let (headers, query) = (of.headers.len(), of.query.len());
    let method = of.method.is_some();
    (
        exact,
        (length, 0),
        (sort, 0),
        method,
        headers,
        query,
        created,
        name,
        index,
    )
}

fn grpc_order(of: &GrpcMatch, (created, name, index): Of) -> Order {
    let call = of.method.as_ref();
    let service = length(call.and_then(|it| it.service.as_ref()));
    let method = length(call.and_then(|it| it.method.as_ref()));
    let (lengths, sorts) = ((service.0, method.0), (service.1, method.1));
    let headers = of.headers.len();
    (
        false, lengths, sorts, false, headers, 0, created, name, index,
    )
}

/// Route, as `namespace/name`, and rule.
type Found = (String, usize);

fn called(name: &RouteName) -> String {
    format!("{}/{}", name.namespace, name.name)
}

/// Returns route and rule by trying everything.
fn model(routes: &[Arc<Route>], request: &RequestView<'_>) -> Option<Found> {
    let mut orders: Vec<(Order, Found)> = Vec::new();
    for route in routes {
        let name = called(&route.name);
        let created = route.created.unwrap_or(i64::MAX);
        let of = |index| (Reverse(created), Reverse(name.clone()), Reverse(index));
        let mut note = |order, index| orders.push((order, (name.clone(), index)));
        match &route.rules {
            Rules::Http(rules) => {
                for (index, rule) in rules.iter().enumerate() {
                    let fitting = rule.matches.iter().filter(|of| fits_http(of, request));
                    fitting.for_each(|it| note(http_order(it, of(index)), index));
                }
            }
            Rules::Grpc(rules) => {
                for (index, rule) in rules.iter().enumerate() {
                    let fitting = rule.matches.iter().filter(|of| fits_grpc(of, request));
                    fitting.for_each(|it| note(grpc_order(it, of(index)), index));
                }
            }
            Rules::Tls(..) | Rules::Opaque(_) => {}
        }
    }
    orders.into_iter().max().map(|(_, found)| found)
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
        let found = selected.map(|it| (called(&it.rule.route), it.rule.index));
        prop_assert_eq!(&found, &model(routes, &view), "{} {:?}", path, query);
        let last = table.explain(&view).pop().filter(|it| it.misfit.is_none());
        let explained = last.map(|it| (called(&it.rule.route), it.rule.index));
        prop_assert_eq!(explained, found);
    }
    Ok(())
}

type Request = (Method, String, Option<String>, Vec<(String, String)>);

fn request(path: &'static str) -> impl Strategy<Value = Request> {
    let method = prop_oneof![Just(Method::GET), Just(Method::PUT), Just(Method::POST)];
    let fields = prop::collection::vec(("[xX]-[ab]", "[abx]"), 0..3);
    (
        method,
        path,
        prop::option::of("(([pq]|%70)=([abx]|%61|%62)&){0,2}"),
        fields,
    )
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

/// Matches on many names of fields and parameters, at one path: more than are looked up one by one.
fn by_many_names() -> impl Strategy<Value = HttpMatch> {
    let exact = || "[ab]".prop_map(ValueMatch::Exact);
    let header = ("x-[a-l]", exact()).prop_map(|(name, value)| {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        (Some(HeaderMatch { name, value }), None)
    });
    let query =
        ("[a-h]", exact()).prop_map(|(name, value)| (None, Some(QueryMatch { name, value })));
    prop_oneof![header, query].prop_map(|(header, query)| HttpMatch {
        path: PathMatch::Prefix(String::new()),
        method: None,
        headers: header.into_iter().collect(),
        query: query.into_iter().collect(),
    })
}

proptest! {
    #[test]
    fn many_names_are_selected_by_as_by_trying_everything(
        routes in routes(RouteKind::Http, by_many_names(), 24, Rules::Http),
        requests in prop::collection::vec(
            (
                Just(Method::GET),
                Just("/".to_owned()),
                prop::option::of("([a-h]=([ab]|%61)&){0,4}"),
                prop::collection::vec(("[xX]-[a-lA-L]", "[ab]"), 0..6),
            ),
            1..12,
        ),
    ) {
        check(&routes, &requests)?;
    }
}

#[test]
fn each_of_many_names_leads_to_its_rule() {
    let names: Vec<String> = (0..40).map(|at| format!("x-{at}")).collect();
    let one = |(at, name): (usize, &String)| {
        let of = HttpMatch {
            path: PathMatch::Prefix(String::new()),
            method: None,
            headers: vec![HeaderMatch {
                name: HeaderName::from_bytes(name.as_bytes()).unwrap(),
                value: ValueMatch::Exact("1".to_owned()),
            }],
            query: Vec::new(),
        };
        let rules = Rules::Http(vec![rule(vec![of])]);
        Arc::new(route(RouteKind::Http, &format!("r{at}"), None, rules))
    };
    let table = Table::new(names.iter().enumerate().map(one).collect());
    for (at, name) in names.iter().enumerate() {
        let fields: Fields = [(name.as_str(), "1")].into_iter().collect();
        let selected = table.select(&view(&Method::GET, "/", None, &fields));
        let found = selected.map(|it| it.rule.route.name.clone());
        assert_eq!(found, Some(format!("r{at}")));
    }
}
