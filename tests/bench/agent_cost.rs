//! What the agent itself takes: memory with a thousand flows open, and CPU time while nothing happens.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::manifest::{self, Acceleration};
use harness::wait::{self, PATIENCE};
use harness::{Agent, Node, Pod, wait_for};

use crate::place::Variant;
use crate::report::{Figure, Report};

/// Flows that are open while memory is measured.
const FLOWS: usize = 1000;
/// How long the idle agent is watched: at 0.1 % of a core, this is 10 ms of CPU time, or some ticks.
const IDLE: Duration = Duration::from_secs(10);
/// The same in a quick run.
const IDLE_QUICK: Duration = Duration::from_secs(2);

/// Measures both and adds them to `report`.
pub(crate) fn measure(quick: bool, report: &mut Report) -> Result<()> {
    let node = Node::new()?;
    let (client, server) = node.pair("client", "server")?;
    for pod in [&client, &server] {
        manifest::write(pod, Acceleration::On)?;
    }
    let agent = Agent::start(&node, &[])?;
    agent.wait_for_state(&["client", "server"], "accelerated", PATIENCE)?;

    let begin = Instant::now();
    let before = agent.cpu_time()?;
    wait::pause(if quick { IDLE_QUICK } else { IDLE });
    let used = agent.cpu_time()?.saturating_sub(before);
    let share = 100.0 * used.as_secs_f64() / begin.elapsed().as_secs_f64();
    report.add_figure(Figure {
        case: "agent_idle_cpu",
        title: "the agent's CPU time, idle",
        metric: "CPU time",
        unit: "% of one core",
        variant: Variant::Redirect,
        value: share,
    });

    let flows = open_flows(&client, &server)?;
    wait_for("the agent to see the flows", PATIENCE, || {
        live_flows(&agent).is_ok_and(|live| live >= FLOWS)
    })?;
    // Read once more, so that whatever it keeps for them is in place.
    ensure!(live_flows(&agent)? >= FLOWS, "the agent lost flows");
    let megabytes = f64::from(u32::try_from(agent.resident_bytes()? / 1024)?) * 1024.0 / 1e6;
    drop(flows);
    report.add_figure(Figure {
        case: "agent_rss_1000_flows",
        title: "the agent's resident memory, 1,000 flows open",
        metric: "resident memory",
        unit: "MB",
        variant: Variant::Redirect,
        value: megabytes,
    });
    Ok(())
}

fn live_flows(agent: &Agent) -> Result<usize> {
    let status = agent.status()?;
    let counts = status["live_flows"]
        .as_array()
        .context("the status has no live flows")?;
    let sum: u64 = counts
        .iter()
        .filter_map(|count| count["count"].as_u64())
        .sum();
    Ok(usize::try_from(sum)?)
}

/// Opens the flows, sends a byte each way on every one, and returns what holds them open.
fn open_flows(client: &Pod, server: &Pod) -> Result<(harness::Running, harness::Running)> {
    let peer = harness::machine::workspace_program("peer", harness::remote::PEER_VARIABLE)?;
    let mut serve = server.command(&peer);
    serve.args(["hold", "--listen", &format!("{}:0", server.v4())]);
    let mut serving = server.start("hold", &mut serve)?;
    let address = serving.line("ready ", PATIENCE)?;
    let mut connect = client.command(&peer);
    connect.args(["hold", "--connect", &address, "--count", &FLOWS.to_string()]);
    let mut connecting = client.start("hold", &mut connect)?;
    connecting.line("held ", PATIENCE)?;
    Ok((serving, connecting))
}
