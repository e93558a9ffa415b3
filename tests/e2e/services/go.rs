//! A client in Go: another runtime's way with sockets than that of C programs.

use std::fs;
use std::path::Path;

use harness::wait::PATIENCE;
use harness::wait_for;
use serde_json::Value;

use super::{VIP, VIP6, client, world};
use crate::go;
use crate::world::World;

/// A name server that there is nowhere: who is answered by it is answered by the agent.
const NOWHERE: &str = "192.0.2.53";

/// A service that nobody answers for.
const IDLE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: idle, namespace: default}\nspec:\n  \
                    clusterIP: 10.96.0.11\n  ports: [{port: 80}]\n";

/// Returns the service port as the agent shows it.
fn port(world: &World, service: &str, number: u16) -> Option<Value> {
    let mut question = world
        .agent()
        .question(&["services", service, "--output", "json"]);
    // Without a backend it fails, and tells all the same.
    let told: Value = serde_json::from_slice(&question.output().unwrap().stdout).ok()?;
    let service = told["services"][0].clone();
    let is_balanced = service["balanced"] == true;
    let mut ports = service["ports"].as_array()?.iter();
    ports
        .find(|it| is_balanced && it["port"] == number)
        .cloned()
}

fn picks(world: &World, number: u16) -> u64 {
    port(world, "default/shop", number).unwrap()["picks"]
        .as_u64()
        .unwrap()
}

#[test]
fn go_sees_the_service_as_its_peer() {
    let Some((world, _servers)) = world(&["go"]) else {
        return;
    };
    let program = go::build("client.go", world.node.files());
    let run = |what: &str, to: &str| {
        // A log of its own for each.
        let name = format!("go-{what}-{}", to.replace('/', "-"));
        client(&world, &name, &format!("{} {what} {to}", program.display()))
    };
    for host in [VIP.to_owned(), format!("[{VIP6}]")] {
        let web = format!("{host}:80");
        let before = (picks(&world, 80), picks(&world, 53));
        let wrote = run("dial", &web);
        assert_eq!(wrote.trim(), format!("peer {web} hello from the backend"));

        let wrote = run("http", &format!("http://{host}/hello"));
        let count = |line: &str| wrote.lines().filter(|it| *it == line).count();
        assert_eq!(count("answer 200 hello from the backend"), 5, "{wrote}");
        assert_eq!(
            count(&format!("connection {web} reused false")),
            1,
            "{wrote}"
        );
        assert_eq!(
            count(&format!("connection {web} reused true")),
            4,
            "{wrote}"
        );

        let names = format!("{host}:53");
        let wrote = run("datagrams", &names);
        for kind in ["connected", "unconnected"] {
            let line = format!("{kind} {names} 192.0.2.7");
            assert_eq!(
                wrote.lines().filter(|it| **it == line).count(),
                2,
                "{wrote}"
            );
        }
        // One connect of each, whatever was asked over it: the datagrams of an unconnected socket stick to their backend.
        let after = (picks(&world, 80), picks(&world, 53));
        assert_eq!((after.0 - before.0, after.1 - before.1), (2, 2), "{host}");
    }
}

#[test]
fn go_is_refused_where_nobody_answers() {
    let Some((world, _servers)) = world(&["go"]) else {
        return;
    };
    fs::write(world.node.manifests().join("idle.yaml"), IDLE).unwrap();
    let is_known = || port(&world, "default/idle", 80).is_some();
    wait_for("the service without backends", PATIENCE, is_known).unwrap();
    let program = go::build("client.go", world.node.files());
    let line = format!("{} refused 10.96.0.11:80", program.display());
    let wrote = client(&world, "go-refused", &line);
    assert!(wrote.starts_with("refused true "), "{wrote}");
    assert_eq!(port(&world, "default/idle", 80).unwrap()["refused"], 1);
}

#[test]
fn go_finds_services_by_its_own_resolver() {
    let Some((world, _servers)) = world(&["go"]) else {
        return;
    };
    let conf = world.node.files().join("resolv.conf");
    let text = format!(
        "search default.svc.cluster.local svc.cluster.local cluster.local\nnameserver {NOWHERE}\noptions ndots:5\n"
    );
    fs::write(&conf, text).unwrap();
    let program = go::build("client.go", world.node.files());
    let run = |what: &str, to: &str| {
        let inside = inside(&conf, &format!("{} {what} {to}", program.display()));
        client(&world, what, &inside)
    };
    let name = "shop.default.svc.cluster.local.";
    let wrote = run("resolve", &format!("shop no.{name}"));
    for line in [
        format!("addresses {VIP} {VIP6}"),
        format!("port 80 {name}"),
        format!("name {VIP} {name}"),
        format!("name {VIP6} {name}"),
        "missing true".to_owned(),
    ] {
        assert!(wrote.lines().any(|it| it == line), "{line}: {wrote}");
    }
    let wrote = run("http", "http://shop.default/hello");
    assert!(
        wrote.contains("answer 200 hello from the backend"),
        "{wrote}"
    );
}

/// Returns a shell line that runs `line` with this resolv.conf.
fn inside(conf: &Path, line: &str) -> String {
    let conf = conf.display();
    format!("unshare --mount sh -c 'mount --bind {conf} /etc/resolv.conf && exec {line}'")
}
