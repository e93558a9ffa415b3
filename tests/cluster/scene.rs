//! What the suite makes for itself: two namespaces, pods that ask and that answer, and services.

use std::time::Duration;

use anyhow::{Context as _, Result};
use harness::conformance::{BACKENDS, Names, PORTS, SERVICES};
use serde_json::{Value, json};

use crate::driver::Cluster;
use crate::kubectl::Kubectl;
use crate::options::Options;

/// How long pods may take to run: their image may have to be read.
const READY: Duration = Duration::from_secs(180);

/// Label that takes a namespace or a pod into the mesh.
pub(crate) const MESH: &str = "underpass.dev/mesh";

/// The pod that asks, in each namespace.
pub(crate) const CLIENT: &str = "client";

/// Names and objects.
#[derive(Debug)]
pub(crate) struct Scene {
    pub(crate) namespace: String,
    pub(crate) guest: String,
    image: String,
    program: String,
}

impl Scene {
    pub(crate) fn new(options: &Options) -> Self {
        // Several runs may look at one cluster.
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let suffix = since.map_or(0, |it| it.as_secs()) ^ (u64::from(std::process::id()) << 20);
        let namespace = format!("underpass-test-{:x}", suffix & 0xffff_ffff);
        Self {
            guest: format!("{namespace}-guest"),
            namespace,
            image: options.image(&options.peer_image),
            program: options.peer_program.clone(),
        }
    }

    pub(crate) fn namespaces(&self) -> [String; 2] {
        [self.namespace.clone(), self.guest.clone()]
    }

    /// Returns everything, as it is applied.
    pub(crate) fn objects(&self) -> Vec<Value> {
        let mut objects = Vec::new();
        for name in self.namespaces() {
            objects.push(
                json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name,
                "labels": {MESH: "enabled", "pod-security.kubernetes.io/enforce": "restricted"}}}),
            );
        }
        for (service, backends) in SERVICES {
            objects.push(self.service(service, backends));
        }
        let answer = |name: &str| {
            let at = |port: u16| format!("0.0.0.0:{port}");
            let words = [
                "answer",
                "--name",
                name,
                "--listen",
                &at(8080),
                "--datagrams",
                &at(9091),
            ];
            let mut pod = self.pod(&self.namespace, name, &words);
            pod["metadata"]["labels"]["echo"] = (if name == "v3" { "no" } else { "yes" }).into();
            pod["spec"]["containers"][0]["readinessProbe"] =
                json!({"tcpSocket": {"port": 8080}, "periodSeconds": 1});
            pod
        };
        objects.extend(BACKENDS.map(answer));
        // Something to run until it is asked to ask.
        let idle = ["answer", "--name", CLIENT, "--listen", "127.0.0.1:9999"];
        for namespace in self.namespaces() {
            objects.push(self.pod(&namespace, CLIENT, &idle));
        }
        objects
    }

    fn pod(&self, namespace: &str, name: &str, words: &[&str]) -> Value {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
        "spec": {
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "terminationGracePeriodSeconds": 1,
            "securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "peer", "image": self.image, "imagePullPolicy": "IfNotPresent", "command": [self.program], "args": words,
                "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
            }],
        }})
    }

    fn service(&self, name: &str, backends: &[&str]) -> Value {
        let selector = match backends {
            [] => json!({"app": "nobody"}),
            [one] => json!({"app": one}),
            _ => json!({"echo": "yes"}),
        };
        let ports = PORTS.map(|(name, port, target, protocol, speaks)| {
            json!({"name": name, "port": port, "targetPort": target, "protocol": protocol, "appProtocol": speaks})
        });
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": self.namespace},
            "spec": {"selector": selector, "ports": ports}})
    }

    /// Makes everything, and waits until it runs.
    pub(crate) fn apply(&self, kubectl: &Kubectl) -> Result<()> {
        let objects = self.objects();
        kubectl.apply(&objects)?;
        for pod in objects.iter().filter(|it| it["kind"] == "Pod") {
            let text = |name: &str| pod["metadata"][name].as_str().unwrap_or_default();
            let (namespace, name) = (text("namespace"), text("name"));
            let waited = kubectl.wait(("pod", namespace, name), READY, is_ready);
            waited.with_context(|| {
                let words = ["describe", "pod", name, "--namespace", namespace];
                kubectl
                    .run(&words, None)
                    .unwrap_or_else(|error| format!("{error:#}"))
            })?;
        }
        Ok(())
    }

    /// Returns what runs cases here.
    pub(crate) fn driver(&self, kubectl: &Kubectl) -> Result<Cluster> {
        let mut names = Names::default();
        names.set("mesh", &self.namespace);
        names.set("guest", &self.guest);
        for (service, _) in SERVICES {
            let found = kubectl.get("service", &self.namespace, service)?;
            let found = found.with_context(|| format!("no service {service}"))?;
            set(&mut names, service, &found["spec"]["clusterIPs"]);
        }
        for backend in BACKENDS {
            let found = kubectl.get("pod", &self.namespace, backend)?;
            let found = found.with_context(|| format!("no pod {backend}"))?;
            let addresses = found["status"]["podIPs"].as_array().into_iter().flatten();
            let addresses = addresses.map(|it| it["ip"].clone()).collect();
            set(&mut names, &format!("pod {backend}"), &addresses);
        }
        Ok(Cluster::new(kubectl.clone(), self, names))
    }

    /// Removes everything that is the suite's own.
    pub(crate) fn remove(&self, kubectl: &Kubectl) -> Result<()> {
        let namespaces = self.namespaces().map(
            |name| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}),
        );
        kubectl.delete(&namespaces)
    }

    pub(crate) fn program(&self) -> &str {
        &self.program
    }
}

/// Sets a name to the IPv4 address among these. What pods here listen on is IPv4.
fn set(names: &mut Names, name: &str, addresses: &Value) {
    let addresses = addresses.as_array().into_iter().flatten();
    let mut addresses = addresses.filter_map(Value::as_str);
    if let Some(address) = addresses.find(|it| !it.contains(':')) {
        names.set(name, address);
    }
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|it| it["type"] == "Ready" && it["status"] == "True")
}
