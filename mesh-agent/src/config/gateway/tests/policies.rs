//! Policies.
#![forbid(unsafe_code)]

use super::{conditions, linked};
use crate::config::gateway::link::Linked;

fn traffic(spec: &str) -> Linked {
    linked(&format!(
        "---
apiVersion: underpass.dev/v1alpha1
kind: TrafficPolicy
metadata: {{name: p}}
spec:
  targetRefs: [{{name: cart}}]
  {spec}
"
    ))
}

fn backend_traffic(spec: &str) -> Linked {
    linked(&format!(
        "---
apiVersion: gateway.networking.x-k8s.io/v1alpha1
kind: XBackendTrafficPolicy
metadata: {{name: p}}
spec:
  targetRefs: [{{group: '', kind: Service, name: cart}}]
  {spec}
"
    ))
}

fn is_accepted(linked: &Linked, kind: &str) -> bool {
    let found = conditions(linked, &format!("{kind} p"), "Accepted");
    found.iter().all(|(status, ..)| status == "True")
}

/// What would do nothing is an error: somebody means something by it.
#[test]
fn nothing_is_not_a_setting() {
    for (spec, good) in [
        ("rateLimits: [{requests: 1, per: 1s}]", true),
        ("rateLimits: [{requests: 1, per: 0s}]", false),
        (
            "rateLimits: [{requests: 1, per: 1s, key: [{workload: true}]}]",
            true,
        ),
        (
            "rateLimits: [{requests: 1, per: 1s, key: [{header: x}]}]",
            true,
        ),
        ("rateLimits: [{requests: 1, per: 1s, key: [{}]}]", false),
        (
            "rateLimits: [{requests: 1, per: 1s, key: [{workload: false}]}]",
            false,
        ),
        (
            "rateLimits: [{requests: 1, per: 1s, key: [{workload: true, header: x}]}]",
            false,
        ),
        ("fault: {delay: {duration: 1s, percent: 1}}", true),
        ("fault: {delay: {duration: 0s, percent: 1}}", false),
        ("fault: {delay: {percent: 1}}", false),
        ("fault: {}", false),
    ] {
        let linked = traffic(spec);
        assert_eq!(is_accepted(&linked, "TrafficPolicy"), good, "{spec}");
        assert_eq!(!linked.traffic.is_empty(), good, "{spec}");
    }
    for (spec, good) in [
        ("retryConstraint: {budget: {interval: 1s}}", true),
        ("retryConstraint: {budget: {interval: 0s}}", false),
        ("retryConstraint: {minRetryRate: {interval: 0s}}", false),
        ("retryConstraint: {budget: {interval: 2h}}", false),
    ] {
        let linked = backend_traffic(spec);
        assert_eq!(
            is_accepted(&linked, "XBackendTrafficPolicy"),
            good,
            "{spec}"
        );
    }
}

/// A session of a service has no name of its own where none is given: one for all rules would have them take it from each other.
#[test]
fn a_session_of_a_service_has_no_name_but_the_one_given() {
    for (spec, name) in [
        ("sessionPersistence: {type: Cookie}", None),
        ("sessionPersistence: {sessionName: s}", Some("s")),
    ] {
        let linked = backend_traffic(spec);
        let (_, traffic) = linked.traffic.iter().next().unwrap();
        assert_eq!(traffic.session.as_ref().unwrap().name.as_deref(), name);
    }
}
