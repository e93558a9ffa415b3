//! Kubernetes' rules, by what kube-proxy does.

use std::sync::Arc;

use super::*;
use crate::balance::tests::{endpoint, here, service};
use crate::model::service::Hints;

fn found(service: &Service, here: &Here) -> Vec<Result<Tier, Out>> {
    let endpoints: Vec<&Endpoint> = service.ports[0].endpoints.iter().collect();
    let ready: Vec<bool> = endpoints
        .iter()
        .map(|it| it.ready && !it.terminating)
        .collect();
    candidates(service, &endpoints, &ready, here)
}

fn terminating(serving: bool) -> Endpoint {
    Endpoint {
        ready: false,
        serving,
        terminating: true,
        ..endpoint(3)
    }
}

fn not_ready() -> Endpoint {
    Endpoint {
        ready: false,
        serving: false,
        ..endpoint(2)
    }
}

fn at(number: u8, node: &str, zone: &str, region: &str) -> Endpoint {
    Endpoint {
        node: Some(node.into()),
        zone: Some(zone.into()),
        region: Some(region.into()),
        ..endpoint(number)
    }
}

#[test]
fn terminating_ones_serve_only_while_nobody_is_ready() {
    let all = service(vec![endpoint(1), not_ready(), terminating(true)]);
    assert_eq!(
        found(&all, &here()),
        [Ok(0), Err(Out::NotReady), Err(Out::Terminating)]
    );
    let last = service(vec![not_ready(), terminating(true), terminating(false)]);
    assert_eq!(
        found(&last, &here()),
        [Err(Out::NotReady), Ok(0), Err(Out::Terminating)]
    );
}

#[test]
fn local_policy_leaves_out_other_nodes_also_for_the_last_resort() {
    let mut local = service(vec![
        at(1, "n1", "a", "r"),
        at(2, "n2", "a", "r"),
        endpoint(3),
    ]);
    local.local_only = true;
    let away = Err(Out::OtherNode);
    assert_eq!(found(&local, &here()), [Ok(0), away, away]);
    // The only ready one is elsewhere: the terminating one here serves.
    local.ports[0].endpoints[0] = Endpoint {
        ready: false,
        terminating: true,
        ..at(1, "n1", "a", "r")
    };
    assert_eq!(found(&local, &here()), [Ok(0), away, away]);
}

#[test]
fn hints_count_when_every_ready_endpoint_has_them_and_one_is_for_here() {
    let hinted = |number, zones: &[&str]| Endpoint {
        hints: Some(Arc::new(Hints {
            zones: zones.iter().map(ToString::to_string).collect(),
            ..Hints::default()
        })),
        ..endpoint(number)
    };
    let both = service(vec![hinted(1, &["a"]), hinted(2, &["b"]), not_ready()]);
    assert_eq!(
        found(&both, &here()),
        [Ok(0), Ok(1), Err(Out::NotReady)],
        "one that is not ready needs no hints"
    );
    let nowhere = Here {
        zone: None,
        ..here()
    };
    assert_eq!(found(&both, &nowhere)[..2], [Ok(0), Ok(0)]);
    let one_without = service(vec![hinted(1, &["a"]), hinted(2, &[])]);
    assert_eq!(found(&one_without, &here()), [Ok(0), Ok(0)]);
    let none_for_here = service(vec![hinted(1, &["b"]), hinted(2, &["c"])]);
    assert_eq!(found(&none_for_here, &here()), [Ok(0), Ok(0)]);
}

#[test]
fn node_hints_come_before_zone_hints() {
    let hinted = |number, node: &str| Endpoint {
        hints: Some(Arc::new(Hints {
            nodes: vec![node.into()],
            zones: vec!["a".into()],
        })),
        ..endpoint(number)
    };
    let both = service(vec![hinted(1, "n2"), hinted(2, "n1")]);
    assert_eq!(found(&both, &here()), [Ok(1), Ok(0)]);
    let elsewhere = service(vec![hinted(1, "n2"), hinted(2, "n3")]);
    assert_eq!(found(&elsewhere, &here()), [Ok(0), Ok(0)]);
}

#[test]
fn distribution_prefers_what_is_near() {
    let everywhere = vec![
        at(1, "n1", "a", "r"),
        at(2, "n2", "a", "r"),
        at(3, "n3", "b", "r"),
        at(4, "n4", "c", "s"),
        endpoint(5),
    ];
    let mut any = service(everywhere);
    assert_eq!(found(&any, &here()), [Ok(0); 5]);
    any.distribution = Distribution::SameZone;
    assert_eq!(found(&any, &here()), [Ok(1), Ok(1), Ok(2), Ok(3), Ok(3)]);
    any.distribution = Distribution::SameNode;
    assert_eq!(found(&any, &here()), [Ok(0), Ok(1), Ok(2), Ok(3), Ok(3)]);
    let nowhere = Here::default();
    assert_eq!(found(&any, &nowhere), [Ok(3); 5]);
}

#[test]
fn weight_zero_gets_nothing_but_keeps_terminating_ones_out() {
    let mut zero = endpoint(1);
    zero.weight = 0;
    let drained = service(vec![zero, terminating(true)]);
    assert_eq!(
        found(&drained, &here()),
        [Err(Out::WeightZero), Err(Out::Terminating)]
    );
}
