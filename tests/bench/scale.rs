//! `bench scale`: a large cluster's manifests in front of a real agent, whose maps fill up with them.
//!
//! How long the agent took is what its own metrics say; an edit is timed from outside, from the moment that the file is in its place
//! to the moment that the kernel's map names the service's new table. Nothing runs in the pods.

mod report;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use harness::cluster::{self, Cluster, Size};
use harness::tables::{self, Tables};
use harness::wait::{PATIENCE, pause};
use harness::{Agent, Node, Pod, machine, memory, wait_for};

use report::{Edits, MapMemory, Report, Start};

#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// Services.
    #[arg(long, default_value_t = 10_000, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=16_000))]
    services: usize,
    /// Endpoints of each service.
    #[arg(long, default_value_t = 10, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=100))]
    endpoints: usize,
    /// Network policies.
    #[arg(long, default_value_t = 5_000)]
    policies: usize,
    /// Pods on this node.
    #[arg(long, default_value_t = 100)]
    pods: usize,
    /// Edits of one endpoint each.
    #[arg(long, default_value_t = 50, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..))]
    edits: usize,
    /// Starts from nothing; medians are taken over them.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Write the figures to this file as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Namespaces that everything is spread over.
const NAMESPACES: usize = 100;
/// Pods on other nodes, for each one here.
const ELSEWHERE: usize = 4;
/// How long memory must stay the same to be what the agent keeps.
const SETTLED: Duration = Duration::from_secs(2);
/// How long an edit may take before the run is given up.
const EDIT: Duration = Duration::from_secs(5);
/// Between two looks at the map: a hundredth of what is measured.
const LOOK: Duration = Duration::from_micros(50);

/// Measures, prints and writes what it found.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    ensure!(harness::require_root(), "this needs root");
    harness::agent::program()?;
    let node = Node::new()?;
    let pods: Result<Vec<Pod>> = (0..arguments.pods)
        .map(|number| node.pod(&format!("p{number}")))
        .collect();
    let pods = pods?;
    let size = Size {
        namespaces: NAMESPACES,
        services: arguments.services,
        endpoints: arguments.endpoints,
        policies: arguments.policies,
        pods_elsewhere: ELSEWHERE * arguments.pods,
    };
    let mut cluster = Cluster::write(&node, size, &pods)?;
    let (files, bytes) = cluster.extent()?;

    let mut agent = Agent::start(&node, &[])?;
    let mut starts = vec![start(&agent)?];
    for _ in 1..arguments.rounds {
        agent.uninstall()?;
        agent.start_again()?;
        starts.push(start(&agent)?);
    }
    let edits = edits(&agent, &mut cluster, arguments)?;
    let after_edits = settled(&agent)?;
    let maps = map_memory(&agent)?;
    agent.stop()?;
    agent.start_again()?;
    let restart = start(&agent)?;
    let report = Report {
        machine: machine::describe()?,
        size,
        pods: pods.len(),
        files,
        bytes,
        starts,
        restart,
        edits,
        after_edits,
        maps,
    };
    print!("{}", report.table());
    if let Some(path) = &arguments.json {
        let text = serde_json::to_string_pretty(&report.json()).context("failed to write JSON")?;
        std::fs::write(path, text + "\n")
            .with_context(|| format!("failed to write `{}`", path.display()))?;
    }
    Ok(())
}

/// Returns what an agent that has become ready took for that.
fn start(agent: &Agent) -> Result<Start> {
    wait_for("every part to be in force", PATIENCE, || {
        let pages = agent.metrics();
        pages.is_ok_and(|page| {
            ["services", "policies"]
                .iter()
                .all(|p| part(&page, p).is_ok())
        })
    })?;
    let page = agent.metrics()?;
    let resident = settled(agent)?;
    let pid = agent.pid().context("the agent does not run")?;
    Ok(Start {
        read: metric(&page, "mesh_config_read_seconds ")?,
        workloads: part(&page, "workloads")?,
        services: part(&page, "services")?,
        policies: part(&page, "policies")?,
        resident,
        peak: memory::peak_bytes(pid)?,
    })
}

fn part(page: &str, part: &str) -> Result<f64> {
    metric(
        page,
        &format!("mesh_config_apply_seconds{{part=\"{part}\"}} "),
    )
}

fn metric(page: &str, name: &str) -> Result<f64> {
    let line = page.lines().find_map(|line| line.strip_prefix(name));
    let value = line.with_context(|| format!("no metric `{name}`"))?;
    value
        .trim()
        .parse()
        .with_context(|| format!("`{name}` is no number"))
}

/// Returns the agent's resident memory once it stays the same.
fn settled(agent: &Agent) -> Result<u64> {
    let mut last = agent.resident_bytes()?;
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        pause(SETTLED);
        let now = agent.resident_bytes()?;
        if now.abs_diff(last) * 100 <= now {
            return Ok(now);
        }
        last = now;
    }
    Ok(last)
}

/// Replaces one endpoint at a time, each of another service.
fn edits(agent: &Agent, cluster: &mut Cluster, arguments: &Arguments) -> Result<Edits> {
    let tables = Tables::open(agent.bpf_dir())?;
    let mut times = Vec::with_capacity(arguments.edits);
    for edit in 0..arguments.edits {
        // Through the whole of them, and not in the order in which they were written.
        let service = edit * 7919 % arguments.services;
        let number = tables.service(cluster::address(service)?, cluster::PORT)?;
        let before = tables.entry(number)?.set;
        let edit = cluster.replace_endpoint(service)?;
        let begun = Instant::now();
        edit.apply()?;
        while tables.entry(number)?.set == before {
            ensure!(
                begun.elapsed() < EDIT,
                "an edit of service {service} did not reach the map"
            );
            pause(LOOK);
        }
        times.push(begun.elapsed());
        // The next one is a change of its own.
        let generation = |name: &str| {
            let status = agent.status()?;
            status["config"][name].as_u64().context("no generation")
        };
        wait_for(
            "the agent to be done with the edit",
            PATIENCE,
            || matches!((generation("generation"), generation("kernel_generation")), (Ok(a), Ok(b)) if a == b),
        )?;
    }
    times.sort_unstable();
    Ok(Edits(times))
}

/// Returns the larger maps, with what their entries take.
fn map_memory(agent: &Agent) -> Result<Vec<MapMemory>> {
    let status = agent.status()?;
    let fill = status["maps"].as_array().context("no maps in the status")?;
    let used = |name: &str| {
        // Chunks are the pool that tables of backends are made of.
        let name = if name == "chunks" {
            "backend_tables"
        } else {
            name
        };
        let map = fill.iter().find(|map| map["map"] == name)?;
        map["used"].as_u64()
    };
    let taken = tables::taken(agent.bpf_dir())?;
    let maps = taken.into_iter().map(|taken| MapMemory {
        used: used(&taken.map),
        taken,
    });
    Ok(maps.collect())
}
