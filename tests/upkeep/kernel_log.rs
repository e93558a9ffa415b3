//! What the kernel programs have to say is in the agent's own log.

use harness::manifest::Acceleration;
use harness::wait::PATIENCE;
use serde_json::Value;

use crate::rounds::Rounds;
use crate::told::agent;
use crate::world::World;

/// What a program says when another's socket map has the socket already (EBUSY).
const LINE: &str = "a socket could not join the socket map: error -16";

#[test]
fn a_rare_event_in_the_kernel_is_in_the_agents_log() {
    let Some(world) = World::new(Some(Acceleration::On)) else {
        return;
    };
    // A second mesh on the same pods: a socket can have one such program only.
    let dir = world.agent().bpf_dir().join("second");
    let socket = world.node.files().join("second.sock");
    let (dir, socket) = (dir.to_str().unwrap(), socket.to_str().unwrap());
    let other = [
        ("--bpf-dir", dir),
        ("--socket", socket),
        ("--metrics-address", "off"),
        ("--log-format", "json"),
    ];
    let start = || {
        let mut command = world.agent().another(&other).unwrap();
        let running = world.node.start("second", &mut command).unwrap();
        harness::wait_for("the second agent", PATIENCE, || {
            let told = agent(&["workloads", "--socket", socket, "--output", "json"]);
            told.code == Some(0) && told.out.matches("\"accelerated\"").count() == 2
        })
        .unwrap();
        running
    };
    // Which of the two is too late, is the kernel's to say: the second, as it was attached later.
    let lines = |log: &str| log.lines().filter(|line| line.contains(LINE)).count();
    let mut second = start();
    for before in [0, 1] {
        assert_eq!(lines(&second.log()), before, "{}", second.log());
        let rounds = Rounds::new(&world);
        rounds.once();
        rounds.finish();
        // Of the client's end: the server's does not join without it.
        harness::wait_for("the client's end to be told of", PATIENCE, || {
            lines(&second.log()) == before + 1
        })
        .unwrap();
        let flows = agent(&["flows", "--socket", socket, "--output", "json"]).json();
        assert!(flows.to_string().contains("\"insert_failed\""), "{flows:#}");
        // The programs that run are of the first load from now on, and so is what they write to.
        second.kill().unwrap();
        second = start();
    }
    let log = second.log();
    let line = log.lines().find(|line| line.contains(LINE)).unwrap();
    let line: Value = serde_json::from_str(line).unwrap();
    assert_eq!(line["level"], "WARN", "{line}");
    assert_eq!(lines(&world.agent().log()), 0);
    drop(second);
    let told = agent(&["uninstall", "--bpf-dir", dir]);
    assert_eq!((told.code, told.err.as_str()), (Some(0), ""), "{told:?}");
}
