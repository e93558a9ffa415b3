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

fn authority() -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["ca.example".to_owned()]).unwrap();
    params.self_signed(&key).unwrap().pem()
}

/// Markers alone make no certificate, and a bad reference does not spoil a good one.
#[test]
fn authorities_are_certificates() {
    let good = authority();
    let (begin, end) = (
        "-----BEGIN CERTIFICATE-----\n",
        "-----END CERTIFICATE-----\n",
    );
    let cut = good.replacen("MII", "MI", 1);
    for (bad, why) in [
        (format!("{begin}this is none{end}"), "no base64"),
        (format!("{begin}AAAA\n{end}"), "that is none"),
        (format!("{begin}{end}"), "that is none"),
        (begin.to_owned(), "without its end"),
        (cut, "has a certificate"),
        (format!("{good}{begin}!{end}"), "no base64"),
        ("nothing".to_owned(), "no certificate"),
    ] {
        let map = |name: &str, text: &str| {
            let text = text.replace('\n', "\n    ");
            format!(
                "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata:\n  ca.crt: |-\n    {text}\n"
            )
        };
        let policy = |name: &str, service: &str, refs: &str| {
            let refs: Vec<String> = refs
                .split(' ')
                .map(|it| format!("{{group: '', kind: ConfigMap, name: {it}}}"))
                .collect();
            format!(
                "---\napiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {{name: {name}}}\nspec:\n  targetRefs: [{{group: '', kind: Service, name: {service}}}]\n  validation: {{hostname: a.example, caCertificateRefs: [{}]}}\n",
                refs.join(", ")
            )
        };
        let linked = linked(&format!(
            "{}{}{}{}",
            map("good", &good),
            map("bad", &bad),
            policy("alone", "cart", "bad"),
            policy("both", "other", "good bad"),
        ));
        for (name, accepted) in [("alone", "False"), ("both", "True")] {
            let object = format!("BackendTLSPolicy {name}");
            assert_eq!(
                conditions(&linked, &object, "Accepted")[0].0,
                accepted,
                "{bad}"
            );
            let (status, reason, message) = conditions(&linked, &object, "ResolvedRefs")[0].clone();
            assert_eq!(
                (status.as_str(), reason.as_str()),
                ("False", "InvalidCACertificateRef")
            );
            assert!(message.contains(why), "{bad}: {message}");
        }
        let trusted = |service: &str| {
            let mut all = linked.tls.iter();
            let (_, tls) = all.find(|(id, _)| id.service.name == service).unwrap();
            tls.to.clone()
        };
        assert!(trusted("cart").is_err());
        assert!(trusted("other").is_ok());
    }
}
