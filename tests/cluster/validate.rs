//! Shows and checks everything that would be applied, without a cluster.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use harness::apiserver::CLUSTER_WIDE;
use harness::conformance::{self, BACKENDS, Names, SERVICES, mark};
use serde_json::Value;

use crate::install::{AGENTS, Install};
use crate::kubectl::{Kubectl, documents, identity};
use crate::options::Options;
use crate::scene::Scene;
use crate::traces;

/// Longest name of an object, and of a port.
const NAME: usize = 253;
const PORT_NAME: usize = 15;

/// Shows everything, and returns whether all of it is sound.
pub(crate) fn run(options: &Options) -> Result<bool> {
    let install = Install::render(&Kubectl::new(options), options)?;
    let scene = Scene::new(options);
    let mut objects = install.objects().to_vec();
    objects.extend(scene.objects());
    objects.push(traces::pod(options, "node-1", &[]));
    let mut problems = of_all(&objects);
    // The same objects once more, as they are applied in the end.
    let way_out = Install::render_way_out(&Kubectl::new(options), options)?;
    if way_out.find("DaemonSet", AGENTS).is_none() {
        problems.push("the way out knows no agents".to_owned());
    }
    problems.extend(of_all(way_out.objects()));
    let mut configurations = 0;
    let names = made_up(&scene);
    for case in conformance::all() {
        for step in &case.steps {
            let text = step.routes.clone() + &mark("round-1");
            let text = names
                .fill(&text)
                .map_err(|name| anyhow::anyhow!("no {name}"))?;
            let routes = documents(&text).with_context(|| format!("case `{}`", case.name))?;
            let found = of_all(&routes).into_iter().chain(misread(&scene, &routes)?);
            problems.extend(found.map(|problem| format!("case `{}`: {problem}", case.name)));
            objects.extend(routes);
            configurations += 1;
        }
    }
    for object in objects.iter().chain(way_out.objects()) {
        println!("---\n{}", serde_json::to_string_pretty(object)?);
    }
    for problem in &problems {
        eprintln!("problem: {problem}");
    }
    eprintln!(
        "{} objects, {} of them of {configurations} configurations; {} problems",
        objects.len(),
        objects.len() - install.objects().len() - scene.objects().len() - 1,
        problems.len()
    );
    Ok(problems.is_empty())
}

/// Returns addresses as a cluster would have them.
fn made_up(scene: &Scene) -> Names {
    let mut names = Names::default();
    names.set("mesh", &scene.namespace);
    names.set("guest", &scene.guest);
    for (index, (service, _)) in SERVICES.iter().enumerate() {
        names.set(service, &format!("10.96.0.{}", index + 10));
    }
    for (index, backend) in BACKENDS.iter().enumerate() {
        names.set(
            &format!("pod {backend}"),
            &format!("10.244.0.{}", index + 10),
        );
    }
    names
}

/// Returns what the agent itself does not understand of routes and policies, beside the services that they name.
fn misread(scene: &Scene, routes: &[Value]) -> Result<Vec<String>> {
    let dir = tempfile::tempdir().context("failed to make a directory")?;
    let mut services = scene.objects();
    services.retain(|it| it["kind"] == "Service");
    for (index, service) in services.iter_mut().enumerate() {
        // As a cluster gives it.
        service["spec"]["clusterIP"] = format!("10.96.0.{}", index + 10).into();
    }
    for (index, object) in services.iter().chain(routes).enumerate() {
        let file = dir.path().join(format!("{index:03}.json"));
        fs::write(file, object.to_string())?;
    }
    let mut check = Command::new(harness::agent::program()?);
    let output = check.arg("check").arg(dir.path()).output();
    let output = output.context("failed to start `node-agent check`")?;
    if output.status.success() {
        return Ok(Vec::new());
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(vec![text + &String::from_utf8_lossy(&output.stderr)])
}

fn of_all(objects: &[Value]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let mut problems = Vec::new();
    for object in objects {
        let identity = identity(object);
        let found = of_one(object).err().map(|error| format!("{error:#}"));
        let twice = (!seen.insert(identity.clone())).then(|| "is there twice".to_owned());
        let (kind, namespace, name) = identity;
        let told = found.into_iter().chain(twice);
        problems.extend(told.map(|it| format!("{kind} {namespace}/{name}: {it}")));
    }
    problems
}

fn of_one(object: &Value) -> Result<()> {
    let text = |pointer: &str| {
        object
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    if text("/apiVersion").is_empty() {
        bail!("no apiVersion");
    }
    let name = text("/metadata/name");
    // Rights may be called anything that fits into a path.
    let may_have = |it: char| it.is_ascii_lowercase() || it.is_ascii_digit() || "-.:".contains(it);
    if name.is_empty() || name.len() > NAME || !name.chars().all(may_have) {
        bail!("`{name}` is no name");
    }
    if CLUSTER_WIDE.contains(&text("/kind")) != text("/metadata/namespace").is_empty() {
        bail!("stands in namespace `{}`", text("/metadata/namespace"));
    }
    let selector = object.pointer("/spec/selector/matchLabels");
    let labels = object.pointer("/spec/template/metadata/labels");
    for (key, value) in selector.and_then(Value::as_object).into_iter().flatten() {
        if labels.is_some_and(|labels| labels[key] != *value) {
            bail!("selects `{key}: {value}`, which its own pods do not bear");
        }
    }
    for port in object
        .pointer("/spec/ports")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let name = port["name"].as_str().unwrap_or_default();
        if name.len() > PORT_NAME {
            bail!("port `{name}` has too long a name");
        }
    }
    match object
        .pointer("/spec/template/spec")
        .or_else(|| object.get("spec"))
    {
        Some(spec) => of_pod(spec),
        None => Ok(()),
    }
}

fn of_pod(spec: &Value) -> Result<()> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let volumes = list(&spec["volumes"]);
    for container in list(&spec["containers"])
        .iter()
        .chain(&list(&spec["initContainers"]))
    {
        let image = container["image"].as_str().unwrap_or_default();
        let last = image.rsplit('/').next().unwrap_or_default();
        if !last.contains(':') || last.ends_with(":latest") {
            bail!("image `{image}` has no tag of its own");
        }
        for mount in list(&container["volumeMounts"]) {
            let mut volumes = volumes.iter();
            if !volumes.any(|volume| volume["name"] == mount["name"]) {
                bail!("no volume {}", mount["name"]);
            }
            let propagation = mount["mountPropagation"].as_str().unwrap_or("None");
            if propagation != "None" {
                bail!(
                    "mount propagation `{propagation}` needs a shared mount, which `/` of a node need not be"
                );
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_suite_makes_is_sound() {
        let options = Options {
            peer_image: "underpass.dev/test-peer:1".to_owned(),
            peer_program: "/peer".to_owned(),
            ..Options::default()
        };
        let mut objects = Scene::new(&options).objects();
        objects.push(traces::pod(&options, "node-1", &[]));
        assert_eq!(of_all(&objects), Vec::<String>::new());
    }

    #[test]
    fn what_is_not_sound_is_told() {
        let pod = |container: Value| {
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": "b"},
                "spec": {"containers": [container], "volumes": [{"name": "v"}]}})
        };
        let good = json!({"image": "x/y:1", "volumeMounts": [{"name": "v"}]});
        of_one(&pod(good)).unwrap();
        for (container, what) in [
            (json!({"image": "x:5000/y"}), "no tag"),
            (json!({"image": "x/y:latest"}), "no tag"),
            (
                json!({"image": "x/y:1", "volumeMounts": [{"name": "w"}]}),
                "no volume",
            ),
            (
                json!({"image": "x/y:1", "volumeMounts": [{"name": "v", "mountPropagation": "HostToContainer"}]}),
                "shared mount",
            ),
        ] {
            let why = of_one(&pod(container)).unwrap_err().to_string();
            assert!(why.contains(what), "{why}");
        }
        let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a", "namespace": "b"},
            "spec": {"selector": {"matchLabels": {"app": "a"}}, "template": {"metadata": {"labels": {"app": "b"}}, "spec": {}}}});
        assert!(
            of_one(&deployment)
                .unwrap_err()
                .to_string()
                .contains("do not bear")
        );
        let homeless = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}});
        of_one(&homeless).unwrap_err();
        let twice = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}});
        assert_eq!(of_all(&[twice.clone(), twice]).len(), 1);
    }
}
