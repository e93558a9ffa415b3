//! Where the two ends of a case run.

use std::fmt;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use harness::{Pod, Running};

use crate::case::Load;
use crate::worker::{READY, RESULT, Sample};

/// How the two ends are joined.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Variant {
    /// TCP between two pods joined by a veth pair, agent running, both pods accelerated.
    Redirect,
    /// TCP between two such pods on a machine without agent.
    Veth,
    /// TCP over the loopback of one pod, without agent.
    Loopback,
    /// A unix socket, without agent: what the kernel can do at best.
    Unix,
    /// A service's address, balanced by the agent's programs at `connect`.
    Underpass,
    /// A pod's address, with the same programs attached: what they cost those who dial no service.
    UnderpassDirect,
    /// A service's address, translated by nftables rules as kube-proxy writes them.
    Nftables,
    /// A service's address, translated by iptables rules as kube-proxy writes them.
    Iptables,
}

impl Variant {
    pub(crate) const ALL: [Self; 8] = [
        Self::Redirect,
        Self::Underpass,
        Self::UnderpassDirect,
        Self::Veth,
        Self::Loopback,
        Self::Unix,
        Self::Nftables,
        Self::Iptables,
    ];
    /// The variants that need no agent.
    pub(crate) const PLAIN: [Self; 3] = [Self::Veth, Self::Loopback, Self::Unix];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Redirect => "redirect",
            Self::Veth => "veth",
            Self::Loopback => "loopback",
            Self::Unix => "unix",
            Self::Underpass => "underpass",
            Self::UnderpassDirect => "underpass_direct",
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
        }
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// How long a worker may take beyond its window before it counts as hung.
const PATIENCE: Duration = Duration::from_secs(15);

/// Cores that others keep busy before a run counts as disturbed.
const DISTURBED: f64 = 0.25;

/// Two pods on a veth pair, where any variant can run.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) client: Pod,
    pub(crate) server: Pod,
}

impl Place {
    /// Makes the pods on a node of their own.
    pub(crate) fn new() -> Result<Self> {
        let node = harness::Node::new()?;
        let (client, server) = node.pair("client", "server")?;
        Self::of(client, server)
    }

    /// Makes the pods on a node of their own that routes between them, as nodes do where services are translated.
    pub(crate) fn routed() -> Result<Self> {
        let node = harness::Node::new()?;
        let (client, server) = (node.routed_pod("client")?, node.routed_pod("server")?);
        Self::of(client, server)
    }

    fn of(client: Pod, server: Pod) -> Result<Self> {
        for pod in [&client, &server] {
            // Enough ports for connections that are opened and closed as fast as can be.
            pod.enter(|| std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "1024 65535"))?
                .context("failed to widen the range of ports")?;
        }
        Ok(Self { client, server })
    }

    /// Runs `load`, and once more when something else kept the machine busy meanwhile; returns the less disturbed run.
    pub(crate) fn measure(&self, variant: Variant, load: Load, length: Duration) -> Result<Sample> {
        let once = || {
            let (pod, listen) = self.listener(variant);
            self.run((pod, &listen), None, load, length)
        };
        calmer(once)
    }

    /// As [`Place::measure`], with a server at `port` of its pod that is dialled at `address`.
    pub(crate) fn dial(
        &self,
        port: u16,
        address: SocketAddr,
        load: Load,
        length: Duration,
    ) -> Result<Sample> {
        let listen = format!("tcp:{}:{port}", self.server.v4());
        calmer(|| self.run((&self.server, &listen), Some(address), load, length))
    }

    /// Returns where the server of a variant runs, and what it listens on.
    fn listener(&self, variant: Variant) -> (&Pod, String) {
        match variant {
            Variant::Loopback => (&self.client, "tcp:127.0.0.1:0".to_owned()),
            Variant::Unix => {
                static COUNT: AtomicU32 = AtomicU32::new(0);
                let number = COUNT.fetch_add(1, Ordering::Relaxed);
                let path = self.client.node().files().join(format!("unix-{number}"));
                (&self.client, format!("unix:{}", path.display()))
            }
            Variant::Redirect
            | Variant::Veth
            | Variant::Underpass
            | Variant::UnderpassDirect
            | Variant::Nftables
            | Variant::Iptables => (&self.server, format!("tcp:{}:0", self.server.v4())),
        }
    }

    fn run(
        &self,
        (server_pod, listen): (&Pod, &str),
        dial: Option<SocketAddr>,
        load: Load,
        length: Duration,
    ) -> Result<Sample> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let board = self.client.node().files().join(format!("board-{number}"));
        let load_text = serde_json::to_string(&load).context("failed to write a load")?;
        let end = |pod: &Pod, role: &str, address: &str| -> Result<Command> {
            let own = std::env::current_exe().context("failed to find the running program")?;
            let mut command = pod.command(own);
            command.args(["worker", role, "--load", &load_text, "--address", address]);
            command.arg("--board").arg(&board);
            Ok(command)
        };
        let name = format!("serve-{number}");
        let mut server = server_pod.start(&name, &mut end(server_pod, "serve", listen)?)?;
        let listening = server.line(READY, PATIENCE)?;
        let address = dial.map_or(listening, |address| format!("tcp:{address}"));
        let mut command = end(&self.client, "drive", &address)?;
        command.args(["--server", &server.pid().to_string()]);
        command.args(["--milliseconds", &length.as_millis().to_string()]);
        let mut client = self
            .client
            .start(&format!("drive-{number}"), &mut command)?;
        let text = finish(&mut client, length)?;
        if matches!(load, Load::Stream { .. }) {
            // It has checked that every byte arrived.
            finish(&mut server, length)?;
        }
        let line = text.lines().find_map(|line| line.strip_prefix(RESULT));
        serde_json::from_str(line.context("the client gave no result")?)
            .with_context(|| format!("the client wrote:\n{text}"))
    }
}

/// Runs once, and once more when something else kept the machine busy meanwhile; returns the less disturbed run.
fn calmer(mut once: impl FnMut() -> Result<Sample>) -> Result<Sample> {
    let first = once()?;
    if first.other_cores < DISTURBED {
        return Ok(first);
    }
    let second = once()?;
    let calmer = second.other_cores < first.other_cores;
    Ok(if calmer { second } else { first })
}

fn finish(running: &mut Running, length: Duration) -> Result<String> {
    running.success(length + PATIENCE)
}
