//! The manifests in `deploy/kubernetes`: each folder renders, says only what Kubernetes knows, and fits together.

mod render;
mod rights;
mod typed;

use std::collections::BTreeSet;

use clap::{CommandFactory as _, Parser as _};
use mesh_agent::cli::Cli;
use serde_json::Value;

use render::{Rendered, render};

/// Every folder that a user may apply.
const FOLDERS: [&str; 6] = [
    "base",
    "overlays/minimal",
    "overlays/observability",
    "overlays/observability-operator",
    "overlays/strict",
    "overlays/uninstall",
];

const NAMESPACE: &str = "underpass-system";

const PROBES: [&str; 3] = ["startupProbe", "readinessProbe", "livenessProbe"];

/// Objects of the controller, which `minimal` does without.
const CONTROLLER: &str = "underpass-controller";

fn text<'v>(value: &'v Value, path: &str) -> &'v str {
    let found = value.pointer(path).and_then(Value::as_str);
    found.unwrap_or_default()
}

fn list<'v>(value: &'v Value, path: &str) -> &'v [Value] {
    let found = value.pointer(path).and_then(Value::as_array);
    found.map(Vec::as_slice).unwrap_or_default()
}

/// Returns the objects of a kind.
fn of<'r>(rendered: &'r Rendered, kind: &'r str) -> impl Iterator<Item = &'r Value> {
    rendered.iter().filter(move |it| it["kind"] == kind)
}

fn find<'r>(rendered: &'r Rendered, kind: &'r str, name: &str) -> &'r Value {
    let found = of(rendered, kind).find(|it| text(it, "/metadata/name") == name);
    found.unwrap_or_else(|| panic!("no {kind} {name}"))
}

/// Returns the workloads: what makes pods.
fn workloads(rendered: &Rendered) -> impl Iterator<Item = &Value> {
    of(rendered, "DaemonSet").chain(of(rendered, "Deployment"))
}

#[test]
fn kubectl_renders_the_same() {
    for folder in FOLDERS {
        let ours = render(folder);
        match render::by_kubectl(folder) {
            Some(theirs) => {
                let (ours, theirs) = (render::sorted(&ours), render::sorted(&theirs));
                let keys = |all: &Rendered| all.iter().map(render::key).collect::<Vec<_>>();
                assert_eq!(keys(&ours), keys(&theirs), "{folder}");
                for (ours, theirs) in ours.iter().zip(&theirs) {
                    assert_eq!(ours, theirs, "{folder}: {:?}", render::key(ours));
                }
            }
            None => eprintln!("{folder}: there is no kubectl to compare with"),
        }
    }
}

#[test]
fn everything_is_what_kubernetes_knows() {
    for folder in FOLDERS {
        let rendered = render(folder);
        let keys: BTreeSet<_> = rendered.iter().map(render::key).collect();
        assert_eq!(
            keys.len(),
            rendered.len(),
            "{folder}: an object comes twice"
        );
        for object in &rendered {
            typed::check(object)
                .unwrap_or_else(|why| panic!("{folder}: {:?}: {why}", render::key(object)));
        }
    }
    let operator = render("overlays/observability-operator");
    assert_eq!(of(&operator, "ServiceMonitor").count(), 1);
    let minimal = render("overlays/minimal");
    assert!(
        minimal
            .iter()
            .all(|it| text(it, "/metadata/name") != CONTROLLER)
    );
}

#[test]
fn what_is_named_is_there() {
    for folder in FOLDERS {
        let rendered = render(folder);
        find(&rendered, "Namespace", NAMESPACE);
        for object in &rendered {
            let namespace = object["metadata"].get("namespace");
            assert!(namespace.is_none_or(|it| it == NAMESPACE), "{object:#}");
        }
        for workload in workloads(&rendered) {
            let pod = &workload["spec"]["template"]["spec"];
            find(
                &rendered,
                "ServiceAccount",
                text(pod, "/serviceAccountName"),
            );
            if let Some(class) = pod["priorityClassName"].as_str() {
                find(&rendered, "PriorityClass", class);
            }
            let volumes: BTreeSet<_> = list(pod, "/volumes")
                .iter()
                .map(|it| text(it, "/name"))
                .collect();
            for container in list(pod, "/containers") {
                let mounts = list(container, "/volumeMounts").iter();
                let mounts: BTreeSet<_> = mounts.map(|it| text(it, "/name")).collect();
                assert_eq!(mounts, volumes, "{folder}");
                let ports = list(container, "/ports").iter();
                let ports: BTreeSet<_> = ports.map(|it| text(it, "/name")).collect();
                let asks = |it: &&str| container[*it]["httpGet"].is_object();
                for probe in PROBES.into_iter().filter(asks) {
                    let port = text(container, &format!("/{probe}/httpGet/port"));
                    assert!(ports.contains(port), "{folder}: {probe}: `{port}`");
                }
                let version = format!("underpass.dev/node-agent:{}", env!("CARGO_PKG_VERSION"));
                assert_eq!(container["image"], version);
            }
        }
        for (binding, role) in [
            ("RoleBinding", "Role"),
            ("ClusterRoleBinding", "ClusterRole"),
        ] {
            for binding in of(&rendered, binding) {
                assert_eq!(binding["roleRef"]["kind"], role);
                find(&rendered, role, text(binding, "/roleRef/name"));
                for subject in list(binding, "/subjects") {
                    assert_eq!(subject["namespace"], NAMESPACE);
                    find(&rendered, text(subject, "/kind"), text(subject, "/name"));
                }
            }
        }
    }
}

#[test]
fn selectors_find_what_they_are_for() {
    for folder in FOLDERS {
        let rendered = render(folder);
        let bears = |labels: &Value, workload: &Value| {
            let theirs = &workload["spec"]["template"]["metadata"]["labels"];
            let mut labels = labels.as_object().into_iter().flatten();
            labels.all(|(key, value)| theirs[key] == *value)
        };
        let selected = |labels: &Value| workloads(&rendered).filter(|it| bears(labels, it)).count();
        for object in &rendered {
            let labels = match text(object, "/kind") {
                "DaemonSet" | "Deployment" | "PodDisruptionBudget" => {
                    &object["spec"]["selector"]["matchLabels"]
                }
                "Service" => &object["spec"]["selector"],
                // An empty one means all pods, on purpose.
                "NetworkPolicy" if object["spec"]["podSelector"].get("matchLabels").is_some() => {
                    &object["spec"]["podSelector"]["matchLabels"]
                }
                _ => continue,
            };
            assert_eq!(selected(labels), 1, "{folder}: {object:#}");
        }
        for service in of(&rendered, "Service") {
            for port in list(service, "/spec/ports") {
                let named =
                    workloads(&rendered).filter(|it| bears(&service["spec"]["selector"], it));
                let ports: Vec<_> = named
                    .flat_map(|it| list(it, "/spec/template/spec/containers/0/ports"))
                    .map(|it| &it["name"])
                    .collect();
                assert!(ports.contains(&&port["targetPort"]), "{service:#}");
            }
        }
        for monitor in of(&rendered, "ServiceMonitor") {
            let labels = &monitor["spec"]["selector"]["matchLabels"];
            let mut labels = labels.as_object().into_iter().flatten();
            let services: Vec<_> = of(&rendered, "Service").collect();
            assert!(labels.all(|(key, value)| {
                services
                    .iter()
                    .all(|it| it["metadata"]["labels"][key] == *value)
            }));
            for endpoint in list(monitor, "/spec/endpoints") {
                for service in &services {
                    assert!(
                        list(service, "/spec/ports")
                            .iter()
                            .any(|it| it["name"] == endpoint["port"])
                    );
                }
            }
        }
    }
}

/// Settings of a container, as flags of this command: what its environment says, each by the flag that reads it.
fn flags(container: &Value, command: &str) -> Vec<String> {
    let all = Cli::command();
    let run = all.find_subcommand(command).unwrap();
    let mut known: Vec<(String, String)> = Vec::new();
    let mut flags = Vec::new();
    for variable in list(container, "/env") {
        let name = text(variable, "/name");
        let mut value = text(variable, "/value").to_owned();
        if variable.get("valueFrom").is_some() {
            value = match text(variable, "/valueFrom/fieldRef/fieldPath") {
                "spec.nodeName" => "node-1".to_owned(),
                "status.hostIP" => "192.0.2.1".to_owned(),
                other => panic!("`{other}` is not known here"),
            };
        }
        // Kubelet puts in what was said before, and nothing else.
        for (before, is) in &known {
            value = value.replace(&format!("$({before})"), is);
        }
        assert!(!value.contains("$("), "{name}: {value}");
        known.push((name.to_owned(), value.clone()));
        if name.starts_with("UNDERPASS_") {
            let mut all = run.get_arguments();
            let argument = all.find(|it| it.get_env().is_some_and(|env| env == name));
            let argument = argument.unwrap_or_else(|| panic!("`{command}` reads no `{name}`"));
            flags.push(format!("--{}={value}", argument.get_long().unwrap()));
        }
    }
    flags
}

/// Returns what a container is told to do.
fn words(container: &Value) -> Vec<&str> {
    let words = list(container, "/args").iter();
    words.map(|it| it.as_str().unwrap()).collect()
}

/// Reads a command line as the agent would, and returns its flags: those of the environment, and those that are words of the line.
fn taken(folder: &str, container: &Value, words: &[&str]) -> Vec<String> {
    let flags = flags(container, words[0]);
    let line = ["node-agent"].iter().chain(words).copied();
    let line = line.chain(flags.iter().map(String::as_str));
    Cli::try_parse_from(line).unwrap_or_else(|error| panic!("{folder}: {error}"));
    let mut flags = flags;
    let mut words = words[1..].iter().peekable();
    while let Some(word) = words.next() {
        match words.next_if(|next| !next.starts_with("--") && !word.contains('=')) {
            Some(value) => flags.push(format!("{word}={value}")),
            None => flags.push((*word).to_owned()),
        }
    }
    flags
}

/// Whoever asks a container where it says that it listens is answered. `host` is the pod's own address.
fn is_asked_where_it_answers(folder: &str, workload: &Value, address: &str, host: &str) {
    let template = &workload["spec"]["template"];
    let container = &template["spec"]["containers"][0];
    let (listens, port) = address.rsplit_once(':').unwrap();
    for probe in PROBES {
        let asked = &container[probe]["httpGet"];
        let asked = asked["host"].as_str().unwrap_or(host);
        assert!(
            [asked, "0.0.0.0"].contains(&listens),
            "{folder}: {probe}: {asked}"
        );
    }
    let metrics = list(container, "/ports")[0]["containerPort"].to_string();
    assert_eq!(metrics, port, "{folder}");
    let annotations = &template["metadata"]["annotations"];
    let scraped = annotations["prometheus.io/port"].as_str().unwrap_or(port);
    assert_eq!(scraped, port, "{folder}");
}

#[test]
fn every_setting_is_one_that_the_agent_takes() {
    let address = |flags: &[String]| {
        let mut flags = flags.iter();
        let found = flags.find_map(|it| it.strip_prefix("--metrics-address="));
        found.map(str::to_owned)
    };
    for folder in FOLDERS {
        let rendered = render(folder);
        let agent = find(&rendered, "DaemonSet", "underpass-agent");
        let container = &agent["spec"]["template"]["spec"]["containers"][0];
        let line = words(container);
        if line[0] == "run" {
            let flags = taken(folder, container, &line);
            for flag in ["--source=kubernetes", "--node-name=node-1"] {
                assert!(flags.contains(&flag.to_owned()), "{flags:?}");
            }
            let address = address(&flags);
            let address = address.as_deref().unwrap_or("127.0.0.1:15020");
            // Its network is the node's.
            is_asked_where_it_answers(folder, agent, address, "192.0.2.1");
        } else {
            // The way out: nobody answers there, and whether it is over is asked by another process.
            taken(folder, &Value::Null, &line);
            let probe = &container["readinessProbe"];
            assert_eq!(probe.get("httpGet"), None, "{folder}");
            let command = list(probe, "/exec/command").iter();
            let command: Vec<&str> = command.map(|it| it.as_str().unwrap()).collect();
            assert_eq!(command[0], "/usr/bin/node-agent", "{folder}");
            taken(folder, &Value::Null, &command[1..]);
            for probe in ["startupProbe", "livenessProbe"] {
                assert_eq!(container.get(probe), None, "{folder}");
            }
        }
        for controller in of(&rendered, "Deployment") {
            let container = &controller["spec"]["template"]["spec"]["containers"][0];
            let line = words(container);
            assert_eq!(line[0], "controller", "{folder}");
            let flags = taken(folder, container, &line);
            // Where it looks for agents and for its lease is where it has its rights.
            assert!(
                flags.contains(&format!("--namespace={NAMESPACE}")),
                "{flags:?}"
            );
            let address = address(&flags);
            let address = address.as_deref().unwrap_or("127.0.0.1:15021");
            is_asked_where_it_answers(folder, controller, address, "10.0.0.1");
        }
    }
}

#[test]
fn a_setting_that_nobody_takes_is_found() {
    let container = |env: &str, args: &[&str]| serde_json::json!({"env": [{"name": env, "value": "debug"}], "args": args});
    let line = ["controller", "--namespace", "a"];
    let good = container("UNDERPASS_LOG_LEVEL", &line);
    assert_eq!(
        taken("x", &good, &words(&good)),
        ["--log-level=debug", "--namespace=a"]
    );
    for (env, args) in [
        // The agent's, not the controller's.
        ("UNDERPASS_SOURCE", &line[..]),
        ("UNDERPASS_LOG_LEVEL", &["controller", "--names", "a"][..]),
    ] {
        let bad = container(env, args);
        let refused = std::panic::catch_unwind(|| taken("x", &bad, &words(&bad)));
        assert!(refused.is_err(), "{bad}");
    }
}

#[test]
fn the_agent_has_no_more_than_it_needs() {
    for folder in FOLDERS {
        let rendered = render(folder);
        let agent = find(&rendered, "DaemonSet", "underpass-agent");
        let pod = &agent["spec"]["template"]["spec"];
        let security = &pod["containers"][0]["securityContext"];
        assert_eq!(security["privileged"], false);
        assert_eq!(security["allowPrivilegeEscalation"], false);
        assert_eq!(security["readOnlyRootFilesystem"], true);
        assert_eq!(security["capabilities"]["drop"], serde_json::json!(["ALL"]));
        for mount in list(&pod["containers"][0], "/volumeMounts") {
            // `/` of a node may not be a shared mount.
            assert_eq!(mount.get("mountPropagation"), None);
        }
        for controller in of(&rendered, "Deployment") {
            let pod = &controller["spec"]["template"]["spec"];
            assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
            for host in ["hostNetwork", "hostPID", "hostIPC", "volumes"] {
                assert_eq!(pod.get(host), None, "{host}");
            }
            let security = &pod["containers"][0]["securityContext"];
            assert_eq!(
                security["capabilities"],
                serde_json::json!({"drop": ["ALL"]})
            );
        }
    }
}
