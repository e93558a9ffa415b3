//! Tests of `ctl::status`.

use super::render::render;
use super::*;
use crate::admin::types::{DataPathSummary, DnsSummary, FlowCount, LossCounts};
use crate::ctl::human::width;
use crate::ctl::screen::Screen;

/// A status as an agent answers it, so that the JSON's shape is pinned as well.
fn healthy() -> Status {
    serde_json::from_str(include_str!("status.json")).unwrap()
}

fn rates() -> Rates {
    Rates {
        seconds: 1.0,
        bytes: 1.21e9,
        redirected_bytes: 1.1e9,
        messages: 34_100.0,
        flows_opened: 120.0,
        flows_failed: 0.0,
    }
}

#[test]
fn a_healthy_node_on_80_columns() {
    let text = render(&healthy(), Some(&rates()), &Screen::plain());
    let expected = "\
Agent       node worker-1, up 3h12m, version 0.1.0, pid 4242
Health      ok
Kernel      6.12.9-amd64: redirect is fit for applications
  defect    ioctl(FIONREAD) says 0 while redirected bytes wait (forbids
            fionread)
  missing   tracepoint sock_recv_length (kernel 6.3): messages received are not
            counted
Hooks       2 of 2 attached, 1 more when needed
Config      generation 7 in force, no errors
Workloads   4: 2 accelerated, 1 observing, 1 not accelerated
     1 x    splice(2) from a TCP socket
            shop/db                            splice(2) from a TCP socket
Services    12: 10 balanced, 1 without a backend, 2 endpoints ejected
DNS         answers in 4 workloads, 1,234 queries, 3 failed
Proxied     1,250 connections to 2 ports, in 3 workloads, by 4 threads
Live flows  1,357: 1,234 redirect, 123 tcp
   123 x    tcp: the other end is not a workload on this node
Rates       1.2 GB/s (91% redirected), 34.1k messages/s, 120 flows opened/s
Maps        sockets                 1,234 of    65,536    1%
            pairs                       3 of     8,192    0%
Lost        nothing
";
    assert_eq!(text, expected);
}

#[test]
fn a_node_in_trouble_stays_within_80_columns_and_one_screen() {
    let mut status = healthy();
    status.agent.node = "n".repeat(200);
    status.degraded = (0..9)
        .map(|i| format!("fault {i} {}", "x".repeat(90)))
        .collect();
    status.config.generation = 9;
    status.config.errors = (0..8)
        .map(|i| format!("mesh.yaml: pods[{i}]: no `cgroup`\n  help: add one"))
        .collect();
    status.redirect_allowed = false;
    status.hooks[0].attached = Some(false);
    status.maps[0].used = 65_000;
    let one = status.workloads.not_accelerated[0].clone();
    status.workloads.not_accelerated = vec![one; 12];
    status.workloads.not_accelerated[0].name = "w".repeat(253);
    status.live_flows = vec![
        FlowCount {
            path: "tcp".into(),
            reason: "behaviour".into(),
            reason_text: "y".repeat(300),
            count: 1_234_567,
        };
        9
    ];
    status.losses.recent_seconds = 300;
    status.losses.recent.stalls = 2;
    status.losses.total = LossCounts {
        flow_records: 12_345,
        stalls: 2,
        spurious_eagain: 3,
        ..LossCounts::default()
    };
    let text = render(&status, None, &Screen::plain());
    for line in text.lines() {
        assert!(width(line) <= 80, "{line}");
        assert_eq!(line, line.trim_end());
    }
    assert!(text.lines().count() < 60, "{text}");
    for says in [
        "Health      degraded\n",
        "            and 4 more\n",
        "Kill switch on: nothing is redirected, by `node-agent acceleration off`\n",
        "Config      generation 9 read, 7 in force, 8 errors\n",
        "  error     mesh.yaml: pods[0]: no `cgroup`\n",
        "            and 3 more; `node-agent check DIR` prints all\n",
        "Hooks       1 of 2 attached, 1 more when needed\n",
        "Lost        in the last 5m0s: 2 stalled flows reset\n",
        "  ever      12,345 flow records, 2 stalled flows reset, 3 spurious EAGAINs\n",
    ] {
        assert!(text.contains(says), "no `{says}` in\n{text}");
    }
}

#[test]
fn a_node_with_nothing_says_so() {
    let mut status = healthy();
    status.workloads.total = 0;
    status.services.total = 0;
    status.dns = DnsSummary::default();
    status.data_path = DataPathSummary::default();
    status.live_flows.clear();
    status.maps.clear();
    status.totals = Totals::default();
    let text = render(&status, None, &Screen::plain());
    assert!(
        text.contains(
            "Workloads   none\nServices    none\nLive flows  none\nLost        nothing\n"
        ),
        "{text}"
    );
}

#[test]
fn colour_changes_no_column() {
    let color = Screen {
        color: true,
        ..Screen::plain()
    };
    let text = render(&healthy(), Some(&rates()), &color);
    assert!(text.contains("\x1b[32mok\x1b[0m"));
    let mut plain = String::new();
    let mut rest = text.as_str();
    while let Some((before, escape)) = rest.split_once("\x1b[") {
        plain += before;
        rest = escape.split_once('m').unwrap().1;
    }
    plain += rest;
    assert_eq!(plain, render(&healthy(), Some(&rates()), &Screen::plain()));
}

#[test]
fn text_from_outside_does_not_steer_the_terminal() {
    let mut status = healthy();
    status.config.errors = vec!["bad \x1b[2J name\rX".into()];
    status.agent.node = "a\x1b]0;x\x07b".into();
    let text = render(&status, None, &Screen::plain());
    assert!(
        text.chars().all(|c| c == '\n' || !c.is_control()),
        "{text:?}"
    );
}

#[test]
fn rates_are_of_the_time_that_passed() {
    let before = Totals {
        at_ns: 1_000_000_000,
        bytes: 100,
        messages: 50,
        ..Totals::default()
    };
    let after = Totals {
        at_ns: 3_000_000_000,
        bytes: 500,
        messages: 10,
        ..before
    };
    let rates = Rates::between(&before, &after).unwrap();
    assert!((rates.bytes - 200.0).abs() < 1e-9);
    assert!(
        rates.messages.abs() < 1e-9,
        "a sum that fell is no negative rate"
    );
    assert_eq!(Rates::between(&after, &before), None);
    assert_eq!(Rates::between(&before, &before), None);
}

#[test]
fn an_api_server_that_is_away_is_told_with_what_runs_meanwhile() {
    let mut status = healthy();
    let api = r#"{"server":"https://10.96.0.1","state":"starting","since":"2026-11-21T08:00:00Z","why":"failed to reach `https://10.96.0.1`",
        "last_sync":"2026-11-21T07:59:00Z","from_disk":"2026-11-21T07:59:00Z","requests":1234,"unreadable":["Pod: expected value"],"kinds":[
        {"kind":"Pod","version":"v1","scope":"this node","state":"retrying","why":"connection refused","objects":3},
        {"kind":"Node","version":"v1","scope":"all","state":"listing","objects":2000},
        {"kind":"TLSRoute","version":"gateway.networking.k8s.io/v1","scope":"all","state":"not_served","why":"no","objects":0}]}"#;
    status.kubernetes = Some(serde_json::from_str(api).unwrap());
    let text = render(&status, None, &Screen::plain());
    let expected = "\
Kubernetes  starting with https://10.96.0.1, 1,234 requests
  because   failed to reach `https://10.96.0.1`
  on disk   running what was kept at 2026-11-21T07:59:00Z
  objects   3 Pod (this node), 2,000 Node
  not told  Pod: connection refused
  skipped   Pod: expected value
";
    assert!(text.contains(expected), "{text}");
}

#[test]
fn pods_that_are_not_captured_are_named_those_first_that_should_be() {
    let mut status = healthy();
    let enrolment = r#"{"captured":1200,"not_captured":[
        {"namespace":"shop","name":"agent","reason":"host-network","why":"it has the node's own network"},
        {"namespace":"shop","name":"lost","reason":"not-found","why":"no network namespace on this machine has 10.0.0.9"}]}"#;
    status.enrolment = serde_json::from_str(enrolment).unwrap();
    let text = render(&status, None, &Screen::plain());
    let expected = "\
In the mesh 1,200 captured, 2 not
            shop/lost: no network namespace on this machine has 10.0.0.9
            shop/agent: it has the node's own network
";
    assert!(text.contains(expected), "{text}");
}
