//! The rules that kube-proxy would write for the benchmark's services: the same chains, in the same order.
//!
//! As kube-proxy 1.36 does it, each service has a chain that picks an endpoint, each endpoint one that translates to it, with the
//! marks for hairpin connections. nftables finds a service's chain by one look into a map; iptables goes through a list.

use std::fmt::Write as _;
use std::process::{Command, Stdio};

use std::io::Write as _;

use anyhow::{Context, Result, ensure};
use harness::Node;

use super::service::Service;

/// Addresses of pods, which need no masquerading.
const PODS: &str = "10.77.0.0/16";

/// Loads the nftables rules for `services` on `node`, in place of what was there.
pub(super) fn nftables(node: &Node, services: &[Service]) -> Result<()> {
    let mut text = String::new();
    write_nftables(&mut text, services).context("failed to format")?;
    load(node, "nft", &["-f", "-"], &text)
}

/// Loads the iptables rules for `services` on `node`, in place of what was there.
pub(super) fn iptables(node: &Node, services: &[Service]) -> Result<()> {
    let mut text = String::new();
    write_iptables(&mut text, services).context("failed to format")?;
    load(node, "iptables-legacy-restore", &[], &text)
}

fn load(node: &Node, program: &str, arguments: &[&str], text: &str) -> Result<()> {
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--net=/run/netns/{}", node.netns()))
        .args(["--", program])
        .args(arguments)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .with_context(|| format!("failed to start `{program}`"))?;
    let mut input = child.stdin.take().context("no standard input")?;
    input
        .write_all(text.as_bytes())
        .with_context(|| format!("failed to hand the rules to `{program}`"))?;
    drop(input);
    let output = child.wait_with_output().context("failed to wait")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`{program}` failed: {said}");
    Ok(())
}

fn write_nftables(text: &mut String, services: &[Service]) -> std::fmt::Result {
    text.push_str(
        "add table ip kube-proxy\nflush ruleset\ntable ip kube-proxy {\n\
         \tmap service-ips {\n\t\ttype ipv4_addr . inet_proto . inet_service : verdict\n\t}\n\
         \tchain mark-for-masquerade {\n\t\tmeta mark set meta mark or 0x4000\n\t}\n\
         \tchain masquerading {\n\t\tmeta mark and 0x4000 == 0 return\n\
         \t\tmeta mark set meta mark xor 0x4000\n\t\tmasquerade fully-random\n\t}\n\
         \tchain services {\n\t\tip daddr . meta l4proto . th dport vmap @service-ips\n\t}\n\
         \tchain nat-prerouting {\n\t\ttype nat hook prerouting priority dstnat; policy accept;\n\t\tjump services\n\t}\n\
         \tchain nat-output {\n\t\ttype nat hook output priority -100; policy accept;\n\t\tjump services\n\t}\n\
         \tchain nat-postrouting {\n\t\ttype nat hook postrouting priority srcnat; policy accept;\n\t\tjump masquerading\n\t}\n",
    );
    for service in services {
        let Service {
            number,
            address,
            port,
            endpoint,
        } = service;
        writeln!(
            text,
            "\tchain endpoint-{number} {{\n\t\tip saddr {} jump mark-for-masquerade\n\
             \t\tmeta l4proto tcp dnat to {endpoint}\n\t}}\n\
             \tchain service-{number} {{\n\t\tip daddr {address} tcp dport {port} ip saddr != {PODS} jump mark-for-masquerade\n\
             \t\tnumgen random mod 1 vmap {{ 0 : goto endpoint-{number} }}\n\t}}",
            endpoint.ip()
        )?;
    }
    text.push_str("}\nadd element ip kube-proxy service-ips {\n");
    for Service {
        number,
        address,
        port,
        ..
    } in services
    {
        writeln!(text, "\t{address} . tcp . {port} : goto service-{number},")?;
    }
    text.push_str("}\n");
    Ok(())
}

fn write_iptables(text: &mut String, services: &[Service]) -> std::fmt::Result {
    text.push_str(
        "*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-POSTROUTING - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n",
    );
    for Service { number, .. } in services {
        writeln!(
            text,
            ":KUBE-SVC-{number} - [0:0]\n:KUBE-SEP-{number} - [0:0]"
        )?;
    }
    text.push_str(
        "-A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
         -A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
         -A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING\n\
         -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
         -A KUBE-POSTROUTING -j MARK --xor-mark 0x4000\n\
         -A KUBE-POSTROUTING -m comment --comment \"kubernetes service traffic requiring SNAT\" -j MASQUERADE --random-fully\n\
         -A KUBE-MARK-MASQ -j MARK --or-mark 0x4000\n",
    );
    for service in services {
        let Service {
            number,
            address,
            port,
            endpoint,
        } = service;
        let ip = endpoint.ip();
        writeln!(
            text,
            "-A KUBE-SERVICES -d {address}/32 -p tcp -m comment --comment \"bench/s{number} cluster IP\" -m tcp --dport {port} -j KUBE-SVC-{number}\n\
             -A KUBE-SVC-{number} ! -s {PODS} -d {address}/32 -p tcp -m comment --comment \"bench/s{number} cluster IP\" -m tcp --dport {port} -j KUBE-MARK-MASQ\n\
             -A KUBE-SVC-{number} -m comment --comment \"bench/s{number} -> {endpoint}\" -j KUBE-SEP-{number}\n\
             -A KUBE-SEP-{number} -s {ip}/32 -m comment --comment \"bench/s{number}\" -j KUBE-MARK-MASQ\n\
             -A KUBE-SEP-{number} -p tcp -m comment --comment \"bench/s{number}\" -m tcp -j DNAT --to-destination {endpoint}"
        )?;
    }
    text.push_str("COMMIT\n");
    Ok(())
}
