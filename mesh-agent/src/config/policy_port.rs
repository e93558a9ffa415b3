//! Ports and address blocks, as `NetworkPolicy` and `AuthorizationPolicy` write them.
#![forbid(unsafe_code)]

use std::net::IpAddr;

use crate::config::known::policy as names;
use crate::config::node::Value;
use crate::config::reader::{Fields, Reader, Unknown};
use crate::model::policy::{Block, Peer, Ports, WhichPorts};
use crate::model::service::Protocol;

/// Returns the ports in `ports`; `None`, any, where there are none. `default` is the protocol of an entry that gives none.
pub(crate) fn ports(
    reader: &mut Reader,
    rule: &Fields<'_>,
    default: Option<Protocol>,
) -> Option<Vec<Ports>> {
    let entries = reader.mappings(rule, "ports");
    if entries.is_empty() {
        return None;
    }
    // Not `None` where all of them are SCTP: that would match everything.
    let one = |fields| port(reader, fields, default);
    Some(entries.iter().filter_map(one).collect())
}

fn port(reader: &mut Reader, fields: &Fields<'_>, default: Option<Protocol>) -> Option<Ports> {
    reader.only(fields, names::POLICY_PORT, Unknown::Error);
    let which = which(reader, fields);
    if fields.entry("protocol").is_none() {
        return Some(Ports {
            protocol: default,
            which: which?,
        });
    }
    let protocol = match reader.word(fields, "protocol", &["TCP", "UDP", "SCTP"])? {
        "TCP" => Protocol::Tcp,
        "UDP" => Protocol::Udp,
        _ => {
            let path = fields.path_of("protocol");
            let problem = "rules for SCTP are not enforced here; this one is left out";
            let help = "a network plugin has to enforce it";
            reader.warn(fields.line_of("protocol"), path, problem, help);
            return None;
        }
    };
    Some(Ports {
        protocol: Some(protocol),
        which: which?,
    })
}

fn which(reader: &mut Reader, fields: &Fields<'_>) -> Option<WhichPorts> {
    let has_end = fields.entry("endPort").is_some();
    let end = reader.port(fields, "endPort");
    let Some(entry) = fields.entry("port") else {
        if has_end {
            let help = "give `port`, the first of the range";
            reader.error(fields.line, fields.path_of("port"), "is missing", help);
        }
        return Some(WhichPorts::All);
    };
    if let Value::Text(name) = &entry.node.value {
        if has_end {
            let problem = "a named port cannot begin a range";
            let help = "give numbers, or leave endPort out";
            reader.error(entry.line, fields.path_of("endPort"), problem, help);
        }
        return Some(WhichPorts::Named(name.clone()));
    }
    let first = reader.port(fields, "port")?;
    let last = if has_end { end? } else { first };
    if last < first {
        let problem = format!("{last} is less than port, {first}");
        let help = "give the last port of the range";
        reader.error(
            fields.line_of("endPort"),
            fields.path_of("endPort"),
            problem,
            help,
        );
    }
    Some(WhichPorts::Range(first, last))
}

/// Returns the block in field `cidr` less those in `except`, if it is there.
pub(crate) fn block(reader: &mut Reader, fields: &Fields<'_>, cidr: &str) -> Option<Peer> {
    let text = reader.text(fields, cidr)?;
    let block = parse(reader, text, fields.path_of(cidr), fields.line_of(cidr))?;
    let mut except = Vec::new();
    for (text, path, line) in reader.strings(fields, "except") {
        let Some(part) = parse(reader, text, path.clone(), line) else {
            continue;
        };
        if !holds(block, part) {
            let problem = format!("`{text}` is not a part of the block");
            let help = "give a smaller block inside of it";
            reader.error(line, path, problem, help);
        }
        except.push(part);
    }
    Some(Peer::Block { block, except })
}

fn parse(reader: &mut Reader, text: &str, path: String, line: u64) -> Option<Block> {
    let found = text.split_once('/').and_then(|(address, prefix)| {
        let address: IpAddr = address.parse().ok()?;
        let prefix: u8 = prefix.parse().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        (prefix <= most).then(|| Block {
            address: masked(address, prefix),
            prefix,
        })
    });
    if found.is_none() {
        let problem = format!("`{text}` is not an address block");
        let help = "write an address and a prefix length: `10.0.0.0/8`, `fd00::/8`";
        reader.error(line, path, problem, help);
    }
    found
}

/// Returns `address` without the bits beyond `prefix`.
fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V4((v4.to_bits() & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V6((v6.to_bits() & mask).into())
        }
    }
}

fn holds(block: Block, part: Block) -> bool {
    block.address.is_ipv4() == part.address.is_ipv4()
        && part.prefix > block.prefix
        && masked(part.address, block.prefix) == block.address
}
