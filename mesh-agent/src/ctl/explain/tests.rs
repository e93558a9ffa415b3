//! How a connection that is not made is told.

use super::*;
use crate::admin::types::explain::{Dialled, Dialler};
use crate::admin::types::routes::{By, Carrier};
use crate::admin::types::{ServiceRef, WorkloadRef};
use crate::ctl::balancing::tests::backend;
use crate::model::endpoint::Why;
use crate::model::observed::WorkloadState;

fn workload(name: &str) -> WorkloadRef {
    WorkloadRef {
        namespace: "shop".into(),
        name: name.into(),
    }
}

fn answer(allowed: bool) -> PolicyAnswer {
    let judgement = Judgement {
        subject: "shop/web".into(),
        allowed,
        would_deny: false,
        rule: None,
        isolated_by: vec!["shop/closed".into()],
        enforced_at: vec!["connect".into()],
        exempt: None,
    };
    PolicyAnswer {
        source: [10, 0, 0, 1].into(),
        destination: [10, 0, 0, 2].into(),
        allowed,
        would_deny: false,
        egress: Some(judgement),
        ingress: None,
    }
}

fn explanation() -> Explanation {
    let mut second = backend(2, 0.0);
    second.why = Some(Why::NotReady);
    let destination = |last: u8| Destination {
        address: [10, 0, 0, last].into(),
        port: 8080,
        workload: None,
        place: Place::OtherNode,
        backend: None,
        policy: None,
        redirected: false,
        not_redirected_because: Vec::new(),
    };
    Explanation {
        schema: String::new(),
        from: Dialler {
            workload: Some(workload("web")),
            addresses: vec![[10, 0, 0, 1].into()],
            state: Some(WorkloadState::Accelerated),
            why: String::new(),
            captured: true,
        },
        to: "10.96.0.1".into(),
        port: 80,
        protocol: Protocol::Tcp,
        service: Some(Dialled {
            id: ServiceRef {
                namespace: "shop".into(),
                name: "cart".into(),
                port: 80,
            },
            kind: "ClusterIP".into(),
            addresses: vec![[10, 96, 0, 1].into()],
            balanced: true,
            algorithm: "maglev".into(),
            affinity_seconds: Some(10_800),
            carrier: Carrier {
                by: By::Agent,
                why: vec!["HTTPRoute shop/web has filters".into()],
            },
        }),
        destinations: vec![
            Destination {
                workload: Some(workload("cart-1")),
                backend: Some(backend(1, 1.0)),
                place: Place::Here,
                policy: Some(answer(true)),
                redirected: true,
                ..destination(1)
            },
            Destination {
                backend: Some(second),
                ..destination(2)
            },
            Destination {
                not_redirected_because: vec!["the kill switch is on".into()],
                policy: Some(answer(false)),
                ..destination(3)
            },
        ],
        verdict: Verdict::Fails,
        why: vec!["policy denies 1 of 2 destinations".into()],
    }
}

#[test]
fn the_way_of_a_connection_fits_a_terminal() {
    let expected = "\
From      shop/web (10.0.0.1), accelerated
To        10.96.0.1 port 80/TCP
Service   shop/cart:80 at 10.96.0.1, maglev, sticks for 3h0m
Carrier   agent
          HTTPRoute shop/web has filters
Verdict   fails
          policy denies 1 of 2 destinations

DESTINATION    WORKLOAD     HEALTH  SHARE  POLICY   PATH
10.0.0.1:8080  shop/cart-1  ready    100%  allowed  socket to socket
10.0.0.2:8080               ready      0%           none: not ready
10.0.0.3:8080                              denied   TCP to another node: the ki…
";
    let text = render(&explanation(), &Screen::plain());
    for line in text.lines() {
        assert!(line.chars().count() <= 80, "{text}");
    }
    assert_eq!(text, expected);
}

#[test]
fn who_is_unknown_is_said() {
    let mut nobody = explanation();
    nobody.from = Dialler {
        workload: None,
        addresses: Vec::new(),
        state: None,
        why: String::new(),
        captured: false,
    };
    nobody.service = None;
    nobody.destinations.clear();
    nobody.why = vec!["there is no workload \x1b[31m".into()];
    let text = render(&nobody, &Screen::plain());
    assert!(text.starts_with("From      unknown\n"), "{text}");
    assert!(
        !text.contains('\x1b') && !text.contains("DESTINATION"),
        "{text}"
    );
}

#[test]
fn a_test_of_policy_names_what_decides() {
    let test = PolicyTest {
        schema: String::new(),
        allowed: false,
        answers: vec![answer(false)],
    };
    let expected = "\
Policy    10.0.0.1 -> 10.0.0.2: denied
Egress    shop/web: denied, isolated by shop/closed (at connect)
Ingress   not a workload of this node: not judged here
";
    assert_eq!(render_test(&test, &Screen::plain()), expected);
}
