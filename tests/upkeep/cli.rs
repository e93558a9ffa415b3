//! The command line as people and scripts use it, against the real agent and without one.

use std::process::Command;
use std::time::Duration;

use harness::machine::has_program;
use harness::manifest::Acceleration;
use harness::wait::PATIENCE;
use harness::{Agent, Node};
use serde_json::Value;

use crate::rounds::{ANSWER, REQUEST, Rounds};
use crate::told::{Told, agent, tell};
use crate::world::World;

const COMMANDS: [&str; 18] = [
    "run",
    "controller",
    "check",
    "status",
    "flows",
    "top",
    "workloads",
    "acceleration",
    "register",
    "deregister",
    "lookup",
    "routes",
    "services",
    "explain",
    "policy",
    "uninstall",
    "completions",
    "man",
];

/// Commands that ask the running agent, with what they need.
const QUESTIONS: [&[&str]; 10] = [
    &["status", "--no-rates"],
    &["flows"],
    &["top", "--once"],
    &["workloads"],
    &["acceleration", "on"],
    &[
        "register",
        "shop/cart",
        "--id",
        "a",
        "--address",
        "10.0.0.1",
        "--port",
        "80",
    ],
    &["lookup", "shop/cart"],
    &["services"],
    &["explain", "default/client", "default/server:8080"],
    &["policy", "test", "default/client", "default/server:8080"],
];

fn shell(script: &str) -> Told {
    let mut command = Command::new("bash");
    command
        .args(["-c", script, "bash"])
        .arg(harness::agent::program().unwrap());
    tell(&command)
}

#[test]
fn help_of_every_command() {
    let all = agent(&["--help"]);
    assert_eq!(all.code, Some(0));
    for name in COMMANDS {
        assert!(
            all.out.contains(&format!("\n  {name} ")),
            "{name}: {}",
            all.out
        );
        for flag in ["--help", "-h"] {
            let told = agent(&[name, flag]);
            assert_eq!((told.code, told.err.as_str()), (Some(0), ""), "{told:?}");
            assert!(
                told.out.contains(&format!("Usage: node-agent {name}")),
                "{told:?}"
            );
        }
    }
    // Every command there is, so that this list does not fall behind.
    let listed = all
        .out
        .split("Commands:")
        .nth(1)
        .unwrap()
        .split("\n\n")
        .next()
        .unwrap();
    let listed = listed
        .lines()
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    assert_eq!(
        listed.count(),
        COMMANDS.len() + 1,
        "and `help`: {}",
        all.out
    );
    assert!(all.out.contains("Exit codes:"), "{}", all.out);
}

#[test]
fn completions_and_manual_are_valid() {
    for (name, check) in [
        ("bash", "bash -n"),
        ("zsh", "zsh -n"),
        ("fish", "fish --no-execute"),
    ] {
        let told = agent(&["completions", name]);
        assert_eq!(told.code, Some(0), "{told:?}");
        for command in COMMANDS {
            assert!(told.out.contains(command), "{name}: {command}");
        }
        if has_program(name) {
            let told = shell(&format!("\"$1\" completions {name} | {check} /dev/stdin"));
            assert_eq!(
                (told.code, told.err.as_str()),
                (Some(0), ""),
                "{name}: {told:?}"
            );
        } else {
            eprintln!("SKIPPED: no {name} here to check its completions");
        }
    }
    let page = agent(&["man"]).out;
    assert!(page.contains(".TH node-agent 1"), "{page}");
    if has_program("groff") {
        let told = shell("set -o pipefail; \"$1\" man | groff -man -Tutf8 -ww -z");
        assert_eq!((told.code, told.err.as_str()), (Some(0), ""), "{told:?}");
    } else {
        eprintln!("SKIPPED: no groff here to check the manual");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    for what in ["man", "completions bash", "--help", "run --help"] {
        let told = shell(&format!("set -o pipefail; \"$1\" {what} | head -1"));
        assert_eq!(
            (told.code, told.err.as_str()),
            (Some(0), ""),
            "{what}: {told:?}"
        );
    }
}

#[test]
fn a_wrong_command_line_names_the_culprit() {
    for (words, culprit) in [
        (&["run", "--metrics-address", "here"][..], "here"),
        (&["run", "--acceleration", "maybe"], "maybe"),
        (&["run", "--stall-timeout", "soon"], "soon"),
        (&["flows", "--path", "scenic"], "scenic"),
        (&["flows", "--workload", "nameless"], "nameless"),
        (&["top", "--interval", "1ms"], "1ms"),
        (&["explain", "shop/web", "shop/cart"], "shop/cart"),
        (&["policy", "test", "web", "shop/cart:80"], "web"),
        (&["acceleration", "sideways"], "sideways"),
        (&["stauts"], "stauts"),
        (&["status", "--verbose"], "--verbose"),
        (&["check"], "DIR"),
        (&[], "Usage"),
    ] {
        let told = agent(words);
        assert_eq!(told.code, Some(2), "{words:?}: {told:?}");
        assert!(told.err.contains(culprit), "{words:?}: {told:?}");
        assert_eq!(told.out, "", "{words:?}");
    }
    for (name, value) in [
        ("UNDERPASS_METRICS_ADDRESS", "there"),
        ("UNDERPASS_OBSERVATION_WINDOW", "5 moons"),
        ("UNDERPASS_ACCELERATION", "perhaps"),
    ] {
        let mut command = Command::new(harness::agent::program().unwrap());
        let told = tell(command.arg("run").env(name, value));
        assert_eq!(told.code, Some(2), "{name}: {told:?}");
        let flag = name
            .strip_prefix("UNDERPASS_")
            .unwrap()
            .to_lowercase()
            .replace('_', "-");
        assert!(
            told.err.contains(value) && told.err.contains(&flag),
            "{name}: {told:?}"
        );
    }
}

#[test]
fn without_an_agent() {
    let missing = "/run/underpass-tests-nobody/agent.sock";
    for words in QUESTIONS {
        let told = agent(&[words, &["--socket", missing]].concat());
        assert_eq!(told.code, Some(3), "{words:?}: {told:?}");
        assert!(told.err.contains(missing), "{told:?}");
        assert!(told.err.contains("no agent runs here"), "{told:?}");
        assert_eq!(told.err.lines().count(), 1, "{told:?}");
    }
}

#[test]
fn settings_that_make_no_sense_name_file_and_key() {
    if !harness::require_root() {
        return;
    }
    let node = Node::new().unwrap();
    let file = node.files().join("agent.toml");
    let shown = file.to_str().unwrap();
    let told = agent(&["run", "--config", shown]);
    assert_eq!(told.code, Some(1), "{told:?}");
    assert!(
        told.err.contains(shown) && told.err.contains("No such file"),
        "{told:?}"
    );
    for (text, culprits) in [
        ("node-nam = \"x\"", ["node-nam", "1"]),
        (
            "log-level = \"info\"\nstall-timeout = \"soon\"",
            ["soon", "2"],
        ),
        ("acceleration = \"maybe\"", ["maybe", "1"]),
        ("metrics-address = 15020", ["15020", "1"]),
        ("node-name = ", ["node-name", "1"]),
        ("stall-timeout = \"0s\"", ["stall-timeout", "zero"]),
        ("log-level = \"loud\"", ["loud", "log level"]),
    ] {
        std::fs::write(&file, text).unwrap();
        let told = agent(&["run", "--config", shown]);
        assert_eq!(told.code, Some(1), "{text}: {told:?}");
        let named = culprits.iter().all(|culprit| told.err.contains(culprit));
        assert!(named, "{text}: {told:?}");
    }
}

#[test]
fn a_flag_wins_over_the_environment_and_that_over_the_file() {
    if !harness::require_root() {
        return;
    }
    let node = Node::new().unwrap();
    let file = node.files().join("agent.toml");
    std::fs::write(&file, "node-name = \"file\"\nstall-timeout = \"7s\"\n").unwrap();
    let config = ["--config", file.to_str().unwrap()];
    let mut agent = Agent::start(&node, &config).unwrap();
    let name = |agent: &Agent| agent.status().unwrap()["agent"]["node"].clone();
    assert_eq!(name(&agent), "file");
    agent.stop().unwrap();
    for (flag, expected) in [(None, "environment"), (Some("flag"), "flag")] {
        let mut other: Vec<_> = vec![("--config", config[1])];
        other.extend(flag.map(|name| ("--node-name", name)));
        let mut command = agent.another(&other).unwrap();
        let _running = node
            .start("another", command.env("UNDERPASS_NODE_NAME", "environment"))
            .unwrap();
        harness::wait_for("another agent", PATIENCE, || {
            agent
                .status()
                .is_ok_and(|status| status["agent"]["node"] == expected)
        })
        .unwrap();
    }
}

#[test]
fn a_directory_of_manifests_is_checked() {
    if !harness::require_root() {
        return;
    }
    let node = Node::new().unwrap();
    let pod = node.pod("a").unwrap();
    harness::manifest::write(&pod, Acceleration::On).unwrap();
    let dir = node.manifests();
    let check = ["check", dir.to_str().unwrap()];
    let told = agent(&check);
    assert_eq!(told.code, Some(0), "{told:?}");
    std::fs::write(
        dir.join("bad.yaml"),
        "kind: Pod\nmetadata: {name: b, nmae: c}\n",
    )
    .unwrap();
    let told = agent(&check);
    assert_eq!(told.code, Some(1), "{told:?}");
    assert!(
        told.out.contains("bad.yaml") && told.out.contains("help:"),
        "{told:?}"
    );
    let told = agent(&[&check[..], &["--output", "json"]].concat());
    assert_eq!(told.code, Some(1), "{told:?}");
    assert_eq!(told.json()["schema"], "underpass.dev/check/v1");
    let told = agent(&["check", dir.join("missing").to_str().unwrap()]);
    assert_eq!(told.code, Some(2), "{told:?}");
}

#[test]
fn every_answer_has_its_schema_and_is_plain_for_scripts() {
    let Some(world) = World::new(Some(Acceleration::On)) else {
        return;
    };
    let rounds = Rounds::new(&world);
    rounds.once();
    for words in QUESTIONS {
        let told = tell(
            &world
                .agent()
                .question(&[words, &["--output", "json"]].concat()),
        );
        assert_eq!(
            (told.code, told.err.as_str()),
            (Some(0), ""),
            "{words:?}: {told:?}"
        );
        let name = match words[0] {
            "acceleration" => "redirect",
            "register" => "registration",
            "lookup" => "services",
            "services" => "balancing",
            "policy" => "policy-test",
            other => other,
        };
        assert_eq!(told.json()["schema"], format!("underpass.dev/{name}/v1"));
        let told = tell(&world.agent().question(words));
        assert_eq!(
            (told.code, told.err.as_str()),
            (Some(0), ""),
            "{words:?}: {told:?}"
        );
        // Without a terminal, tables are as wide as they need to be.
        let columns = if words[0] == "status" { 80 } else { 200 };
        for line in told.out.lines() {
            assert!(line.chars().count() <= columns, "{words:?}: {line}");
            assert!(!line.contains('\u{1b}'), "{words:?}: {line}");
        }
    }
    let told = tell(&world.agent().question(&["status", "--color", "always"]));
    assert!(told.out.contains('\u{1b}'), "{told:?}");
    // A bad answer is an answer, with code 1.
    std::fs::write(world.node.manifests().join("bad.yaml"), "kind: [").unwrap();
    harness::wait_for("the error to be seen", PATIENCE, || {
        tell(&world.agent().question(&["status", "--no-rates"])).code == Some(1)
    })
    .unwrap();
}

#[test]
fn top_shows_what_was_counted() {
    let Some(world) = World::new(Some(Acceleration::On)) else {
        return;
    };
    let told = tell(&world.agent().question(&["top", "--once"]));
    assert_eq!(told.out, "no traffic was counted yet\n");
    let rounds = Rounds::new(&world);
    for _ in 0..100 {
        rounds.once();
    }
    let port = rounds.server.local.port();
    for live in [true, false] {
        if !live {
            rounds.finish();
        }
        let told = tell(&world.agent().question(&["top", "--once"]));
        let mut lines = told.out.lines();
        let titles: Vec<_> = lines.next().unwrap().split_whitespace().collect();
        let row: Vec<_> = lines.next().unwrap().split_whitespace().collect();
        assert_eq!(
            row[..2],
            ["default/client", &format!("default/server:{port}")],
            "{told:?}"
        );
        // A number and its unit are two words in `BYTES/S` and `BYTES`.
        assert_eq!(row.len(), titles.len() + 2, "{told:?}");
        assert!(
            told.out.contains("310 kB") && told.out.contains("100%"),
            "{told:?}"
        );
        let json = tell(&world.agent().question(&["top", "--output", "json"])).json();
        let row = &json["rows"][0];
        assert_eq!(row["bytes_total"], 100 * (REQUEST + ANSWER), "{json:#}");
        assert_eq!(row["flows_open"], u64::from(live), "{json:#}");
        let turn = |field: &str| row[field].as_f64().unwrap();
        assert!(turn("turnaround_p50_us") > 0.0, "{json:#}");
        assert!(
            turn("turnaround_p99_us") >= turn("turnaround_p50_us"),
            "{json:#}"
        );
    }
}

#[test]
fn flows_are_filtered() {
    let Some(world) = World::new(Some(Acceleration::On)) else {
        return;
    };
    let ended = Rounds::new(&world);
    ended.once();
    ended.finish();
    world.switch(Acceleration::Off, "not-accelerated");
    let live = Rounds::new(&world);
    live.once();
    let ports = |words: &[&str]| {
        let told = tell(
            &world
                .agent()
                .question(&[&["flows", "--output", "json"], words].concat()),
        );
        let json = told.json();
        let flows = json["flows"].as_array().unwrap().clone();
        let ports = flows
            .iter()
            .map(|flow| flow["destination"]["port"].as_u64().unwrap());
        let mut ports: Vec<_> = ports.collect();
        ports.sort_unstable();
        ports
    };
    let (first, second) = (
        u64::from(ended.server.local.port()),
        u64::from(live.server.local.port()),
    );
    let both = || {
        let mut both = vec![first, second];
        both.sort_unstable();
        both
    };
    harness::wait_for("the record of the ended flow", PATIENCE, || {
        ports(&[]) == both()
    })
    .unwrap();
    let second_text = second.to_string();
    for (words, expected) in [
        (&["--workload", "default/client"][..], both()),
        (&["--workload", "default/server"], both()),
        (&["--workload", "default/nobody"], vec![]),
        (&["--namespace", "default"], both()),
        (&["--namespace", "other"], vec![]),
        (&["--port", &second_text], vec![second]),
        (&["--port", "1"], vec![]),
        (&["--path", "redirect"], vec![first]),
        (&["--path", "tcp"], vec![second]),
        (&["--path", "mixed"], vec![]),
        (&["--since", "1h"], both()),
        (&["--limit", "1"], vec![second]),
        (&["--path", "redirect", "--port", &second_text], vec![]),
    ] {
        assert_eq!(ports(words), expected, "{words:?}");
    }
    // The one that ended goes out of sight, the live one stays.
    harness::wait_for("the ended flow to be old", PATIENCE, || {
        ports(&["--since", "200ms"]) == [second]
    })
    .unwrap();
    live.finish();
}

#[test]
fn flows_are_followed_until_the_agent_stops() {
    let Some(mut world) = World::new(Some(Acceleration::On)) else {
        return;
    };
    let node = world.node.clone();
    let mut json = world
        .agent()
        .question(&["flows", "--follow", "--output", "json"]);
    let mut json = node.start("follow-json", &mut json).unwrap();
    json.line("{\"type\":\"start\"", PATIENCE).unwrap();
    let mut text = world
        .agent()
        .question(&["flows", "--follow", "--since", "1h"]);
    let mut text = node.start("follow-text", &mut text).unwrap();
    let lines = |log: String, what: &str| log.lines().filter(|line| line.contains(what)).count();
    for ended in 1..=3 {
        let rounds = Rounds::new(&world);
        rounds.once();
        rounds.finish();
        harness::wait_for("a line for the flow", PATIENCE, || {
            lines(json.log(), "\"type\":\"flow\"") == ended
                && lines(text.log(), "default/client") == ended
        })
        .unwrap();
    }
    world.agent_mut().stop().unwrap();
    let log = json.success(PATIENCE).unwrap();
    let last: Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
    assert_eq!(last["type"], "end", "{log}");
    for line in log.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        if line["type"] == "flow" {
            assert_eq!(line["tx_bytes"], REQUEST, "{line:#}");
            assert_eq!(line["redirected_rx_bytes"], ANSWER, "{line:#}");
        }
    }
    let log = text.success(PATIENCE).unwrap();
    assert!(
        log.ends_with("node-agent: the agent is shutting down\n"),
        "{log}"
    );

    // An agent that is killed cannot say goodbye: the follower says so, with its own code.
    world.agent_mut().start_again().unwrap();
    let mut follow = world
        .agent()
        .question(&["flows", "--follow", "--output", "json"]);
    let mut follow = node.start("follow-killed", &mut follow).unwrap();
    follow.line("{\"type\":\"start\"", PATIENCE).unwrap();
    world.agent_mut().kill9().unwrap();
    assert_eq!(follow.wait(PATIENCE).unwrap().code(), Some(3));
    assert!(
        follow.log().contains("the agent went away"),
        "{}",
        follow.log()
    );
}

#[test]
fn the_kill_switch_acts_at_once_and_outlives_the_agent() {
    let Some(mut world) = World::new(Some(Acceleration::On)) else {
        return;
    };
    let rounds = Rounds::new(&world);
    let redirected = |world: &World| {
        let flow = world.flow(&rounds.client);
        flow["redirected_tx_bytes"].as_u64().unwrap() / REQUEST
    };
    for _ in 0..10 {
        rounds.once();
    }
    assert_eq!(redirected(&world), 10);
    world.agent().allow_redirect(false).unwrap();
    // Not one more from here on, whoever runs.
    for _ in 0..10 {
        rounds.once();
    }
    assert_eq!(redirected(&world), 10);
    let status = world.agent().status_text().unwrap();
    assert!(status.contains("Kill switch"), "{status}");
    world.agent_mut().kill9().unwrap();
    rounds.once();
    world.agent_mut().start_again().unwrap();
    rounds.once();
    assert_eq!(redirected(&world), 10);
    assert_eq!(world.agent().status().unwrap()["redirect_allowed"], false);
    world.agent().allow_redirect(true).unwrap();
    rounds.during(|| {
        harness::wait_for("redirect to go on", PATIENCE, || redirected(&world) > 20).unwrap();
    });
    rounds.finish();
}

#[test]
fn a_log_of_json_parses_line_by_line() {
    if !harness::require_root() {
        return;
    }
    let node = Node::new().unwrap();
    let pod = node.pod("a").unwrap();
    let mut agent = Agent::start(&node, &["--log-format", "json", "--log-level", "debug"]).unwrap();
    harness::manifest::write(&pod, Acceleration::On).unwrap();
    agent
        .wait_for_state(&["a"], "accelerated", PATIENCE)
        .unwrap();
    std::fs::write(
        node.manifests().join("bad.yaml"),
        "kind: Pod\n\"quoted\nand broken",
    )
    .unwrap();
    harness::wait_for("the error", Duration::from_secs(10), || {
        agent.log().contains("bad.yaml")
    })
    .unwrap();
    let file = node.files().join("agent.log");
    agent.stop().unwrap();
    let log = std::fs::read_to_string(file).unwrap();
    assert!(log.lines().count() > 3, "{log}");
    for line in log.lines() {
        let line: Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        for field in ["timestamp", "level", "message", "target"] {
            assert!(line[field].is_string(), "{line}");
        }
    }
}
