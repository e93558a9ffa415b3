//! Services that programs register: through the command line and through plain HTTP, against the real agent.

use std::process::Command;

use harness::wait::PATIENCE;
use harness::{Agent, Node};
use rustix::process::Signal;
use serde_json::Value;

use crate::told::{Told, tell};

const CART: [&str; 6] = ["shop/cart", "--id", "a", "--address", "10.77.0.2", "--port"];

fn register(agent: &Agent, words: &[&str]) -> Told {
    tell(&agent.question(&[&["register"], words, &["--output", "json"]].concat()))
}

fn lookup(agent: &Agent, service: &str) -> Option<Value> {
    let told = tell(&agent.question(&["lookup", service, "--output", "json"]));
    match told.code {
        Some(0) => Some(told.json()["services"][0].clone()),
        _ => {
            assert_eq!(told.code, Some(1), "{told:?}");
            assert!(told.err.contains("there is no service"), "{told:?}");
            None
        }
    }
}

fn endpoint(agent: &Agent) -> Option<bool> {
    let service = lookup(agent, "shop/cart")?;
    service["ports"][0]["endpoints"][0]["ready"].as_bool()
}

/// Asks in plain HTTP, as a program in any language does; returns status and answer.
fn curl(agent: &Agent, method: &str, path: &str, body: &str) -> (u16, Value) {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--request", method]);
    command.arg("--unix-socket").arg(agent.socket());
    command.args(["--header", "content-type: application/json"]);
    command.args(["--data-binary", body, "--write-out", "\n%{http_code}"]);
    command.arg(format!("http://agent{path}"));
    let told = tell(&command);
    let (answer, status) = told.out.rsplit_once('\n').unwrap();
    let answer = serde_json::from_str(answer).unwrap_or_default();
    (status.parse().unwrap(), answer)
}

#[test]
fn an_instance_lives_as_long_as_it_gives_signs_of_life() {
    if !harness::require_root() {
        return;
    }
    let node = Node::new().unwrap();
    let agent = Agent::start(&node, &[]).unwrap();
    let path = "/v1/services/shop/cart/instances/a";
    let body = r#"{"address": "10.77.0.2", "ports": [{"name": "http", "number": 8080}], "ttl_seconds": 1}"#;
    let (status, answer) = curl(&agent, "PUT", path, body);
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["schema"], "underpass.dev/registration/v1");
    assert_eq!(answer["persisted"], true);
    let address = answer["addresses"][0].clone();
    assert!(address.as_str().unwrap().starts_with("240.96."), "{answer}");
    // Nobody renews it: it fails first, and comes back with a sign of life.
    let failed = || endpoint(&agent) == Some(false);
    harness::wait_for("it to fail", PATIENCE, failed).unwrap();
    let (status, answer) = curl(&agent, "POST", &format!("{path}/heartbeat"), "");
    assert_eq!((status, &answer["addresses"][0]), (200, &address));
    assert_eq!(endpoint(&agent), Some(true));
    // Then it is removed, and only then.
    let gone = || lookup(&agent, "shop/cart").is_none();
    harness::wait_for("it to be removed", PATIENCE, gone).unwrap();
    let log = agent.log();
    let failed = log.find("gave no sign of life");
    let removed = log.find("is removed");
    assert!(failed.is_some() && failed < removed, "{log}");
    let (status, answer) = curl(&agent, "POST", &format!("{path}/heartbeat"), "");
    assert_eq!(status, 404, "{answer}");
    assert!(answer["error"].as_str().unwrap().contains("register it"));
}

#[test]
fn a_program_keeps_itself_registered_until_it_is_told_to_end() {
    if !harness::require_root() {
        return;
    }
    let node = Node::new().unwrap();
    let mut agent = Agent::start(&node, &[]).unwrap();
    let words = [&["register"], &CART[..], &["80", "--ttl", "1s", "--keep"]].concat();
    let mut keeper = node.start("keeper", &mut agent.question(&words)).unwrap();
    let dialled = keeper.line("registered: ", PATIENCE).unwrap();
    assert!(dialled.contains("dialled at 240.96."), "{dialled}");
    // An agent that is away for longer than the TTL, and forgets everything, learns it again.
    agent.kill9().unwrap();
    std::fs::remove_dir_all(agent.state_dir()).unwrap();
    agent.start_again().unwrap();
    let back = || endpoint(&agent) == Some(true);
    harness::wait_for("it to be back", PATIENCE, back).unwrap();
    keeper.signal(Signal::TERM).unwrap();
    let log = keeper.success(PATIENCE).unwrap();
    assert!(log.contains("\nderegistered: "), "{log}");
    assert_eq!(lookup(&agent, "shop/cart"), None);
}

#[test]
fn a_restart_keeps_services_addresses_and_instances() {
    if !harness::require_root() {
        return;
    }
    let node = Node::new().unwrap();
    let mut agent = Agent::start(&node, &[]).unwrap();
    let told = register(
        &agent,
        &[&CART[..], &["http=80:8080", "--weight", "3"]].concat(),
    );
    assert_eq!(told.code, Some(0), "{told:?}");
    let six = [
        "shop/six",
        "--id",
        "b",
        "--address",
        "fd77::2",
        "--port",
        "53/udp",
        "--zone",
        "z1",
    ];
    assert_eq!(register(&agent, &six).code, Some(0));
    let services = |agent: &Agent| {
        let told = tell(&agent.question(&["lookup", "--output", "json"]));
        let mut list = told.json();
        for service in list["services"].as_array_mut().unwrap() {
            for (_, instance) in service["instances"].as_object_mut().unwrap() {
                assert!(
                    instance["expires_in_seconds"].as_u64() > Some(5),
                    "{instance}"
                );
                instance["expires_in_seconds"] = Value::Null;
            }
        }
        list
    };
    let before = services(&agent);
    assert_eq!(before["services"].as_array().unwrap().len(), 2);
    agent.kill9().unwrap();
    agent.start_again().unwrap();
    assert_eq!(services(&agent), before);
    // Another name gets another address, also now.
    let told = register(
        &agent,
        &[
            "shop/new",
            "--id",
            "c",
            "--address",
            "10.77.0.9",
            "--port",
            "80",
        ],
    );
    let address = |list: &Value, index: usize| list["services"][index]["addresses"][0].clone();
    assert_ne!(told.json()["addresses"][0], address(&before, 0));
    // A broken file costs what was in it, and not the agent.
    agent.kill9().unwrap();
    let file = agent.state_dir().join("registry");
    let mut bytes = std::fs::read(&file).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    agent.start_again().unwrap();
    assert_eq!(lookup(&agent, "shop/cart"), None);
    assert!(agent.log().contains("its checksum does not match"));
    assert!(agent.state_dir().join("registry.broken").exists());
    // The same name leads to the same address without any memory.
    let told = register(&agent, &[&CART[..], &["80"]].concat());
    assert_eq!(told.json()["addresses"][0], address(&before, 0));
}

#[test]
fn a_name_of_the_manifests_is_refused() {
    if !harness::require_root() {
        return;
    }
    let node = Node::new().unwrap();
    let manifest = "apiVersion: v1\nkind: Service\nmetadata: {name: cart, namespace: shop}\n\
                    spec:\n  clusterIP: 10.96.0.9\n  ports: [{port: 80}]\n";
    std::fs::write(node.manifests().join("cart.yaml"), manifest).unwrap();
    let agent = Agent::start(&node, &[]).unwrap();
    let path = "/v1/services/shop/cart/instances/a";
    let body = r#"{"address": "10.77.0.2", "ports": [{"name": "http", "number": 8080}]}"#;
    let (status, answer) = curl(&agent, "PUT", path, body);
    assert_eq!(status, 409, "{answer}");
    let error = answer["error"].as_str().unwrap();
    assert!(
        error.contains("shop/cart is in the manifests") && error.contains("cart.yaml"),
        "{error}"
    );
    let told = register(&agent, &[&CART[..], &["80"]].concat());
    assert_eq!(told.code, Some(1), "{told:?}");
    assert!(told.err.contains("is in the manifests"), "{told:?}");
    // The manifests' service is as it was; without it, the name is free.
    let service = lookup(&agent, "shop/cart").unwrap();
    assert_eq!(service["addresses"][0], "10.96.0.9", "{service}");
    std::fs::remove_file(node.manifests().join("cart.yaml")).unwrap();
    let taken = || curl(&agent, "PUT", path, body).0 == 200;
    harness::wait_for("the name to be free", PATIENCE, taken).unwrap();
    // And a manifest that comes later wins.
    std::fs::write(node.manifests().join("cart.yaml"), manifest).unwrap();
    let wins = || lookup(&agent, "shop/cart").is_some_and(|s| s["addresses"][0] == "10.96.0.9");
    harness::wait_for("the manifest to win", PATIENCE, wins).unwrap();
    let (status, _) = curl(&agent, "PUT", path, body);
    assert_eq!(status, 409);
}

#[test]
fn a_range_that_is_full_is_told() {
    if !harness::require_root() {
        return;
    }
    let node = Node::new().unwrap();
    let agent = Agent::start(&node, &["--service-range", "240.9.0.0/29"]).unwrap();
    let mut addresses = std::collections::BTreeSet::new();
    for number in 0..6 {
        let service = format!("shop/s{number}");
        let told = register(&agent, &[&[service.as_str()], &CART[1..], &["80"]].concat());
        assert_eq!(told.code, Some(0), "{told:?}");
        addresses.insert(told.json()["addresses"][0].to_string());
    }
    assert_eq!(addresses.len(), 6);
    let told = register(&agent, &[&["shop/more"], &CART[1..], &["80"]].concat());
    assert_eq!(told.code, Some(1), "{told:?}");
    assert!(
        told.err.contains("no address is left in 240.9.0.0/29"),
        "{told:?}"
    );
    let six = [
        "shop/six",
        "--id",
        "a",
        "--address",
        "fd77::2",
        "--port",
        "80",
    ];
    let told = register(&agent, &six);
    assert!(
        told.err.contains("--service-range has no range of"),
        "{told:?}"
    );
}

/// What is wrong, the exit code, and what is said of it.
const WRONG: [(&str, i32, &str); 8] = [
    (
        "register cart --id a --address 10.0.0.1 --port 80",
        2,
        "NAMESPACE/NAME",
    ),
    ("register shop/cart --id a --address 10.0.0.1", 2, "--port"),
    (
        "register shop/cart --id a --address 10.0.0.1 --port http",
        2,
        "no port",
    ),
    (
        "register shop/cart --id a --address 127.0.0.1 --port 80",
        1,
        "loopback",
    ),
    (
        "register shop/cart --id a/b --address 10.0.0.1 --port 80",
        1,
        "instance id",
    ),
    (
        "register shop/cart --id a --address 10.0.0.1 --port 80 --ttl 2h",
        1,
        "ttl_seconds",
    ),
    ("deregister shop/cart --id a", 1, "no registered instance"),
    ("lookup shop/cart", 1, "there is no service shop/cart"),
];

#[test]
fn what_is_wrong_is_told_with_its_exit_code() {
    if !harness::require_root() {
        return;
    }
    let node = Node::new().unwrap();
    let agent = Agent::start(&node, &[]).unwrap();
    for (words, code, says) in WRONG {
        let words: Vec<&str> = words.split(' ').collect();
        let told = tell(&agent.question(&words));
        assert_eq!(told.code, Some(code), "{words:?}: {told:?}");
        assert!(told.err.contains(says), "{words:?}: {told:?}");
    }
    let (status, _) = curl(&agent, "PUT", "/v1/services/shop/cart/instances/a", "{");
    assert_eq!(status, 400);
    assert_eq!(
        tell(&agent.question(&["lookup"])).out,
        "there are no services\n"
    );
}
