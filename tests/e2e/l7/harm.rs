//! Clients that mean harm are turned away within limits, and nobody else notices.

use super::scene::{H2C, HTTP, Scene, Server, route};

/// What the agent may grow by, whatever is thrown at it.
const GROWTH_MIB: u64 = 48;

/// `ENHANCE_YOUR_CALM`.
const CALM: u64 = 11;

#[test]
fn storms_are_ended_and_others_are_served() {
    let Some(scene) = Scene::new(
        &["curl"],
        &[Server::Echo],
        &(route(80, "") + &route(81, "")),
    ) else {
        return;
    };
    scene.wait_for_route("all");
    let before = scene.memory_mib();
    let storm = |kind: &str, more: &[&str]| {
        let words = ["storm", "--connect", H2C, "--kind", kind];
        let said = scene.said(kind, &[&words[..], more].concat()).remove(0);
        let now = scene.memory_mib();
        println!("{kind}: {said}; the agent has {now} MiB after {before}");
        assert!(
            now < before + GROWTH_MIB,
            "{kind}: {now} MiB after {before}"
        );
        let line = format!("curl -s -m 10 -o /dev/null -w '%{{http_code}}' http://{HTTP}/");
        let wrote = scene.shell(&format!("after-{kind}"), &line).unwrap();
        assert_eq!(wrote.trim(), "200", "after {kind}");
        said
    };
    for kind in ["rapid-reset", "continuation", "header-bomb", "empty-data"] {
        let said = storm(kind, &["--count", "20000"]);
        assert_eq!(
            (&said["closed"], &said["goaway"]),
            (&true.into(), &CALM.into()),
            "{kind}: {said}"
        );
    }
    // Each is answered before the next is read: a burden on who sends them.
    for kind in ["ping", "settings"] {
        let said = storm(kind, &["--count", "20000"]);
        assert!(
            said["alive"] == true || said["goaway"] == CALM,
            "{kind}: {said}"
        );
    }
    for kind in ["fields", "field"] {
        let said = storm(kind, &["--count", "20000"]);
        assert_eq!(
            (&said["status"], &said["closed"]),
            (&"431".into(), &true.into()),
            "{kind}: {said}"
        );
    }
}

#[test]
fn slowloris_is_shown_the_door() {
    let Some(scene) = Scene::new(&["curl"], &[Server::Echo], &route(80, "")) else {
        return;
    };
    scene.wait_for_route("all");
    let before = scene.memory_mib();
    let words = [
        "storm",
        "--connect",
        HTTP,
        "--kind",
        "slowloris",
        "--count",
        "500",
        "--patience",
        "40",
    ];
    let mut running = scene.start("slowloris", &words);
    for number in 0..10 {
        let line = format!("curl -s -m 5 -o /dev/null -w '%{{http_code}}' http://{HTTP}/");
        let wrote = scene.shell(&format!("beside-{number}"), &line).unwrap();
        assert_eq!(wrote.trim(), "200");
    }
    let now = scene.memory_mib();
    println!("500 that are slow: the agent has {now} MiB after {before}");
    assert!(now < before + GROWTH_MIB, "{now} MiB after {before}");
    let said = Scene::heard(&mut running);
    assert_eq!(
        (&said["ended"], &said["told"]),
        (&500.into(), &500.into()),
        "{said}"
    );
    // Ten seconds for a head, and a busy machine.
    assert!(said["seconds"].as_f64().unwrap() < 25.0, "{said}");
}
