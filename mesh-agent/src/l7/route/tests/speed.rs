//! What a selection costs at 10,000 routes of one service.
//!
//! `cargo test --release -p mesh-agent --lib route::tests::speed -- --nocapture` prints it for the machine.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use http::{HeaderName, Method};

use super::{route, rule, view};
use crate::l7::message::Fields;
use crate::l7::route::Table;
use crate::model::route::{
    GrpcMatch, GrpcMethodMatch, HeaderMatch, HttpMatch, PathMatch, QueryMatch, Route, RouteKind,
    Rules, ValueMatch,
};

const ROUTES: usize = 10_000;
const SELECTIONS: usize = 20_000;

/// An unoptimized build on a machine with other work is that much slower, and a search through all routes slower by far.
const BOUND_NS: u128 = if cfg!(debug_assertions) {
    60_000
} else {
    1_000
};

fn http(make: impl Fn(usize) -> HttpMatch) -> Table {
    let one = |at| {
        let rules = Rules::Http(vec![rule(vec![make(at)])]);
        Arc::new(route(RouteKind::Http, &format!("r{at}"), None, rules))
    };
    Table::new((0..ROUTES).map(one).collect::<Vec<Arc<Route>>>())
}

fn plain(path: PathMatch) -> HttpMatch {
    HttpMatch {
        path,
        method: None,
        headers: Vec::new(),
        query: Vec::new(),
    }
}

fn root() -> PathMatch {
    PathMatch::Prefix(String::new())
}

/// Returns the least mean time of a selection among some rounds; what is selected is checked.
fn measure(name: &str, table: &Table, path: impl Fn(usize) -> String, query: bool) {
    let requests: Vec<(usize, String, Option<String>, Fields)> = (0..64)
        .map(|at| {
            let number = at * 151 % ROUTES;
            let tenant = format!("t{number}");
            let fields = [
                ("accept", "*/*"),
                ("user-agent", "test/1.0"),
                ("content-type", "application/json"),
                ("x-request-id", "0123456789abcdef"),
                ("x-tenant", tenant.as_str()),
            ];
            let fields = fields.into_iter().collect();
            let query = query.then(|| format!("page=1&tenant={tenant}"));
            (number, path(number), query, fields)
        })
        .collect();
    let mut best = u128::MAX;
    for _ in 0..20 {
        let begin = Instant::now();
        for at in 0..SELECTIONS / 20 {
            let (_, path, query, fields) = &requests[at % requests.len()];
            let view = view(&Method::GET, path, query.as_deref(), fields);
            black_box(table.select(black_box(&view)));
        }
        best = best.min(begin.elapsed().as_nanos() / (SELECTIONS as u128 / 20));
    }
    println!("{name}: {best} ns");
    for (number, path, query, fields) in &requests {
        let view = view(&Method::GET, path, query.as_deref(), fields);
        let selected = table.select(&view).map(|it| it.rule.route.name.clone());
        assert_eq!(selected, Some(format!("r{number}")), "{name} {path}");
    }
    assert!(best < BOUND_NS, "{name} took {best} ns");
}

#[test]
fn a_selection_among_ten_thousand_routes_takes_less_than_a_microsecond() {
    let header = |at: usize| HeaderMatch {
        name: HeaderName::from_static("x-tenant"),
        value: ValueMatch::Exact(format!("t{at}")),
    };
    let exact = http(|at| plain(PathMatch::Exact(format!("/api/v1/items/{at}"))));
    measure(
        "exact paths",
        &exact,
        |at| format!("/api/v1/items/{at}"),
        false,
    );
    let prefix = http(|at| plain(PathMatch::Prefix(format!("/api/v1/items/{at}"))));
    measure(
        "prefixes",
        &prefix,
        |at| format!("/api/v1/items/{at}/parts/7"),
        false,
    );
    let tenant = http(|at| HttpMatch {
        headers: vec![header(at)],
        ..plain(root())
    });
    measure(
        "one field",
        &tenant,
        |_| "/api/v1/items/1".to_owned(),
        false,
    );
    let query = http(|at| HttpMatch {
        query: vec![QueryMatch {
            name: "tenant".to_owned(),
            value: ValueMatch::Exact(format!("t{at}")),
        }],
        ..plain(root())
    });
    measure("one parameter", &query, |_| "/api".to_owned(), true);
    let calls = (0..ROUTES).map(|at| {
        let call = GrpcMethodMatch {
            service: Some(ValueMatch::Exact(format!("shop.Service{at}"))),
            method: Some(ValueMatch::Exact("Get".to_owned())),
        };
        let of = GrpcMatch {
            method: Some(call),
            headers: Vec::new(),
        };
        let rules = Rules::Grpc(vec![rule(vec![of])]);
        Arc::new(route(RouteKind::Grpc, &format!("r{at}"), None, rules))
    });
    let calls = Table::new(calls.collect());
    measure("gRPC", &calls, |at| format!("/shop.Service{at}/Get"), false);
}
