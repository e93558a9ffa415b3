//! Many at once: idle connections, and streams of HTTP/2.

use super::scene::{H2C, HTTP, LONG, Scene, Server, route};

/// Idle connections.
const IDLE: usize = 10_000;

/// What each may cost the agent, in bytes: the state of a connection, with its buffers given back. A debug build, whose futures are
/// the largest, was seen to take 16,500.
const IDLE_BYTES: u64 = 24 << 10;

#[test]
fn ten_thousand_idle_connections_are_kept_and_cost_little() {
    let Some(scene) = Scene::new(&["curl"], &[Server::Echo], &route(80, "")) else {
        return;
    };
    scene.wait_for_route("all");
    let before = scene.agent.resident_bytes().unwrap();
    let count = IDLE.to_string();
    let mut idle = scene.start("idle", &["idle", "--connect", HTTP, "--count", &count]);
    let said = Scene::heard(&mut idle);
    assert_eq!(said["kept"], IDLE, "{said}: {}", idle.log());
    // What a connection had for its request is given back some seconds later.
    let each = || {
        let now = scene.agent.resident_bytes().unwrap();
        now.saturating_sub(before) / IDLE as u64
    };
    let small = harness::wait_for("idle connections to cost little", LONG, || {
        each() < IDLE_BYTES
    });
    println!("an idle connection costs the agent {} bytes", each());
    small.unwrap_or_else(|error| panic!("{error:#}: {} bytes each", each()));
    let wrote = scene
        .shell("beside", &format!("curl -s -m 10 http://{HTTP}/"))
        .unwrap();
    assert!(wrote.contains("\"server\""), "{wrote}");
    assert!(idle.ended().unwrap().is_none(), "{}", idle.log());
}

/// What the agent may grow by with a thousand requests that wait at once, both of their ends and a debug build's futures included.
const STREAMS_MIB: u64 = 64;

#[test]
fn a_thousand_streams_are_open_at_once() {
    let Some(scene) = Scene::new(&["curl"], &[Server::Echo], &one_backend()) else {
        return;
    };
    scene.wait_for_route("all");
    let before = scene.memory_mib();
    // No answer comes before all of them are with the backend.
    for to in [H2C, HTTP] {
        let words = [
            "fetch",
            "--connect",
            to,
            "--http2",
            "--connections",
            "10",
            "--requests",
            "100",
            "--path",
            "/?gate=1000",
        ];
        let said = scene.said(&format!("gate-{to}"), &words);
        assert_eq!(said[0]["answers"]["200"], 1000, "{to}: {said:?}");
        let now = scene.memory_mib();
        println!("a thousand streams to {to}: the agent has {now} MiB after {before}");
        assert!(now < before + STREAMS_MIB, "{now} MiB after {before}");
    }
}

/// Routes to one backend, with limits that allow a thousand requests at once.
fn one_backend() -> String {
    let lead = |port: u16| route(port, "").replace("[{name: shop, ", "[{name: one, ");
    lead(80) + &lead(81)
}
