//! A service with two backends, of which one is killed under load.

use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::manifest::{self, Acceleration};
use harness::wait::PATIENCE;
use harness::{Agent, Node, Pod, wait_for};
use serde_json::Value;

use crate::picture::Paper;
use crate::software::{CONNECTIONS, Software, start_nginx};
use crate::wrk::{self, kill_all};

/// The service's address, which nobody has.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// Half of the time under load: one of the backends dies in the middle.
const HALF: Duration = Duration::from_secs(2);

/// What the kernel counted of the service.
#[derive(Clone, Copy, Debug)]
struct Counted {
    connects: u64,
    /// Connects to the backend that dies.
    to_second: u64,
    /// Connects that no backend was found for.
    refused: u64,
    /// Connects that a backend did not answer.
    failed: u64,
}

/// Puts `web` and a second server behind one address, kills the second under load, and shows what became of the requests.
pub(crate) fn show(paper: &Paper, node: &Node, software: &Software, agent: &Agent) -> Result<()> {
    paper.step(
        &format!("A service with two backends: `{ADDRESS}` leads to nginx in `web` and in `web2`."),
        "wrk asks the service for 4 s, each request on a connection of its own. In the middle all of `web2` gets a SIGKILL.",
    );
    let second = node.pod("web2")?;
    manifest::write(&second, Acceleration::Default)?;
    wrk::write_service(node, "pages", ADDRESS, &[software.web(), &second])?;
    wait_for("the service to be balanced", PATIENCE, || {
        let known = agent.workload(second.name()).is_ok_and(|it| it["id"] != 0);
        known && service(agent).is_ok_and(|it| it["balanced"] == true)
    })?;
    // One process, which dies at one moment: a worker of two would leave its listener to the other for some more requests.
    let _nginx = start_nginx(&second, "master_process off;")?;
    wait_for("the server in `web2`", PATIENCE, || {
        let connected = software
            .client()
            .enter(|| TcpStream::connect((second.v4(), 80)));
        matches!(connected, Ok(Ok(_)))
    })?;
    let begin = counted(agent, &second)?;
    let mut wrk = software.start_wrk("wrk-pages", ADDRESS, "Connection: close", 2 * HALF)?;
    let loaded = Instant::now();
    wait_for("half of the time to pass", 2 * HALF, || {
        loaded.elapsed() >= HALF
    })?;
    let alive = counted(agent, &second)?;
    kill_all(&second)?;
    let text = wrk.success(PATIENCE)?;
    let end = counted(agent, &second)?;
    let seen = wrk::parse(&text).with_context(|| format!("wrk wrote:\n{text}"))?;
    let failed = (end.failed - begin.failed) + (end.refused - begin.refused) + seen.connect_errors;
    paper.text(&format!(
        "connects in the first half    {:>8}, of them {} to `web2`\n\
         `web2` was killed at 2 s, under load\n\
         connects in the second half   {:>8}, of them {} to `web2`\n\
         requests answered             {:>8}\n\
         failed connects               {:>8}\n\
         requests cut off in flight    {:>8}, of {CONNECTIONS} at a time",
        alive.connects - begin.connects,
        alive.to_second - begin.to_second,
        end.connects - alive.connects,
        end.to_second - alive.to_second,
        seen.requests,
        failed,
        seen.cut_off,
    ));
    paper.text(&agent.ask(&["services"])?);
    ensure!(
        alive.to_second > begin.to_second,
        "`web2` got no connects: this shows nothing"
    );
    // wrk has one thread, so one connect may be between its pick and the listener's end.
    ensure!(
        failed <= 1,
        "{failed} connects failed although `web` was there all the time"
    );
    ensure!(
        seen.cut_off <= CONNECTIONS && seen.other_answers == 0,
        "more requests failed than were in flight: {seen:?}"
    );
    if failed == 1 {
        paper.note("The failed connect was on its way to `web2` at the very moment.");
    }
    Ok(())
}

/// Returns what the agent says of the service.
fn service(agent: &Agent) -> Result<Value> {
    let mut answer = agent.json(&["services", "default/pages", "--output", "json"])?;
    Ok(answer["services"][0].take())
}

fn counted(agent: &Agent, second: &Pod) -> Result<Counted> {
    let service = service(agent)?;
    let port = &service["ports"][0];
    let backends = port["backends"].as_array().context("no backends")?;
    let number = |value: &Value| value.as_u64().context("no number");
    let mut counted = Counted {
        connects: 0,
        to_second: 0,
        refused: number(&port["refused"])?,
        failed: 0,
    };
    for backend in backends {
        let picked = number(&backend["picked"])?;
        counted.connects += picked;
        counted.failed += number(&backend["failed"])?;
        if backend["address"] == second.v4().to_string() {
            counted.to_second += picked;
        }
    }
    Ok(counted)
}
