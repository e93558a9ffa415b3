//! Kubernetes `Service`: what is dialled, and how its backends are found.
#![forbid(unsafe_code)]

mod not_honoured;
mod ports;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::config::address::{self, AddressError};
use crate::config::balance;
use crate::config::known;
use crate::config::known::service as names;
use crate::config::metadata::Metadata;
use crate::config::reader::{Fields, Reader, Unknown};
use crate::model::service::{Balance, Distribution, ServiceKind};

pub(crate) use ports::{ServicePort, TargetPort};

/// How long a client sticks to its backend where the manifest does not say: Kubernetes' default.
const AFFINITY: u32 = 10_800;
/// The longest that Kubernetes allows.
const AFFINITY_AT_MOST: u32 = 86_400;

/// A valid `Service`.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Service {
    pub(crate) kind: ServiceKind,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) external_addresses: Vec<IpAddr>,
    /// Whether endpoints of IPv4 and of IPv6 answer for it.
    pub(crate) families: [bool; 2],
    pub(crate) ports: Vec<ServicePort>,
    /// Empty: its endpoints come from slices only.
    /// Ordered by name, each once.
    pub(crate) selector: Box<[(String, String)]>,
    pub(crate) affinity: Option<Duration>,
    pub(crate) local_only: bool,
    pub(crate) distribution: Distribution,
    pub(crate) publish_not_ready: bool,
    pub(crate) balance: Balance,
}

impl Service {
    /// Returns whether an endpoint of this family answers for it.
    pub(crate) fn has_family(&self, address: IpAddr) -> bool {
        self.families[usize::from(address.is_ipv6())]
    }
}

/// Reads a `Service`. The result counts only if `reader` recorded no error.
pub(crate) fn read(
    reader: &mut Reader,
    object: &Fields<'_>,
    metadata: Metadata,
) -> Option<Service> {
    reader.only(object, known::OBJECT, Unknown::Error);
    let balance = balance::read(reader, &metadata);
    if object.entry("spec").is_none() {
        let help = "say what is dialled: `spec: {clusterIP: ..., ports: [...]}`";
        reader.error(object.line, object.path_of("spec"), "is missing", help);
    }
    let spec = reader.child(object, "spec")?;
    reader.only(&spec, names::SPEC, Unknown::Newer);
    let types = ["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"];
    let sort = reader.word(&spec, "type", &types)?;
    let addresses = cluster_addresses(reader, &spec);
    let kind = kind(reader, &spec, sort, &addresses);
    let mut external_addresses = Vec::new();
    for (text, path, line) in reader.strings(&spec, "externalIPs") {
        add(reader, &mut external_addresses, text, path, line);
    }
    ingress(reader, object, &mut external_addresses);
    external_addresses.retain(|address| !addresses.contains(address));
    let is_named_only = kind != ServiceKind::ClusterIp;
    let service = Service {
        families: families(reader, &spec, &addresses),
        ports: ports::read(reader, &spec, sort),
        selector: selector(reader, &spec),
        affinity: affinity(reader, &spec, is_named_only),
        local_only: reader.word(&spec, "internalTrafficPolicy", &["Cluster", "Local"])
            == Some("Local"),
        distribution: distribution(reader, &spec),
        publish_not_ready: reader
            .boolean(&spec, "publishNotReadyAddresses")
            .unwrap_or(false),
        balance,
        kind,
        addresses,
        external_addresses,
    };
    not_honoured::tell(reader, &spec, &service);
    if is_named_only && let Some(mark) = metadata.marks.first() {
        let problem = "the service is dialled by its endpoints' addresses, so nothing is balanced";
        let help = "leave the annotation out, or give the service a clusterIP";
        reader.warn(mark.line, &mark.path, problem, help);
    }
    Some(service)
}

fn kind(reader: &mut Reader, spec: &Fields<'_>, sort: &str, addresses: &[IpAddr]) -> ServiceKind {
    if sort == "ExternalName" {
        let name = reader.text(spec, "externalName").unwrap_or_default();
        if name.is_empty() {
            let help = "give the name that clients are sent to";
            reader.error(spec.line, spec.path_of("externalName"), "is missing", help);
        }
        return ServiceKind::ExternalName(name.to_owned());
    }
    if is_headless(spec) {
        if sort != "ClusterIP" {
            let problem = format!("a service of type {sort} cannot be headless");
            let help = "give clusterIP an address, or use type ClusterIP";
            reader.error(
                spec.line_of("clusterIP"),
                spec.path_of("clusterIP"),
                problem,
                help,
            );
        }
        return ServiceKind::Headless;
    }
    if addresses.is_empty() && spec.entry("clusterIP").is_none() {
        let problem = "the service has no address, so no workload can dial it by one";
        let help = "without Kubernetes nobody gives it one: write `clusterIP: ADDRESS`";
        reader.warn(spec.line, spec.path_of("clusterIP"), problem, help);
    }
    ServiceKind::ClusterIp
}

fn is_headless(spec: &Fields<'_>) -> bool {
    spec.entry("clusterIP")
        .is_some_and(|entry| entry.node.text() == Some("None"))
}

/// Returns `clusterIPs`, or `clusterIP` where that is all there is.
fn cluster_addresses(reader: &mut Reader, spec: &Fields<'_>) -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> = Vec::new();
    let headless = is_headless(spec);
    for (text, path, line) in reader.strings(spec, "clusterIPs") {
        if (text == "None") != headless {
            let problem = format!("`{text}` does not go with clusterIP");
            let help = "give the same in clusterIP, and first in clusterIPs";
            reader.error(line, path, problem, help);
        } else if text != "None" {
            add(reader, &mut found, text, path, line);
        }
    }
    if let [first, second, rest @ ..] = found.as_slice()
        && (first.is_ipv4() == second.is_ipv4() || !rest.is_empty())
    {
        let help = "give one address, or one of IPv4 and one of IPv6";
        let path = spec.path_of("clusterIPs");
        let problem = "has more than one address of a family";
        reader.error(spec.line_of("clusterIPs"), path, problem, help);
    }
    let Some(text) = reader.text(spec, "clusterIP") else {
        return found;
    };
    if text.is_empty() || headless {
        return found;
    }
    let (path, line) = (spec.path_of("clusterIP"), spec.line_of("clusterIP"));
    let mut only = Vec::new();
    add(reader, &mut only, text, path.clone(), line);
    match (found.first(), only.first()) {
        (Some(first), Some(given)) if first != given => {
            let problem = format!("`{given}` is not the first of clusterIPs, `{first}`");
            let help = "leave one of the two fields out, or give the same address in both";
            reader.error(line, path, problem, help);
        }
        (Some(_), _) => {}
        (None, _) => found = only,
    }
    found
}

/// Adds an address that a service can have.
fn add(reader: &mut Reader, found: &mut Vec<IpAddr>, text: &str, path: String, line: u64) {
    match address::parse(text) {
        Ok(address) if !found.contains(&address) => found.push(address),
        Ok(_) => {}
        Err(error @ AddressError::NotAnAddress(_)) => {
            reader.error(line, path, error.to_string(), error.help());
        }
        Err(AddressError::NotUnique { address, sort }) => {
            let problem = format!("`{address}` is {sort} address, which no service can have");
            reader.error(line, path, problem, "give the address that workloads dial");
        }
    }
}

/// Adds the addresses that a load balancer lends and that are dialled past it (`ipMode: VIP`, the default).
fn ingress(reader: &mut Reader, object: &Fields<'_>, found: &mut Vec<IpAddr>) {
    let Some(status) = reader.child(object, "status") else {
        return;
    };
    reader.only(&status, names::STATUS, Unknown::Newer);
    let Some(balancer) = reader.child(&status, "loadBalancer") else {
        return;
    };
    reader.only(&balancer, names::LOAD_BALANCER, Unknown::Newer);
    for ingress in reader.mappings(&balancer, "ingress") {
        reader.only(&ingress, names::INGRESS, Unknown::Newer);
        let mode = reader.word(&ingress, "ipMode", &["VIP", "Proxy"]);
        let text = reader.text(&ingress, "ip").unwrap_or_default();
        if mode == Some("VIP") && !text.is_empty() {
            add(reader, found, text, ingress.path_of("ip"), ingress.line);
        }
    }
}

/// Returns the families whose endpoints answer: those said, else those of the addresses, else both.
fn families(reader: &mut Reader, spec: &Fields<'_>, addresses: &[IpAddr]) -> [bool; 2] {
    let policies = ["SingleStack", "PreferDualStack", "RequireDualStack"];
    reader.word(spec, "ipFamilyPolicy", &policies);
    let mut families = [false; 2];
    for (text, path, line) in reader.strings(spec, "ipFamilies") {
        match text {
            "IPv4" => families[0] = true,
            "IPv6" => families[1] = true,
            _ => {
                let problem = format!("`{text}` is not a family of addresses");
                reader.error(line, path, problem, "write `IPv4` or `IPv6`");
            }
        }
    }
    for address in addresses {
        families[usize::from(address.is_ipv6())] = true;
    }
    if families == [false; 2] {
        return [true; 2];
    }
    families
}

fn selector(reader: &mut Reader, spec: &Fields<'_>) -> Box<[(String, String)]> {
    let mut selector = BTreeMap::new();
    let Some(part) = reader.child(spec, "selector") else {
        return Box::default();
    };
    for entry in part.entries {
        if let Some(value) = reader.string(&entry.node, part.path_of(&entry.key)) {
            selector.insert(entry.key.clone(), value.to_owned());
        }
    }
    selector.into_iter().collect()
}

fn affinity(reader: &mut Reader, spec: &Fields<'_>, is_named_only: bool) -> Option<Duration> {
    let sticks = reader.word(spec, "sessionAffinity", &["None", "ClientIP"])? == "ClientIP";
    let mut seconds = AFFINITY;
    if !sticks && spec.entry("sessionAffinityConfig").is_some() {
        let problem = "does nothing without `sessionAffinity: ClientIP`";
        let help = "write that too, or leave it out";
        let line = spec.line_of("sessionAffinityConfig");
        reader.warn(line, spec.path_of("sessionAffinityConfig"), problem, help);
    }
    if let Some(config) = reader.child(spec, "sessionAffinityConfig") {
        reader.only(&config, names::AFFINITY, Unknown::Newer);
        if let Some(client) = reader.child(&config, "clientIP") {
            reader.only(&client, names::CLIENT_IP, Unknown::Newer);
            let given = reader.number(&client, "timeoutSeconds", 1..=AFFINITY_AT_MOST);
            seconds = given.unwrap_or(AFFINITY);
        }
    }
    (sticks && !is_named_only).then(|| Duration::from_secs(u64::from(seconds)))
}

fn distribution(reader: &mut Reader, spec: &Fields<'_>) -> Distribution {
    if spec.entry("trafficDistribution").is_none() {
        return Distribution::Any;
    }
    let words = ["PreferClose", "PreferSameZone", "PreferSameNode"];
    match reader.word(spec, "trafficDistribution", &words) {
        Some("PreferSameNode") => Distribution::SameNode,
        Some(_) => Distribution::SameZone,
        None => Distribution::Any,
    }
}
