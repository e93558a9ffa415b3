//! How routes are told.

use super::*;
use crate::admin::types::ServiceRef;
use crate::admin::types::routes::{CarriedPort, Decision, PassedOver};
use crate::model::service::Protocol;
use crate::model::status::{Condition, ParentReference};

fn status(conditions: &[(&str, &str, &str, &str)]) -> ParentStatus {
    let condition = |(kind, status, reason, message): &(&str, &str, &str, &str)| Condition {
        kind: (*kind).into(),
        status: (*status).into(),
        reason: (*reason).into(),
        message: (*message).into(),
        observed_generation: None,
    };
    ParentStatus {
        parent: ParentReference {
            group: String::new(),
            kind: "Service".into(),
            namespace: "shop".into(),
            name: "cart".into(),
            section_name: None,
            port: Some(80),
        },
        controller_name: "underpass.dev/mesh".into(),
        conditions: conditions.iter().map(condition).collect(),
    }
}

fn agent(why: &str) -> Carrier {
    Carrier {
        by: By::Agent,
        why: vec![why.into()],
    }
}

fn route(name: &str, status: ParentStatus, ports: Vec<CarriedPort>) -> ShownRoute {
    ShownRoute {
        kind: "HTTPRoute".into(),
        namespace: "shop".into(),
        name: name.into(),
        origin: None,
        generation: None,
        parents: vec![ShownParent {
            status,
            consumer: false,
            ports,
        }],
        problems: Vec::new(),
    }
}

#[test]
fn every_route_has_a_line_with_what_stands_against_it() {
    let good = status(&[
        ("Accepted", "True", "Accepted", ""),
        ("ResolvedRefs", "True", "ResolvedRefs", ""),
    ]);
    let bad = status(&[(
        "Accepted",
        "False",
        "Conflicted",
        "port 80, which a GRPCRoute has",
    )]);
    let carried = CarriedPort {
        port: 80,
        carrier: agent("it has filters"),
    };
    let list = RouteList {
        schema: String::new(),
        routes: vec![
            route("web", good, vec![carried]),
            route("old", bad, Vec::new()),
        ],
        policies: Vec::new(),
    };
    let expected = "\
KIND       ROUTE     SERVICE       STANDS      CARRIED BY  WHY
HTTPRoute  shop/web  shop/cart:80  accepted    80: agent   it has filters
HTTPRoute  shop/old  shop/cart:80  Conflicted              port 80, which a GRP…
";
    assert_eq!(render(&list, &Screen::plain()), expected);
    let nothing = RouteList {
        schema: String::new(),
        routes: Vec::new(),
        policies: Vec::new(),
    };
    assert_eq!(render(&nothing, &Screen::plain()), "there are no routes\n");
}

#[test]
fn the_way_to_a_rule_is_told() {
    let answer = RouteExplanation {
        schema: String::new(),
        from: "shop".into(),
        service: ServiceRef {
            namespace: "shop".into(),
            name: "cart".into(),
            port: 80,
        },
        protocol: Protocol::Tcp,
        speaks: "http".into(),
        carrier: agent("it looks at the path"),
        routes_of: Some("producer".into()),
        method: "GET".into(),
        path: "/x".into(),
        decision: Some(Decision {
            route: "HTTPRoute shop/web".into(),
            rule: "api".into(),
            path: "/x/*".into(),
            does: vec!["rewrites host or path".into()],
            backends: vec![
                DecidedBackend {
                    service: None,
                    share: 0.5,
                    invalid: Some("there is no service shop/gone".into()),
                    endpoints: None,
                },
                DecidedBackend {
                    service: Some(ServiceRef {
                        namespace: "shop".into(),
                        name: "idle".into(),
                        port: 80,
                    }),
                    share: 0.5,
                    invalid: None,
                    endpoints: Some(0),
                },
            ],
        }),
        answer: Some("the rule leads to nobody: status 500".into()),
        passed_over: vec![PassedOver {
            route: "HTTPRoute shop/web".into(),
            rule: "0".into(),
            path: "= /x".into(),
            why: "another method".into(),
        }],
        passed_over_more: 2,
    };
    let expected = "\
From      a client in namespace shop
Service   shop/cart:80 (http)
Request   GET /x
Carrier   agent
          it looks at the path
Routes    the producer's
Rule      HTTPRoute shop/web rule api (/x/*)
          rewrites host or path
Backends  50.0 % nobody: there is no service shop/gone
          50.0 % shop/idle:80 (no endpoint)
Answer    the rule leads to nobody: status 500

PASSED OVER         RULE  PATH  WHY
HTTPRoute shop/web  0     = /x  another method
and 2 more
";
    assert_eq!(render_explanation(&answer, &Screen::plain()), expected);
}
