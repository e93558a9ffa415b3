//! `spec.ports` of a `Service`.
#![forbid(unsafe_code)]

use crate::config::known::service as names;
use crate::config::node::Value;
use crate::config::reader::{Fields, Reader, Unknown};
use crate::model::service::Protocol;

/// A port of a valid `Service`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ServicePort {
    /// Empty where it has none.
    pub(crate) name: String,
    pub(crate) number: u16,
    pub(crate) protocol: Protocol,
    pub(crate) node_port: Option<u16>,
    pub(crate) app_protocol: Option<String>,
    pub(crate) target: TargetPort,
}

/// Where a pod answers for a port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum TargetPort {
    /// At this port.
    Number(u16),
    /// At its container port of this name.
    Named(String),
}

/// Returns the ports of a service of type `sort` that are balanced.
pub(super) fn read(reader: &mut Reader, spec: &Fields<'_>, sort: &str) -> Vec<ServicePort> {
    let mut found: Vec<ServicePort> = Vec::new();
    let all = reader.mappings(spec, "ports");
    for fields in &all {
        let Some(port) = port(reader, fields, sort) else {
            continue;
        };
        let is_twin = |other: &ServicePort| {
            other.name == port.name
                || (other.number, other.protocol) == (port.number, port.protocol)
        };
        if let Some(twin) = found.iter().find(|other| is_twin(other)) {
            let (number, name) = (twin.number, &twin.name);
            let problem = format!("has the name or the number of another port, {number} `{name}`");
            let help = "give each port a name of its own, and each number once for a protocol";
            reader.error(fields.line, fields.path.clone(), problem, help);
        }
        found.push(port);
    }
    if all.len() > 1 {
        for fields in all.iter().filter(|fields| fields.entry("name").is_none()) {
            let help = "with more than one port, each needs a name";
            reader.error(fields.line, fields.path_of("name"), "is missing", help);
        }
    }
    found.shrink_to_fit();
    found
}

fn port(reader: &mut Reader, fields: &Fields<'_>, sort: &str) -> Option<ServicePort> {
    reader.only(fields, names::PORT, Unknown::Newer);
    if fields.entry("port").is_none() {
        let help = "write `port: NUMBER`, the port that is dialled";
        reader.error(fields.line, fields.path_of("port"), "is missing", help);
    }
    let number = reader.port(fields, "port");
    let target = target(reader, fields, number.unwrap_or_default());
    // 0 is how "none yet" is sometimes written.
    let node_port = reader.number(fields, "nodePort", 0..=u32::from(u16::MAX));
    let node_port = node_port.and_then(|port| u16::try_from(port).ok());
    let name = reader.text(fields, "name").unwrap_or_default();
    let app_protocol = reader.text(fields, "appProtocol").map(str::to_owned);
    let protocol = match reader.word(fields, "protocol", &["TCP", "UDP", "SCTP"])? {
        "TCP" => Protocol::Tcp,
        "UDP" => Protocol::Udp,
        _ => {
            let path = fields.path_of("protocol");
            let problem = "SCTP is not balanced here; the port is left out";
            let help = "where kube-proxy runs it goes on to balance this port";
            reader.warn(fields.line_of("protocol"), path, problem, help);
            return None;
        }
    };
    let node_port = node_port.filter(|port| *port != 0);
    let has_node_port = matches!(sort, "NodePort" | "LoadBalancer");
    if node_port.is_some() && !has_node_port {
        let problem = format!("a service of type {sort} has no node port");
        let help = "write `type: NodePort`, or leave it out";
        let path = fields.path_of("nodePort");
        reader.warn(fields.line_of("nodePort"), path, problem, help);
    }
    Some(ServicePort {
        name: name.to_owned(),
        number: number?,
        protocol,
        node_port: node_port.filter(|_| has_node_port),
        app_protocol,
        target: target?,
    })
}

/// Returns `targetPort`: a number, or the name of a container port; the port itself where it is not there.
fn target(reader: &mut Reader, fields: &Fields<'_>, port: u16) -> Option<TargetPort> {
    let Some(entry) = fields.entry("targetPort") else {
        return Some(TargetPort::Number(port));
    };
    match &entry.node.value {
        Value::Text(name) if !name.is_empty() => Some(TargetPort::Named(name.clone())),
        // How a number that is not there is printed by some.
        Value::Number(zero) if zero == "0" => Some(TargetPort::Number(port)),
        Value::Number(_) => reader.port(fields, "targetPort").map(TargetPort::Number),
        Value::Null | Value::Bool(_) | Value::Text(_) | Value::List(_) | Value::Map(_) => {
            let problem = format!("is {}, neither a port nor its name", entry.node.what());
            let help = "write a number without quotes, or the name of a container port";
            reader.error(entry.line, fields.path_of("targetPort"), problem, help);
            None
        }
    }
}
