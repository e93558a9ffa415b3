//! The way of today's meshes into a sidecar: the client dials a service's address, and a rule of the pod's leads it to the proxy.
//!
//! The rule is the shortest that does it: a mesh's own go through lists, and look at the user of the process first.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use harness::Pod;

/// The table's name.
const TABLE: &str = "sidecar";

/// A pod whose connections to one address are led to a port of its own. While it lives.
#[derive(Debug)]
pub(crate) struct Led<'p>(&'p Pod);

impl<'p> Led<'p> {
    /// Leads what is dialled at `service` to `port`.
    pub(crate) fn new(pod: &'p Pod, service: SocketAddr, port: u16) -> Result<Self> {
        let address = service.ip();
        let route = format!("{address} dev eth0 src {}", pod.v4());
        let mut route_command = pod.command("ip");
        route_command
            .args(["route", "replace"])
            .args(route.split(' '));
        run(&mut route_command, "")?;
        let rules = format!(
            "table ip {TABLE} {{\n chain output {{\n  type nat hook output priority -100;\n  \
             ip daddr {address} tcp dport {} redirect to :{port}\n }}\n}}\n",
            service.port()
        );
        run(pod.command("nft").args(["-f", "-"]), &rules)?;
        Ok(Self(pod))
    }
}

impl Drop for Led<'_> {
    fn drop(&mut self) {
        let removed = run(
            self.0.command("nft").args(["delete", "table", "ip", TABLE]),
            "",
        );
        if let Err(error) = removed {
            eprintln!("the rule that leads to a sidecar stays: {error:#}");
        }
    }
}

fn run(command: &mut Command, input: &str) -> Result<()> {
    let what = format!("{command:?}");
    let mut child = command
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("failed to start {what}"))?;
    let mut to = child.stdin.take().context("no standard input")?;
    to.write_all(input.as_bytes())
        .with_context(|| format!("failed to write to {what}"))?;
    drop(to);
    let output = child.wait_with_output().context("failed to wait")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{what} failed: {said}");
    Ok(())
}
