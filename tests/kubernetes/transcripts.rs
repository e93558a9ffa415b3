//! The test API server and the agent, held to recordings of a real server.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};

use harness::apiserver::{ApiServer, TOKEN};
use serde_json::{Value, json};

use crate::world::{World, gateway, of_manifests, shape};

pub(crate) fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/kubernetes")
}

pub(crate) fn read(path: &str) -> String {
    fs::read_to_string(fixtures().join(path)).unwrap()
}

/// Returns the objects of a recorded list, each with its kind.
pub(crate) fn objects(list: &str) -> Vec<Value> {
    let list: Value = serde_json::from_str(&read(&format!("lists/{list}.json"))).unwrap();
    let kind = list["kind"].as_str().unwrap().strip_suffix("List").unwrap();
    let items = list["items"].as_array().unwrap().iter().cloned();
    items
        .map(|mut item| {
            item["kind"] = kind.into();
            item["apiVersion"] = list["apiVersion"].clone();
            item
        })
        .collect()
}

pub(crate) const LISTS: [&str; 12] = [
    "namespaces",
    "nodes",
    "pods",
    "services",
    "endpointslices",
    "networkpolicies",
    "httproutes",
    "grpcroutes",
    "tcproutes",
    "tlsroutes",
    "referencegrants",
    "backendtlspolicies",
];

#[test]
fn a_recorded_cluster_comes_to_what_its_manifests_come_to() {
    let world = World::new();
    world.server.change(|state| state.define(&gateway()));
    let all: Vec<Value> = LISTS.iter().flat_map(|list| objects(list)).collect();
    for object in &all {
        world.server.set(object.clone());
    }
    let watched = world.source();
    watched.until_synced().unwrap();
    let expected = of_manifests(&all);
    assert!(!expected.workloads.is_empty() && !expected.services.is_empty());
    assert_eq!(shape(&watched.snapshot()), shape(&expected));
}

#[test]
fn recorded_watches_end_as_their_last_events_say() {
    let world = World::new();
    let watched = world.source();
    watched.until_synced().unwrap();
    for watch in ["namespaces", "pods.this-node", "services"] {
        for line in read(&format!("watches/{watch}.ndjson")).lines() {
            let event: Value = serde_json::from_str(line).unwrap();
            let mut object = event["object"].clone();
            if object["kind"] == "Pod" {
                object["spec"]["nodeName"] = crate::world::NODE.into();
            }
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let metadata = &object["metadata"];
            let (kind, name) = (text(&object["kind"]), text(&metadata["name"]));
            match event["type"].as_str().unwrap() {
                "DELETED" => world
                    .server
                    .delete(&kind, &text(&metadata["namespace"]), &name),
                "BOOKMARK" => world.server.change(|state| state.bookmark()),
                _ => world.server.set(object),
            }
        }
    }
    watched.until_equal(&world).unwrap();
}

/// An answer, as far as it is compared.
#[derive(PartialEq, Debug)]
pub(crate) struct Answer {
    code: String,
    content_type: String,
    retry_after: String,
    pub(crate) lines: Vec<Value>,
}

/// Makes alike what is another number in every server.
fn normalized(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.remove("managedFields");
            for (name, value) in fields.iter_mut() {
                match name.as_str() {
                    "resourceVersion" => *value = "N".into(),
                    // Given by the server.
                    "uid" | "creationTimestamp" => *value = "S".into(),
                    "continue" if *value != "" => *value = "T".into(),
                    "message" => {
                        let text = value.as_str().unwrap_or_default();
                        let words = text.split_inclusive([' ', '(', ')']);
                        let is_number =
                            |word: &str| word.trim_end_matches([' ', ')']).parse::<u64>().is_ok();
                        let words = words.map(|word| if is_number(word) { "N" } else { word });
                        *value = words.collect::<String>().into();
                    }
                    _ => normalized(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(normalized),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

pub(crate) fn answer(head: &str, body: &str) -> Answer {
    let header = |name: &str| {
        let line = head.lines().find(|line| line.starts_with(name));
        line.map_or(String::new(), |line| line[name.len()..].trim().to_owned())
    };
    let lines = body.lines().filter(|line| !line.is_empty());
    let lines = lines.map(|line| {
        let mut value = serde_json::from_str(line).unwrap_or_else(|_| json!(line));
        normalized(&mut value);
        value
    });
    Answer {
        code: head.lines().next().unwrap_or_default().trim().to_owned(),
        content_type: header("Content-Type:"),
        retry_after: header("Retry-After:"),
        lines: lines.collect(),
    }
}

/// Sends a request, and returns the first `lines` lines of what comes.
fn ask(server: &ApiServer, request: &str, lines: usize) -> Answer {
    let (head, body) = exchanged(server, request, lines);
    answer(&head, &body)
}

/// Sends a request, and returns head and body of the answer, of the latter the first `lines` lines.
pub(crate) fn exchanged(server: &ApiServer, request: &str, lines: usize) -> (String, String) {
    let mut stream = TcpStream::connect(server.url().trim_start_matches("http://")).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).unwrap() > 0 {}
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("Content-Length: "));
    let mut body = String::new();
    if let Some(length) = length {
        let length: u64 = length.parse().unwrap();
        reader.take(length).read_to_string(&mut body).unwrap();
    } else if head.contains("chunked") {
        // One chunk for each event.
        while body.lines().count() < lines {
            let mut size = String::new();
            reader.read_line(&mut size).unwrap();
            if size.trim() == "0" {
                break;
            }
            reader.read_line(&mut body).unwrap();
            reader.read_line(&mut size).unwrap();
        }
    }
    (head.replace("\r\n", "\n"), body)
}

/// Plays a recording to the server, and compares what comes with what came.
fn compare(server: &ApiServer, name: &str, body: &str, replace: &[(&str, &str)]) {
    let recorded = read(&format!("exchanges/{name}.http"));
    let (request, response) = recorded.split_once("\n\n").unwrap();
    let mut request = request.replace("<TOKEN of service account mesh-system/node-agent>", TOKEN);
    request = request.replace("<TOKEN of service account mesh-system/no-rights>", TOKEN);
    for (one, other) in replace {
        assert!(request.contains(one), "{name}: no `{one}`");
        request = request.replace(one, other);
    }
    let request = request.replace('\n', "\r\n") + "\r\n\r\n";
    let expected = answer(
        response,
        &if body.is_empty() {
            String::new()
        } else {
            read(body)
        },
    );
    let found = ask(server, &request, expected.lines.len());
    assert_eq!(found, expected, "{name}");
}

fn exchange(server: &ApiServer, name: &str) {
    let body = ["json", "ndjson", "txt"].map(|sort| format!("exchanges/{name}.{sort}"));
    let body = body.into_iter().find(|body| fixtures().join(body).exists());
    compare(server, name, &body.unwrap_or_default(), &[]);
}

#[test]
fn mistakes_are_answered_as_by_a_real_server() {
    let server = ApiServer::start().unwrap();
    for name in [
        "watch-401",
        "watch-422",
        "watch-500",
        "watch-504",
        "list-400",
        "list-504",
        "list-404",
    ] {
        exchange(&server, name);
    }
    server.change(|state| state.define(&gateway()));
    exchange(&server, "get-404");
    for (right, name) in [
        ("services", "watch-403"),
        ("list services in shop", "list-403"),
        ("get httproutes", "get-403"),
    ] {
        server.change(|state| state.faults.forbidden = [right.to_owned()].into());
        exchange(&server, name);
    }
    server.change(|state| {
        state.faults.forbidden.clear();
        state.faults.fail(1, 429, Some(1));
    });
    exchange(&server, "list-429");
}

#[test]
fn lists_and_watches_are_answered_as_by_a_real_server() {
    let server = ApiServer::start().unwrap();
    server.change(|state| state.define(&gateway()));
    for list in LISTS {
        objects(list)
            .into_iter()
            .for_each(|object| server.set(object));
    }
    compare(&server, "namespaces", "lists/namespaces.json", &[]);
    compare(&server, "httproutes", "lists/httproutes.json", &[]);
    exchange(&server, "metadata");
    exchange(&server, "page");
    exchange(&server, "streaming");
}

#[test]
fn what_is_too_old_is_refused_as_by_a_real_server() {
    let server = ApiServer::start().unwrap();
    objects("services")
        .into_iter()
        .for_each(|object| server.set(object));
    server.change(|state| state.compact());
    exchange(&server, "watch-410");
    let recorded = read("exchanges/list-410.http");
    let token = recorded
        .split(['=', ' '])
        .find(|word| word.starts_with("eyJ"))
        .unwrap();
    compare(
        &server,
        "list-410",
        "exchanges/list-410.json",
        &[(token, "v.3.payments.ledger")],
    );
}
