//! Which policy holds for which port of which service.
//!
//! Of several for one port, one that names the port comes before one for the whole service, then the oldest, then the first by
//! name; one that holds for no port is `Conflicted`.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Linker, Named, Refusal, condition};
use crate::config::gateway::{RawBackendTls, RawPolicy, TargetRef};
use crate::config::key::{Key, Kind};
use crate::config::object::Object;
use crate::model::balanced::PortId;
use crate::model::service::ServiceName;
use crate::model::status::{
    CONTROLLER, Condition, ObjectName, ObjectStatus, ParentReference, ParentStatus,
};
use crate::model::traffic::{
    BackendTls, BackendTlsPolicies, Roots, TlsName, Traffic, TrafficPolicies,
};

/// Ports with the policy that has each; the place in a list of policies.
type Owners = BTreeMap<PortId, usize>;

impl Linker {
    /// Puts all policies together anew; returns whether any is different, and adds services whose ports have another one.
    pub(super) fn link_policies(
        &mut self,
        services: Named<'_>,
        statuses: &mut BTreeMap<ObjectName, ObjectStatus>,
        concerned: &mut BTreeSet<ServiceName>,
    ) -> bool {
        let of = |kind: Kind| self.others.iter().filter(move |(key, _)| key.kind == kind);
        let mut traffic = TrafficPolicies::new();
        for kind in [Kind::TrafficPolicy, Kind::XBackendTrafficPolicy] {
            let all = of(kind).filter_map(|(_, held)| {
                let Object::Traffic(raw) = &*held.object else {
                    return None;
                };
                Some(&**raw)
            });
            let all: Vec<_> = all.collect();
            let policies: Vec<&RawPolicy> = all.iter().map(|raw| &raw.policy).collect();
            let owners = owners(&policies, services, |policy| policy.refused.is_none());
            for index in 0..policies.len() {
                let status = status(kind, &policies, index, &owners, services, &|_| Vec::new());
                statuses.insert(status.object.clone(), status);
            }
            for (id, owner) in owners {
                let added = &all[owner].traffic;
                let before = traffic.remove(&id);
                traffic.insert(id, Arc::new(merged(before.as_deref(), added)));
            }
        }
        let tls = self.tls(services, statuses);
        let mut changed = false;
        changed |= replace(Arc::make_mut(&mut self.now.traffic), traffic, &mut |_| {});
        changed |= replace(Arc::make_mut(&mut self.now.tls), tls, &mut |id| {
            concerned.insert(id.service.clone());
        });
        changed
    }

    fn tls(
        &self,
        services: Named<'_>,
        statuses: &mut BTreeMap<ObjectName, ObjectStatus>,
    ) -> BackendTlsPolicies {
        let all = self.others.values().filter_map(|held| {
            let Object::BackendTls(raw) = &*held.object else {
                return None;
            };
            Some(&**raw)
        });
        let all: Vec<&RawBackendTls> = all.collect();
        let policies: Vec<&RawPolicy> = all.iter().map(|raw| &raw.policy).collect();
        // One that cannot be carried out still forbids plain text.
        let owners = owners(&policies, services, |_| true);
        let mut made = Vec::new();
        for (index, raw) in all.iter().enumerate() {
            let (roots, bad) = self.roots(raw);
            let extra = |generation| authorities(generation, roots.is_ok(), &bad);
            let mut status = status(
                Kind::BackendTLSPolicy,
                &policies,
                index,
                &owners,
                services,
                &extra,
            );
            if roots.is_err() && raw.policy.refused.is_none() {
                no_authority(&mut status, raw.policy.generation, &bad);
            }
            statuses.insert(status.object.clone(), status);
            let to = match (&raw.policy.refused, roots) {
                (Some(trouble), _) => Err(trouble.message.clone()),
                (None, Err(why)) => Err(why),
                (None, Ok(roots)) => Ok(TlsName {
                    hostname: raw.hostname.clone(),
                    names: raw.names.clone(),
                    roots,
                }),
            };
            made.push(Arc::new(BackendTls {
                from: format!("{}/{}", raw.policy.namespace, raw.policy.name),
                to,
            }));
        }
        let owned = owners
            .into_iter()
            .map(|(id, owner)| (id, made[owner].clone()));
        owned.collect()
    }

    /// Returns the authorities that a policy trusts, and what is wrong with its references.
    fn roots(&self, raw: &RawBackendTls) -> (Result<Roots, String>, Vec<(&'static str, String)>) {
        if raw.system {
            return (Ok(Roots::System), Vec::new());
        }
        let mut bad = Vec::new();
        let mut pem = String::new();
        for reference in &raw.authorities {
            let name = match reference {
                Ok(name) => name,
                Err(what) => {
                    bad.push(("InvalidKind", format!("{what} is no ConfigMap")));
                    continue;
                }
            };
            let key = Key {
                kind: Kind::ConfigMap,
                namespace: raw.policy.namespace.clone(),
                name: name.clone(),
            };
            let text = match self.others.get(&key).map(|held| &*held.object) {
                Some(Object::ConfigMap(map)) => map.authorities.as_deref().ok_or("has no `ca.crt`"),
                _ => Err("is not there"),
            };
            match text.and_then(certificates) {
                Ok(text) => {
                    pem += text;
                    pem.push('\n');
                }
                Err(why) => {
                    let why = format!("ConfigMap {}/{name} {why}", raw.policy.namespace);
                    bad.push(("InvalidCACertificateRef", why));
                }
            }
        }
        if pem.is_empty() {
            return (
                Err("no authority is known that could be trusted".to_owned()),
                bad,
            );
        }
        (Ok(Roots::Pem(pem.into())), bad)
    }
}

/// Returns the text, if there are certificates in it, and each is one as far as its outermost layer tells: PEM (RFC 7468) around a
/// sequence of DER. Names and signatures are looked at where connections are made.
fn certificates(text: &str) -> Result<&str, &'static str> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    let mut parts = text.split(BEGIN).skip(1).peekable();
    if parts.peek().is_none() {
        return Err("holds no certificate");
    }
    for part in parts {
        let (letters, _) = part
            .split_once(END)
            .ok_or("has a certificate without its end")?;
        let der = base64(letters).ok_or("has a certificate that is no base64")?;
        if !is_sequence(&der) {
            return Err("has a certificate that is none");
        }
    }
    Ok(text)
}

/// Returns the bytes of base64 (RFC 4648, section 4), which may have white space in it.
fn base64(text: &str) -> Option<Vec<u8>> {
    let letters: Vec<u8> = text
        .bytes()
        .filter(|it| !it.is_ascii_whitespace())
        .collect();
    let padded = letters.len();
    let letters = letters
        .strip_suffix(b"==")
        .or_else(|| letters.strip_suffix(b"="))
        .unwrap_or(&letters);
    if !padded.is_multiple_of(4) {
        return None;
    }
    let (mut bytes, mut bits, mut count) = (Vec::with_capacity(letters.len()), 0u32, 0);
    for letter in letters {
        let six = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(six);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count).to_le_bytes()[0]);
            bits &= (1 << count) - 1;
        }
    }
    Some(bytes)
}

/// Returns whether this is one sequence of DER and nothing else.
fn is_sequence(der: &[u8]) -> bool {
    let [0x30, length, rest @ ..] = der else {
        return false;
    };
    if *length < 0x80 {
        return rest.len() == usize::from(*length);
    }
    let Some((length, rest)) = rest.split_at_checked(usize::from(*length & 0x7f)) else {
        return false;
    };
    let value = length
        .iter()
        .fold(0usize, |sum, byte| sum << 8 | usize::from(*byte));
    (1..=4).contains(&length.len()) && rest.len() == value
}

/// Returns both together; what the second one says counts.
fn merged(first: Option<&Traffic>, second: &Traffic) -> Traffic {
    let Some(first) = first else {
        return second.clone();
    };
    let mut traffic = first.clone();
    traffic.from.extend(second.from.iter().cloned());
    traffic.budget = second.budget.or(traffic.budget);
    traffic.session = second.session.clone().or(traffic.session);
    traffic
}

/// Puts new values in the place of old ones, keeps the pointers of what is the same, and returns whether anything is not.
fn replace<T: PartialEq>(
    before: &mut BTreeMap<PortId, Arc<T>>,
    now: BTreeMap<PortId, Arc<T>>,
    told: &mut dyn FnMut(&PortId),
) -> bool {
    let mut changed = false;
    before.retain(|id, _| {
        let stays = now.contains_key(id);
        if !stays {
            changed = true;
            told(id);
        }
        stays
    });
    for (id, value) in now {
        if before.get(&id).is_some_and(|it| **it == *value) {
            continue;
        }
        changed = true;
        told(&id);
        before.insert(id, value);
    }
    changed
}

/// Reason of a policy whose target is not there, or has no such port.
const NO_TARGET: &str = "TargetNotFound";

/// Returns the ports that a target means, or why there are none.
fn ports(
    policy: &RawPolicy,
    target: &TargetRef,
    services: Named<'_>,
) -> Result<Vec<PortId>, Refusal> {
    let name = ServiceName {
        namespace: policy.namespace.clone(),
        name: target.name.clone(),
    };
    let service = services.find(&name, NO_TARGET)?;
    let section = target.section.as_ref();
    let fits = |port: &&crate::model::service::Port| {
        section.is_none_or(|section| port.name.as_ref() == Some(section))
    };
    let ports = service.ports.iter().filter(fits).map(|port| PortId {
        service: name.clone(),
        port: port.number,
        protocol: port.protocol,
    });
    let ports: Vec<PortId> = ports.collect();
    match (ports.is_empty(), section) {
        (true, Some(section)) => {
            Err((NO_TARGET, format!("service {name} has no port `{section}`")))
        }
        (true, None) => Err((NO_TARGET, format!("service {name} has no port"))),
        (false, _) => Ok(ports),
    }
}

fn owners(
    policies: &[&RawPolicy],
    services: Named<'_>,
    counts: impl Fn(&RawPolicy) -> bool,
) -> Owners {
    let mut best: BTreeMap<PortId, (bool, i64, String, usize)> = BTreeMap::new();
    for (index, policy) in policies.iter().enumerate().filter(|(_, it)| counts(it)) {
        for target in &policy.targets {
            for id in ports(policy, target, services).unwrap_or_default() {
                let created = policy.created.unwrap_or(i64::MAX);
                let rank = (
                    target.section.is_none(),
                    created,
                    policy.name.clone(),
                    index,
                );
                let has = best.entry(id).or_insert_with(|| rank.clone());
                if rank < *has {
                    *has = rank;
                }
            }
        }
    }
    best.into_iter().map(|(id, rank)| (id, rank.3)).collect()
}

fn status(
    kind: Kind,
    policies: &[&RawPolicy],
    index: usize,
    owners: &Owners,
    services: Named<'_>,
    extra: &dyn Fn(Option<i64>) -> Vec<Condition>,
) -> ObjectStatus {
    let policy = policies[index];
    let mut parents = Vec::new();
    for target in &policy.targets {
        let accepted = accepted(policies, index, target, owners, services);
        let generation = policy.generation;
        let mut conditions = vec![match accepted {
            Ok(message) => condition(generation, "Accepted", true, "Accepted", message),
            Err((reason, message)) => condition(generation, "Accepted", false, reason, message),
        }];
        conditions.extend(extra(generation));
        parents.push(ParentStatus {
            parent: ParentReference {
                group: String::new(),
                kind: "Service".to_owned(),
                namespace: policy.namespace.clone(),
                name: target.name.clone(),
                section_name: target.section.clone(),
                port: None,
            },
            controller_name: CONTROLLER.to_owned(),
            conditions,
        });
    }
    ObjectStatus {
        object: ObjectName {
            kind: kind.word().to_owned(),
            namespace: policy.namespace.clone(),
            name: policy.name.clone(),
        },
        generation: policy.generation,
        parents,
        problems: policy.refused.iter().map(|it| it.message.clone()).collect(),
    }
}

fn accepted(
    policies: &[&RawPolicy],
    index: usize,
    target: &TargetRef,
    owners: &Owners,
    services: Named<'_>,
) -> Result<String, (&'static str, String)> {
    let policy = policies[index];
    if let Some(trouble) = &policy.refused {
        let reason = match trouble.unknown {
            true => "UnsupportedValue",
            false => "Invalid",
        };
        return Err((reason, trouble.message.clone()));
    }
    let ids = ports(policy, target, services)?;
    let (own, others): (Vec<&PortId>, Vec<&PortId>) =
        ids.iter().partition(|id| owners.get(id) == Some(&index));
    let words = others.iter().map(|id| {
        let owner = owners.get(*id).map(|owner| policies[*owner].name.as_str());
        format!("port {}, which {} has", id.port, owner.unwrap_or("nobody"))
    });
    let words: Vec<String> = words.collect();
    match (own.is_empty(), words.is_empty()) {
        (true, _) => Err(("Conflicted", words.join(", "))),
        (false, true) => Ok(String::new()),
        (false, false) => Ok(format!("but for {}", words.join(", "))),
    }
}

fn authorities(
    generation: Option<i64>,
    any: bool,
    bad: &[(&'static str, String)],
) -> Vec<Condition> {
    let messages: Vec<&str> = bad.iter().map(|(_, message)| message.as_str()).collect();
    let (holds, reason) = match bad.first() {
        None if any => (true, "ResolvedRefs"),
        None => (false, "InvalidCACertificateRef"),
        Some((reason, _)) => (false, *reason),
    };
    vec![condition(
        generation,
        "ResolvedRefs",
        holds,
        reason,
        messages.join("; "),
    )]
}

/// Says of a policy whose authorities are all bad that it is not accepted.
fn no_authority(status: &mut ObjectStatus, generation: Option<i64>, bad: &[(&str, String)]) {
    let messages: Vec<&str> = bad.iter().map(|(_, message)| message.as_str()).collect();
    for parent in &mut status.parents {
        let message = messages.join("; ");
        parent.conditions[0] = condition(
            generation,
            "Accepted",
            false,
            "NoValidCACertificate",
            message,
        );
    }
}
