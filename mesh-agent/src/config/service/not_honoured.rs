//! What a `Service` may say and nobody here acts on. Fields that are for whoever makes the object (the API server, a load balancer's
//! controller) and change nothing once it is made are passed over: `allocateLoadBalancerNodePorts`.
#![forbid(unsafe_code)]

use super::Service;
use crate::config::reader::{Fields, Reader};
use crate::model::service::ServiceKind;

/// Why nothing is done for connections from outside.
const OUTSIDE: &str =
    "only what workloads of this node dial is balanced here, not what comes from outside";

/// Says which fields of `spec` are read and lead to nothing.
pub(super) fn tell(reader: &mut Reader, spec: &Fields<'_>, service: &Service) {
    from_outside(reader, spec);
    if service.kind != ServiceKind::ClusterIp {
        of_names(reader, spec);
    }
    if text(spec, "ipFamilyPolicy") == Some("RequireDualStack") && service.addresses.len() == 1 {
        let problem = "the service has an address of one family only";
        let help = "nobody here gives it another: write both in clusterIPs";
        warn(reader, spec, "ipFamilyPolicy", problem, help);
    }
}

/// What is for load balancers and their clients.
fn from_outside(reader: &mut Reader, spec: &Fields<'_>) {
    let policy = reader.word(spec, "externalTrafficPolicy", &["Cluster", "Local"]);
    if policy == Some("Local") {
        note(reader, spec, "externalTrafficPolicy", OUTSIDE);
    }
    let port = reader.number(spec, "healthCheckNodePort", 0..=u32::from(u16::MAX));
    if port.is_some_and(|port| port != 0) {
        let help =
            "nobody here answers a load balancer's health checks; where kube-proxy runs it does";
        note(reader, spec, "healthCheckNodePort", help);
    }
    for field in ["loadBalancerClass", "loadBalancerIP"] {
        if reader
            .text(spec, field)
            .is_some_and(|text| !text.is_empty())
        {
            let help = "it is the load balancer's to act on; its addresses count once `status.loadBalancer` has them";
            note(reader, spec, field, help);
        }
    }
    if !reader.strings(spec, "loadBalancerSourceRanges").is_empty() {
        let problem = "is not enforced here; it is the load balancer's to act on";
        let help = "write a NetworkPolicy for who may connect";
        warn(reader, spec, "loadBalancerSourceRanges", problem, help);
    }
}

/// What is about picking a backend, of a service that has only names.
fn of_names(reader: &mut Reader, spec: &Fields<'_>) {
    let has = |field: &str, word: &str| text(spec, field) == Some(word);
    let is_set = [
        ("externalIPs", spec.entry("externalIPs").is_some()),
        (
            "internalTrafficPolicy",
            has("internalTrafficPolicy", "Local"),
        ),
        ("sessionAffinity", has("sessionAffinity", "ClientIP")),
        (
            "trafficDistribution",
            spec.entry("trafficDistribution").is_some(),
        ),
    ];
    for (field, _) in is_set.into_iter().filter(|(_, is_set)| *is_set) {
        let problem = "does nothing here: clients choose among the endpoints' addresses themselves";
        let help = "give the service a clusterIP, or leave it out";
        warn(reader, spec, field, problem, help);
    }
}

/// Returns the text of a field that was read before, with its errors.
fn text<'n>(spec: &Fields<'n>, field: &str) -> Option<&'n str> {
    spec.entry(field)?.node.text()
}

fn note(reader: &mut Reader, spec: &Fields<'_>, field: &str, help: &str) {
    let path = spec.path_of(field);
    reader.note(spec.line_of(field), path, "is not acted on", help);
}

fn warn(reader: &mut Reader, spec: &Fields<'_>, field: &str, problem: &str, help: &str) {
    let path = spec.path_of(field);
    reader.warn(spec.line_of(field), path, problem, help);
}
