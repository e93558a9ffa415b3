//! Installs the mesh as `deploy/kubernetes` describes it, and removes it.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::kubectl::{Kubectl, documents, identity};
use crate::options::{Options, way_out};
use crate::traces;

/// Where the mesh itself runs.
pub(crate) const SYSTEM: &str = "underpass-system";

/// The agents.
pub(crate) const AGENTS: &str = "underpass-agent";

/// Who writes status.
const CONTROLLER: &str = "underpass-controller";

/// What everything of the mesh bears.
const LABEL: &str = "app.kubernetes.io/part-of=underpass";

/// A definition of the Gateway API that tells whether the cluster has any.
const HTTP_ROUTES: &str = "httproutes.gateway.networking.k8s.io";

/// How long a roll-out may take: images are read, a list of everything is told, and a pod that ends has half a minute.
const ROLLED_OUT: Duration = Duration::from_secs(300);

/// What is installed.
#[derive(Debug)]
pub(crate) struct Install {
    objects: Vec<Value>,
}

impl Install {
    /// Renders the overlay with the images of this run. Asks no cluster.
    pub(crate) fn render(kubectl: &Kubectl, options: &Options) -> Result<Self> {
        Self::of(kubectl, options, &options.overlay)
    }

    /// Renders the way out, as users are told to take it. Asks no cluster.
    pub(crate) fn render_way_out(kubectl: &Kubectl, options: &Options) -> Result<Self> {
        Self::of(kubectl, options, &way_out())
    }

    fn of(kubectl: &Kubectl, options: &Options, overlay: &Path) -> Result<Self> {
        let overlay = overlay.display().to_string();
        let text = kubectl.run(&["kustomize", &overlay], None)?;
        let mut objects = documents(&text).with_context(|| format!("`{overlay}`"))?;
        let image = options.image(&options.agent_image);
        for object in &mut objects {
            set_image(object, &image);
        }
        objects.sort_by_key(rank);
        Ok(Self { objects })
    }

    pub(crate) fn objects(&self) -> &[Value] {
        &self.objects
    }

    /// Returns an object, if it is installed.
    pub(crate) fn find(&self, kind: &str, name: &str) -> Option<&Value> {
        let mut objects = self.objects.iter();
        objects.find(|it| it["kind"] == kind && it["metadata"]["name"] == name)
    }

    /// Returns whether somebody writes status.
    pub(crate) fn writes_status(&self) -> bool {
        self.find("Deployment", CONTROLLER).is_some()
    }

    /// Returns whether pods may leave the mesh by their labels, which the overlay `strict` denies.
    pub(crate) fn lets_go(&self) -> bool {
        let mut objects = self.objects.iter();
        !objects.any(|it| it["kind"] == "ValidatingAdmissionPolicy")
    }

    /// Installs everything and waits until it runs.
    pub(crate) fn apply(&self, kubectl: &Kubectl, options: &Options) -> Result<()> {
        let has_routes = kubectl
            .get("customresourcedefinition", "default", HTTP_ROUTES)?
            .is_some();
        match (&options.gateway_api, has_routes) {
            (Some(_), false) => kubectl.apply(&gateway_api(options)?)?,
            (None, false) => {
                bail!("the cluster has no Gateway API; give its definitions by --gateway-api")
            }
            (_, true) => {}
        }
        kubectl.apply(&self.objects)?;
        self.ready(kubectl)
    }

    /// Waits until everything runs as it was applied last.
    pub(crate) fn ready(&self, kubectl: &Kubectl) -> Result<()> {
        let agents = kubectl.wait(("daemonset", SYSTEM, AGENTS), ROLLED_OUT, has_rolled_out);
        agents.with_context(|| troubles(kubectl))?;
        if self.writes_status() {
            let controller =
                kubectl.wait(("deployment", SYSTEM, CONTROLLER), ROLLED_OUT, is_available);
            controller.with_context(|| troubles(kubectl))?;
        }
        Ok(())
    }

    /// Removes everything as users are told to, and looks whether anything is left.
    pub(crate) fn remove(&self, kubectl: &Kubectl, options: &Options) -> Result<String> {
        let nodes = traces::held(kubectl, options)?;
        let way_out = Self::render_way_out(kubectl, options)?;
        // On each node the agent ends, and its pod takes everything out of the kernel in its place.
        kubectl.apply(&way_out.objects)?;
        let agents = kubectl.wait(("daemonset", SYSTEM, AGENTS), ROLLED_OUT, has_rolled_out);
        agents.with_context(|| troubles(kubectl))?;
        let seen = traces::look(kubectl, options, &nodes)?;
        let mut rest = way_out.and_what_else_is_of(self);
        if !options.remove_crds {
            rest.retain(|object| object["kind"] != "CustomResourceDefinition");
        }
        kubectl.delete(&rest)?;
        if options.gateway_api.is_some() {
            kubectl.delete(&gateway_api(options)?)?;
        }
        ensure!(seen.is_empty(), "left in the kernel: {}", seen.join("; "));
        let kinds = "namespaces,clusterroles,clusterrolebindings,priorityclasses,daemonsets,deployments,pods";
        let left = kubectl.labelled(kinds, LABEL)?;
        let names: BTreeSet<_> = left.iter().map(identity).collect();
        ensure!(names.is_empty(), "left in the API: {names:?}");
        Ok(format!("{} nodes", nodes.len()))
    }

    /// Returns the objects of the way out, and those of another overlay that it lacks, last ones first.
    fn and_what_else_is_of(&self, installed: &Self) -> Vec<Value> {
        let known: BTreeSet<_> = self.objects.iter().map(identity).collect();
        let others = installed.objects.iter();
        let others = others.filter(|it| !known.contains(&identity(it)));
        let mut all: Vec<Value> = self.objects.iter().chain(others).cloned().collect();
        all.sort_by_key(rank);
        all.reverse();
        all
    }
}

fn gateway_api(options: &Options) -> Result<Vec<Value>> {
    let file = options.gateway_api.as_ref().context("no --gateway-api")?;
    let text = std::fs::read_to_string(file);
    let text = text.with_context(|| format!("failed to read `{}`", file.display()))?;
    documents(&text).with_context(|| format!("`{}`", file.display()))
}

/// What has to be there before what.
fn rank(object: &Value) -> u8 {
    match object["kind"].as_str().unwrap_or_default() {
        "Namespace" => 0,
        "CustomResourceDefinition" => 1,
        "DaemonSet" | "Deployment" => 3,
        _ => 2,
    }
}

/// Puts an image in the place of that of every container.
fn set_image(object: &mut Value, image: &str) {
    for sort in ["initContainers", "containers"] {
        let containers = object.pointer_mut(&format!("/spec/template/spec/{sort}"));
        let containers = containers.and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            container["image"] = image.into();
            container["imagePullPolicy"] = "IfNotPresent".into();
        }
    }
}

fn has_rolled_out(set: &Value) -> bool {
    let status = &set["status"];
    let number = |name: &str| status[name].as_u64().unwrap_or(0);
    let wanted = number("desiredNumberScheduled");
    status["observedGeneration"] == set["metadata"]["generation"]
        && wanted > 0
        && number("updatedNumberScheduled") == wanted
        && number("numberReady") == wanted
}

fn is_available(deployment: &Value) -> bool {
    let status = &deployment["status"];
    status["observedGeneration"] == deployment["metadata"]["generation"]
        && status["updatedReplicas"] == deployment["spec"]["replicas"]
        && status["availableReplicas"] == deployment["spec"]["replicas"]
}

/// Returns what is known of pods of the mesh that do not run.
fn troubles(kubectl: &Kubectl) -> String {
    let words = ["get", "pods,events", "--namespace", SYSTEM, "-o", "wide"];
    let shown = kubectl
        .run(&words, None)
        .unwrap_or_else(|error| format!("{error:#}"));
    let words = [
        "logs",
        "--namespace",
        SYSTEM,
        "--selector",
        LABEL,
        "--tail",
        "30",
        "--prefix",
    ];
    let logs = kubectl
        .run(&words, None)
        .unwrap_or_else(|error| format!("{error:#}"));
    format!("{shown}\n{logs}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn daemon_set() -> Value {
        json!({"kind": "DaemonSet", "metadata": {"name": AGENTS, "generation": 2}, "spec": {"template": {"spec": {
            "hostPID": true, "containers": [{"name": "agent", "image": "old", "args": ["run"], "livenessProbe": {}}]}}},
            "status": {"observedGeneration": 2, "desiredNumberScheduled": 1, "updatedNumberScheduled": 1, "numberReady": 1}})
    }

    #[test]
    fn only_containers_get_the_image_and_nothing_else_changes() {
        let mut set = daemon_set();
        set_image(&mut set, "new");
        assert_eq!(
            set["spec"]["template"]["spec"]["containers"][0]["image"],
            "new"
        );
        assert!(
            set["spec"]["template"]["spec"]
                .get("initContainers")
                .is_none()
        );
        for mut other in [
            json!({"kind": "Namespace", "metadata": {"name": "a"}}),
            json!({"kind": "NetworkPolicy", "metadata": {"name": "a"}, "spec": {"podSelector": {}}}),
        ] {
            let before = other.clone();
            set_image(&mut other, "new");
            assert_eq!(other, before);
        }
    }

    #[test]
    fn whatever_was_installed_goes_and_its_namespace_last() {
        let object = |kind: &str, name: &str| json!({"kind": kind, "metadata": {"name": name}});
        let install = |objects: &[Value]| Install {
            objects: objects.to_vec(),
        };
        let (space, role) = (object("Namespace", "a"), object("ClusterRole", "a"));
        let more = object("ValidatingAdmissionPolicy", "a");
        let way_out = install(&[space.clone(), role.clone(), daemon_set()]);
        let strict = install(&[space.clone(), role.clone(), more.clone(), daemon_set()]);
        let all = way_out.and_what_else_is_of(&strict);
        assert_eq!(all, [daemon_set(), more, role, space]);
    }

    #[test]
    fn a_roll_out_is_over_when_all_are_new_and_ready() {
        assert!(has_rolled_out(&daemon_set()));
        for (field, value) in [
            ("observedGeneration", 1),
            ("numberReady", 0),
            ("updatedNumberScheduled", 0),
        ] {
            let mut set = daemon_set();
            set["status"][field] = value.into();
            assert!(!has_rolled_out(&set), "{field}");
        }
        assert!(!has_rolled_out(&Value::Null));
    }
}
