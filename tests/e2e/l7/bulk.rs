//! Bodies much larger than the agent's memory, each byte checked. `UNDERPASS_BULK_GIB=10` has as much go each way.

use std::time::Duration;

use harness::wait::PATIENCE;

use super::scene::{H2C, HTTP, LONG, Scene, Server, route};

/// Bytes each way, of eight. A quarter of a GiB is a thousand times what may be under way, and a debug build takes seconds for it.
fn length() -> u64 {
    let gib = std::env::var("UNDERPASS_BULK_GIB");
    gib.map_or(256 << 20, |gib| gib.parse::<u64>().unwrap() << 30)
}

/// A debug build moves ten times as much, unless the machine has a lot of other work.
fn time(length: u64) -> Duration {
    LONG * 2 + Duration::from_secs(length / (5 << 20))
}

/// What the agent may grow by: windows and buffers of a few connections, and what its allocator keeps.
const GROWTH_MIB: u64 = 48;

#[test]
fn any_length_streams_in_bounded_memory() {
    let Some(scene) = Scene::new(
        &["curl"],
        &[Server::Echo],
        &(route(80, "") + &route(81, "")),
    ) else {
        return;
    };
    scene.wait_for_route("all");
    let time = time(length());
    let length = length().to_string();
    let before = scene.memory_mib();
    for (name, to, more) in [
        ("h1-h1", HTTP, &[][..]),
        ("h1-h2", H2C, &[][..]),
        ("h2-h1", HTTP, &["--http2"][..]),
        ("h2-h2", H2C, &["--http2"][..]),
    ] {
        let path = format!("/?bytes={length}");
        let down = [
            "fetch",
            "--connect",
            to,
            "--path",
            &path,
            "--expect",
            &length,
        ];
        let said = scene.said_within(time, &format!("{name}-down"), &[&down[..], more].concat());
        assert_eq!(said[0]["answers"]["200"], 1, "{name}: {said:?}");
        let up = ["fetch", "--connect", to, "--send", &length];
        let said = scene.said_within(time, &format!("{name}-up"), &[&up[..], more].concat());
        assert_eq!(said[0]["answers"]["200"], 1, "{name}: {said:?}");
        let now = scene.memory_mib();
        println!("{name}: {length} bytes each way, the agent has {now} MiB after {before}");
        assert!(
            now < before + GROWTH_MIB,
            "{name}: {now} MiB after {before}"
        );
    }
}

#[test]
fn a_slow_reader_holds_back_the_sender() {
    let Some(scene) = Scene::new(
        &["curl"],
        &[Server::Echo],
        &(route(80, "") + &route(81, "")),
    ) else {
        return;
    };
    scene.wait_for_route("all");
    let before = scene.memory_mib();
    // Twenty of them ask for more than all buffers hold, and take a little of it each second.
    let length = (64_u64 << 20).to_string();
    let path = format!("/?bytes={length}");
    let slow = |to| {
        [
            "fetch",
            "--connect",
            to,
            "--path",
            &path,
            "--expect",
            &length,
            "--read-rate",
            "100000",
            "--connections",
            "20",
        ]
    };
    let mut readers = Vec::new();
    for (name, words) in [
        ("h1", slow(HTTP).to_vec()),
        ("h2", [&slow(H2C)[..], &["--http2"]].concat()),
    ] {
        readers.push(scene.start(&format!("slow-{name}"), &words));
    }
    // While they read, everybody else is served; and nothing piles up.
    let length = "1000000";
    let path = format!("/?bytes={length}");
    for number in 0..20 {
        let quick = [
            "fetch",
            "--connect",
            HTTP,
            "--path",
            &path,
            "--expect",
            length,
        ];
        let said = scene.said(&format!("quick-{number}"), &quick);
        assert_eq!(said[0]["answers"]["200"], 1, "{said:?}");
        let now = scene.memory_mib();
        assert!(now < before + GROWTH_MIB, "{now} MiB after {before}");
    }
    for mut reader in readers {
        assert!(
            reader.ended().unwrap().is_none(),
            "it was not slow: {}",
            reader.log()
        );
        reader.kill().unwrap();
    }
    let left = || {
        scene
            .shell("curl-left", &format!("curl -s -m 5 http://{HTTP}/"))
            .is_ok()
    };
    harness::wait_for("the agent to serve on", PATIENCE, left).unwrap();
}
