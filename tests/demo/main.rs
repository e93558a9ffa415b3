//! `demo`: ordinary programs in four pods, first without the mesh, then with it; then a service of which one backend dies, and a route
//! of which one does. Under two minutes, and nothing stays.
#![forbid(unsafe_code)]

mod failover;
mod measure;
mod picture;
mod routes;
mod software;
mod wrk;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use harness::manifest;
use harness::{Agent, Node, agent, machine};

use crate::measure::Side;
use crate::picture::Paper;
use crate::software::{Software, names};

/// How long a workload is watched before it is trusted. Short, for a demo: the agent's own default is longer.
const OBSERVATION: &str = "3s";
/// How long the workloads may take to be admitted, traffic included.
const ADMISSION: Duration = Duration::from_secs(15);

/// Four pods with nginx, redis and their clients: requests a second, latency and CPU time, without the mesh and with it. Then a
/// service with two backends, of which one is killed under load; and a route that leads by a header field, and tries again.
#[derive(Parser, Debug)]
#[command(name = "demo", max_term_width = 100)]
struct Arguments {
    /// Measurements on each side; the median of them is shown.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=9))]
    rounds: u32,
    /// Length of one measurement in seconds.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=9))]
    seconds: u32,
    /// Only the side without the mesh.
    #[arg(long)]
    without_agent: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    ensure!(harness::require_root(), "this needs root");
    for program in software::NEEDED {
        ensure!(
            machine::has_program(program),
            "`{program}` is not installed: `cargo xtask setup` does that"
        );
    }
    if !arguments.without_agent {
        agent::program()?;
    }
    let begin = Instant::now();
    let paper = Paper::of_stdout();
    paper.step(
        "Four pods on this machine: `web` runs nginx, which `client` asks; `cache` runs redis, which `loader` asks.",
        "Each is a network namespace and a cgroup of its own, joined by a bridge, as container runtimes do it.",
    );
    let node = Node::new()?;
    let software = Software::start(&node)?;

    paper.step(
        "Without the mesh: wrk asks nginx for a page of 2 kB, redis-benchmark asks redis for 100 bytes.",
        "16 connections each. Every byte goes down one pod's TCP stack, over the bridge, and up the other's.",
    );
    let without = Side::measure(&software, arguments.rounds, arguments.seconds)?;
    if arguments.without_agent {
        paper.table(&without, None);
        return Ok(());
    }
    let agent = start_agent(&paper, &node, &software)?;
    let with = with_mesh(&paper, &software, &agent, &arguments)?;
    paper.table(&without, Some(&with));
    paper.bars(&without, &with);
    failover::show(&paper, &node, &software, &agent)?;
    routes::show(&paper, &node, &software, &agent)?;
    drop((agent, software, node));
    paper.step(
        &format!("Done in {:.0} s. Programs, maps, namespaces and cgroups are removed.", begin.elapsed().as_secs_f64()),
        "A shared or busy machine moves these figures; `cargo xtask bench redirect` measures with more care.",
    );
    Ok(())
}

/// Starts the agent; returns once it has admitted the pods, or has had time for it.
fn start_agent(paper: &Paper, node: &Node, software: &Software) -> Result<Agent> {
    paper.step(
        "With the mesh: the same programs, not restarted and not configured. The agent starts and watches them.",
        "A pod is accelerated once it was seen to do nothing that socket redirect breaks on this kernel. redis-benchmark reads one \
         answer by a blocking recv, which it does break: `loader` is in mode `on`, the operator's word.",
    );
    for (pod, mode) in software.pods() {
        manifest::write(pod, mode)?;
    }
    let agent = Agent::start(node, &["--observation-window", OBSERVATION])?;
    let begin = Instant::now();
    // The window counts only while there is something to see.
    while begin.elapsed() < ADMISSION && !admitted(&agent)? {
        Side::measure(software, 1, 1).context("the traffic that the agent watches failed")?;
    }
    paper.text(&agent.ask(&["workloads"])?);
    if !admitted(&agent)? {
        paper.note("Not every pod is accelerated, for the reasons above: what follows is measured as it stands.");
    }
    Ok(agent)
}

fn with_mesh(
    paper: &Paper,
    software: &Software,
    agent: &Agent,
    arguments: &Arguments,
) -> Result<Side> {
    paper.step(
        "Measuring again, the same way.",
        "Messages now go from the sender's socket straight into the receiver's; TCP still makes and ends connections.",
    );
    let with = Side::measure(software, arguments.rounds, arguments.seconds)?;
    paper.step(
        "What the agent says of itself and of the busiest pairs:",
        "`node-agent status` and `node-agent top`.",
    );
    let (status, top) = measure::beside_traffic(software, || {
        (agent.status_text(), agent.ask(&["top", "--once"]))
    })?;
    paper.text(&status?);
    paper.text(&top?);
    Ok(with)
}

fn admitted(agent: &Agent) -> Result<bool> {
    for name in names() {
        if agent.workload(name)?["state"] != "accelerated" {
            return Ok(false);
        }
    }
    Ok(true)
}
