//! What the agent asks other name servers, and what it makes of their answers.

use harness::manifest::{self, Acceleration};
use harness::wait::PATIENCE;
use harness::{Agent, Node};
use rustix::process::Signal;

use super::{HOST, LOCAL, PORT, World, answer};

#[test]
fn everything_else_is_asked_upstream() {
    let records = [
        "--address=/example.org/192.0.2.7",
        "--txt-record=long.example.net,\"x\"",
    ];
    let text = "t".repeat(250);
    let long: Vec<String> = (0..8)
        .map(|n| format!("--txt-record=big.example.net,{n}{text}"))
        .collect();
    let all: Vec<&str> = records
        .into_iter()
        .chain(long.iter().map(String::as_str))
        .collect();
    let Some(world) = World::new(&all, &["--dns-capture", "on"]) else {
        return;
    };
    world.register();
    for more in ["+notcp", "+tcp"] {
        assert_eq!(
            world.inside(&["+short", more, "a.example.org", "A"]),
            "192.0.2.7\n"
        );
        let cased = world.inside(&[more, "A.Example.ORG", "A"]);
        assert!(cased.contains(";A.Example.ORG."), "{cased}");
    }
    // Too long for a datagram: the client is told, and asks by TCP.
    let cut = world.inside(&["+ignore", "big.example.net", "TXT"]);
    assert!(cut.contains("flags: qr") && cut.contains(" tc "), "{cut}");
    let whole = world.inside(&["+short", "big.example.net", "TXT"]);
    assert_eq!(
        whole.lines().filter(|line| line.starts_with('"')).count(),
        8,
        "{whole}"
    );
    assert!(world.count("forwarded") >= 6);
}

#[test]
fn an_upstream_that_hangs_is_told_and_holds_nobody_up() {
    let Some(world) = World::new(&[], &["--dns-capture", "on"]) else {
        return;
    };
    let [v4, _] = world.register();
    // Takes the place of the name server: it receives, and never answers.
    let agent = &world.agent;
    drop(agent.metrics().unwrap());
    world.upstream.signal(Signal::STOP).unwrap();
    let slow = world.inside(&["+tries=1", "+time=15", "a.example.org", "A"]);
    assert!(slow.contains("SERVFAIL"), "{slow}");
    assert_eq!(
        world
            .inside(&["+short", "cart.shop.svc.cluster.local", "A"])
            .trim(),
        v4
    );
    assert!(world.count("failed") >= 1);
    world.upstream.signal(Signal::CONT).unwrap();
}

#[test]
fn a_ring_of_name_servers_comes_to_an_end() {
    let ring = format!("--server={HOST}");
    let Some(world) = World::new(&[&ring], &["--dns-capture", "on"]) else {
        return;
    };
    world.register();
    let before = world.count("forwarded") + world.count("failed");
    let told = world.inside(&["+tries=1", "+time=15", "ring.example.org", "A"]);
    assert!(told.contains("SERVFAIL"), "{told}");
    // The client's query, and those that came back: as often as the name server beside asked again, not without end.
    let after = world.count("forwarded") + world.count("failed");
    assert!((1..50).contains(&(after - before)), "{before} {after}");
    assert_eq!(world.count("dropped"), 0);
}

#[test]
fn an_agent_never_asks_itself() {
    if !harness::require_root() {
        return;
    }
    let node = Node::new().unwrap();
    let pod = node.pod("client").unwrap();
    manifest::write(&pod, Acceleration::Off).unwrap();
    let words = ["--dns-address", HOST, "--dns-upstream", HOST];
    let agent = Agent::start(&node, &[&words[..], &["--dns-capture", "on"]].concat()).unwrap();
    let log = agent.log();
    assert!(log.contains("names the agent itself"), "{log}");
    // With nobody to ask, what it does not know is not there; of what is not its own, nothing can be said.
    let ask = |name: &str| {
        let mut dig = pod.command("dig");
        dig.args(["@127.0.0.1", "-p", PORT, "+tries=1", "+time=1"]);
        answer(&mut dig, &[name, "A"])
    };
    let none = || ask("x.other.svc.cluster.local").contains("status: NXDOMAIN");
    harness::wait_for("an answer", PATIENCE, none).unwrap();
    let told = ask("example.org");
    assert!(told.contains("SERVFAIL"), "{told}");
}

#[test]
fn what_upstream_knows_of_the_domain_is_not_hidden() {
    let known = "--address=/cart.other.svc.cluster.local/192.0.2.8";
    let capture = ["--dns-capture", "on"];
    let Some(world) = World::new(&[LOCAL, known], &capture) else {
        return;
    };
    world.register();
    let theirs = "cart.other.svc.cluster.local";
    let asked = world.count("forwarded");
    for more in ["+notcp", "+tcp"] {
        let found = world.inside(&["+short", more, theirs, "A"]);
        assert_eq!(found, "192.0.2.8\n");
        // Upstream says that there is no such name: told in the agent's own words, which nobody keeps for long.
        let none = world.inside(&[more, "no.other.svc.cluster.local", "A"]);
        assert!(none.contains("status: NXDOMAIN"), "{none}");
        assert!(none.contains("hostmaster.cluster.local."), "{none}");
    }
    assert_eq!(world.count("forwarded"), asked + 4);
    // Of a service that it knows, the agent knows everything.
    for (name, kind, code) in [
        ("cart.shop.svc.cluster.local", "MX", "NOERROR"),
        ("x.cart.shop.svc.cluster.local", "A", "NXDOMAIN"),
    ] {
        let none = world.inside(&[name, kind]);
        assert!(none.contains(&format!("status: {code}")), "{none}");
        assert!(none.contains("hostmaster.cluster.local."), "{none}");
    }
    // Who asks the agent at its own address may ask upstream as well, or may be upstream.
    let outside = world.outside(&[theirs, "A"]);
    assert!(outside.contains("status: NXDOMAIN"), "{outside}");
    assert_eq!(world.count("forwarded"), asked + 4);
    // Not known is not the same as not there.
    world.upstream.signal(Signal::STOP).unwrap();
    let unknown = world.inside(&["+tries=1", "+time=15", theirs, "A"]);
    assert!(unknown.contains("SERVFAIL"), "{unknown}");
    world.upstream.signal(Signal::CONT).unwrap();
}

#[test]
fn an_upstream_that_asks_the_agent_for_its_domain_makes_no_ring() {
    let back = format!("--server=/cluster.local/{HOST}");
    let Some(world) = World::new(&[&back], &["--dns-capture", "on"]) else {
        return;
    };
    world.register();
    let before = ["forwarded", "answered", "failed"].map(|outcome| world.count(outcome));
    let none = world.inside(&["+tries=1", "+time=1", "x.other.svc.cluster.local", "A"]);
    assert!(none.contains("status: NXDOMAIN"), "{none}");
    let after = ["forwarded", "answered", "failed"].map(|outcome| world.count(outcome));
    // The workload's query went on, and came back to the agent's own address, where it ended.
    assert_eq!(after, [before[0] + 1, before[1] + 1, before[2]]);
}
