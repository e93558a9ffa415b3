//! What the controller writes.

use harness::wait_for;
use mesh_agent::model::status::CONTROLLER;
use serde_json::{Value, json};

use crate::told::{
    GROUP, SYSTEM, WRITER, events, route, start, until_entries, until_written, while_renewed,
    world, writes,
};
use crate::world::{DEADLINE, World, service};

/// Returns the status of an object as it is written.
fn status(world: &World, kind: &str, name: &str) -> Value {
    world.server.get(kind, "shop", name).unwrap()["status"].clone()
}

/// Returns objects of every kind that has a status: some good, some bad.
fn objects() -> Vec<Value> {
    let mut objects = Vec::new();
    for kind in ["HTTPRoute", "GRPCRoute", "TCPRoute", "TLSRoute", "UDPRoute"] {
        let mut good = route(kind, "good", &["web"]);
        let mut partial = route(kind, "partial", &["web", "absent"]);
        if kind == "TLSRoute" {
            good["spec"]["hostnames"] = json!(["a.example"]);
            partial["spec"]["hostnames"] = json!(["b.example"]);
        }
        objects.extend([good, partial, route(kind, "absent", &["absent"])]);
    }
    let mut odd = route("HTTPRoute", "odd", &["web"]);
    odd["spec"]["rules"] = json!([
        {"backendRefs": [{"name": "nobody", "port": 80}]},
        {"filters": [{"type": "Unheard"}], "backendRefs": [{"name": "web", "port": 80}]},
    ]);
    objects.push(odd);
    let policy = |version: &str, kind: &str, spec: Value| {
        let mut policy = json!({"apiVersion": version, "kind": kind,
            "metadata": {"name": "policy", "namespace": "shop", "uid": format!("uid-{kind}"), "generation": 3}, "spec": spec});
        policy["spec"]["targetRefs"] = json!([{"group": "", "kind": "Service", "name": "cart"}]);
        policy
    };
    let tls = json!({"validation": {"hostname": "a.example", "wellKnownCACertificates": "System"}});
    objects.extend([
        policy(&format!("{GROUP}/v1"), "BackendTLSPolicy", tls),
        policy(
            "underpass.dev/v1alpha1",
            "TrafficPolicy",
            json!({"rateLimits": [{"requests": 1, "per": "1s"}]}),
        ),
        policy(
            "gateway.networking.x-k8s.io/v1alpha1",
            "XBackendTrafficPolicy",
            json!({"retryConstraint": {"budget": {"percent": 20, "interval": "10s"}}}),
        ),
    ]);
    objects
}

#[test]
fn what_routes_shows_is_written_to_every_object_and_then_nothing() {
    let world = world();
    for object in objects() {
        world.server.set(object);
    }
    let agent = world.source();
    agent.until_synced().unwrap();
    let statuses = agent.snapshot().statuses.clone();
    assert_eq!(statuses.len(), objects().len());
    let controller = start(&world, "controller", WRITER);
    until_written(&world, &statuses).unwrap();
    let written = writes(&world);
    assert!(written.iter().all(|it| it.code < 400), "{written:#?}");
    let to_status = |it: &harness::apiserver::Asked| it.path.ends_with("/status");
    assert_eq!(
        written.into_iter().filter(to_status).count(),
        statuses.len()
    );
    // Events settle, then nothing is written, nor read, any more.
    wait_for("events", DEADLINE, || events(&world).contains_key("odd")).unwrap();
    while_renewed(&world, 8).unwrap();
    let quiet = |world: &World| {
        let asked = world.server.asked().into_iter();
        asked.filter(|it| !it.path.contains("/leases")).count()
    };
    let before = quiet(&world);
    while_renewed(&world, 10).unwrap();
    assert_eq!(quiet(&world), before);
    assert_eq!(
        controller.metric("mesh_controller_pending").unwrap(),
        Some(0.0)
    );
    let (head, _) = controller.page("/healthz").unwrap();
    assert!(head.contains("200"), "{head}");
}

#[test]
fn another_controller_s_entry_stays_and_ours_goes_with_its_parent() {
    let world = world();
    let other = json!({"controllerName": "other.example.com/controller", "parentRef": {"group": GROUP, "kind": "Gateway", "name": "front"},
        "conditions": [{"type": "Accepted", "status": "True", "reason": "Accepted", "message": "", "observedGeneration": 1,
            "lastTransitionTime": "2026-01-01T00:00:00Z"}]});
    let mut shared = route("HTTPRoute", "shared", &["web", "cart"]);
    shared["status"] = json!({"parents": [other]});
    world.server.set(shared);
    let _controller = start(&world, "controller", WRITER);
    until_entries(&world, "HTTPRoute", "shared", 2).unwrap();
    let parents = status(&world, "HTTPRoute", "shared")["parents"].clone();
    assert_eq!(parents[0], other);
    let since = parents[1]["conditions"][0]["lastTransitionTime"].clone();
    // The other one writes, and so does who owns the route.
    let mut object = world.server.get("HTTPRoute", "shop", "shared").unwrap();
    let mut changed = other.clone();
    changed["conditions"][0]["message"] = "anew".into();
    object["status"]["parents"][0] = changed.clone();
    object["metadata"]["generation"] = 2.into();
    object["spec"]["parentRefs"].as_array_mut().unwrap().pop();
    world.server.set(object);
    until_entries(&world, "HTTPRoute", "shared", 1).unwrap();
    let parents = status(&world, "HTTPRoute", "shared")["parents"].clone();
    assert_eq!(parents[0], changed);
    assert_eq!(parents[1]["controllerName"], CONTROLLER);
    assert_eq!(parents[1]["conditions"][0]["observedGeneration"], 2);
    // It was true before, and is.
    assert_eq!(parents[1]["conditions"][0]["lastTransitionTime"], since);
    // Bound to a gateway alone, it is none of ours.
    let mut object = world.server.get("HTTPRoute", "shop", "shared").unwrap();
    object["metadata"]["generation"] = 3.into();
    object["spec"]["parentRefs"] = json!([{"name": "front"}]);
    world.server.set(object);
    until_entries(&world, "HTTPRoute", "shared", 0).unwrap();
    assert_eq!(
        status(&world, "HTTPRoute", "shared"),
        json!({"parents": [changed]})
    );
}

#[test]
fn a_storm_of_conflicts_and_failures_is_outlasted_at_a_pause() {
    let world = world();
    let _controller = start(&world, "controller", WRITER);
    world.server.set(route("HTTPRoute", "first", &["web"]));
    until_entries(&world, "HTTPRoute", "first", 1).unwrap();
    let before = writes(&world).len();
    world.server.change(|state| state.faults.conflicts = 8);
    world.server.set(route("HTTPRoute", "second", &["web"]));
    until_entries(&world, "HTTPRoute", "second", 1).unwrap();
    // The lease takes some of the conflicts.
    let tries = writes(&world).len() - before;
    assert!((2..=9).contains(&tries), "{tries}");
    for (code, after) in [(429, Some(1)), (500, None), (503, Some(1))] {
        world
            .server
            .change(|state| state.faults.fail_writes(3, code, after));
        let name = format!("after-{code}");
        world.server.set(route("HTTPRoute", &name, &["web"]));
        until_entries(&world, "HTTPRoute", &name, 1).unwrap();
    }
    assert!(writes(&world).len() - before < 40);
}

#[test]
fn objects_that_go_are_nobody_s_trouble_and_missing_rights_are_told_once() {
    let world = world();
    world.server.change(|state| {
        let account = state
            .accounts
            .iter_mut()
            .find(|it| it.token == WRITER)
            .unwrap();
        account
            .rules
            .retain(|rule| !rule.resources.contains(&"httproutes/status".to_owned()));
    });
    for n in 0..20 {
        world
            .server
            .set(route("HTTPRoute", &format!("route-{n}"), &["web"]));
    }
    let policy = json!({"apiVersion": "underpass.dev/v1alpha1", "kind": "TrafficPolicy",
        "metadata": {"name": "policy", "namespace": "shop", "uid": "u", "generation": 1},
        "spec": {"targetRefs": [{"group": "", "kind": "Service", "name": "cart"}]}});
    world.server.set(policy);
    let controller = start(&world, "controller", WRITER);
    // Others are written.
    until_entries(&world, "TrafficPolicy", "policy", 1).unwrap();
    while_renewed(&world, 5).unwrap();
    let refused = writes(&world)
        .into_iter()
        .filter(|it| it.code == 403)
        .count();
    assert_eq!(refused, 1);
    let told = controller.log();
    let told = told
        .lines()
        .filter(|it| it.contains("patch httproutes/status"));
    assert_eq!(told.count(), 1);
    assert_eq!(
        controller.metric("mesh_controller_rights_missing").unwrap(),
        Some(1.0)
    );
    // Where its operator looks.
    let (head, body) = controller.page("/readyz").unwrap();
    assert!(head.contains("503"), "{head}");
    let named = "the right `patch httproutes/status (gateway.networking.k8s.io)`";
    assert!(body.contains(named), "{body}");
    // A definition that has no status.
    world.server.change(|state| {
        let resource = "backendtlspolicies".to_owned();
        state.faults.without_status.insert(resource)
    });
    world.server.set(
        json!({"apiVersion": format!("{GROUP}/v1"), "kind": "BackendTLSPolicy",
        "metadata": {"name": "policy", "namespace": "shop", "uid": "tls", "generation": 1},
        "spec": {"targetRefs": [{"group": "", "kind": "Service", "name": "cart"}],
            "validation": {"hostname": "a.example", "wellKnownCACertificates": "System"}}}),
    );
    let says = || {
        controller
            .log()
            .matches("does its definition have a status")
            .count()
    };
    wait_for("the missing status to be told", DEADLINE, || says() == 1).unwrap();
    let tried = |it: &harness::apiserver::Asked| it.path.contains("/backendtlspolicies/");
    assert_eq!(writes(&world).into_iter().filter(tried).count(), 2);
    // One that is gone when its turn comes.
    world.server.set(route("TCPRoute", "brief", &["web"]));
    world.server.delete("TCPRoute", "shop", "brief");
    while_renewed(&world, 3).unwrap();
    let failures =
        controller.metric(r#"mesh_controller_writes_total{sort="status",outcome="refused"}"#);
    assert_eq!(failures.unwrap(), Some(0.0));
}

#[test]
fn a_mesh_that_names_us_is_told_what_we_can() {
    let world = world();
    let mesh = |name: &str, controller: &str| {
        json!({"apiVersion": "gateway.networking.x-k8s.io/v1alpha1", "kind": "XMesh",
            "metadata": {"name": name, "uid": name, "generation": 1}, "spec": {"controllerName": controller},
            "status": {"conditions": [{"type": "Accepted", "status": "Unknown", "reason": "Pending", "message": "",
                "lastTransitionTime": "1970-01-01T00:00:00Z"}]}})
    };
    world.server.set(mesh("ours", CONTROLLER));
    world.server.set(mesh("theirs", "example.com/mesh"));
    let _controller = start(&world, "controller", WRITER);
    let get = |name: &str| world.server.get("XMesh", "", name).unwrap()["status"].clone();
    wait_for("features", DEADLINE, || {
        get("ours")["supportedFeatures"].is_array()
    })
    .unwrap();
    let ours = get("ours");
    assert_eq!(ours["conditions"][0]["status"], "True");
    let names = ours["supportedFeatures"].as_array().unwrap();
    assert!(names.contains(&json!({"name": "Mesh"})));
    while_renewed(&world, 3).unwrap();
    assert_eq!(writes(&world).len(), 1);
    assert_eq!(get("theirs")["conditions"][0]["status"], "Unknown");
}

#[test]
fn events_name_what_is_wrong_once_count_what_comes_back_and_are_not_too_many() {
    let world = world();
    let controller = start(&world, "controller", WRITER);
    world.server.set(route("HTTPRoute", "lost", &["absent"]));
    let mut bad = service("bad", "10.96.0.3");
    bad["metadata"]["annotations"] = json!({"underpass.dev/algorithm": "fastest"});
    bad["metadata"]["uid"] = "uid-bad".into();
    world.server.set(bad);
    wait_for("both events", DEADLINE, || events(&world).len() == 2).unwrap();
    let all = events(&world);
    let lost = &all["lost"][0];
    assert_eq!(lost["reason"], "ServiceNotSeen");
    assert_eq!(lost["regarding"]["uid"], "uid-lost");
    assert_eq!(lost["regarding"]["apiVersion"], format!("{GROUP}/v1"));
    assert_eq!(lost["reportingController"], CONTROLLER);
    assert_eq!(all["bad"][0]["reason"], "Invalid");
    // It gets well, and ill again: the same event, counted.
    let found = service("absent", "10.96.0.4");
    world.server.set(found);
    wait_for("it to be well", DEADLINE, || {
        let status = status(&world, "HTTPRoute", "lost");
        status["parents"][0]["conditions"][0]["status"] == "True"
    })
    .unwrap();
    // Events settle for two seconds: what lasts less long is none.
    while_renewed(&world, 8).unwrap();
    world.server.delete("Service", "shop", "absent");
    let series = || events(&world)["lost"][0]["series"]["count"].clone();
    wait_for("the series", DEADLINE, || series() == 2).unwrap();
    assert_eq!(events(&world)["lost"].len(), 1);
    // A flood.
    for n in 0..400 {
        world
            .server
            .set(route("HTTPRoute", &format!("flood-{n}"), &["absent"]));
    }
    let dropped = || {
        controller
            .metric("mesh_controller_events_dropped_total")
            .unwrap()
    };
    wait_for("some to be dropped", DEADLINE, || {
        dropped().is_some_and(|it| it > 0.0)
    })
    .unwrap();
    wait_for("all to be decided on", DEADLINE, || {
        let sent = events(&world).len() as f64;
        sent + dropped().unwrap_or_default() >= 402.0
    })
    .unwrap();
    let sent = events(&world).len();
    assert!((200..402).contains(&sent), "{sent}");
}

fn agent_pod(ready: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "agent-1", "namespace": SYSTEM, "uid": "agent-1", "labels": {"app.kubernetes.io/name": "underpass-agent"}},
        "spec": {"nodeName": "node-1", "hostNetwork": true, "containers": [{"name": "agent", "image": "i"}]},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]}})
}

#[test]
fn a_node_loses_our_taint_when_its_agent_is_ready_and_no_other() {
    let world = world();
    let other = json!({"key": "example.com/dedicated", "value": "x", "effect": "NoSchedule"});
    let ours = json!({"key": "underpass.dev/agent-not-ready", "effect": "NoSchedule"});
    for name in ["node-1", "node-2"] {
        world.server.set(
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "uid": name},
            "spec": {"taints": [ours, other]}, "status": {"addresses": []}}),
        );
    }
    let taints = |name: &str| world.server.get("Node", "", name).unwrap()["spec"]["taints"].clone();
    world.server.set(agent_pod("False"));
    // A pod with another label is nobody's agent.
    let mut stranger = agent_pod("True");
    stranger["metadata"]["name"] = "stranger".into();
    stranger["metadata"]["labels"] = json!({});
    stranger["spec"]["nodeName"] = "node-2".into();
    world.server.set(stranger);
    let _controller = start(&world, "controller", WRITER);
    while_renewed(&world, 4).unwrap();
    assert_eq!(taints("node-1"), json!([ours, other]));
    // Somebody else is faster, twice; what they add stays.
    world.server.change(|state| {
        state.faults.conflicts = 2;
        let mut node = state.get("Node", "", "node-1").unwrap();
        let more = json!({"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"});
        node["spec"]["taints"].as_array_mut().unwrap().push(more);
        state.set(node);
        state.set(agent_pod("True"));
    });
    wait_for("the taint to go", DEADLINE, || taints("node-1")[0] == other).unwrap();
    assert_eq!(taints("node-1").as_array().unwrap().len(), 2);
    while_renewed(&world, 2).unwrap();
    assert_eq!(taints("node-2"), json!([ours, other]));
    // Not ready any more: it is not put back.
    world.server.set(agent_pod("False"));
    while_renewed(&world, 3).unwrap();
    assert_eq!(taints("node-1").as_array().unwrap().len(), 2);
    let patched = writes(&world)
        .into_iter()
        .filter(|it| it.path.contains("/nodes/"));
    assert!(patched.count() <= 3);
}

#[test]
fn without_rights_to_lead_or_to_tell_a_controller_is_not_ready_and_says_why() {
    let world = world();
    let take = |resource: &str| {
        world.server.change(|state| {
            let mut accounts = state.accounts.iter_mut();
            let account = accounts.find(|it| it.token == WRITER).unwrap();
            let (taken, left) = account
                .rules
                .drain(..)
                .partition(|rule| rule.resources.contains(&resource.to_owned()));
            account.rules = left;
            let taken: Vec<_> = taken;
            taken
        })
    };
    let events = take("events");
    let leases = take("leases");
    assert!(!events.is_empty() && !leases.is_empty());
    world.server.set(route("HTTPRoute", "lost", &["absent"]));
    let controller = start(&world, "controller", WRITER);
    let waits_for = |right: &str| {
        let what = format!("`{right}` to be missed");
        let waited = wait_for(&what, DEADLINE, || {
            let page = controller.page("/readyz");
            page.is_ok_and(|(_, body)| body.contains(right))
        });
        waited.unwrap();
    };
    waits_for("the right `create, get and update leases`");
    let give = |rules: Vec<harness::apiserver::Rule>| {
        world.server.change(|state| {
            let mut accounts = state.accounts.iter_mut();
            let account = accounts.find(|it| it.token == WRITER).unwrap();
            account.rules.extend(rules);
        });
    };
    give(leases);
    // It leads now, and has something to tell.
    waits_for("the right `create and patch events (events.k8s.io)`");
    let (_, body) = controller.page("/readyz").unwrap();
    assert!(!body.contains("leases"), "{body}");
    give(events);
    world
        .server
        .set(route("HTTPRoute", "lost-too", &["absent"]));
    wait_for("the controller to be ready", DEADLINE, || {
        let page = controller.page("/readyz");
        page.is_ok_and(|(head, _)| head.contains("200"))
    })
    .unwrap();
}
