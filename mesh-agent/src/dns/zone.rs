//! The names of services, after Kubernetes' DNS specification, version 1.1: what there is under the domain, and what it leads to.
//!
//! Pure: a zone is made from the services at one moment, and asked. What a name server does about it is in `message`.

#![forbid(unsafe_code)]

#[cfg(test)]
pub(super) mod tests;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::net::IpAddr;
use std::sync::Arc;

use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use crate::dns::limits;
use crate::model::service::{
    Endpoint, Port, Protocol, Service, ServiceKind, ServiceName, Services,
};

/// Version of the specification, as `dns-version` under the domain tells it.
const VERSION: &str = "1.1.0";

/// What the zone knows of a name.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Found {
    /// The zone does not have it, and neither says that it does not exist: somebody else knows.
    NotOurs,
    /// It would be under the domain, and the zone does not have it: there is none, unless somebody else knows it.
    Unknown,
    /// There is no such name of a service that there is.
    NoName,
    /// There is, but nothing of the type that was asked for.
    NoData,
    /// The records, and what a client will ask for next.
    Records(Vec<Record>, Vec<Record>),
    /// It stands for another name.
    Alias(Box<Record>, Name),
}

/// The names of all services at one moment.
#[derive(Debug)]
pub(super) struct Zone {
    /// Labels of the domain, in lower case.
    domain: Vec<String>,
    apex: Name,
    serial: u32,
    services: Arc<Services>,
    namespaces: HashSet<String>,
    /// Names of addresses, for PTR.
    reverse: HashMap<IpAddr, Vec<Name>>,
}

impl Zone {
    /// Returns the zone of `services` under `domain`.
    pub(super) fn new(domain: &str, serial: u32, services: Arc<Services>) -> Self {
        let domain: Vec<String> = domain.split('.').map(str::to_owned).collect();
        let mut zone = Self {
            apex: fqdn(domain.iter().map(String::as_str)).unwrap_or_else(Name::root),
            domain,
            serial,
            namespaces: services.keys().map(|name| name.namespace.clone()).collect(),
            reverse: HashMap::new(),
            services: services.clone(),
        };
        for service in services.values() {
            zone.add_reverse(service);
        }
        zone
    }

    /// Returns what the zone knows of `name`.
    pub(super) fn find(&self, name: &Name, kind: RecordType) -> Found {
        let lower = name.to_lowercase();
        let labels: Option<Vec<&str>> = lower
            .iter()
            .map(|label| std::str::from_utf8(label).ok())
            .collect();
        let Some(labels) = labels else {
            return Found::NotOurs;
        };
        let domain = labels.len().checked_sub(self.domain.len());
        match domain.map(|at| labels.split_at(at)) {
            Some((inner, domain)) if domain == self.domain => self.inner(name, inner, kind),
            _ => self.address_name(name, &lower, kind),
        }
    }

    /// Returns the SOA record that goes with an answer that there is nothing.
    pub(super) fn soa(&self) -> Record {
        let under = |label: &str| {
            let name = self.apex.prepend_label(label);
            name.unwrap_or_else(|_| self.apex.clone())
        };
        let (hour, day, ttl) = (3600, 86_400, limits::TTL_SECONDS);
        let server = under("dns").prepend_label("ns").unwrap_or_default();
        let soa = SOA::new(
            server,
            under("hostmaster"),
            self.serial,
            hour,
            hour / 2,
            day,
            ttl,
        );
        Record::from_rdata(self.apex.clone(), ttl, RData::SOA(soa))
    }

    /// A name under the domain, whose labels are left out.
    fn inner(&self, name: &Name, labels: &[&str], kind: RecordType) -> Found {
        let only = |wanted: RecordType, data: RData| {
            if kind == wanted {
                Found::Records(vec![record(name, data)], Vec::new())
            } else {
                Found::NoData
            }
        };
        match labels {
            [] if kind == RecordType::SOA => Found::Records(vec![self.soa()], Vec::new()),
            [] => {
                let server = self.apex.prepend_label("dns");
                let server = server.and_then(|dns| dns.prepend_label("ns"));
                only(RecordType::NS, RData::NS(NS(server.unwrap_or_default())))
            }
            ["dns-version"] => {
                let version = TXT::new(vec![VERSION.to_owned()]);
                only(RecordType::TXT, RData::TXT(version))
            }
            ["svc" | "dns"] | ["ns", "dns"] => Found::NoData,
            [namespace, "svc"] if self.namespaces.contains(*namespace) => Found::NoData,
            [inner @ .., service, namespace, "svc"] => {
                let key = ServiceName {
                    namespace: (*namespace).to_owned(),
                    name: (*service).to_owned(),
                };
                match self.services.get(&key) {
                    Some(service) => self.service(name, service, inner, kind),
                    None => Found::Unknown,
                }
            }
            _ => Found::Unknown,
        }
    }

    fn service(&self, name: &Name, service: &Service, inner: &[&str], kind: RecordType) -> Found {
        match inner {
            [] => match &service.kind {
                ServiceKind::ClusterIp => addresses(name, &service.addresses, kind),
                ServiceKind::Headless => addresses(name, &shuffled(published(service)), kind),
                ServiceKind::ExternalName(target) => alias(name, target, kind),
            },
            ["_tcp" | "_udp"] => {
                let named = |port: &Port| port.name.is_some() && protocol(port) == inner[0];
                if service.ports.iter().any(named) {
                    Found::NoData
                } else {
                    Found::NoName
                }
            }
            [host] => {
                let found: BTreeSet<IpAddr> = endpoints(service)
                    .filter(|_| service.kind == ServiceKind::Headless)
                    .filter(|endpoint| has_name(endpoint, host))
                    .map(|endpoint| endpoint.address)
                    .collect();
                if found.is_empty() {
                    return Found::NoName;
                }
                addresses(name, &Vec::from_iter(found), kind)
            }
            [port, protocol] => self.srv(name, service, (port, protocol), kind),
            _ => Found::NoName,
        }
    }

    /// `_port._protocol.service...`
    fn srv(
        &self,
        name: &Name,
        service: &Service,
        (label, wanted): (&str, &str),
        kind: RecordType,
    ) -> Found {
        let Some(label) = label.strip_prefix('_') else {
            return Found::NoName;
        };
        let fits = |port: &&Port| port.name.as_deref() == Some(label) && protocol(port) == wanted;
        let Some(port) = service.ports.iter().find(fits) else {
            return Found::NoName;
        };
        if kind != RecordType::SRV {
            return Found::NoData;
        }
        let Some(own) = self.name_of(&service.name, None) else {
            return Found::NoData;
        };
        let srv = |port, target: Name| {
            // Priority and weight are for the mesh to act on: a client that did as well would do it twice.
            record(name, RData::SRV(SRV::new(0, 100, port, target)))
        };
        if service.kind != ServiceKind::Headless {
            let more = both_families(&own, service.addresses.iter());
            return Found::Records(vec![srv(port.number, own)], more);
        }
        let listed = port
            .endpoints
            .iter()
            .filter(|endpoint| is_published(service, endpoint));
        let mut records = Vec::new();
        let mut more = Vec::new();
        for endpoint in shuffled(listed.collect()) {
            let host = host(endpoint);
            if let Some(target) = self.name_of(&service.name, Some(&host)) {
                more.extend(both_families(&target, std::iter::once(&endpoint.address)));
                records.push(srv(endpoint.port, target));
            }
        }
        if records.is_empty() {
            return Found::NoData;
        }
        Found::Records(records, more)
    }

    /// A name below `in-addr.arpa` or `ip6.arpa`, or somebody else's.
    fn address_name(&self, name: &Name, lower: &Name, kind: RecordType) -> Found {
        let network = lower.parse_arpa_name().ok();
        let address = network
            .filter(|network| network.prefix_len() == network.max_prefix_len())
            .map(|network| network.addr());
        let Some(names) = address.and_then(|address| self.reverse.get(&address)) else {
            return Found::NotOurs;
        };
        if kind != RecordType::PTR {
            return Found::NoData;
        }
        let records = names
            .iter()
            .map(|target| record(name, RData::PTR(PTR(target.clone()))));
        Found::Records(records.collect(), Vec::new())
    }

    fn add_reverse(&mut self, service: &Service) {
        let mut names: Vec<(IpAddr, Name)> = Vec::new();
        match service.kind {
            ServiceKind::ExternalName(_) => {}
            ServiceKind::ClusterIp => {
                let name = self.name_of(&service.name, None);
                let all = service.addresses.iter();
                names.extend(all.filter_map(|address| Some((*address, name.clone()?))));
            }
            ServiceKind::Headless => {
                names.extend(endpoints(service).filter_map(|endpoint| {
                    let name = self.name_of(&service.name, Some(&host(endpoint)))?;
                    Some((endpoint.address, name))
                }));
            }
        }
        for (address, name) in names {
            let known = self.reverse.entry(address).or_default();
            if known.len() < limits::RECORDS && !known.contains(&name) {
                known.push(name);
            }
        }
    }

    /// Returns the whole name of a service, or of a host of it; `None` where that is too long for a name.
    fn name_of(&self, service: &ServiceName, host: Option<&str>) -> Option<Name> {
        let own = [service.name.as_str(), &service.namespace, "svc"];
        let domain = self.domain.iter().map(String::as_str);
        fqdn(host.into_iter().chain(own).chain(domain))
    }
}

fn fqdn<'a>(labels: impl Iterator<Item = &'a str>) -> Option<Name> {
    let mut name = Name::from_labels(labels.map(str::as_bytes)).ok()?;
    name.set_fqdn(true);
    Some(name)
}

fn record(name: &Name, data: RData) -> Record {
    Record::from_rdata(name.clone(), limits::TTL_SECONDS, data)
}

fn protocol(port: &Port) -> &'static str {
    match port.protocol {
        Protocol::Tcp => "_tcp",
        Protocol::Udp => "_udp",
    }
}

fn alias(name: &Name, target: &str, kind: RecordType) -> Found {
    let labels = target.trim_end_matches('.').split('.');
    let Some(target) = fqdn(labels) else {
        return Found::NoData;
    };
    let cname = record(name, RData::CNAME(CNAME(target.clone())));
    if kind == RecordType::CNAME {
        return Found::Records(vec![cname], Vec::new());
    }
    Found::Alias(Box::new(cname), target)
}

fn addresses(name: &Name, all: &[IpAddr], kind: RecordType) -> Found {
    let records: Vec<Record> = both_families(name, all.iter())
        .into_iter()
        .filter(|record| record.record_type() == kind)
        .take(limits::RECORDS)
        .collect();
    if records.is_empty() {
        return Found::NoData;
    }
    Found::Records(records, Vec::new())
}

fn both_families<'a>(name: &Name, all: impl Iterator<Item = &'a IpAddr>) -> Vec<Record> {
    let data = |address: &IpAddr| match address {
        IpAddr::V4(ip) => RData::A(A(*ip)),
        IpAddr::V6(ip) => RData::AAAA(AAAA(*ip)),
    };
    all.map(|address| record(name, data(address))).collect()
}

/// The endpoints that a name may lead to.
fn endpoints(service: &Service) -> impl Iterator<Item = &Endpoint> {
    let all = service.ports.iter().flat_map(|port| &port.endpoints);
    let all = all.chain(&service.portless);
    all.filter(|endpoint| is_published(service, endpoint))
}

fn is_published(service: &Service, endpoint: &Endpoint) -> bool {
    endpoint.ready || service.publish_not_ready
}

/// Their addresses, each once.
fn published(service: &Service) -> Vec<IpAddr> {
    let all: BTreeSet<IpAddr> = endpoints(service)
        .map(|endpoint| endpoint.address)
        .collect();
    all.into_iter().collect()
}

/// The label of an endpoint: its hostname, else its pod's name where it is known and may be a label, else its address.
fn host(endpoint: &Endpoint) -> String {
    if let Some(own) = &endpoint.hostname {
        return own.as_ref().to_owned();
    }
    let pod = endpoint.workload.as_ref().map(|workload| &workload.name);
    match pod.filter(|name| crate::config::name::is_label(name)) {
        Some(name) => name.clone(),
        None => dashed(endpoint.address),
    }
}

/// An endpoint's label and its address lead to it.
fn has_name(endpoint: &Endpoint, label: &str) -> bool {
    host(endpoint) == label || dashed(endpoint.address) == label
}

fn dashed(address: IpAddr) -> String {
    match address {
        IpAddr::V4(ip) => ip.to_string().replace('.', "-"),
        // All groups: `::` would make a label that begins or ends with a dash.
        IpAddr::V6(ip) => ip.segments().map(|group| format!("{group:x}")).join("-"),
    }
}

/// Returns at most [`limits::RECORDS`] of `all` in another order each time, so that clients that take the first spread.
fn shuffled<T>(mut all: Vec<T>) -> Vec<T> {
    // Each state differs from the one before: its keys count up from random ones.
    let mut number = RandomState::new().build_hasher().finish();
    let keep = all.len().min(limits::RECORDS);
    for index in 0..keep {
        // A step of Knuth's generator; the upper bits are the good ones.
        number = number
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let left = (all.len() - index) as u64;
        let pick = ((number >> 32) * left) >> 32;
        all.swap(index, index + usize::try_from(pick).unwrap_or(0));
    }
    all.truncate(keep);
    all
}
