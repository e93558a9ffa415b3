//! Connections that are not made, over the real socket.

use super::balancing::named;
use super::*;
use crate::admin::types::explain::{Explanation, Place, PolicyTest, Verdict};
use crate::balance::tests::{endpoint, service};
use crate::model::service::{Service, ServiceKind};

/// A service whose name is no workload's, with backends 2 (accelerated), 3 (not accelerated) and 9 (of nobody here, not ready).
fn shop() -> Service {
    let mut endpoints = vec![endpoint(2), endpoint(3), endpoint(9)];
    endpoints[2].ready = false;
    named("front", service(endpoints))
}

async fn explain(served: &Served, from: &str, to: &str, more: &str) -> Explanation {
    let query = format!("/v1/explain?from={from}&to={to}&{more}");
    let answer: Explanation = served.json(&query).await;
    assert_eq!(answer.schema, "underpass.dev/explain/v1");
    answer
}

#[tokio::test]
async fn a_service_leads_to_its_backends_with_shares_and_reasons() {
    let served = Served::start();
    served.services.balance([shop()]);
    for to in ["shop/front", "10.96.0.1"] {
        let answer = explain(&served, "shop/web", to, "port=80&protocol=TCP").await;
        assert_eq!((answer.verdict, &answer.why), (Verdict::Works, &vec![]));
        let dialled = answer.service.unwrap();
        assert_eq!(dialled.id.to_string(), "shop/front:80");
        assert!(dialled.balanced);
        let of = |last: u8| {
            let address = std::net::IpAddr::from([10, 0, 0, last]);
            let mut all = answer.destinations.iter();
            all.find(|it| it.address == address).unwrap()
        };
        let cart = of(2);
        assert!(cart.redirected && cart.place == Place::Here);
        assert_eq!(cart.workload.as_ref().unwrap().name, "cart");
        assert_eq!(cart.backend.as_ref().unwrap().share, 0.5);
        assert!(cart.policy.as_ref().unwrap().allowed);
        let db = of(3);
        assert_eq!(
            db.not_redirected_because,
            ["shop/db is not accelerated: splice(2) from a TCP socket"]
        );
        let last = of(9);
        assert_eq!((last.place, last.redirected), (Place::Unknown, false));
        assert!(last.policy.is_none(), "nothing goes there");
        let why = last.backend.as_ref().unwrap().why.clone();
        assert_eq!(why.unwrap().to_string(), "not ready");
    }
    // The kill switch keeps everything on TCP, and breaks nothing.
    served.post("/v1/redirect", r#"{"allowed": false}"#).await;
    let answer = explain(&served, "shop/web", "shop/front", "port=80&protocol=TCP").await;
    assert_eq!(answer.verdict, Verdict::Works);
    assert!(answer.destinations.iter().all(|it| !it.redirected));
}

/// Who dials whom at which port and protocol, and why that fails.
const FAILURES: [(&str, &str, u16, &str, &str); 9] = [
    (
        "shop/web",
        "shop/nobody",
        80,
        "TCP",
        "there is no service or workload shop/nobody",
    ),
    (
        "shop/nobody",
        "shop/front",
        80,
        "TCP",
        "there is no workload shop/nobody",
    ),
    (
        "shop/web",
        "shop/front",
        81,
        "TCP",
        "shop/front has no port 81/TCP",
    ),
    (
        "shop/web",
        "shop/front",
        80,
        "UDP",
        "shop/front has no port 80/UDP",
    ),
    (
        "shop/web",
        "10.96.0.2",
        80,
        "TCP",
        "nobody answers for shop/idle: it has no backend",
    ),
    (
        "shop/web",
        "shop/db",
        80,
        "TCP",
        "shop/db was not found here: no such process",
    ),
    (
        "shop/db",
        "shop/cart",
        80,
        "TCP",
        "shop/db was not found here: no such process",
    ),
    (
        "shop/worker",
        "shop/cart",
        80,
        "TCP",
        "shop/worker is on another node: ask the agent there",
    ),
    (
        "shop/web",
        "shop/stateful",
        80,
        "TCP",
        "shop/stateful is not balanced here (headless: clients get the endpoints' addresses): ask for an endpoint",
    ),
];

#[tokio::test]
async fn what_fails_says_why() {
    let served = Served::start();
    let mut headless = named("stateful", service(vec![endpoint(1)]));
    headless.kind = ServiceKind::Headless;
    headless.addresses.clear();
    let mut idle = named("idle", service(Vec::new()));
    idle.addresses = vec![[10, 96, 0, 2].into()];
    served.services.balance([shop(), headless, idle]);
    let mut lost = served.kernel.workloads();
    lost[1].state = WorkloadState::NotFound;
    lost[1].why = "no such process".into();
    lost[3].state = WorkloadState::Elsewhere;
    served.kernel.change(|state| state.workloads = lost);
    for (from, to, port, protocol, why) in FAILURES {
        let more = format!("port={port}&protocol={protocol}");
        let answer = explain(&served, from, to, &more).await;
        assert_eq!(answer.verdict, Verdict::Fails, "{from} {to}: {answer:?}");
        assert_eq!(answer.why[0], why);
    }
}

#[tokio::test]
async fn who_listens_no_more_is_passed_over() {
    let served = Served::start();
    served.services.balance([shop()]);
    let at = |last: u8| std::net::SocketAddr::from(([10, 0, 0, last], 8080));
    served.services.close(&[at(2)]);
    let answer = explain(&served, "shop/web", "shop/front", "port=80&protocol=TCP").await;
    assert_eq!(answer.verdict, Verdict::Works);
    let mut all = answer.destinations.iter();
    let closed = all.find(|it| it.address == at(2).ip()).unwrap();
    let why = closed.backend.as_ref().unwrap().why.clone().unwrap();
    assert_eq!(why.to_string(), "nobody listens there any more");
    assert!(closed.policy.is_none() && !closed.redirected);
    served.services.close(&[at(2), at(3)]);
    let answer = explain(&served, "shop/web", "shop/front", "port=80&protocol=TCP").await;
    assert_eq!(answer.verdict, Verdict::Fails);
    let why = "nobody answers for shop/front: no backend listens any more";
    assert_eq!(answer.why, [why]);
    for (port, verdict) in [("8080", Verdict::Fails), ("8081", Verdict::Works)] {
        let more = format!("port={port}&protocol=TCP");
        let answer = explain(&served, "shop/web", "shop/cart", &more).await;
        assert_eq!(answer.verdict, verdict, "{answer:?}");
    }
}

#[tokio::test]
async fn node_ports_are_dialled_where_the_kernel_balances_them() {
    let served = Served::start();
    let mut front = shop();
    front.ports[0].node_port = Some(30_080);
    served.services.balance([front]);
    served.services.set_node([192, 0, 2, 7].into());
    for (to, is_service) in [("192.0.2.7", true), ("192.0.2.8", false)] {
        let answer = explain(&served, "shop/web", to, "port=30080&protocol=TCP").await;
        assert_eq!(answer.service.is_some(), is_service, "{to}: {answer:?}");
    }
}

#[tokio::test]
async fn workloads_addresses_and_strangers() {
    let served = Served::start();
    served.services.balance([shop()]);
    let answer = explain(&served, "shop/web", "shop/cart", "port=8080&protocol=TCP").await;
    assert_eq!((answer.verdict, answer.service), (Verdict::Works, None));
    assert!(answer.destinations[0].redirected);
    let answer = explain(&served, "10.0.0.1", "10.0.0.2", "port=53&protocol=UDP").await;
    assert_eq!(answer.verdict, Verdict::Works);
    assert_eq!(
        answer.destinations[0].not_redirected_because,
        ["only TCP is redirected"]
    );
    let answer = explain(&served, "shop/web", "192.0.2.7", "port=443&protocol=TCP").await;
    assert_eq!(answer.verdict, Verdict::Works);
    assert_eq!(answer.destinations[0].place, Place::Unknown);
    let answer = explain(&served, "192.0.2.7", "shop/front", "port=80&protocol=TCP").await;
    assert_eq!(answer.verdict, Verdict::Bypasses);
    assert!(!answer.from.captured && answer.why.len() == 1);
}

#[tokio::test]
async fn policy_is_asked_alone_too_and_questions_that_make_no_sense_are_refused() {
    let served = Served::start();
    served.services.balance([shop()]);
    let (status, body) = served
        .get("/v1/policy/test?from=shop/web&to=shop/front&port=80&protocol=TCP")
        .await;
    assert_eq!(status, 200, "{body}");
    let test: PolicyTest = serde_json::from_str(&body).unwrap();
    assert!(test.allowed);
    assert_eq!(test.answers.len(), 2, "only those that get connections");
    let path = "/v1/policy/test?from=shop/web&to=shop/nobody&port=80&protocol=TCP";
    let (status, body) = served.get(path).await;
    assert_eq!(status, 404, "{body}");
    for wrong in [
        "from=web&to=shop/cart&port=80&protocol=TCP",
        "from=shop/web&to=&port=80&protocol=TCP",
        "from=shop/web&to=shop/cart&port=80&protocol=SCTP",
        "from=shop/web&to=shop/cart&port=99999&protocol=TCP",
        "from=shop/web",
    ] {
        for route in ["explain", "policy/test"] {
            let (status, body) = served.get(&format!("/v1/{route}?{wrong}")).await;
            assert_eq!(status, 400, "{wrong}: {body}");
        }
    }
}

#[tokio::test]
async fn whoever_is_not_in_the_mesh_passes_it_by_and_can_be_dialled() {
    let served = Served::start();
    let mut workloads = served.kernel.workloads();
    workloads[2].state = WorkloadState::NotEnrolled;
    workloads[2].why = "no label".into();
    served.kernel.change(|state| state.workloads = workloads);
    let query = "port=80&protocol=TCP";
    let answer = explain(&served, "shop/web", "shop/cart", query).await;
    assert_eq!(answer.verdict, Verdict::Bypasses);
    assert_eq!(answer.why[0], "the source is not captured: no label");
    let answer = explain(&served, "shop/cart", "shop/web", query).await;
    assert_eq!((answer.verdict, &answer.why), (Verdict::Works, &vec![]));
    assert_eq!(answer.destinations[0].place, Place::Here);
    assert_eq!(
        answer.destinations[0].not_redirected_because,
        ["shop/web is not in the mesh: no label"]
    );
}
