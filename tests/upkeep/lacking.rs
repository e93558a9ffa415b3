//! Machines that lack something: the agent says what is missing and what is lost by it, and does what can be done.

use harness::manifest::{self, Acceleration};
use harness::wait::PATIENCE;
use harness::{Agent, Node, Remote};
use serde_json::Value;

use crate::pins::version_dir;
use crate::rounds::Rounds;
use crate::told::{Told, tell};
use crate::world::World;

/// Hides directories of the kernel, where they are, before it becomes the agent.
fn hide(directories: &str) -> Vec<String> {
    let script = format!(
        "for d in {directories}; do [ ! -d $d ] || mount -t tmpfs none $d || exit 125; done; exec \"$@\""
    );
    // As a slave: what is mounted outside later (namespaces) is seen inside, but not the other way round.
    [
        "unshare",
        "--mount",
        "--propagation=slave",
        "--",
        "sh",
        "-c",
        &script,
        "sh",
    ]
    .map(str::to_owned)
    .into()
}

/// Takes capabilities away before it becomes the agent.
fn without(capability: &str) -> Vec<String> {
    let dropped = format!("-{capability}");
    [
        "setpriv",
        "--inh-caps",
        &dropped,
        "--bounding-set",
        &dropped,
        "--",
    ]
    .map(str::to_owned)
    .into()
}

/// A node, and its agent in such surroundings, if it starts. `None`, loudly, without root.
fn start(wrapper: &[String]) -> Option<(Node, anyhow::Result<Agent>)> {
    if !harness::require_root() {
        return None;
    }
    let node = Node::new().unwrap();
    let wrapper: Vec<_> = wrapper.iter().map(String::as_str).collect();
    let agent = Agent::start_through(&node, &wrapper, &[]);
    Some((node, agent))
}

fn missing(agent: &Agent, feature: &str) -> Value {
    let status = agent.status().unwrap();
    let all = status["kernel"]["missing"].as_array().unwrap();
    let mut found = all.iter().filter(|missing| {
        let text = missing["feature"].as_str().unwrap();
        text.contains(feature)
    });
    found
        .next()
        .cloned()
        .unwrap_or_else(|| panic!("{status:#}"))
}

/// Sends requests between two pods of this mode, which come to this state for this reason; returns the live flow.
fn exchange(node: &Node, agent: &Agent, mode: Acceleration, state: &str, why: &str) -> Value {
    let names = [format!("client-{state}"), format!("server-{state}")];
    let pods = names.each_ref().map(|name| node.pod(name).unwrap());
    for pod in &pods {
        manifest::write(pod, mode).unwrap();
    }
    let names = names.each_ref().map(String::as_str);
    agent.wait_for_state(&names, state, PATIENCE).unwrap();
    for name in names {
        assert_eq!(agent.workload(name).unwrap()["why"], why);
    }
    let (client, server) = (
        Remote::start(&pods[0]).unwrap(),
        Remote::start(&pods[1]).unwrap(),
    );
    let rounds = Rounds::between(client.join(&server.listen().unwrap()).unwrap());
    for _ in 0..10 {
        rounds.once();
    }
    let port = rounds.client.local.port();
    let flows = agent.flows().unwrap();
    let all = flows["flows"].as_array().unwrap();
    let flow = all.iter().find(|flow| flow["source"]["port"] == port);
    let flow = flow.unwrap_or_else(|| panic!("{flows:#}")).clone();
    rounds.finish();
    flow
}

#[test]
fn no_tracefs() {
    let Some((node, agent)) = start(&hide("/sys/kernel/tracing /sys/kernel/debug")) else {
        return;
    };
    let agent = agent.unwrap();
    let status = agent.status().unwrap();
    assert_eq!(status["kernel"]["level"], "own-sockets", "{status:#}");
    assert_eq!(
        missing(&agent, "syscall tracepoints")["lost"],
        "workloads cannot be observed: none in mode `auto` is accelerated"
    );
    let hooks = status["hooks"].as_array().unwrap();
    let lost = hooks.iter().filter(|hook| hook["attached"] == false);
    for hook in lost.clone() {
        assert!(hook["error"].to_string().contains("tracefs"), "{hook}");
    }
    let tracepoints = hooks
        .iter()
        .filter(|hook| hook["hook"].to_string().contains("tracepoint "));
    assert_eq!(lost.count(), tracepoints.count(), "{status:#}");
    let text = agent.status_text().unwrap();
    assert!(
        text.contains("tracefs not found") && text.contains("own sockets only"),
        "{text}"
    );
    let flow = exchange(
        &node,
        &agent,
        Acceleration::Auto,
        "not-accelerated",
        "this kernel's redirect is not safe for applications",
    );
    assert_eq!(flow["path"], "tcp", "{flow:#}");
    // The operator's word for it is enough.
    let flow = exchange(&node, &agent, Acceleration::On, "accelerated", "");
    assert_eq!(flow["path"], "redirect", "{flow:#}");
}

#[test]
fn no_right_to_set_up_networks() {
    let Some((node, agent)) = start(&without("net_admin")) else {
        return;
    };
    let agent = agent.unwrap();
    let status = agent.status().unwrap();
    assert_eq!(status["kernel"]["level"], "off", "{status:#}");
    assert_eq!(
        missing(&agent, "CAP_NET_ADMIN")["lost"],
        "the kernel's redirect cannot be probed: no redirect"
    );
    let text = agent.status_text().unwrap();
    assert!(
        text.contains("CAP_NET_ADMIN") && text.contains("redirect is not fit for use"),
        "{text}"
    );
    let flow = exchange(
        &node,
        &agent,
        Acceleration::On,
        "not-accelerated",
        "the kernel failed the start-up probe",
    );
    assert_eq!(flow["path"], "tcp", "{flow:#}");
    // Nobody can order what the probe has not allowed.
    let told = tell(&agent.question(&["acceleration", "on"]));
    assert_eq!(told.code, Some(1), "{told:?}");
    assert!(told.err.contains("failed the start-up probe"), "{told:?}");
}

#[test]
fn no_right_to_look_into_processes() {
    let Some((_node, agent)) = start(&without("sys_ptrace")) else {
        return;
    };
    let agent = agent.unwrap();
    assert_eq!(agent.status().unwrap()["kernel"]["level"], "applications");
    let lost = missing(&agent, "CAP_SYS_PTRACE")["lost"].to_string();
    assert!(lost.contains("not found"), "{lost}");
    let text = agent.status_text().unwrap();
    assert!(text.contains("missing   CAP_SYS_PTRACE"), "{text}");
}

#[test]
fn not_enough_to_do_anything() {
    for (wrapper, culprit) in [
        (without("sys_admin"), "CAP_SYS_ADMIN"),
        (without("all"), "CAP_SYS_ADMIN"),
        (hide("/sys/kernel/btf"), "CONFIG_DEBUG_INFO_BTF"),
    ] {
        let Some((node, agent)) = start(&wrapper) else {
            return;
        };
        let error = format!("{:#}", agent.unwrap_err());
        assert!(
            error.contains("node-agent: ") && error.contains(culprit),
            "{error}"
        );
        // Nothing was attached before that was found out.
        let pins = version_dir(&harness::agent::bpf_dir(&node).unwrap()).join("links");
        assert!(!pins.exists() || std::fs::read_dir(&pins).unwrap().next().is_none());
    }
}

#[test]
fn directories_of_other_kinds_are_told() {
    let Some(mut world) = World::new(Some(Acceleration::On)) else {
        return;
    };
    world.agent_mut().stop().unwrap();
    let files = world.node.files().join("plain");
    std::fs::create_dir(&files).unwrap();
    let plain = files.to_str().unwrap();
    let absent = files.join("absent");
    let absent = absent.to_str().unwrap();
    let start = |flag, value| -> Told { tell(&world.agent().another(&[(flag, value)]).unwrap()) };
    for (flag, value, why) in [
        ("--cgroup", plain, "is not in a cgroup2 file system"),
        ("--cgroup", absent, "No such file or directory"),
        ("--bpf-dir", plain, "is not in a bpf file system"),
        ("--bpf-dir", absent, "is not in a bpf file system"),
    ] {
        let told = start(flag, value);
        assert_eq!(told.code, Some(1), "{told:?}");
        for part in [flag, value, why] {
            assert!(told.err.contains(part), "{part}: {told:?}");
        }
    }
    assert!(std::fs::read_dir(&files).unwrap().next().is_none());
    world.agent_mut().start_again().unwrap();
}
