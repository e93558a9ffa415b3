//! The way that `deploy/kubernetes/README.md` leads: image, manifests, a label, and the question whether all is well.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use harness::{KubeNode, wait_for, wait_for_some};
use serde_json::{Value, json};

use crate::container::Process;
use crate::{AGENT, PEER, archive, cluster};

const SYSTEM: &str = "underpass-system";

/// How long something may take that pods have to start for, on a machine that is busy with other things.
const STARTED: Duration = Duration::from_secs(120);

/// `CAP_NET_ADMIN`, `CAP_SYS_PTRACE`, `CAP_SYS_ADMIN` (capability.h).
const CAPABILITIES: u64 = 1 << 12 | 1 << 19 | 1 << 21;

/// `SECCOMP_MODE_FILTER`.
const FILTERED: &str = "2";

struct Scene {
    cluster: KubeNode,
}

impl Scene {
    /// Imports the image and applies the folder.
    fn new() -> Option<Self> {
        let cluster = cluster()?;
        cluster.import(AGENT, &archive("dev")).unwrap();
        let scene = Self { cluster };
        let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kubernetes/base");
        scene.kubectl(&["apply", "-k", &base.display().to_string()]);
        Some(scene)
    }

    /// Returns what kubectl says, or complains of.
    fn try_kubectl(&self, words: &[&str]) -> Result<String, String> {
        let files = self.cluster.node().files();
        let mut kubectl = Command::new("kubectl");
        kubectl.arg("--kubeconfig").arg(self.cluster.kubeconfig());
        kubectl.arg("--cache-dir").arg(files.join("kubectl"));
        let output = kubectl.args(words).output().unwrap();
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        let err = String::from_utf8_lossy(&output.stderr);
        match output.status.success() {
            true => Ok(out),
            false => Err(format!("kubectl {words:?}: {out}{err}")),
        }
    }

    fn kubectl(&self, words: &[&str]) -> String {
        self.try_kubectl(words).unwrap()
    }

    /// Returns the agent's pod once it is ready.
    fn agent(&self) -> Value {
        let ready = wait_for_some("the agent to be ready", STARTED, || {
            let pods = self.cluster.api().look(|state| state.all("Pod"));
            pods.into_iter().find(|pod| {
                let name = pod["metadata"]["name"].as_str().unwrap_or_default();
                name.starts_with("underpass-agent-") && is_ready(pod)
            })
        });
        ready.unwrap_or_else(|error| {
            panic!(
                "{error:#}: {}",
                self.kubectl(&["get", "pods", "-A", "-o", "json"])
            )
        })
    }

    /// Returns what the agent says, asked in its container.
    fn asked(&self, agent: &Value, words: &[&str]) -> Result<Value, String> {
        let agent = agent["metadata"]["name"].as_str().unwrap();
        let into = ["exec", "--namespace", SYSTEM, agent, "--", "node-agent"];
        let words = [&into[..], words, &["--output", "json"]].concat();
        let text = self.try_kubectl(&words)?;
        Ok(serde_json::from_str(&text).unwrap())
    }

    /// Returns what the agent says of a workload.
    fn workload(&self, agent: &Value, name: &str) -> Value {
        let answer = self.asked(agent, &["workloads"]).unwrap();
        let mut all = answer["workloads"].as_array().unwrap().iter();
        let found = all.find(|it| it["name"] == name);
        found.cloned().unwrap_or_default()
    }

    /// Nothing that the agent needs of the kernel is kept from it.
    fn lacks_nothing(&self, agent: &Value) {
        let mut last = String::new();
        let status = wait_for_some("a status without complaint", STARTED, || {
            let asked = self.asked(agent, &["status", "--no-rates"]);
            asked.map_err(|why| last = why).ok()
        });
        let status = status.unwrap_or_else(|error| panic!("{error:#}: {last}"));
        assert_eq!(status["degraded"], json!([]), "{status:#}");
        assert_eq!(status["kernel"]["level"], "applications", "{status:#}");
        assert_eq!(status["kernel"]["missing"], json!([]), "{status:#}");
    }

    fn wait_for_state(&self, agent: &Value, name: &str, states: &[&str]) {
        let mut last = Value::Null;
        let waited = wait_for(&format!("{name} to be {states:?}"), STARTED, || {
            last = self.workload(agent, name);
            states.iter().any(|state| last["state"] == *state)
        });
        waited.unwrap_or_else(|error| panic!("{error:#}: {last:#}"));
    }
}

fn is_ready(pod: &Value) -> bool {
    let statuses = &pod["status"]["containerStatuses"];
    statuses[0]["ready"] == true && pod["metadata"]["deletionTimestamp"].is_null()
}

const CAPTURED: [&str; 3] = ["accelerated", "observing", "not-accelerated"];

fn pod(name: &str, more: &Value) -> Value {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "shop"},
        "spec": {"terminationGracePeriodSeconds": 0, "automountServiceAccountToken": false,
            "containers": [{"name": "peer", "image": PEER, "args": ["pause"]}]}});
    for (field, value) in more.as_object().into_iter().flatten() {
        pod["spec"][field] = value.clone();
    }
    pod
}

/// containerd and runc gave the agent what the manifest says, and nothing else.
fn has_what_the_manifest_says(agent: &Process) {
    for set in ["CapEff", "CapPrm", "CapBnd"] {
        let found = u64::from_str_radix(&agent.field(set), 16).unwrap();
        assert_eq!(found, CAPABILITIES, "{set}");
    }
    assert_eq!(agent.field("Seccomp"), FILTERED);
    assert_eq!(agent.field("NoNewPrivs"), "1");
    assert_eq!(agent.field("Uid"), "0 0 0 0");
    let is_read_only = |at: &str| agent.mount(at).split(',').any(|it| it == "ro");
    assert!(is_read_only("/") && is_read_only("/sys/fs/cgroup"));
    assert!(!is_read_only("/run/underpass"));
}

#[test]
fn its_few_lines_lead_to_a_mesh() {
    let Some(scene) = Scene::new() else {
        return;
    };
    let cluster = &scene.cluster;
    let agent = scene.agent();
    let process = Process::of(cluster, &agent);
    has_what_the_manifest_says(&process);
    scene.lacks_nothing(&agent);

    let objects = [
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}),
        pod("web", &json!({})),
        pod("on-host", &json!({"hostNetwork": true})),
        // One that fails, again and again: of it there is only the sandbox.
        pod(
            "failing",
            &json!({"containers": [{"name": "peer", "image": PEER, "args": ["no-such-word"]}]}),
        ),
    ];
    for object in objects {
        let file = cluster.node().files().join("object.json");
        std::fs::write(&file, object.to_string()).unwrap();
        scene.kubectl(&["apply", "-f", &file.display().to_string()]);
    }
    // Nobody is in the mesh before somebody says so.
    scene.wait_for_state(&agent, "web", &["not-enrolled"]);
    scene.kubectl(&["label", "namespace", "shop", "underpass.dev/mesh=enabled"]);
    scene.wait_for_state(&agent, "web", &CAPTURED);
    scene.wait_for_state(&agent, "failing", &CAPTURED);
    scene.wait_for_state(&agent, "on-host", &["host-network"]);

    let mut status = Command::new(harness::agent::program().unwrap());
    status.args(["status", "--all-nodes", "--kubeconfig"]);
    let output = status.arg(cluster.kubeconfig()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains(harness::kubenode::NODE), "{output:?}");

    // What kubelet starts anew is the same again.
    cluster.kill(process.pid).unwrap();
    wait_for("another container of the agent", STARTED, || {
        let now = scene.agent();
        now["status"]["containerStatuses"][0]["restartCount"] != 0
    })
    .unwrap();
    let again = Process::of(cluster, &scene.agent());
    assert_ne!(again.pid, process.pid);
    has_what_the_manifest_says(&again);
    scene.lacks_nothing(&agent);
    scene.wait_for_state(&agent, "web", &CAPTURED);
    scene.wait_for_state(&agent, "failing", &CAPTURED);
}
