//! What a program says of itself when it registers: as JSON, and checked.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::name::is_label;
use crate::model::service::{HealthCheck, Probe, Protocol, ServiceName};
use crate::source::registered::limits;

/// One instance of a service, as its registration describes it: the body of `PUT .../instances/{id}`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registration {
    /// Where it listens.
    pub address: IpAddr,
    /// On which ports; at least one.
    pub ports: Vec<RegisteredPort>,
    /// Its weight among the others of its priority; 0 gets nothing.
    #[serde(default = "one")]
    pub weight: u32,
    /// 0 is used first, higher ones as lower ones fail.
    #[serde(default)]
    pub priority: u32,
    /// The zone it is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// The region it is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// How long it lives without a sign of life.
    #[serde(default = "ttl")]
    pub ttl_seconds: u32,
    /// How the agent checks it. Of several instances, what the last one said holds for the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check: Option<RegisteredCheck>,
    /// Whatever else is worth saying; shown when somebody looks the service up.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// One port of an instance.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegisteredPort {
    /// Its name, by which an SRV query finds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The port that the instance listens on.
    pub number: u16,
    /// The port of the service that leads to it; the same number where not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_port: Option<u16>,
    /// Its protocol.
    #[serde(default = "tcp")]
    pub protocol: Protocol,
}

impl RegisteredPort {
    /// Returns what tells the service's port from its others.
    pub(super) fn dialled(&self) -> (u16, Protocol) {
        (self.service_port.unwrap_or(self.number), self.protocol)
    }
}

/// An active health check.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegisteredCheck {
    /// What is asked.
    pub kind: CheckKind,
    /// Path and query of an HTTP check; `/` where not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Service of a gRPC check; the server as a whole where not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Seconds between two checks.
    #[serde(default = "ten")]
    pub interval_seconds: u32,
    /// Seconds that one may take.
    #[serde(default = "one")]
    pub timeout_seconds: u32,
    /// Failures in a row until it counts as unhealthy.
    #[serde(default = "three")]
    pub unhealthy: u32,
    /// Successes in a row until it counts as healthy.
    #[serde(default = "one")]
    pub healthy: u32,
}

/// What an active check asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckKind {
    /// That a connection is accepted.
    Tcp,
    /// `GET path` answered with a status from 200 to 399.
    Http,
    /// `grpc.health.v1.Health/Check`.
    Grpc,
}

impl From<&RegisteredCheck> for HealthCheck {
    fn from(check: &RegisteredCheck) -> Self {
        let seconds = |seconds: u32| Duration::from_secs(seconds.into());
        Self {
            probe: match check.kind {
                CheckKind::Tcp => Probe::Tcp,
                CheckKind::Http => Probe::Http {
                    path: check.path.clone().unwrap_or_else(|| "/".to_owned()),
                },
                CheckKind::Grpc => Probe::Grpc {
                    service: check.service.clone().unwrap_or_default(),
                },
            },
            interval: seconds(check.interval_seconds),
            timeout: seconds(check.timeout_seconds),
            unhealthy: check.unhealthy,
            healthy: check.healthy,
        }
    }
}

fn one() -> u32 {
    1
}

fn three() -> u32 {
    3
}

fn ten() -> u32 {
    10
}

fn ttl() -> u32 {
    limits::TTL_SECONDS_DEFAULT
}

fn tcp() -> Protocol {
    Protocol::Tcp
}

impl Registration {
    /// Returns how long the instance lives without a sign of life.
    pub fn ttl(&self) -> Duration {
        Duration::from_secs(self.ttl_seconds.into())
    }

    /// Makes sure that everything in it makes sense.
    ///
    /// # Errors
    ///
    /// Says which field does not, and why.
    pub(super) fn check(&self) -> Result<(), String> {
        check_address(self.address)?;
        check_ports(&self.ports)?;
        let most = limits::TTL_SECONDS_MAX;
        if !(1..=most).contains(&self.ttl_seconds) {
            return Err(format!(
                "ttl_seconds: {} is not from 1 to {most}",
                self.ttl_seconds
            ));
        }
        for (field, value) in [("zone", &self.zone), ("region", &self.region)] {
            let fits = |value: &String| is_printable(value, limits::LABEL_VALUE_BYTES);
            if !value.as_ref().is_none_or(fits) {
                let most = limits::LABEL_VALUE_BYTES;
                return Err(format!("{field}: not 1 to {most} printable characters"));
            }
        }
        if self.labels.len() > limits::LABELS {
            let (count, most) = (self.labels.len(), limits::LABELS);
            return Err(format!("labels: {count}, and {most} is the most"));
        }
        for (key, value) in &self.labels {
            let value_fits = value.is_empty() || is_printable(value, limits::LABEL_VALUE_BYTES);
            if !is_printable(key, limits::LABEL_KEY_BYTES) || !value_fits {
                return Err(format!(
                    "labels: `{}` is too long or not printable",
                    key.escape_debug()
                ));
            }
        }
        self.health_check.as_ref().map_or(Ok(()), check_check)
    }
}

fn check_address(address: IpAddr) -> Result<(), String> {
    let odd = match address {
        IpAddr::V4(ip) if ip.is_broadcast() => Some("the broadcast address"),
        IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some() => Some("an IPv4 address in IPv6's form"),
        IpAddr::V6(ip) if ip.is_unicast_link_local() => Some("a link-local address"),
        ip if ip.is_unspecified() => Some("no address of anybody"),
        ip if ip.is_loopback() => {
            Some("a loopback address, which means somebody else to each client")
        }
        ip if ip.is_multicast() => Some("a multicast address"),
        _ => None,
    };
    odd.map_or(Ok(()), |odd| Err(format!("address: {address} is {odd}")))
}

fn check_ports(ports: &[RegisteredPort]) -> Result<(), String> {
    let most = limits::PORTS;
    if ports.is_empty() || ports.len() > most {
        let count = ports.len();
        return Err(format!("ports: {count}, and it has to be from 1 to {most}"));
    }
    let mut names = BTreeSet::new();
    let mut dialled = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        if port.number == 0 || port.service_port == Some(0) {
            return Err(format!("ports[{index}]: 0 is no port"));
        }
        if !dialled.insert(port.dialled()) {
            return Err(format!("ports[{index}]: the same port twice"));
        }
        let Some(name) = &port.name else { continue };
        if !is_label(name) {
            return Err(format!(
                "ports[{index}].name: `{}` is no DNS label in lower case",
                name.escape_debug()
            ));
        }
        if !names.insert(name) {
            return Err(format!("ports[{index}].name: `{name}` twice"));
        }
    }
    Ok(())
}

fn check_check(check: &RegisteredCheck) -> Result<(), String> {
    let hour = 3600;
    let bounds = [
        ("interval_seconds", check.interval_seconds, hour),
        ("timeout_seconds", check.timeout_seconds, hour),
        ("unhealthy", check.unhealthy, 100),
        ("healthy", check.healthy, 100),
    ];
    for (field, value, most) in bounds {
        if !(1..=most).contains(&value) {
            return Err(format!(
                "health_check.{field}: {value} is not from 1 to {most}"
            ));
        }
    }
    if check.path.is_some() && check.kind != CheckKind::Http {
        return Err("health_check.path: only an HTTP check has one".to_owned());
    }
    if check.service.is_some() && check.kind != CheckKind::Grpc {
        return Err("health_check.service: only a gRPC check has one".to_owned());
    }
    let is_path = |path: &String| path.starts_with('/') && is_printable(path, limits::CHECK_BYTES);
    if !check.path.as_ref().is_none_or(is_path) {
        return Err("health_check.path: not a path that begins with `/`".to_owned());
    }
    let is_service = |service: &String| is_printable(service, limits::CHECK_BYTES);
    if !check.service.as_ref().is_none_or(is_service) {
        return Err("health_check.service: too long or not printable".to_owned());
    }
    Ok(())
}

/// Makes sure that a service's name and an instance's id make sense.
pub(super) fn check_names(service: &ServiceName, id: &str) -> Result<(), String> {
    check_service(service)?;
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte);
    let most = limits::ID_BYTES;
    if id.is_empty() || id.len() > most || !id.bytes().all(fits) {
        return Err(format!(
            "instance id `{}` is not 1 to {most} letters, digits, `-`, `.`, `_` and `:`",
            id.escape_debug()
        ));
    }
    Ok(())
}

/// Makes sure that a service's name may be one: each part is a label of a DNS name.
pub(super) fn check_service(service: &ServiceName) -> Result<(), String> {
    for (what, label) in [("namespace", &service.namespace), ("name", &service.name)] {
        if !is_label(label) {
            return Err(format!(
                "{what} `{}` is no DNS label in lower case",
                label.escape_debug()
            ));
        }
    }
    Ok(())
}

fn is_printable(text: &str, most: usize) -> bool {
    (1..=most).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Returns a registration with one TCP port.
    pub(crate) fn registration(address: &str, port: u16) -> Registration {
        let body = format!(r#"{{"address": "{address}", "ports": [{{"number": {port}}}]}}"#);
        serde_json::from_str(&body).unwrap()
    }

    #[test]
    fn little_has_to_be_said() {
        let short = registration("10.0.0.1", 80);
        assert_eq!(short.check(), Ok(()));
        assert_eq!((short.ttl_seconds, short.weight), (30, 1));
        let long = r#"{"address": "fd00::1", "ports": [{"name": "http", "number": 8080, "service_port": 80, "protocol": "TCP"}],
            "weight": 0, "priority": 1, "zone": "a", "region": "r", "ttl_seconds": 5,
            "health_check": {"kind": "http", "path": "/ready", "interval_seconds": 2}, "labels": {"version": "2"}}"#;
        let long: Registration = serde_json::from_str(long).unwrap();
        assert_eq!(long.check(), Ok(()));
        let check = HealthCheck::from(long.health_check.as_ref().unwrap());
        assert_eq!(check.interval, Duration::from_secs(2));
        assert_eq!(check.unhealthy, 3);
        let text = serde_json::to_string(&long).unwrap();
        assert_eq!(serde_json::from_str::<Registration>(&text).unwrap(), long);
    }

    #[test]
    fn what_makes_no_sense_is_told() {
        let mut bad = registration("10.0.0.1", 80);
        let says = |bad: &mut Registration, word: &str| {
            let error = bad.check().unwrap_err();
            assert!(error.contains(word), "{word}: {error}");
            *bad = registration("10.0.0.1", 80);
        };
        for address in [
            "0.0.0.0",
            "127.0.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "::ffff:1.2.3.4",
        ] {
            bad.address = address.parse().unwrap();
            says(&mut bad, "address: ");
        }
        bad.ports.clear();
        says(&mut bad, "ports: 0");
        bad.ports = vec![bad.ports[0].clone(); limits::PORTS + 1];
        says(&mut bad, "ports: 17");
        bad.ports = vec![bad.ports[0].clone(); 2];
        says(&mut bad, "the same port twice");
        bad.ports[0].number = 0;
        says(&mut bad, "0 is no port");
        bad.ports[0].name = Some("HTTP".into());
        says(&mut bad, "no DNS label");
        bad.ttl_seconds = 0;
        says(&mut bad, "ttl_seconds");
        bad.ttl_seconds = 3601;
        says(&mut bad, "ttl_seconds");
        bad.zone = Some("z".repeat(64));
        says(&mut bad, "zone");
        let labels = (0..33).map(|n| (format!("k{n}"), String::new()));
        bad.labels = labels.collect();
        says(&mut bad, "labels: 33");
        bad.labels.insert("a b".into(), "c".into());
        says(&mut bad, "`a b`");
        let check = r#"{"kind": "http", "path": "ready"}"#;
        bad.health_check = serde_json::from_str(check).unwrap();
        says(&mut bad, "health_check.path");
        let check = r#"{"kind": "tcp", "interval_seconds": 0}"#;
        bad.health_check = serde_json::from_str(check).unwrap();
        says(&mut bad, "interval_seconds");
    }

    #[test]
    fn names_are_dns_labels_and_ids_fit_into_a_path() {
        let service = |namespace: &str, name: &str| ServiceName {
            namespace: namespace.into(),
            name: name.into(),
        };
        assert_eq!(check_names(&service("shop", "cart"), "cart-7:8080"), Ok(()));
        for (service, id) in [
            (service("Shop", "cart"), "a"),
            (service("shop", "a.b"), "a"),
            (service("shop", ""), "a"),
            (service("shop", "cart"), ""),
            (service("shop", "cart"), "a/b"),
            (service("shop", "cart"), "a b"),
        ] {
            assert!(check_names(&service, id).is_err(), "{service} {id}");
        }
    }
}
