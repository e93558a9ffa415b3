//! `AuthorizationPolicy` (`underpass.dev/v1alpha1`): who may connect, by service account, labels or address.
//!
//! The project's own kind, because Kubernetes has no stable one yet that names service accounts: its shape follows Gateway API's
//! proposal for it (GEP-3779), in as little as that needs on layer 4, so that a manifest can be carried over once that is settled.
//! A rule without `from` matches anybody and one without `ports` any port, as there; an empty list is an error, since a
//! template that comes out empty means nobody, and would let everybody in.
#![forbid(unsafe_code)]

use crate::config::known;
use crate::config::known::policy as names;
use crate::config::mark;
use crate::config::metadata::Metadata;
use crate::config::name;
use crate::config::policy_port;
use crate::config::reader::{Fields, Reader, Unknown};
use crate::config::selector;
use crate::model::policy::{Action, Peer, Policy, PolicyKind, PolicyName, Rule};

/// Reads an `AuthorizationPolicy`, without its origin. The result counts only if `reader` recorded no error.
pub(crate) fn read(reader: &mut Reader, object: &Fields<'_>, metadata: Metadata) -> Option<Policy> {
    reader.only(object, known::OBJECT, Unknown::Error);
    mark::only(reader, &metadata.marks, &[]);
    if object.entry("spec").is_none() {
        let help = "write `spec: {targetSelector: {...}, rules: [...]}`";
        reader.error(object.line, object.path_of("spec"), "is missing", help);
    }
    let spec = reader.child(object, "spec")?;
    reader.only(&spec, names::AUTHORIZATION_SPEC, Unknown::Error);
    if spec.entry("targetSelector").is_none() {
        let help = "say which pods it protects; `targetSelector: {}` is every pod of the namespace";
        let path = spec.path_of("targetSelector");
        reader.error(spec.line, path, "is missing", help);
    }
    let subject = selector::read(reader, &spec, "targetSelector");
    let action = reader.word(&spec, "action", &["Allow", "Deny"]);
    let mode = reader.word(&spec, "mode", &["Enforce", "DryRun"]);
    let mut rules = Vec::new();
    for (index, fields) in reader.mappings(&spec, "rules").iter().enumerate() {
        rules.push(rule(reader, fields, index));
    }
    Some(Policy {
        name: PolicyName {
            kind: PolicyKind::AuthorizationPolicy,
            namespace: metadata.namespace?,
            name: metadata.name?,
        },
        subject: subject.unwrap_or_default(),
        action: match action {
            Some("Deny") => Action::Deny,
            _ => Action::Allow,
        },
        dry_run: mode == Some("DryRun"),
        ingress: Some(rules),
        egress: None,
        origin: String::new(),
    })
}

fn rule(reader: &mut Reader, fields: &Fields<'_>, index: usize) -> Rule {
    reader.only(fields, names::AUTHORIZATION_RULE, Unknown::Error);
    for field in ["from", "ports"] {
        if fields.entry(field).is_some() && reader.list(fields, field).is_empty() {
            let help = "leave the field out for any, or the rule for none";
            reader.error(
                fields.line_of(field),
                fields.path_of(field),
                "is empty",
                help,
            );
        }
    }
    let name = reader.text(fields, "name").filter(|name| !name.is_empty());
    let sources = reader.mappings(fields, "from");
    let mut peers = Vec::new();
    for source in &sources {
        add_peers(reader, source, &mut peers);
    }
    Rule {
        name: name.map_or_else(|| format!("spec.rules[{index}]"), str::to_owned),
        peers: (!sources.is_empty()).then_some(peers),
        ports: policy_port::ports(reader, fields, None),
    }
}

fn add_peers(reader: &mut Reader, fields: &Fields<'_>, peers: &mut Vec<Peer>) {
    reader.only(fields, names::AUTHORIZATION_PEER, Unknown::Error);
    let namespaces = selector::read(reader, fields, "namespaces");
    let pods = selector::read(reader, fields, "pods");
    let has_accounts = fields.entry("serviceAccounts").is_some();
    let is_pods = namespaces.is_some() || pods.is_some() || has_accounts;
    let has_block = fields.entry("block").is_some();
    if is_pods == has_block {
        let problem = match has_block {
            true => "a source is a block or pods, not both",
            false => "names nobody",
        };
        let help = "give `block`, or any of serviceAccounts, namespaces and pods";
        reader.error(fields.line, fields.path.clone(), problem, help);
    }
    if has_block {
        peers.extend(policy_port::block(reader, fields, "block"));
        return;
    }
    if fields.entry("except").is_some() {
        let help = "it takes parts out of a `block`";
        let path = fields.path_of("except");
        reader.error(fields.line_of("except"), path, "has no block", help);
    }
    let pods = pods.unwrap_or_default();
    if !has_accounts {
        peers.push(Peer::Pods {
            namespaces,
            pods,
            service_accounts: None,
        });
        return;
    }
    let (full, short) = accounts(reader, fields);
    if !short.is_empty() {
        peers.push(Peer::Pods {
            namespaces: namespaces.clone(),
            pods: pods.clone(),
            service_accounts: Some(short),
        });
    }
    if !full.is_empty() {
        // The name says the namespace, so it need not be the policy's own.
        peers.push(Peer::Pods {
            namespaces: Some(namespaces.unwrap_or_default()),
            pods,
            service_accounts: Some(full),
        });
    }
}

/// Returns the service accounts that are written `namespace/name`, and those that are a name alone.
fn accounts(reader: &mut Reader, fields: &Fields<'_>) -> (Vec<String>, Vec<String>) {
    let (mut full, mut short) = (Vec::new(), Vec::new());
    let strings = reader.strings(fields, "serviceAccounts");
    if strings.is_empty() && !reader.failed() {
        let help = "name one, or leave the field out for any";
        let path = fields.path_of("serviceAccounts");
        reader.error(fields.line_of("serviceAccounts"), path, "is empty", help);
    }
    for (text, path, line) in strings {
        let valid = match text.split_once('/') {
            Some((namespace, account)) => {
                full.push(text.to_owned());
                name::is_label(namespace) && name::is_subdomain(account)
            }
            None => {
                short.push(text.to_owned());
                name::is_subdomain(text)
            }
        };
        if !valid {
            let problem = format!("`{text}` is not the name of a service account");
            let help = "write `name`, or `namespace/name` for one of another namespace";
            reader.error(line, path, problem, help);
        }
    }
    (full, short)
}
