//! What is told of routes, over the real socket.

use std::time::Duration;

use super::balancing::named;
use super::*;
use crate::admin::types::explain::Explanation;
use crate::admin::types::routes::{By, RouteExplanation, RouteList};
use crate::balance::tests::{endpoint, service};
use crate::model::balanced::PortId;
use crate::model::route::{
    Backend, BackendTarget, BadRef, HeaderMatch, HttpMatch, Parent, PathMatch, QueryMatch, Retry,
    Route, RouteKind, RouteName, Routes, Rule, Rules, SessionBy, SessionPersistence, ValueMatch,
};
use crate::model::service::{Protocol, ServiceName};
use crate::model::status::{
    CONTROLLER, Condition, ObjectName, ObjectStatus, ParentReference, ParentStatus,
};
use crate::model::traffic::{
    Fault, FaultStatus, LimitBy, LimitKey, RateLimit, Traffic, TrafficPolicies,
};

fn name(name: &str) -> ServiceName {
    ServiceName {
        namespace: "shop".into(),
        name: name.into(),
    }
}

fn to(service: &str, weight: u32) -> Backend {
    Backend {
        weight,
        to: BackendTarget::Port(PortId {
            service: name(service),
            port: 80,
            protocol: Protocol::Tcp,
        }),
        filters: Vec::new(),
    }
}

fn rule(prefix: &str, backends: Vec<Backend>) -> Rule<HttpMatch> {
    Rule {
        index: 0,
        name: None,
        matches: vec![HttpMatch {
            path: PathMatch::Prefix(prefix.into()),
            method: None,
            headers: Vec::new(),
            query: Vec::new(),
        }],
        filters: Vec::new(),
        backends,
        request_timeout: None,
        backend_timeout: None,
        retry: None,
        session: None,
    }
}

fn route(kind: RouteKind, of: &str, rules: Rules) -> (Route, ObjectStatus) {
    let route = Route {
        name: Arc::new(RouteName {
            kind,
            namespace: "shop".into(),
            name: of.into(),
        }),
        created: None,
        parents: vec![Parent {
            service: name("front"),
            ports: vec![80],
        }],
        rules,
        origin: "routes.yaml: document 1".into(),
    };
    let condition = Condition {
        kind: "Accepted".into(),
        status: "True".into(),
        reason: "Accepted".into(),
        message: String::new(),
        observed_generation: Some(3),
    };
    let parent = ParentReference {
        group: String::new(),
        kind: "Service".into(),
        namespace: "shop".into(),
        name: "front".into(),
        section_name: None,
        port: Some(80),
    };
    let status = ObjectStatus {
        object: ObjectName {
            kind: kind.word().into(),
            namespace: "shop".into(),
            name: of.into(),
        },
        generation: Some(3),
        parents: vec![ParentStatus {
            parent,
            controller_name: CONTROLLER.into(),
            conditions: vec![condition],
        }],
        problems: Vec::new(),
    };
    (route, status)
}

fn serve(kind: RouteKind, rules: Rules) -> Served {
    serve_with(kind, rules, TrafficPolicies::new())
}

fn serve_with(kind: RouteKind, rules: Rules, traffic: TrafficPolicies) -> Served {
    let served = Served::start();
    let mut front = named("front", service(vec![endpoint(9)]));
    if kind == RouteKind::Udp {
        front.ports[0].protocol = Protocol::Udp;
    }
    let mut one = named("one", service(vec![endpoint(2)]));
    let mut two = named("two", service(vec![endpoint(3), endpoint(4)]));
    one.addresses = vec!["10.96.0.2".parse().unwrap()];
    two.addresses = vec!["10.96.0.3".parse().unwrap()];
    let mut late = endpoint(5);
    late.ready = false;
    let mut idle = named("idle", service(vec![late]));
    idle.addresses = vec!["10.96.0.4".parse().unwrap()];
    served.services.balance([front, one, two, idle]);
    let (route, status) = route(kind, "r", rules);
    served.snapshot.store(Arc::new(Snapshot {
        generation: 8,
        routes: Arc::new(Routes::from([(route.name.clone(), Arc::new(route))])),
        statuses: Arc::new([(status.object.clone(), Arc::new(status))].into()),
        traffic: Arc::new(traffic),
        ..Snapshot::default()
    }));
    served
}

#[tokio::test]
async fn weights_alone_are_the_kernels_and_explain_follows_them() {
    let rules = Rules::Http(vec![rule("", vec![to("one", 1), to("two", 3)])]);
    let served = serve(RouteKind::Http, rules);
    let list: RouteList = served.json("/v1/routes").await;
    let parent = &list.routes[0].parents[0];
    assert_eq!(list.routes[0].generation, Some(3));
    assert_eq!(
        (parent.ports[0].port, parent.ports[0].carrier.by),
        (80, By::Kernel)
    );
    let query = "/v1/explain?from=shop/web&to=shop/front&port=80&protocol=TCP";
    let answer: Explanation = served.json(query).await;
    assert_eq!(answer.service.unwrap().carrier.by, By::Kernel);
    let shares: Vec<(String, f64)> = answer
        .destinations
        .iter()
        .map(|it| (it.address.to_string(), it.backend.as_ref().unwrap().share))
        .collect();
    let expected = [("10.0.0.2", 0.25), ("10.0.0.3", 0.375), ("10.0.0.4", 0.375)];
    assert_eq!(
        shares,
        expected.map(|(address, share)| (address.to_owned(), share))
    );
    assert_eq!(
        answer.why,
        [
            "a route gives shop/one:80 1 of 4",
            "a route gives shop/two:80 3 of 4"
        ]
    );
}

#[tokio::test]
async fn a_request_is_followed_to_its_rule_and_past_others() {
    let gone = Backend {
        to: BackendTarget::Invalid(
            BadRef::BackendNotFound,
            "there is no service shop/gone".into(),
        ),
        ..to("one", 1)
    };
    let mut rules = vec![
        rule("/api", vec![to("one", 1), gone.clone()]),
        rule("/bad", vec![gone]),
        rule("/x", vec![to("two", 1)]),
    ];
    for (index, rule) in rules.iter_mut().enumerate() {
        rule.index = index;
    }
    let served = serve(RouteKind::Http, Rules::Http(rules));
    let ask = async |url: &str| -> RouteExplanation {
        let query = format!("/v1/routes/explain?from=shop/web&url={url}");
        served.json(&query).await
    };
    let found = ask("http://front.shop/x/../x/1").await;
    assert_eq!(found.path, "/x/1");
    assert_eq!(found.carrier.by, By::Agent);
    assert_eq!(
        found.carrier.why[0],
        "HTTPRoute shop/r has more than one rule"
    );
    let decision = found.decision.unwrap();
    assert_eq!(
        (decision.route.as_str(), decision.rule.as_str()),
        ("HTTPRoute shop/r", "2")
    );
    let passed: Vec<_> = found
        .passed_over
        .iter()
        .map(|it| (it.rule.as_str(), it.why.as_str()))
        .collect();
    assert_eq!(passed, [("0", "another path"), ("1", "another path")]);
    let half = ask("http://10.96.0.1/api").await;
    let backends = half.decision.unwrap().backends;
    assert_eq!(
        (backends[0].share, backends[1].invalid.is_some()),
        (0.5, true)
    );
    assert_eq!(half.answer, None);
    let bad = ask("http://front/bad").await;
    assert_eq!(
        bad.answer.as_deref(),
        Some("the rule leads to nobody: status 500")
    );
    let none = ask("http://front.shop/other").await;
    assert_eq!(none.answer.as_deref(), Some("no rule fits: status 404"));
    assert_eq!(none.passed_over.len(), 3);
    let grpc = ask("grpc://front.shop:80/pkg.S/M").await;
    assert_eq!(grpc.answer.as_deref(), Some("no rule fits: grpc-status 12"));
    let plain = ask("http://one.shop/any").await;
    assert_eq!((plain.routes_of, plain.decision), (None, None));
    let (status, body) = served
        .get("/v1/routes/explain?from=shop&url=http://nobody.shop/")
        .await;
    assert_eq!(status, 404, "{body}");
    let (status, body) = served
        .get("/v1/routes/explain?from=shop&url=http://front.shop:81/")
        .await;
    assert!(status == 404 && body.contains("has no port 81"), "{body}");
}

#[tokio::test]
async fn a_request_that_finds_no_endpoint_has_nobody_to_answer() {
    let mut rules = vec![
        rule("/idle", vec![to("idle", 1)]),
        rule("/half", vec![to("idle", 1), to("one", 1)]),
    ];
    rules[1].index = 1;
    let served = serve(RouteKind::Http, Rules::Http(rules));
    let ask = async |url: &str| -> RouteExplanation {
        let query = format!("/v1/routes/explain?from=shop/web&url={url}");
        served.json(&query).await
    };
    let idle = ask("http://front.shop/idle").await;
    let why = "no backend of the rule has an endpoint: status 503";
    assert_eq!(idle.answer.as_deref(), Some(why));
    assert_eq!(idle.decision.unwrap().backends[0].endpoints, Some(0));
    let half = ask("http://front.shop/half").await;
    assert_eq!(half.answer, None, "somebody may answer");
    // Without routes the kernel picks, and refuses.
    let plain = ask("http://idle.shop/").await;
    let why = "the service has no endpoint: the connection is refused";
    assert_eq!(plain.answer.as_deref(), Some(why));
    let served = serve(RouteKind::Tcp, Rules::Opaque(vec![to("idle", 1)]));
    let query = "/v1/routes/explain?from=shop/web&url=tcp://front.shop:80/";
    let answer: RouteExplanation = served.json(query).await;
    let why = "no backend of the rule has an endpoint: the connection is refused";
    assert_eq!(answer.answer.as_deref(), Some(why));
}

#[tokio::test]
async fn what_is_passed_over_says_what_does_not_fit() {
    let exact = |value: &str| ValueMatch::Exact(value.to_owned());
    let mut rules: Vec<_> = (0..5).map(|_| rule("/a", vec![to("two", 1)])).collect();
    for (index, rule) in rules.iter_mut().enumerate() {
        rule.index = index;
    }
    rules[0].matches[0].path = PathMatch::Exact("/a/b".into());
    rules[1].matches[0].method = Some(http::Method::PUT);
    rules[2].matches[0].headers = vec![HeaderMatch {
        name: http::HeaderName::from_static("x-color"),
        value: exact("red"),
    }];
    rules[3].matches[0].query = vec![QueryMatch {
        name: "size".into(),
        value: exact("1"),
    }];
    rules[4].matches[0].path = PathMatch::Prefix(String::new());
    let served = serve(RouteKind::Http, Rules::Http(rules));
    let url = "/v1/routes/explain?from=shop/web&url=http://front.shop/a/c%3Fsize%3D2";
    let found: RouteExplanation = served.json(&format!("{url}&headers=x-color:%20blue")).await;
    let passed: Vec<_> = found
        .passed_over
        .iter()
        .map(|it| (it.rule.as_str(), it.why.as_str()))
        .collect();
    assert_eq!(
        passed,
        [
            ("0", "another path"),
            ("1", "another method"),
            ("2", "field `x-color` is not as it has to be"),
            ("3", "query parameter `size` is not as it has to be"),
        ]
    );
    assert_eq!(found.decision.unwrap().rule, "4");
    // With any of them as it has to be, that one is the rule.
    for (more, rule) in [("&method=PUT", "1"), ("&headers=x-color:%20red", "2")] {
        let found: RouteExplanation = served.json(&format!("{url}{more}")).await;
        assert_eq!(found.decision.unwrap().rule, rule, "{more}");
    }
}

#[tokio::test]
async fn connections_are_followed_too() {
    let ask = async |served: &Served, url: &str, host: &str| -> RouteExplanation {
        let query = format!("/v1/routes/explain?from=shop/web&url={url}&headers=host:%20{host}");
        served.json(&query).await
    };
    let backends = || vec![to("one", 1), to("two", 3)];
    let names = vec!["a.example".to_owned(), "*.b.example".to_owned()];
    let served = serve(RouteKind::Tls, Rules::Tls(names, backends()));
    for host in ["a.example", "A.example:80", "x.b.example"] {
        let found = ask(&served, "tls://front.shop:80", host).await;
        let decision = found.decision.unwrap();
        assert_eq!(decision.route, "TLSRoute shop/r", "{host}");
        assert_eq!(decision.backends[1].share, 0.75);
    }
    let found = ask(&served, "tls://front.shop:80", "c.example").await;
    assert_eq!(
        found.answer.as_deref(),
        Some("no route is for this name: the connection is reset")
    );
    for (kind, scheme) in [(RouteKind::Tcp, "tcp"), (RouteKind::Udp, "udp")] {
        let served = serve(kind, Rules::Opaque(backends()));
        let found = ask(&served, &format!("{scheme}://front.shop:80"), "x").await;
        assert_eq!(found.routes_of.as_deref(), Some("producer"), "{scheme}");
        let decision = found.decision.unwrap();
        assert_eq!(decision.path, "every connection");
        assert_eq!(decision.backends[0].share, 0.25);
        let served = serve(kind, Rules::Opaque(vec![to("one", 0)]));
        let found = ask(&served, &format!("{scheme}://front.shop:80"), "x").await;
        assert!(found.answer.unwrap().contains("refused"), "{scheme}");
    }
}

#[tokio::test]
async fn a_host_is_what_is_said_and_policies_are_told() {
    let mut by_host = rule("", vec![to("two", 1)]);
    by_host.matches[0].headers = vec![HeaderMatch {
        name: http::header::HOST,
        value: ValueMatch::Exact("a.example".into()),
    }];
    let limit = |requests, route: Option<&str>| RateLimit {
        name: None,
        requests,
        per: Duration::from_secs(1),
        burst: None,
        by: LimitBy::TokenBucket,
        key: vec![LimitKey::Workload],
        route: route.map(str::to_owned),
    };
    let of = |service: &str, traffic: Traffic| {
        let BackendTarget::Port(id) = to(service, 1).to else {
            panic!("a port");
        };
        (id, Arc::new(traffic))
    };
    let retry = Retry {
        codes: Vec::new(),
        attempts: 2,
        backoff: None,
    };
    let dialled = Traffic {
        from: vec!["TrafficPolicy shop/p".into()],
        limits: vec![
            limit(5, None),
            limit(6, Some("shop/r")),
            limit(7, Some("shop/x")),
        ],
        fault: Some(Fault {
            delay: Some((Duration::from_secs(1), 5)),
            abort: Some((FaultStatus::Grpc(14), 1)),
        }),
        retry: Some(retry),
        ..Traffic::default()
    };
    let backend = Traffic {
        from: vec!["XBackendTrafficPolicy shop/s".into()],
        session: Some(SessionPersistence {
            name: None,
            by: SessionBy::Header,
            timeout: None,
        }),
        ..Traffic::default()
    };
    let policies = TrafficPolicies::from([of("front", dialled), of("two", backend)]);
    let rules = Rules::Http(vec![by_host]);
    let served = serve_with(RouteKind::Http, rules, policies);
    let ask = async |host: &str| -> RouteExplanation {
        let query = format!(
            "/v1/routes/explain?from=shop/web&url=http://front.shop/&headers=Host:%20{host}"
        );
        served.json(&query).await
    };
    assert_eq!(ask("b.example").await.decision, None);
    assert_eq!(
        ask("A.example").await.decision.unwrap().does,
        [
            "takes 5 requests in 1s at most, for each workload (TrafficPolicy shop/p)",
            "takes 6 requests in 1s at most, for each workload (TrafficPolicy shop/p)",
            "delays 5 of 100 requests by 1s (TrafficPolicy shop/p)",
            "aborts 1 of 100 requests with grpc-status 14 (TrafficPolicy shop/p)",
            "tries again up to 2 times (TrafficPolicy shop/p)",
            "binds clients to endpoints of shop/two:80 (XBackendTrafficPolicy shop/s)",
        ]
    );
}
