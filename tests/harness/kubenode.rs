//! A Kubernetes cluster of one node, with a real container runtime: containerd and runc, CNI's plug-ins, kubectl, and cgroups as kubelet names
//! them.
//!
//! | Real | Stands in |
//! | --- | --- |
//! | containerd with its CRI plug-in, runc, CNI's `bridge` and `host-local` | the API server: [`ApiServer`], behind TLS |
//! | image import, seccomp and capabilities of containers, their mounts | kubelet: `kubelet`, which speaks CRI |
//! | the kernel: trees of cgroups, network namespaces, BPF | controllers and scheduler: `controllers` |
//! | `kubectl` | kube-proxy: `services`, by rules of nftables |
//!
//! Everything runs in namespaces of a [`Node`], so that several may stand side by side, and goes with it.

mod controllers;
mod cri;
mod door;
mod kubelet;
mod machine;
mod messages;
mod probes;
mod rights;
mod services;
mod spec;
mod volumes;

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::apiserver::TOKEN;
use crate::wait::{PATIENCE, wait_for};
use crate::{ApiServer, Node, command};
use door::Door;
use kubelet::Kubelet;
use machine::Machine;

/// The name of the node.
pub const NODE: &str = "node-1";

/// Addresses of pods.
const POD_NETWORK: &str = "10.244.0.0/24";

/// Addresses of services, the API server's first, and where a cluster's name server is.
const SERVICE_NETWORK: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 0);
const API_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
const NAME_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

/// Where the API server listens on the node.
const API_PORT: u16 = 6443;

/// How long controllers and kube-proxy may not look.
const LOOK: Duration = Duration::from_secs(1);

/// Programs that it takes, besides those of every node.
const PROGRAMS: [&str; 5] = ["containerd", "ctr", "kubectl", "nft", "runc"];

/// Returns the address of the node: its bridge's ([`Node`]).
fn node_address() -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, 1)
}

/// A cluster. Dropping it removes everything of it.
#[derive(Debug)]
pub struct KubeNode {
    api: Arc<ApiServer>,
    kubelet: Arc<Kubelet>,
    threads: Vec<JoinHandle<()>>,
    kubeconfig: PathBuf,
    _door: Door,
    node: Node,
}

impl KubeNode {
    /// Starts a cluster without a pod. The image of sandboxes comes from an archive.
    ///
    /// # Errors
    /// Without root, or one of the programs, or when something does not start.
    pub fn start(sandboxes: (&str, &Path)) -> Result<Self> {
        for program in PROGRAMS {
            ensure!(
                crate::machine::has_program(program),
                "there is no `{program}` here"
            );
        }
        let node = Node::new()?;
        // As nodes have: what is nobody's address still has a way out, on which services are found.
        let way = format!("route add default dev {}\n", crate::node::BRIDGE);
        command::ip(Some(&node.netns()), &way)?;
        let mut machine = Machine::start(&node, sandboxes.0)?;
        let cri = machine.cri()?;
        let api = Arc::new(ApiServer::start()?);
        let door = Door::new(&[
            API_SERVICE.to_string(),
            node_address().to_string(),
            Ipv4Addr::LOCALHOST.to_string(),
            "kubernetes.default.svc".to_owned(),
        ])?;
        let server = api.address();
        let inside = node.enter(|| TcpListener::bind((node_address(), API_PORT)))??;
        let outside = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let kubeconfig = write_kubeconfig(&node, &door, outside.local_addr()?)?;
        door.open(inside, server)?;
        door.open(outside, server)?;
        api.change(|state| {
            state.has_nodes = true;
            state.know(&controllers::builtin());
            controllers::first(state, node_address(), API_PORT);
        });
        let version = cri.version()?;
        eprintln!("{} {}", version.runtime_name, version.runtime_version);
        let kubelet = Arc::new(Kubelet::new(api.clone(), node.clone(), machine, cri));
        let mut cluster = Self {
            api,
            kubelet,
            threads: Vec::new(),
            kubeconfig,
            _door: door,
            node,
        };
        cluster.import(sandboxes.0, sandboxes.1)?;
        cluster.begin();
        Ok(cluster)
    }

    /// Starts what stands in for kubelet, controllers and kube-proxy.
    fn begin(&mut self) {
        let kubelet = self.kubelet.clone();
        self.api.on_any_exec(move |namespace, pod, words, reads| {
            kubelet.exec((namespace, pod, ""), words, reads)
        });
        let kubelet = self.kubelet.clone();
        self.api
            .on_log(move |pod, container| Some(kubelet.log(pod, container)));
        let kubelet = self.kubelet.clone();
        self.threads.push(std::thread::spawn(move || kubelet.run()));
        let (kubelet, authority) = (self.kubelet.clone(), self._door.authority.clone());
        self.threads.push(std::thread::spawn(move || {
            control(&kubelet, &authority);
        }));
        let kubelet = self.kubelet.clone();
        self.threads.push(std::thread::spawn(move || {
            lead(&kubelet);
        }));
    }

    /// Imports an image from an archive, as an operator does, and waits until pods may have it.
    ///
    /// # Errors
    /// When `ctr` refuses it.
    pub fn import(&self, name: &str, archive: &Path) -> Result<()> {
        let file = File::open(archive);
        let file = file.with_context(|| format!("failed to open `{}`", archive.display()))?;
        let mut ctr = self.kubelet.machine.ctr();
        let output = ctr.args(["images", "import", "-"]).stdin(file).output()?;
        ensure!(
            output.status.success(),
            "`ctr images import` failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        wait_for(&format!("image {name}"), PATIENCE, || {
            self.kubelet.cri.has_image(name).is_ok_and(|it| it)
        })
    }

    /// Returns the command line by which an operator imports an image on this node.
    pub fn import_line(&self) -> String {
        let mut ctr = self.kubelet.machine.ctr();
        ctr.args(["images", "import", "-"]);
        let words = std::iter::once(ctr.get_program()).chain(ctr.get_args());
        let words: Vec<_> = words.map(|it| it.to_string_lossy()).collect();
        words.join(" ")
    }

    /// Returns a kubeconfig of its administrator.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Returns its API server.
    pub fn api(&self) -> &ApiServer {
        &self.api
    }

    /// Returns the node.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Returns a command on the node, as root there.
    pub fn command(&self, program: &str) -> Command {
        self.kubelet.machine.command(program)
    }

    /// Takes the taint away by which pods wait for their node's agent, as if the node had been registered without.
    pub fn register_without_taint(&self) {
        self.api.change(|state| {
            if let Some(mut node) = state.get("Node", "", NODE) {
                node["spec"]["taints"] = serde_json::json!([]);
                state.set(node);
            }
        });
    }

    /// Kills a process of one of its pods, as the kernel does that is out of memory.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn kill(&self, pid: u32) -> Result<()> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        kill_process(pid.context("no process")?, Signal::KILL).context("failed to kill it")
    }

    /// Returns what a pod's containers wrote.
    pub fn log(&self, namespace: &str, pod: &str) -> String {
        let pod = self.api.get("Pod", namespace, pod);
        pod.map_or_else(String::new, |pod| self.kubelet.log(&pod, ""))
    }
}

impl Drop for KubeNode {
    fn drop(&mut self) {
        self.kubelet.ends.store(true, Ordering::Relaxed);
        // Whoever waits for a change.
        self.api.change(|_| ());
        for thread in self.threads.drain(..) {
            // One that panicked has said so.
            thread.join().ok();
        }
        // They hold what runs, and with it the node.
        self.api.on_exec(|_, _, _| None);
        self.api.on_log(|_, _| None);
    }
}

fn control(kubelet: &Kubelet, authority: &str) {
    let mut seen = 0;
    while !kubelet.ends.load(Ordering::Relaxed) {
        let version = kubelet.api.changed_since(seen, LOOK);
        if version > seen {
            seen = kubelet.api.change(|state| {
                let before = state.version;
                controllers::step(state, authority);
                // What it changed itself may lead to more.
                before
            });
        }
    }
}

fn lead(kubelet: &Kubelet) {
    let (mut seen, mut last) = (0, String::new());
    while !kubelet.ends.load(Ordering::Relaxed) {
        let version = kubelet.api.changed_since(seen, LOOK);
        if version == seen {
            continue;
        }
        seen = version;
        let rules = kubelet.api.look(services::rules);
        let applied = rules.and_then(|rules| {
            if rules != last {
                services::apply(&kubelet.node, &rules)?;
            }
            last = rules;
            anyhow::Ok(())
        });
        if let Err(error) = applied {
            eprintln!("kube-proxy: {error:#}");
        }
    }
}

/// Writes how an administrator reaches the server from outside the node.
fn write_kubeconfig(node: &Node, door: &Door, address: SocketAddr) -> Result<PathBuf> {
    let authority = node.files().join("ca.crt");
    fs::write(&authority, &door.authority)?;
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: one-node\n\
         clusters: [{{name: one-node, cluster: {{server: 'https://{address}', certificate-authority: '{}'}}}}]\n\
         users: [{{name: admin, user: {{token: {TOKEN}}}}}]\n\
         contexts: [{{name: one-node, context: {{cluster: one-node, user: admin}}}}]\n",
        authority.display()
    );
    let file = node.files().join("kubeconfig");
    fs::write(&file, text)?;
    Ok(file)
}
