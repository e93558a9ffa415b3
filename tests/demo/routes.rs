//! A route: by a header field to another service, and tried again where a backend fails.

use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::manifest::{self, Acceleration};
use harness::wait::PATIENCE;
use harness::{Agent, Node, Pod, Running, wait_for};

use crate::picture::Paper;
use crate::software::{CONNECTIONS, Software, start_nginx};
use crate::wrk::{self, kill_all};

/// The services' addresses, which nobody has.
const SHOP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 11);
const NEXT: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 12);
/// Half of the time under load: one of the backends dies in the middle.
const HALF: Duration = Duration::from_secs(2);

/// What a user would write.
const ROUTE: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop, namespace: default}
spec:
  parentRefs: [{group: '', kind: Service, name: shop}]
  rules:
  - name: testers
    matches: [{headers: [{name: x-tester, value: 'yes'}]}]
    backendRefs: [{name: next, port: 80}]
  - name: everybody
    backendRefs: [{name: shop, port: 80}]
    retry: {codes: [502, 503, 504], attempts: 2, backoff: 1ms}
---
apiVersion: gateway.networking.x-k8s.io/v1alpha1
kind: XBackendTrafficPolicy
metadata: {name: shop, namespace: default}
spec:
  targetRefs: [{group: '', kind: Service, name: shop}]
  retryConstraint: {budget: {percent: 20, interval: 10s}}
";

/// Puts a route before a service, shows where requests go by it, and kills a backend under load: nobody notices.
pub(crate) fn show(paper: &Paper, node: &Node, software: &Software, agent: &Agent) -> Result<()> {
    paper.step(
        &format!("A route: `{SHOP}` leads to nginx in `web` and `web3`, and who says `x-tester: yes` is led to `web-next`."),
        "Gateway API's HTTPRoute, bound to the service. What looks at requests takes the agent; all other services stay in the kernel.",
    );
    let (third, next) = (node.pod("web3")?, node.pod("web-next")?);
    for pod in [&third, &next] {
        manifest::write(pod, Acceleration::Default)?;
    }
    wrk::write_service(node, "shop", SHOP, &[software.web(), &third])?;
    wrk::write_service(node, "next", NEXT, &[&next])?;
    wrk::write(node, "route", ROUTE)?;
    paper.text(ROUTE);
    let _servers = [
        started(software, &third, "master_process off;")?,
        started(software, &next, "")?,
    ];
    let testers = || software.who(SHOP, "x-tester: yes");
    wait_for("the route", PATIENCE, || {
        testers().is_ok_and(|it| it == next.name())
    })?;
    let everybody = software.who(SHOP, "x-tester: no")?;
    ensure!(
        everybody != next.name(),
        "`x-tester: no` was led to `{everybody}`"
    );
    paper.text(&format!(
        "curl -H 'x-tester: yes' http://{SHOP}/who    {}\ncurl -H 'x-tester: no'  http://{SHOP}/who    {everybody}",
        testers()?
    ));
    let url = format!("http://{SHOP}/who");
    paper.text(&agent.ask(&["routes", "explain", "default/client", &url])?);
    under_load(paper, software, agent, &third)
}

fn under_load(paper: &Paper, software: &Software, agent: &Agent, victim: &Pod) -> Result<()> {
    paper.step(
        "The same route under load: wrk asks for 4 s on 16 connections. In the middle all of `web3` gets a SIGKILL.",
        "What was in flight there is sent again to `web`, as the rule `everybody` says.",
    );
    let before = retries(agent)?;
    let mut wrk = software.start_wrk("wrk-shop", SHOP, "x-tester: no", 2 * HALF)?;
    let loaded = Instant::now();
    wait_for("half of the time to pass", 2 * HALF, || {
        loaded.elapsed() >= HALF
    })?;
    kill_all(victim)?;
    let text = wrk.success(PATIENCE)?;
    let seen = wrk::parse(&text).with_context(|| format!("wrk wrote:\n{text}"))?;
    let again = retries(agent)? - before;
    let failed = seen.other_answers + seen.cut_off + seen.connect_errors;
    paper.text(&format!(
        "requests answered             {:>8}\n\
         requests sent again           {again:>8}\n\
         requests that failed          {failed:>8}, of {CONNECTIONS} at a time",
        seen.requests,
    ));
    paper.text(&agent.ask(&["flows", "--requests", "--limit", "3"])?);
    ensure!(again > 0, "nothing was in flight: this shows nothing");
    // nginx has one process, which was writing one response at most.
    ensure!(
        failed <= 1 && seen.other_answers == 0,
        "requests failed that could have been sent again: {seen:?}"
    );
    if failed == 1 {
        paper.note("The request that failed had the beginning of its response already.");
    }
    Ok(())
}

/// Starts nginx in a pod; returns once it accepts connections.
fn started(software: &Software, pod: &Pod, directive: &str) -> Result<Running> {
    let running = start_nginx(pod, directive)?;
    wait_for(&format!("the server in `{}`", pod.name()), PATIENCE, || {
        let connected = software
            .client()
            .enter(|| TcpStream::connect((pod.v4(), 80)));
        matches!(connected, Ok(Ok(_)))
    })?;
    Ok(running)
}

/// Returns how many requests to the service were sent again.
fn retries(agent: &Agent) -> Result<u64> {
    let page = agent.metrics()?;
    let lines = page
        .lines()
        .filter(|line| line.starts_with("mesh_http_retries_total{") && line.contains("\"shop\""));
    let values = lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a count"
    )]
    let sum = values.sum::<f64>() as u64;
    Ok(sum)
}
