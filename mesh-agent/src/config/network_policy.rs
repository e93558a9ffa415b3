//! `NetworkPolicy` (`networking.k8s.io/v1`), with all of its semantics.
//!
//! What is easy to get wrong: a missing or empty `from`, `to` or `ports` matches everything, a missing or empty list of rules
//! matches nothing, and a selector that is there but empty selects all.
#![forbid(unsafe_code)]

use crate::config::known;
use crate::config::known::policy as names;
use crate::config::mark;
use crate::config::metadata::Metadata;
use crate::config::policy_port;
use crate::config::reader::{Fields, Reader, Unknown};
use crate::config::selector;
use crate::model::policy::{Action, Peer, Policy, PolicyKind, PolicyName, Rule};
use crate::model::service::Protocol;

/// Reads a `NetworkPolicy`, without its origin. The result counts only if `reader` recorded no error.
pub(crate) fn read(reader: &mut Reader, object: &Fields<'_>, metadata: Metadata) -> Option<Policy> {
    reader.only(object, known::OBJECT, Unknown::Error);
    let marks = &metadata.marks;
    mark::only(reader, marks, known::NETWORK_POLICY_ANNOTATIONS);
    let words = [("true", true), ("false", false)];
    let dry_run = mark::word(reader, marks, known::DRY_RUN, &words).unwrap_or(false);
    // A policy without a spec selects every pod of its namespace and lets nobody in, as Kubernetes has it.
    let empty = Fields {
        path: object.path_of("spec"),
        line: object.line,
        entries: &[],
    };
    let spec = match object.entry("spec") {
        Some(_) => reader.child(object, "spec")?,
        None => empty,
    };
    reader.only(&spec, names::NETWORK_SPEC, Unknown::Error);
    let ingress = rules(reader, &spec, "ingress", names::INGRESS_RULE, "from");
    let egress = rules(reader, &spec, "egress", names::EGRESS_RULE, "to");
    let [has_ingress, has_egress] = directions(reader, &spec, !egress.is_empty());
    Some(Policy {
        name: PolicyName {
            kind: PolicyKind::NetworkPolicy,
            namespace: metadata.namespace?,
            name: metadata.name?,
        },
        subject: selector::read(reader, &spec, "podSelector").unwrap_or_default(),
        action: Action::Allow,
        dry_run,
        ingress: has_ingress.then_some(ingress),
        egress: has_egress.then_some(egress),
        origin: String::new(),
    })
}

/// Returns whether the policy is for ingress and for egress.
fn directions(reader: &mut Reader, spec: &Fields<'_>, has_egress: bool) -> [bool; 2] {
    let types = reader.strings(spec, "policyTypes");
    if types.is_empty() {
        return [true, has_egress];
    }
    let mut found = [false; 2];
    for (text, path, line) in types {
        match text {
            "Ingress" => found[0] = true,
            "Egress" => found[1] = true,
            _ => {
                let problem = format!("`{text}` is not a type of policy");
                reader.error(line, path, problem, "write `Ingress` or `Egress`");
            }
        }
    }
    for (index, field) in ["ingress", "egress"].into_iter().enumerate() {
        if spec.entry(field).is_some() && !found[index] {
            let problem = "has no effect: policyTypes does not name this direction";
            let help = "add it to policyTypes, or leave the rules out";
            reader.warn(spec.line_of(field), spec.path_of(field), problem, help);
        }
    }
    found
}

fn rules(
    reader: &mut Reader,
    spec: &Fields<'_>,
    field: &str,
    known: &[&str],
    peers: &str,
) -> Vec<Rule> {
    let mut found = Vec::new();
    for (index, rule) in reader.mappings(spec, field).iter().enumerate() {
        reader.only(rule, known, Unknown::Error);
        let of_rule = reader.mappings(rule, peers);
        let one = |fields| peer(reader, fields);
        let of_rule: Vec<Peer> = of_rule.iter().filter_map(one).collect();
        found.push(Rule {
            name: format!("spec.{field}[{index}]"),
            peers: (!of_rule.is_empty()).then_some(of_rule),
            ports: policy_port::ports(reader, rule, Some(Protocol::Tcp)),
        });
    }
    found
}

fn peer(reader: &mut Reader, fields: &Fields<'_>) -> Option<Peer> {
    reader.only(fields, names::NETWORK_PEER, Unknown::Error);
    let pods = selector::read(reader, fields, "podSelector");
    let namespaces = selector::read(reader, fields, "namespaceSelector");
    let block = reader.child(fields, "ipBlock");
    if block.is_some() && (pods.is_some() || namespaces.is_some()) {
        let problem = "a peer is an ipBlock or selectors, not both";
        let help = "make two entries of it";
        reader.error(fields.line, fields.path.clone(), problem, help);
    }
    if let Some(block) = block {
        reader.only(&block, names::IP_BLOCK, Unknown::Error);
        if block.entry("cidr").is_none() {
            let help = "write `cidr: ADDRESS/PREFIX`";
            reader.error(block.line, block.path_of("cidr"), "is missing", help);
        }
        return policy_port::block(reader, &block, "cidr");
    }
    if pods.is_none() && namespaces.is_none() {
        let help = "give podSelector, namespaceSelector or ipBlock; `podSelector: {}` is every pod of the namespace";
        reader.error(fields.line, fields.path.clone(), "names no peer", help);
        return None;
    }
    Some(Peer::Pods {
        namespaces,
        pods: pods.unwrap_or_default(),
        service_accounts: None,
    })
}
