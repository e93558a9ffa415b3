//! What is tested: Gateway API's cases, and what only a cluster has.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use harness::conformance::{self, Client, Driver as _, Seen};
use serde_json::{Value, json};

use crate::driver::Cluster;
use crate::install::{AGENTS, Install, SYSTEM};
use crate::kubectl::documents;
use crate::scene::{CLIENT, MESH};

/// What a case does. It returns what is to be said of it.
type Run = dyn Fn(&mut Cluster, &Install) -> Result<String>;

/// A case.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) run: Box<Run>,
}

/// How long status may take: the controller gathers what changes.
const WRITTEN: Duration = Duration::from_secs(60);

/// Cases with fields that the Gateway API's standard channel does not have.
const EXPERIMENTAL: [&str; 1] = ["retries"];

/// Returns everything that is tested of what is installed.
pub(crate) fn all(install: &Install) -> Vec<Case> {
    let own = |name, run: fn(&mut Cluster, &Install) -> Result<String>| Case {
        name,
        run: Box::new(run),
    };
    let mut all = Vec::new();
    if install.lets_go() {
        all.push(own("pods_are_taken_in_and_let_go_as_labels_say", enrol));
    }
    all.extend(conformance::all().into_iter().map(|case| Case {
        name: case.name,
        run: Box::new(move |cluster, _| {
            if EXPERIMENTAL.contains(&case.name) && is_standard(cluster)? {
                return Ok("left out: the Gateway API here is of the standard channel".to_owned());
            }
            let outcome = conformance::run(&case, cluster)?;
            Ok(match outcome.left_out.as_slice() {
                [] => format!("{} checks", outcome.checked),
                some => format!("{} checks; left out: {}", outcome.checked, some.join(", ")),
            })
        }),
    }));
    if install.writes_status() {
        all.push(own("status_says_what_became_of_routes", status));
    }
    all.push(own("connections_go_on_while_agents_restart", restart));
    all
}

/// Returns whether fields of the experimental channel are unknown.
fn is_standard(cluster: &Cluster) -> Result<bool> {
    let name = "httproutes.gateway.networking.k8s.io";
    let definition = cluster
        .kubectl
        .get("customresourcedefinition", "default", name)?;
    let channel = &definition.unwrap_or_default()["metadata"]["annotations"]["gateway.networking.k8s.io/channel"];
    Ok(channel != "experimental")
}

/// A route shows whose connections the mesh sees: those of others come to kube-proxy.
fn enrol(cluster: &mut Cluster, _: &Install) -> Result<String> {
    let route = conformance::Route::new("HTTPRoute", "marked", "echo").port(80);
    let route = route.rule(
        "filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-route, value: marked}]}}]\n      \
         backendRefs: [{name: echo, port: 80}]",
    );
    let route = cluster
        .names()
        .fill(&route)
        .map_err(|name| anyhow::anyhow!("no {name}"))?;
    cluster.apply(&route)?;
    let is_in = |seen: &Seen| seen.status == 200 && seen.field("x-route").is_some();
    let is_out = |seen: &Seen| seen.status == 200 && seen.field("x-route").is_none();
    let url = "http://<echo>/";
    for from in [Client::Own, Client::Guest] {
        cluster.wait("a client that is in the mesh", from, url, is_in)?;
    }
    let (namespace, guest) = (cluster.namespace.clone(), cluster.guest.clone());
    let label = |words: &[&str], value: &str| {
        let value = match value {
            "" => format!("{MESH}-"),
            value => format!("{MESH}={value}"),
        };
        let words = [&["label", "--overwrite"][..], words, &[value.as_str()]].concat();
        cluster.kubectl.run(&words, None).map(drop)
    };
    let pod = ["pod", CLIENT, "--namespace", &namespace];
    label(&pod, "disabled")?;
    cluster.wait(
        "a pod that is let go by its own label",
        Client::Own,
        url,
        is_out,
    )?;
    cluster.wait("the other one, as it was", Client::Guest, url, is_in)?;
    label(&pod, "")?;
    cluster.wait("the pod to be back", Client::Own, url, is_in)?;
    let of_guest = ["namespace", guest.as_str()];
    label(&of_guest, "")?;
    cluster.wait(
        "the pods of a namespace that is let go",
        Client::Guest,
        url,
        is_out,
    )?;
    let guests_pod = ["pod", CLIENT, "--namespace", &guest];
    label(&guests_pod, "enabled")?;
    cluster.wait(
        "a pod that is in by its own label",
        Client::Guest,
        url,
        is_in,
    )?;
    label(&guests_pod, "")?;
    label(&of_guest, "enabled")?;
    cluster.wait("the namespace to be back", Client::Guest, url, is_in)?;
    Ok(String::new())
}

fn status(cluster: &mut Cluster, _: &Install) -> Result<String> {
    let route = |name: &'static str, backend: &str| {
        let route = conformance::Route::new("HTTPRoute", name, "echo").port(80);
        route.rule(&format!(
            "matches: [{{path: {{type: PathPrefix, value: /{name}}}}}]\n      backendRefs: [{{name: {backend}, port: 80}}]"
        ))
    };
    let text = route("good", "echo-v1") + &route("bad", "absent");
    let text = cluster
        .names()
        .fill(&text)
        .map_err(|name| anyhow::anyhow!("no {name}"))?;
    cluster.apply(&text)?;
    for (name, resolved) in [("good", "True"), ("bad", "False")] {
        let what = ("httproute", cluster.namespace.as_str(), name);
        let found = cluster.kubectl.wait(what, WRITTEN, |route| {
            let generation = &route["metadata"]["generation"];
            has(route, "Accepted", "True", generation)
                && has(route, "ResolvedRefs", resolved, generation)
        });
        found.with_context(|| format!("the status of route `{name}`"))?;
    }
    // What changes is said anew, of its new generation.
    let mended = text.replace("name: absent", "name: echo-v2");
    cluster.kubectl.apply(&documents(&mended)?)?;
    let what = ("httproute", cluster.namespace.as_str(), "bad");
    let route = cluster.kubectl.wait(what, WRITTEN, |route| {
        has(
            route,
            "ResolvedRefs",
            "True",
            &route["metadata"]["generation"],
        )
    })?;
    ensure!(
        route["metadata"]["generation"] == 2,
        "{}",
        route["metadata"]
    );
    Ok(String::new())
}

/// Returns whether one of a route's parents has a condition.
fn has(route: &Value, sort: &str, status: &str, generation: &Value) -> bool {
    let parents = route["status"]["parents"].as_array().into_iter().flatten();
    let mut conditions = parents.flat_map(|it| it["conditions"].as_array().into_iter().flatten());
    conditions.any(|it| {
        it["type"] == sort && it["status"] == status && it["observedGeneration"] == *generation
    })
}

/// What the kernel balances needs no agent.
fn restart(cluster: &mut Cluster, install: &Install) -> Result<String> {
    cluster.apply("")?;
    let steady = cluster.steadily("http://<echo>:8080/")?;
    let set = json!({"spec": {"template": {"metadata": {"annotations": {"underpass-test/restart": cluster.namespace}}}}});
    let words = [
        "patch",
        "daemonset",
        AGENTS,
        "--namespace",
        SYSTEM,
        "--patch",
        &set.to_string(),
    ];
    cluster.kubectl.run(&words, None)?;
    install.ready(&cluster.kubectl)?;
    let answers = steady.end()?;
    let count: u64 = answers.values().sum();
    let are_right = answers
        .keys()
        .all(|who| ["v1", "v2"].contains(&who.as_str()));
    ensure!(are_right && count > 0, "{answers:?}");
    // And routes are there again.
    cluster.apply("")?;
    Ok(format!("{count} requests"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_counts_for_its_generation_only() {
        let route = json!({"metadata": {"generation": 2}, "status": {"parents": [{"conditions": [
            {"type": "Accepted", "status": "True", "observedGeneration": 2},
            {"type": "ResolvedRefs", "status": "True", "observedGeneration": 1}]}]}});
        assert!(has(&route, "Accepted", "True", &2.into()));
        assert!(!has(&route, "Accepted", "False", &2.into()));
        assert!(!has(&route, "ResolvedRefs", "True", &2.into()));
        assert!(!has(&Value::Null, "Accepted", "True", &Value::Null));
    }
}
