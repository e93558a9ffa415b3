//! A service with two backends, of which one is killed under load.

use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::manifest::{self, Acceleration};
use harness::wait::PATIENCE;
use harness::{Agent, Node, Pod, wait_for};
use serde_json::Value;

use crate::picture::Paper;
use crate::software::{CONNECTIONS, Software, start_nginx};

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

/// What wrk saw.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Seen {
    requests: u64,
    connect_errors: u64,
    /// Requests that were sent, or about to be, and not answered.
    cut_off: u64,
    other_answers: u64,
}

/// Puts `web` and a second server behind one address, kills the second under load, and shows what became of the requests.
pub(crate) fn show(paper: &Paper, node: &Node, software: &Software, agent: &Agent) -> Result<()> {
    paper.step(
        &format!("A service with two backends: `{ADDRESS}` leads to nginx in `web` and in `web2`."),
        "wrk asks the service for 4 s, each request on a connection of its own. In the middle all of `web2` gets a SIGKILL.",
    );
    let second = node.pod("web2")?;
    manifest::write(&second, Acceleration::Default)?;
    write_service(node, [software.web(), &second])?;
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
    let mut wrk = software.start_wrk(ADDRESS, 2 * HALF)?;
    let loaded = Instant::now();
    wait_for("half of the time to pass", 2 * HALF, || {
        loaded.elapsed() >= HALF
    })?;
    let alive = counted(agent, &second)?;
    kill_all(&second)?;
    let text = wrk.success(PATIENCE)?;
    let end = counted(agent, &second)?;
    let seen = parse(&text).with_context(|| format!("wrk wrote:\n{text}"))?;
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

fn write_service(node: &Node, backends: [&Pod; 2]) -> Result<()> {
    let [first, second] = backends.map(|pod| {
        let (address, name) = (pod.v4(), pod.name());
        format!(
            "- addresses: [{address}]\n  conditions: {{ready: true}}\n  targetRef: {{kind: Pod, namespace: default, name: {name}}}\n"
        )
    });
    let text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: pages, namespace: default}}\n\
         spec:\n  clusterIP: {ADDRESS}\n  clusterIPs: [{ADDRESS}]\n  ports: [{{port: 80, targetPort: 80, protocol: TCP}}]\n\
         ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: pages\n  namespace: default\n  \
         labels: {{kubernetes.io/service-name: pages}}\naddressType: IPv4\n\
         ports: [{{port: 80, protocol: TCP}}]\nendpoints:\n{first}{second}"
    );
    let path = node.manifests().join("pages.yaml");
    fs::write(&path, text).with_context(|| format!("failed to write `{}`", path.display()))
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

/// Kills every process of the pod at once.
fn kill_all(pod: &Pod) -> Result<()> {
    let path = pod.cgroup().join("cgroup.kill");
    fs::write(&path, "1").with_context(|| format!("failed to write `{}`", path.display()))
}

fn parse(text: &str) -> Option<Seen> {
    let line = |prefix: &str| text.lines().find_map(|it| it.trim().strip_prefix(prefix));
    let requests = text
        .lines()
        .find_map(|line| line.trim().split_once(" requests in "))?;
    let mut seen = Seen {
        requests: requests.0.parse().ok()?,
        ..Seen::default()
    };
    // connect 0, read 3, write 0, timeout 0
    for error in line("Socket errors: ")
        .into_iter()
        .flat_map(|it| it.split(", "))
    {
        let (kind, count) = error.split_once(' ')?;
        let count: u64 = count.parse().ok()?;
        match kind {
            "connect" => seen.connect_errors += count,
            _ => seen.cut_off += count,
        }
    }
    if let Some(count) = line("Non-2xx or 3xx responses: ") {
        seen.other_answers = count.parse().ok()?;
    }
    Some(seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_wrk_writes_of_errors() {
        let text = "  31415 requests in 4.00s, 70.31MB read\n  Socket errors: connect 1, read 7, write 2, timeout 1\n  \
                    Non-2xx or 3xx responses: 5\nRequests/sec:   7853.75\n";
        let seen = Seen {
            requests: 31415,
            connect_errors: 1,
            cut_off: 10,
            other_answers: 5,
        };
        assert_eq!(parse(text), Some(seen));
        let seen = Seen {
            requests: 5,
            ..Seen::default()
        };
        assert_eq!(parse("  5 requests in 4.00s, 70.31MB read\n"), Some(seen));
        assert_eq!(parse("unable to connect\n"), None);
    }
}
