//! Selection: the index finds what a walk over all matches in their order finds, for any routes and any request.

use std::sync::{Arc, LazyLock};

use http::{HeaderName, Method};
use mesh_agent::l7::message::Fields;
use mesh_agent::l7::route::{RequestView, Table, path};
use mesh_agent::model::route::{
    GrpcMatch, GrpcMethodMatch, HeaderMatch, HttpMatch, PathMatch, Pattern, QueryMatch, Route,
    RouteKind, RouteName, Rule, Rules, ValueMatch,
};

use crate::Target;
use crate::draw::Draw;

/// Choices that routes and a request are made by.
pub const TARGET: Target = Target {
    name: "routes",
    run,
    words: &[],
    longest: 1024,
};

const ELEMENTS: [&str; 6] = ["a", "b", "ab", "", "%2F", "c.d"];
const NAMES: [&str; 3] = ["x-a", "x-b", "host"];
const VALUES: [&str; 4] = ["1", "2", "", "1,2"];
const PATTERNS: [&str; 5] = ["/a.*", ".*", "/(a|b)/?", "[0-9]", "/a/[^/]+/b"];
const METHODS: [Method; 3] = [Method::GET, Method::POST, Method::DELETE];

fn run(data: &[u8]) {
    let mut draw = Draw::new(data);
    let grpc = draw.one_in(3);
    let routes = (0..draw.below(6)).map(|number| Arc::new(route(&mut draw, grpc, number)));
    let table = Table::new(routes.collect());
    for _ in 0..8 {
        request(&mut draw, |view| compare(&table, view));
    }
}

fn compare(table: &Table, view: &RequestView<'_>) {
    let tried = table.explain(view);
    let walked = tried.last().filter(|last| last.misfit.is_none());
    let found = table.select(view);
    let of_walk = walked.map(|tried| Arc::as_ptr(tried.rule));
    let of_index = found.map(|selected| Arc::as_ptr(selected.rule));
    assert_eq!(of_walk, of_index, "{view:?} among {tried:?}");
    if let Some(taken) = found.and_then(|selected| selected.prefix) {
        let (head, rest) = view.path.split_at(taken);
        assert!(
            rest.is_empty() || rest.starts_with('/'),
            "half an element: {head} of {view:?}"
        );
    }
}

fn route(draw: &mut Draw<'_>, grpc: bool, number: usize) -> Route {
    let kind = if grpc {
        RouteKind::Grpc
    } else {
        RouteKind::Http
    };
    let count = 1 + draw.below(3);
    let rules = match grpc {
        true => Rules::Grpc(
            (0..count)
                .map(|index| rule(draw, index, grpc_match))
                .collect(),
        ),
        false => Rules::Http(
            (0..count)
                .map(|index| rule(draw, index, http_match))
                .collect(),
        ),
    };
    Route {
        name: Arc::new(RouteName {
            kind,
            namespace: "n".to_owned(),
            name: format!("r{number}"),
        }),
        created: Some(i64::from(draw.byte() % 3)).filter(|age| *age > 0),
        parents: Vec::new(),
        rules,
        origin: String::new(),
    }
}

fn rule<M>(draw: &mut Draw<'_>, index: usize, one: impl Fn(&mut Draw<'_>) -> M) -> Rule<M> {
    let count = 1 + draw.below(3);
    Rule {
        index,
        name: None,
        matches: (0..count).map(|_| one(draw)).collect(),
        filters: Vec::new(),
        backends: Vec::new(),
        request_timeout: None,
        backend_timeout: None,
        retry: None,
        session: None,
    }
}

fn http_match(draw: &mut Draw<'_>) -> HttpMatch {
    let text = elements(draw);
    let path = match draw.below(3) {
        0 => PathMatch::Exact(if text.is_empty() {
            "/".to_owned()
        } else {
            text
        }),
        1 => PathMatch::Prefix(text.trim_end_matches('/').to_owned()),
        _ => PathMatch::Regex(pattern(draw)),
    };
    HttpMatch {
        path,
        method: draw.one_in(3).then(|| draw.of(&METHODS).clone()),
        headers: headers(draw),
        query: match draw.below(3) {
            2 => vec![QueryMatch {
                name: draw.text(&NAMES).to_owned(),
                value: value(draw),
            }],
            _ => Vec::new(),
        },
    }
}

fn grpc_match(draw: &mut Draw<'_>) -> GrpcMatch {
    let part = |draw: &mut Draw<'_>| match draw.below(3) {
        0 => None,
        1 => Some(ValueMatch::Exact(draw.text(&ELEMENTS[..3]).to_owned())),
        _ => Some(ValueMatch::Regex(pattern(draw))),
    };
    let (service, method) = (part(draw), part(draw));
    let some = service.is_some() || method.is_some();
    GrpcMatch {
        method: some.then_some(GrpcMethodMatch { service, method }),
        headers: headers(draw),
    }
}

fn headers(draw: &mut Draw<'_>) -> Vec<HeaderMatch> {
    let count = draw.below(3);
    let names = NAMES[..count].iter().map(|name| HeaderMatch {
        name: HeaderName::from_static(name),
        value: value(draw),
    });
    names.collect()
}

fn value(draw: &mut Draw<'_>) -> ValueMatch {
    match draw.one_in(4) {
        true => ValueMatch::Regex(pattern(draw)),
        false => ValueMatch::Exact(draw.text(&VALUES).to_owned()),
    }
}

fn pattern(draw: &mut Draw<'_>) -> Pattern {
    static COMPILED: LazyLock<Vec<Pattern>> = LazyLock::new(|| {
        let compiled = PATTERNS.map(Pattern::new).into_iter().collect();
        Result::unwrap_or_else(compiled, |why| panic!("{why}"))
    });
    draw.of(&COMPILED).clone()
}

fn elements(draw: &mut Draw<'_>) -> String {
    let mut text = String::new();
    for _ in 0..draw.below(4) {
        text.push('/');
        text.push_str(draw.text(&ELEMENTS));
    }
    text
}

fn request(draw: &mut Draw<'_>, then: impl FnOnce(&RequestView<'_>)) {
    let mut fields = Fields::default();
    for _ in 0..draw.below(4) {
        fields.append(draw.text(&NAMES[..2]), draw.text(&VALUES).as_bytes());
    }
    if draw.one_in(2) {
        fields.append("content-type", b"application/grpc");
    }
    let mut query = String::new();
    for _ in 0..draw.below(3) {
        let (name, value) = (draw.text(&NAMES), draw.text(&VALUES));
        query += &format!("{name}={value}&");
    }
    let text = format!("/{}", elements(draw).trim_start_matches('/'));
    let canonical = path::canonical(&text).expect("all elements are good ones");
    then(&RequestView {
        method: draw.of(&METHODS),
        authority: draw.text(&VALUES),
        path: &canonical,
        query: Some(query.as_str()).filter(|query| !query.is_empty()),
        fields: &fields,
    });
}
