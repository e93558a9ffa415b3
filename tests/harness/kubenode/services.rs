//! A stand-in for kube-proxy: the node's rules that lead a service's address to its endpoints, for who is not in the mesh.

use std::fmt::Write as _;

use anyhow::Result;
use serde_json::Value;

use super::machine::nft;
use super::spec::{items, text};
use crate::Node;
use crate::apiserver::State;

/// Returns the rules for everything that there is.
pub(super) fn rules(state: &State) -> Result<String> {
    let mut lead = String::new();
    let mut refuse = String::new();
    let slices = state.all("EndpointSlice");
    for service in state.all("Service") {
        let metadata = &service["metadata"];
        let Some(address) = service["spec"]["clusterIP"]
            .as_str()
            .filter(|it| *it != "None")
        else {
            continue;
        };
        let of = slices.iter().filter(|slice| {
            slice["metadata"]["namespace"] == metadata["namespace"]
                && slice["metadata"]["labels"]["kubernetes.io/service-name"] == metadata["name"]
        });
        let of: Vec<&Value> = of.collect();
        for port in items(&service["spec"]["ports"]) {
            let protocol = port["protocol"].as_str().unwrap_or("TCP").to_lowercase();
            let known = format!("ip daddr {address} {protocol} dport {}", port["port"]);
            let ends = ends(&of, &text(&port["name"]));
            if ends.is_empty() {
                writeln!(refuse, "    {known} reject")?;
                continue;
            }
            let count = ends.len();
            let ends: Vec<String> = ends
                .iter()
                .enumerate()
                .map(|(at, end)| format!("{at} : {end}"))
                .collect();
            writeln!(
                lead,
                "    {known} dnat ip addr . port to numgen random mod {count} map {{ {} }}",
                ends.join(", ")
            )?;
        }
    }
    // Whatever was led comes back by the node: pods of one bridge would answer each other past it.
    Ok(format!(
        "table ip services\ndelete table ip services\ntable ip services {{\n  chain lead {{\n{lead}  }}\n  chain refuse {{\n{refuse}  }}\n\
         chain of_pods {{ type nat hook prerouting priority dstnat; jump lead; }}\n\
         chain of_node {{ type nat hook output priority -100; jump lead; }}\n\
         chain back {{ type nat hook postrouting priority srcnat; ct status dnat masquerade; }}\n\
         chain through {{ type filter hook forward priority filter; jump refuse; }}\n\
         chain out {{ type filter hook output priority filter; jump refuse; }}\n}}\n"
    ))
}

/// Returns the addresses and ports that are ready behind a service's port.
fn ends(slices: &[&Value], name: &str) -> Vec<String> {
    let mut all = Vec::new();
    for slice in slices {
        let mut ports = items(&slice["ports"]);
        let Some(port) = ports.find(|it| it["name"].as_str().unwrap_or_default() == name) else {
            continue;
        };
        let ready = items(&slice["endpoints"]).filter(|it| it["conditions"]["ready"] != false);
        for address in ready.flat_map(|it| items(&it["addresses"])) {
            all.push(format!("{} . {}", text(address), port["port"]));
        }
    }
    all
}

/// Puts rules in force.
pub(super) fn apply(node: &Node, rules: &str) -> Result<()> {
    nft(node, rules)
}
