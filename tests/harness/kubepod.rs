//! Pods as kubelet and a container runtime leave them on a machine: cgroups named after UID and containers, and what an API server
//! tells of them.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::cgroup;
use crate::node::Node;
use crate::pod::Pod;
use crate::process::Running;

/// Who names cgroups.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Driver {
    /// kubelet and the runtime make directories.
    Cgroupfs,
    /// systemd does, as slices and scopes.
    Systemd,
}

/// Quality of service of a pod.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Quality {
    /// Requests are limits.
    Guaranteed,
    /// It requests something.
    Burstable,
    /// It requests nothing.
    BestEffort,
}

/// A container runtime.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Runtime {
    /// containerd.
    Containerd,
    /// CRI-O.
    Crio,
    /// Docker, by cri-dockerd.
    Docker,
}

/// How the cgroups of a pod are named.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// Who names them.
    pub driver: Driver,
    /// The level that the pod is in.
    pub quality: Quality,
    /// Who runs containers.
    pub runtime: Runtime,
}

impl Shape {
    /// A usual one.
    pub const USUAL: Self = Self {
        driver: Driver::Cgroupfs,
        quality: Quality::Burstable,
        runtime: Runtime::Containerd,
    };

    /// Returns every shape.
    pub fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for driver in [Driver::Cgroupfs, Driver::Systemd] {
            for quality in [Quality::Guaranteed, Quality::Burstable, Quality::BestEffort] {
                for runtime in [Runtime::Containerd, Runtime::Crio, Runtime::Docker] {
                    all.push(Self {
                        driver,
                        quality,
                        runtime,
                    });
                }
            }
        }
        all
    }

    fn pod(self, uid: &str) -> String {
        let level = match self.quality {
            Quality::Guaranteed => None,
            Quality::Burstable => Some("burstable"),
            Quality::BestEffort => Some("besteffort"),
        };
        match (self.driver, level) {
            (Driver::Cgroupfs, None) => format!("kubepods/pod{uid}"),
            (Driver::Cgroupfs, Some(level)) => format!("kubepods/{level}/pod{uid}"),
            (Driver::Systemd, None) => {
                format!("kubepods.slice/kubepods-pod{}.slice", uid.replace('-', "_"))
            }
            (Driver::Systemd, Some(level)) => format!(
                "kubepods.slice/kubepods-{level}.slice/kubepods-{level}-pod{}.slice",
                uid.replace('-', "_")
            ),
        }
    }

    fn container(self, id: &str) -> String {
        match (self.driver, self.runtime) {
            (Driver::Cgroupfs, Runtime::Crio) => format!("crio-{id}"),
            (Driver::Cgroupfs, _) => id.to_owned(),
            (Driver::Systemd, Runtime::Containerd) => format!("cri-containerd-{id}.scope"),
            (Driver::Systemd, Runtime::Crio) => format!("crio-{id}.scope"),
            (Driver::Systemd, Runtime::Docker) => format!("docker-{id}.scope"),
        }
    }

    fn scheme(self) -> &'static str {
        match self.runtime {
            Runtime::Containerd => "containerd",
            Runtime::Crio => "cri-o",
            Runtime::Docker => "docker",
        }
    }
}

/// The number of a pod's sandbox among its containers.
const SANDBOX: u32 = 0;

/// A pod of a cluster on a [`Node`]. Its processes go when it is dropped, the rest with the node.
#[derive(Debug)]
pub struct KubePod {
    pod: Pod,
    uid: String,
    /// Whether kubelet has it from a file.
    is_static: bool,
    shape: Shape,
    dir: PathBuf,
    sandbox: Option<Running>,
}

impl KubePod {
    /// Makes a pod, its network and its cgroup. Nothing of it runs.
    ///
    /// # Errors
    /// As [`Node::pod`].
    pub fn new(node: &Node, name: &str, shape: Shape) -> Result<Self> {
        Self::make(node, node, name, shape, false)
    }

    /// Makes a pod in the network of one node and the tree of cgroups of another, and starts its sandbox.
    ///
    /// # Errors
    /// As [`KubePod::start`].
    pub fn start_in_tree_of(other: &Node, node: &Node, name: &str, shape: Shape) -> Result<Self> {
        let mut pod = Self::make(node, other, name, shape, false)?;
        pod.start_sandbox()?;
        Ok(pod)
    }

    /// Makes a pod that kubelet has from a file; the API server tells of its mirror pod. Nothing of it runs.
    ///
    /// # Errors
    /// As [`KubePod::new`].
    pub fn of_file(node: &Node, name: &str, shape: Shape) -> Result<Self> {
        Self::make(node, node, name, shape, true)
    }

    fn make(node: &Node, tree: &Node, name: &str, shape: Shape, is_static: bool) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(1);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let since = since.context("the clock is before 1970")?;
        let uid = format!(
            "{:08x}-{:04x}-4000-8000-{:012x}",
            since.subsec_nanos(),
            number & 0xffff,
            (since.as_secs() << 22 | u64::from(std::process::id())) & 0xffff_ffff_ffff,
        );
        let pod = node.pod(name)?;
        let named = match is_static {
            true => hash(&uid),
            false => uid.clone(),
        };
        let dir = cgroup::make(tree.cgroup()?.join(shape.pod(&named)))?;
        Ok(Self {
            pod,
            uid,
            is_static,
            shape,
            dir,
            sandbox: None,
        })
    }

    /// Makes a pod whose sandbox runs.
    ///
    /// # Errors
    /// As [`KubePod::new`], and when no process can be started.
    pub fn start(node: &Node, name: &str, shape: Shape) -> Result<Self> {
        let mut pod = Self::new(node, name, shape)?;
        pod.start_sandbox()?;
        Ok(pod)
    }

    /// Starts the pod's sandbox: a process that sleeps, in a cgroup of its own.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_sandbox(&mut self) -> Result<()> {
        let sandbox = self.container(SANDBOX)?;
        let mut command = sandbox.command("sleep");
        self.sandbox = Some(sandbox.start("sandbox", command.arg("infinity"))?);
        Ok(())
    }

    /// Ends the sandbox.
    pub fn stop_sandbox(&mut self) {
        self.sandbox = None;
    }

    /// Returns a container of the pod, to start programs in; the first is number 1.
    ///
    /// # Errors
    /// When its cgroup cannot be made.
    pub fn container(&self, number: u32) -> Result<Pod> {
        let name = self.shape.container(&self.id(number));
        Ok(self.pod.within(cgroup::make(self.dir.join(name))?))
    }

    /// Returns the pod as a machine knows it; its own cgroup is none that kubelet made.
    pub fn pod(&self) -> &Pod {
        &self.pod
    }

    /// Returns its UID.
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// Returns what an API server tells of it while its only container runs.
    pub fn object(&self, namespace: &str) -> Value {
        let ips: Vec<Value> = self
            .pod
            .addresses()
            .iter()
            .map(|ip| json!({"ip": ip}))
            .collect();
        let id = format!("{}://{}", self.shape.scheme(), self.id(1));
        let name = self.pod.name();
        let mut object = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace, "uid": self.uid, "labels": {"app": name}},
            "spec": {"nodeName": "node-1", "serviceAccountName": "default", "containers": [{"name": "c", "image": "i"}]},
            "status": {"phase": "Running", "podIP": ips[0]["ip"], "podIPs": ips,
                "conditions": [{"type": "Ready", "status": "True"}],
                "containerStatuses": [{"name": "c", "containerID": id, "ready": true, "restartCount": 0}]}});
        if self.is_static {
            let hash = hash(&self.uid);
            object["metadata"]["annotations"] = json!({"kubernetes.io/config.hash": hash, "kubernetes.io/config.mirror": hash,
                "kubernetes.io/config.seen": "2026-11-21T08:00:00.000000000Z", "kubernetes.io/config.source": "file"});
        }
        object
    }

    /// Returns what an API server tells of it while it waits for its sandbox.
    pub fn pending(&self, namespace: &str) -> Value {
        let mut object = self.object(namespace);
        object["status"] = json!({"phase": "Pending"});
        object
    }

    fn id(&self, number: u32) -> String {
        format!("{}{number:032x}", hash(&self.uid))
    }
}

/// Returns 32 hexadecimal digits: what kubelet calls a pod of a file, which the API server calls `uid`.
fn hash(uid: &str) -> String {
    uid.replace('-', "")
}
