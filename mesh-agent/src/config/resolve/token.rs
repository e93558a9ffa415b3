//! What only one object can have, or only objects of one kind.
#![forbid(unsafe_code)]

use std::net::IpAddr;

use super::Version;
use crate::config::key::{Key, Kind};
use crate::config::object::Object;
use crate::model::service::{Protocol, ServiceKind};

/// Something that an object claims.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Token {
    /// An address: one pod's, or that of services, which may share it.
    Address(IpAddr),
    /// What is dialled to reach a service.
    Frontend(IpAddr, u16, Protocol),
    /// A port at the node's addresses.
    NodePort(u16, Protocol),
}

impl Token {
    /// Returns whether objects of these kinds may both claim it.
    pub(super) fn is_shared(self, one: Kind, other: Kind) -> bool {
        matches!(self, Self::Address(_)) && one == Kind::Service && other == Kind::Service
    }
}

/// Returns what a version of an object claims.
pub(super) fn of(version: &Version) -> Vec<Token> {
    match &*version.object {
        // One that is being deleted insists on nothing: its address may be another's already.
        Object::Pod(pod) if pod.live && !pod.terminating => {
            let addresses = pod.addresses.iter();
            addresses
                .map(|address| Token::Address(address.ip))
                .collect()
        }
        Object::Service(service) if service.kind == ServiceKind::ClusterIp => {
            let mut tokens = Vec::new();
            for address in service.addresses.iter().chain(&service.external_addresses) {
                tokens.push(Token::Address(*address));
                let ports = service.ports.iter();
                tokens.extend(
                    ports.map(|port| Token::Frontend(*address, port.number, port.protocol)),
                );
            }
            for port in &service.ports {
                let node_port = port.node_port;
                tokens.extend(node_port.map(|number| Token::NodePort(number, port.protocol)));
            }
            tokens
        }
        Object::Pod(_)
        | Object::Service(_)
        | Object::Namespace(_)
        | Object::Node(_)
        | Object::EndpointSlice(_)
        | Object::Policy(_)
        | Object::Route(_)
        | Object::BackendTls(_)
        | Object::Traffic(_)
        | Object::Inert
        | Object::ConfigMap(_) => Vec::new(),
    }
}

/// Returns where in an object a token is claimed: path and line of the document.
pub(super) fn place_of(version: &Version, token: Token) -> (String, u64) {
    let place = &version.place;
    if let (Some(pod), Token::Address(ip)) = (version.pod(), token)
        && let Some(address) = pod.addresses.iter().find(|address| address.ip == ip)
    {
        return (place.path_of(&address.path), place.line + address.below);
    }
    let Object::Service(service) = &*version.object else {
        return (place.path.clone(), place.line);
    };
    let field = match token {
        Token::Address(ip) | Token::Frontend(ip, ..) if service.addresses.contains(&ip) => {
            "spec.clusterIPs"
        }
        Token::Address(_) | Token::Frontend(..) => "spec.externalIPs",
        Token::NodePort(..) => "spec.ports",
    };
    (place.path_of(field), place.line)
}

/// Returns what to say about a token that another object has.
pub(super) fn words(token: Token, owner: &Key, version: &Version) -> (String, &'static str) {
    let place = &version.place;
    match token {
        Token::Address(ip) => (
            format!("`{ip}` is the address of {owner} in {place}"),
            "every pod needs an address of its own; correct one of the two",
        ),
        Token::Frontend(ip, port, protocol) => (
            format!("`{ip}` port {port} {protocol:?} is that of {owner} in {place}"),
            "every service needs an address or port of its own; correct one of the two",
        ),
        Token::NodePort(port, protocol) => (
            format!("node port {port} {protocol:?} is that of {owner} in {place}"),
            "every service needs node ports of its own; correct one of the two",
        ),
    }
}
