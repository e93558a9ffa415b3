//! `bench kubernetes`: a large cluster's API server in front of a real agent: what the agent keeps of it, what it asks for while nothing
//! happens, and how long one change takes to the kernel's maps.
//!
//! The server is the tests' own, held to recordings of a real one; it runs in this process, so its memory is not the agent's. How long a
//! configuration took to make is what the agent's own metrics say; to the map is timed from outside. A controller then writes the
//! statuses of all routes.

mod controller;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use harness::apiserver::{ApiServer, large};
use harness::machine::{self, Machine};
use harness::tables::Tables;
use harness::wait::{PATIENCE, pause};
use harness::{Agent, Node, memory, wait_for};
use serde_json::{Value, json};

#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// Changes of one endpoint each.
    #[arg(long, default_value_t = 50, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..))]
    changes: usize,
    /// Seconds in which nothing happens.
    #[arg(long, default_value_t = 60)]
    quiet: u64,
    /// Write the figures to this file as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// The agent's node.
const NODE: &str = "node-1";
/// How long a change may take before the run is given up.
const CHANGE: Duration = Duration::from_secs(5);
/// Between two looks at the map: a hundredth of what is measured.
const LOOK: Duration = Duration::from_micros(50);
/// Bookmarks come about this often from a real server.
const BOOKMARK: Duration = Duration::from_secs(15);
/// Kinds are looked for again for this long after the start.
const SETTLED: Duration = Duration::from_secs(40);

/// What was measured; times in milliseconds, shortest first.
#[derive(Debug)]
struct Report {
    machine: Machine,
    synced_s: f64,
    start_requests: usize,
    resident: u64,
    anonymous: u64,
    peak: u64,
    quiet: Duration,
    quiet_requests: Vec<String>,
    made_ms: Vec<f64>,
    to_map_ms: Vec<f64>,
    written: controller::Written,
}

/// Measures, prints and writes what it found.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    ensure!(harness::require_root(), "this needs root");
    harness::agent::program()?;
    let node = Node::new()?;
    // Where the agent can reach it.
    let api = node.enter(ApiServer::start)??;
    api.change(|state| large::fill(state, NODE));
    let kubeconfig = api.kubeconfig(node.files())?.display().to_string();
    let flags = [
        "--source",
        "kubernetes",
        "--kubeconfig",
        &kubeconfig,
        "--node-name",
        NODE,
    ];
    let begun = Instant::now();
    let agent = Agent::start_within(&node, &flags, 6 * PATIENCE)?;
    wait_for("the agent to know everything", 6 * PATIENCE, || {
        let status = agent.status();
        status.is_ok_and(|it| {
            it["kubernetes"]["state"] == "synced"
                && it["config"]["generation"] == it["config"]["kernel_generation"]
        })
    })?;
    let synced_s = begun.elapsed().as_secs_f64();
    pause(SETTLED);
    let start_requests = api.requests().len();
    let quiet = Duration::from_secs(arguments.quiet);
    let quiet_requests = be_quiet(&api, quiet);
    let pid = agent.pid().context("the agent does not run")?;
    let (resident, anonymous) = (memory::resident_bytes(pid)?, memory::anonymous_bytes(pid)?);
    let (made_ms, to_map_ms) = changes(&agent, &api, arguments.changes)?;
    let peak = memory::peak_bytes(pid)?;
    let written = controller::measure(&node, &api, quiet)?;
    let report = Report {
        machine: machine::describe()?,
        synced_s,
        start_requests,
        resident,
        anonymous,
        peak,
        quiet,
        quiet_requests,
        made_ms,
        to_map_ms,
        written,
    };
    print!("{}", report.table()?);
    if let Some(path) = &arguments.json {
        let text = serde_json::to_string_pretty(&report.json()).context("failed to write JSON")?;
        std::fs::write(path, text + "\n")
            .with_context(|| format!("failed to write `{}`", path.display()))?;
    }
    Ok(())
}

/// Lets time pass in which only bookmarks come, and returns what was asked for.
fn be_quiet(api: &ApiServer, quiet: Duration) -> Vec<String> {
    let before = api.requests().len();
    let end = Instant::now() + quiet;
    while Instant::now() < end {
        pause(BOOKMARK.min(end.saturating_duration_since(Instant::now())));
        api.change(|state| state.bookmark());
    }
    api.requests().split_off(before)
}

/// Replaces an endpoint at a time, each of another service; returns how long each took to be a configuration, and to be in the map.
fn changes(agent: &Agent, api: &ApiServer, count: usize) -> Result<(Vec<f64>, Vec<f64>)> {
    let tables = Tables::open(agent.bpf_dir())?;
    let (mut made, mut to_map) = (Vec::new(), Vec::new());
    for round in 0..count {
        // Through the whole of them, and not in the order in which they were made.
        let service = round * 797 % large::SERVICES;
        let number = tables.service(large::address_of(service), 80)?;
        let before = tables.entry(number)?.set;
        let begun = Instant::now();
        api.change(|state| large::change_endpoint(state, service, round));
        while tables.entry(number)?.set == before {
            ensure!(
                begun.elapsed() < CHANGE,
                "a change of service {service} did not reach the map"
            );
            pause(LOOK);
        }
        to_map.push(begun.elapsed().as_secs_f64() * 1e3);
        // The next one is a change of its own.
        wait_for("the agent to be done", PATIENCE, || {
            let status = agent.status();
            status.is_ok_and(|it| it["config"]["generation"] == it["config"]["kernel_generation"])
        })?;
        let page = agent.metrics()?;
        let took = page
            .lines()
            .find_map(|line| line.strip_prefix("mesh_config_read_seconds "));
        let took: f64 = took.context("no metric of reading")?.trim().parse()?;
        made.push(took * 1e3);
    }
    made.sort_unstable_by(f64::total_cmp);
    to_map.sort_unstable_by(f64::total_cmp);
    Ok((made, to_map))
}

/// Returns the time that this share stayed within.
fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let at = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(at).copied().unwrap_or(0.0)
}

/// Writes a line about `[resident, of which its own, peak]` bytes.
fn memory(text: &mut String, what: &str, bytes: [u64; 3]) -> std::fmt::Result {
    let [resident, own, peak] = bytes.map(|bytes| bytes / 1_000_000);
    writeln!(
        text,
        "{what:<22}{resident:>8} MB, of which {own} MB its own; at most {peak} MB"
    )
}

fn round(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

impl Report {
    fn table(&self) -> Result<String> {
        let mut text = String::new();
        writeln!(
            text,
            "{} pods ({} here), {} services, {} routes, on Linux {}",
            large::PODS,
            large::PODS_HERE,
            large::SERVICES,
            large::ROUTES,
            self.machine.kernel
        )?;
        writeln!(
            text,
            "synced                {:>8.1} s, {} requests",
            self.synced_s, self.start_requests
        )?;
        memory(
            &mut text,
            "resident",
            [self.resident, self.anonymous, self.peak],
        )?;
        writeln!(
            text,
            "requests in {:>4} s quiet {:>5}",
            self.quiet.as_secs(),
            self.quiet_requests.len()
        )?;
        for (what, times) in [
            ("a change is made", &self.made_ms),
            ("a change is in the map", &self.to_map_ms),
        ] {
            writeln!(
                text,
                "{what:<22}{:>7.1} ms median, {:.1} ms p99",
                percentile(times, 50),
                percentile(times, 99)
            )?;
        }
        self.written.lines(&mut text)?;
        Ok(text)
    }

    fn json(&self) -> Value {
        let times = |sorted: &[f64]| json!({"p50": round(percentile(sorted, 50)), "p99": round(percentile(sorted, 99))});
        json!({
            "machine": self.machine, "pods": large::PODS, "pods_here": large::PODS_HERE, "services": large::SERVICES,
            "routes": large::ROUTES, "synced_s": round(self.synced_s), "start_requests": self.start_requests,
            "resident_bytes": self.resident, "anonymous_bytes": self.anonymous, "peak_bytes": self.peak,
            "quiet_s": self.quiet.as_secs(), "quiet_requests": self.quiet_requests.len(),
            "made_ms": times(&self.made_ms), "to_map_ms": times(&self.to_map_ms), "controller": self.written.json(),
        })
    }
}
