//! `bench soak`: endpoints and policies that change all the time, under a steady stream of connects.
//!
//! Nothing in it calls for a failed connect: the endpoints that come and go all listen, at least two are always there, and the
//! policies always allow the client. A second client is allowed and denied in turn; it may be refused at once, and nothing else: by its
//! own node at the connect, or, where the policy changes between that and the first packet, by the server's.

use std::fmt::Write as _;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use harness::manifest::{self, Acceleration};
use harness::wait::PATIENCE;
use harness::{Agent, Node, Pod, Running, wait_for};
use serde_json::Value;

use crate::case::Load;
use crate::worker::dial::Tally;
use crate::worker::{READY, RESULT};

#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// How long, in seconds.
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u64).range(2..))]
    seconds: u64,
    /// Connects a second.
    #[arg(long, default_value_t = 5_000)]
    rate: u32,
    /// Changes of endpoints and policies a second.
    #[arg(long, default_value_t = 50)]
    changes: u32,
}

/// The service's address and port.
const VIP: &str = "172.30.0.1";
const PORT: u16 = 80;
/// Where its endpoints listen.
const TARGET: u16 = 8080;
/// Pods that answer.
const SERVERS: usize = 6;
/// Connects a second of the client that is denied now and then.
const STRANGER_RATE: u32 = 200;
/// What memory may grow by: caches of the allocator, and histories that have a limit.
const GROWTH_BYTES: u64 = 8_000_000;

/// Runs the soak, prints what it saw, and fails where something was lost or leaked.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    ensure!(harness::require_root(), "this needs root");
    let ground = Ground::new()?;
    let before = ground.measure()?;
    let client = ground.dial(&ground.client, arguments.rate, arguments.seconds)?;
    let stranger = ground.dial(&ground.stranger, STRANGER_RATE, arguments.seconds)?;
    let changes = ground.change(arguments)?;
    let client = tally(client)?;
    let stranger = tally(stranger)?;
    ground.settle()?;
    let after = ground.measure()?;
    println!("{changes} changes in {} s", arguments.seconds);
    println!(
        "client:   {} connects, failed: {:?}, late: {}",
        client.good, client.failed, client.late
    );
    println!(
        "stranger: {} connects, refused: {:?}",
        stranger.good, stranger.failed
    );
    println!("before:   {before:?}\nafter:    {after:?}");
    ensure!(
        client.failed.is_empty(),
        "connects failed that nothing called for"
    );
    ensure!(stranger.good > 0, "the second client was never allowed");
    ensure!(
        !stranger.failed.is_empty(),
        "the second client was never denied"
    );
    let words = ["Operation not permitted", "refused", "reset"];
    let denied = |said: &String| words.iter().any(|word| said.contains(word));
    ensure!(
        stranger.failed.keys().all(denied),
        "the second client failed in another way"
    );
    ensure!(after.lost == 0, "events were lost");
    ensure!(
        after.descriptors <= before.descriptors,
        "file descriptors leaked"
    );
    ensure!(after.maps == before.maps, "map entries leaked");
    ensure!(
        after.resident <= before.resident + GROWTH_BYTES,
        "memory leaked"
    );
    Ok(())
}

/// What must not grow.
#[derive(Debug)]
struct Measured {
    resident: u64,
    descriptors: usize,
    lost: u64,
    /// Entries of the maps that hold configuration, by name.
    maps: Vec<(String, u64)>,
}

#[derive(Debug)]
struct Ground {
    agent: Agent,
    node: Node,
    client: Pod,
    stranger: Pod,
    servers: Vec<Pod>,
    _serving: Vec<Running>,
}

impl Ground {
    fn new() -> Result<Self> {
        let node = Node::new()?;
        let (client, stranger) = (node.pod("client")?, node.pod("stranger")?);
        let servers: Result<Vec<_>> = (0..SERVERS)
            .map(|n| node.pod(&format!("server{n}")))
            .collect();
        let servers = servers?;
        for pod in servers.iter().chain([&client, &stranger]) {
            pod.enter(|| fs::write("/proc/sys/net/ipv4/ip_local_port_range", "1024 65535"))?
                .context("failed to widen the range of ports")?;
            manifest::write(pod, Acceleration::Default)?;
        }
        let serving: Result<Vec<_>> = servers.iter().map(serve).collect();
        let agent = Agent::start(&node, &[])?;
        let ground = Self {
            agent,
            node,
            client,
            stranger,
            servers,
            _serving: serving?,
        };
        ground.settle()?;
        Ok(ground)
    }

    /// Brings everything to where it began, and waits for it.
    fn settle(&self) -> Result<()> {
        self.write("service", &self.service(SERVERS))?;
        self.write("policy", &policy(true))?;
        wait_for("the agent to balance over every server", PATIENCE, || {
            self.backends().is_ok_and(|count| count == SERVERS)
        })?;
        wait_for("flows to end", PATIENCE, || {
            let status = self.agent.status();
            status.is_ok_and(|status| status["live_flows"].as_array().is_some_and(Vec::is_empty))
        })
    }

    fn backends(&self) -> Result<usize> {
        let services = self.agent.json(&["services", "--output", "json"])?;
        let backends = &services["services"][0]["ports"][0]["backends"];
        let usable = |backend: &&Value| backend["weight"].as_u64() > Some(0);
        Ok(backends
            .as_array()
            .context("no backends")?
            .iter()
            .filter(usable)
            .count())
    }

    fn dial(&self, pod: &Pod, rate: u32, seconds: u64) -> Result<Running> {
        let own = std::env::current_exe().context("failed to find the running program")?;
        let mut command = pod.command(own);
        command.args(["worker", "dial", "--address", &format!("{VIP}:{PORT}")]);
        command.args([
            "--rate",
            &rate.to_string(),
            "--seconds",
            &seconds.to_string(),
        ]);
        pod.start("dial", &mut command)
    }

    /// Changes something at the rate asked for; returns how often.
    fn change(&self, arguments: &Arguments) -> Result<u64> {
        let begin = Instant::now();
        let length = Duration::from_secs(arguments.seconds);
        let period = Duration::from_secs(1) / arguments.changes.max(1);
        let mut changes = 0;
        let mut planned = Duration::ZERO;
        while planned < length {
            if let Some(early) = planned.checked_sub(begin.elapsed()) {
                harness::wait::pause(early);
            }
            planned += period;
            // From two to all of the endpoints, and the policy every other time.
            let step = usize::try_from(changes).unwrap_or_default();
            if changes % 2 == 0 {
                self.write("service", &self.service(2 + step / 2 % (SERVERS - 1)))?;
            } else {
                self.write("policy", &policy(step / 2 % 2 == 0))?;
            }
            changes += 1;
        }
        Ok(changes)
    }

    /// Writes a manifest at one stroke.
    fn write(&self, name: &str, text: &str) -> Result<()> {
        let draft = self.node.files().join(format!("{name}.draft"));
        fs::write(&draft, text).context("failed to write a manifest")?;
        fs::rename(&draft, self.node.manifests().join(format!("{name}.yaml")))
            .context("failed to write a manifest")
    }

    fn service(&self, endpoints: usize) -> String {
        let mut text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: default}}\nspec:\n  clusterIP: {VIP}\n  \
             clusterIPs: [{VIP}]\n  ports: [{{port: {PORT}, targetPort: {TARGET}}}]\n---\napiVersion: discovery.k8s.io/v1\n\
             kind: EndpointSlice\nmetadata: {{name: web, namespace: default, labels: {{kubernetes.io/service-name: web}}}}\n\
             addressType: IPv4\nports: [{{port: {TARGET}}}]\nendpoints:\n"
        );
        for server in self.servers.iter().take(endpoints) {
            // Writing to a String cannot fail.
            writeln!(
                text,
                "- addresses: [{}]\n  conditions: {{ready: true}}",
                server.v4()
            )
            .unwrap_or_default();
        }
        text
    }

    fn measure(&self) -> Result<Measured> {
        let status = self.agent.status()?;
        let pid = self.agent.pid().context("the agent does not run")?;
        let descriptors =
            fs::read_dir(format!("/proc/{pid}/fd")).context("failed to count descriptors")?;
        let maps = status["maps"].as_array().context("no maps in the status")?;
        let maps = maps.iter().filter_map(|map| {
            let name = map["map"].as_str()?;
            let kept = !["sockets", "flows", "pairs"].contains(&name);
            kept.then_some((name.to_owned(), map["used"].as_u64()?))
        });
        let losses = status["losses"]["total"]
            .as_object()
            .context("no losses in the status")?;
        Ok(Measured {
            resident: self.agent.resident_bytes()?,
            descriptors: descriptors.count(),
            lost: losses.values().filter_map(Value::as_u64).sum(),
            maps: maps.collect(),
        })
    }
}

fn serve(pod: &Pod) -> Result<Running> {
    let own = std::env::current_exe().context("failed to find the running program")?;
    let load = serde_json::to_string(&Load::Connect).context("failed to write a load")?;
    let board = pod.node().files().join(format!("board-{}", pod.name()));
    let mut command = pod.command(own);
    command.args(["worker", "serve", "--load", &load]);
    command.args(["--address", &format!("tcp:{}:{TARGET}", pod.v4())]);
    command.arg("--board").arg(board);
    let mut running = pod.start("serve", &mut command)?;
    running.line(READY, PATIENCE)?;
    Ok(running)
}

/// A policy that allows the client always, and the stranger or not.
fn policy(stranger: bool) -> String {
    let labels = if stranger {
        "[client, stranger]"
    } else {
        "[client]"
    };
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: web, namespace: default}}\nspec:\n  \
         podSelector:\n    matchExpressions: [{{key: app, operator: NotIn, values: [client, stranger]}}]\n  policyTypes: [Ingress]\n  \
         ingress:\n  - from:\n    - podSelector:\n        matchExpressions: [{{key: app, operator: In, values: {labels}}}]\n"
    )
}

fn tally(mut running: Running) -> Result<Tally> {
    let text = running.success(Duration::from_secs(60))?;
    let line = text.lines().find_map(|line| line.strip_prefix(RESULT));
    serde_json::from_str(line.context("a client gave no result")?).context("a client gave no tally")
}
