//! What the test API server makes of writes, held to recordings of a real server.

use std::collections::BTreeMap;

use harness::apiserver::{Account, ApiServer, Rule, TOKEN};
use serde_json::{Value, json};

use crate::transcripts::{LISTS, answer, exchanged, fixtures, objects, read};
use crate::world::gateway;

const GATEWAY: &str = "gateway.networking.k8s.io";

/// Returns a server with the recorded objects, and the two accounts of the recordings.
fn server() -> ApiServer {
    let server = ApiServer::start().unwrap();
    let routes = "httproutes grpcroutes tcproutes tlsroutes backendtlspolicies referencegrants";
    let statuses = "httproutes/status grpcroutes/status tcproutes/status tlsroutes/status backendtlspolicies/status";
    let leases = Rule::new(
        "coordination.k8s.io",
        "leases",
        "get list watch create update patch",
    );
    let rules = vec![
        Rule::new("", "namespaces nodes pods services", "get list watch"),
        Rule::new("events.k8s.io", "events", "create patch"),
        Rule::new(GATEWAY, routes, "get list watch"),
        Rule::new(GATEWAY, statuses, "get patch update"),
        leases.within("mesh-system"),
    ];
    let account = |name: &str, rules: Vec<Rule>| Account {
        token: name.to_owned(),
        user: format!("system:serviceaccount:mesh-system:{name}"),
        rules,
    };
    server.change(|state| {
        state.define(&gateway());
        state.accounts.push(account("node-agent", rules));
        state.accounts.push(account("no-rights", Vec::new()));
    });
    for list in LISTS {
        objects(list)
            .into_iter()
            .for_each(|object| server.set(object));
    }
    server
}

/// A recording: head and body of the request, and the answer.
struct Recorded {
    head: String,
    body: String,
    response: String,
    answer: String,
}

impl Recorded {
    fn read(name: &str) -> Self {
        let text = read(&format!("{name}.http"));
        let (request, response) = text.split_once("\n\nHTTP/1.1 ").unwrap();
        let (head, body) = request.split_once("\n\n").unwrap_or((request, ""));
        let (response, _) = response.split_once("\n\n").unwrap();
        let bodies = ["json", "txt"].map(|sort| format!("{name}.{sort}"));
        let file = bodies.into_iter().find(|it| fixtures().join(it).exists());
        Self {
            head: head.to_owned(),
            body: body.to_owned(),
            response: format!("HTTP/1.1 {response}"),
            answer: file.map_or_else(String::new, |file| read(&file)),
        }
    }

    /// Returns the request as it is sent, with versions as this server has them.
    fn request(&self, versions: &BTreeMap<String, String>) -> String {
        let mut head = String::new();
        let mut has_token = false;
        for line in self.head.lines() {
            let line = match line.split_once("<TOKEN of service account mesh-system/") {
                Some((before, name)) => {
                    has_token = true;
                    format!("{before}{}", name.trim_end_matches('>'))
                }
                None => line.to_owned(),
            };
            if !line.starts_with("Content-Length:") {
                head += &format!("{line}\r\n");
            }
        }
        if !has_token {
            // Recorded with a certificate that may do anything.
            head += &format!("Authorization: Bearer {TOKEN}\r\n");
        }
        let mut body = self.body.clone();
        if let Ok(mut object) = serde_json::from_str::<Value>(&body)
            && let Some(version) = object["metadata"]["resourceVersion"].as_str()
            && let Some(own) = versions.get(version)
        {
            object["metadata"]["resourceVersion"] = own.as_str().into();
            body = object.to_string();
        }
        format!("{head}Content-Length: {}\r\n\r\n{body}", body.len())
    }
}

/// Plays recordings in their order, and compares each answer.
fn play(server: &ApiServer, folder: &str, names: &[&str]) {
    // Versions of the recording, and which ones they are here.
    let mut versions = BTreeMap::new();
    for name in names {
        let recorded = Recorded::read(&format!("{folder}/{name}"));
        let expected = answer(&recorded.response, &recorded.answer);
        let request = recorded.request(&versions);
        let (head, body) = exchanged(server, &request, expected.lines.len());
        assert_eq!(answer(&head, &body), expected, "{name}");
        let version = |text: &str| -> Option<String> {
            let object: Value = serde_json::from_str(text).ok()?;
            Some(object["metadata"]["resourceVersion"].as_str()?.to_owned())
        };
        if let (Some(theirs), Some(ours)) = (version(&recorded.answer), version(&body)) {
            versions.insert(theirs, ours);
        }
    }
}

#[test]
fn statuses_are_written_as_to_a_real_server() {
    let server = server();
    play(
        &server,
        "writes",
        &[
            "01.ssa-status-first",
            "02.ssa-status-same-again",
            "03.ssa-status-changed",
            "04.ssa-status-other-manager-conflict",
            "05.ssa-status-other-manager-other-parents-conflict",
            "06.ssa-status-other-manager-forced",
            "07.ssa-status-no-field-manager",
            "08.ssa-status-stale-resource-version",
            "09.ssa-status-absent-route",
            "10.ssa-status-wrong-uid",
            "12.ssa-status-unknown-field",
            "13.ssa-status-unknown-field-strict",
            "14.ssa-status-empty-parents",
            "15.ssa-spec-through-status-is-ignored",
            "16.ssa-wrong-content-type",
            "17.ssa-malformed-body",
            "18.ssa-name-mismatch",
            "19.ssa-status-grpcroutes",
            "19.ssa-status-tcproutes",
            "19.ssa-status-tlsroutes",
            "20.ssa-status-backendtlspolicies",
            "21.merge-patch-status",
            "22.put-status",
            "23.put-status-stale-resource-version",
            "24.get-before-apply",
            "25.other-controller-writes-its-entry",
            "26.ssa-keeps-other-entry-with-resource-version",
            "27.same-again-now-stale",
            "28.ssa-own-entry-only-erases-other",
            "29.ssa-duplicate-parents",
        ],
    );
}

#[test]
fn an_apply_that_changes_nothing_keeps_the_version() {
    let server = server();
    let version = || {
        let route = server.get("HTTPRoute", "shop", "timeouts").unwrap();
        route["metadata"]["resourceVersion"].clone()
    };
    play(&server, "writes", &["01.ssa-status-first"]);
    let first = version();
    play(&server, "writes", &["02.ssa-status-same-again"]);
    assert_eq!(version(), first);
}

#[test]
fn leases_and_events_are_written_as_to_a_real_server() {
    let server = server();
    play(
        &server,
        "leases",
        &[
            "01.get-absent",
            "02.create",
            "03.create-again-409",
            "04.update",
            "05.update-stale-409",
            "06.update-without-resource-version",
            "07.get",
            "08.merge-patch-renew",
            "09.invalid-duration-422",
            "10.malformed-time-400",
            "11.time-without-micros",
            "12.delete-forbidden-403",
            "13.other-namespace-403",
        ],
    );
    play(&server, "events", &["02.create-events-k8s-io-v1"]);
}

#[test]
fn rights_and_mistakes_are_told_as_by_a_real_server() {
    let server = server();
    play(
        &server,
        "errors",
        &[
            "403.no-rights.get-route",
            "403.no-rights.patch-route-status",
            "403.agent.patch-route-spec",
            "404.delete-absent",
            "405.post-to-object",
            "409.create-existing-service",
            "415.unsupported-media-type",
        ],
    );
}

#[test]
fn a_patch_of_a_node_holds_for_the_version_that_it_names() {
    let server = server();
    let node = server.change(|state| state.all("Node").remove(0));
    let name = node["metadata"]["name"].as_str().unwrap();
    let patch = |version: &Value| {
        let body = json!({"metadata": {"resourceVersion": version}, "spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}});
        let body = body.to_string();
        let request = format!(
            "PATCH /api/v1/nodes/{name} HTTP/1.1\r\nAuthorization: Bearer {TOKEN}\r\n\
             Content-Type: application/merge-patch+json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        exchanged(&server, &request, 1)
    };
    let version = node["metadata"]["resourceVersion"].clone();
    assert!(patch(&version).0.starts_with("HTTP/1.1 200"));
    let (head, body) = patch(&version);
    assert!(head.starts_with("HTTP/1.1 409"), "{head}{body}");
    let node = server.get("Node", "", name).unwrap();
    assert_eq!(node["spec"]["taints"][0]["key"], "a");
    assert!(!node["status"]["addresses"].is_null());
}
