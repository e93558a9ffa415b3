//! A node: a network namespace with a bridge, and a cgroup.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context, Result};

use crate::pod::{Place, Pod};
use crate::process::Running;
use crate::scope::Scope;
use crate::{cgroup, command, netns};

/// The bridge's name inside the node's namespace.
pub(crate) const BRIDGE: &str = "br0";

/// A node without pods yet. What belongs to it goes away when it and its pods are dropped.
#[derive(Debug, Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    scope: Scope,
    cgroup: PathBuf,
    /// Goes after its children: their processes are in its cgroup.
    _parent: Option<Node>,
    pods: AtomicU16,
}

impl Node {
    /// Makes a node: its namespace, its bridge and its cgroup.
    ///
    /// # Errors
    /// Without root, `ip`, or a cgroup2 tree.
    pub fn new() -> Result<Self> {
        Self::under(None)
    }

    /// Makes a node whose cgroup lies within another's, so that the hooks of that one's agent see its pods too. Its network
    /// is its own, with the same addresses.
    ///
    /// # Errors
    /// As [`Node::new`].
    pub fn within(other: &Self) -> Result<Self> {
        Self::under(Some(other.clone()))
    }

    fn under(parent: Option<Self>) -> Result<Self> {
        let scope = Scope::new()?;
        let cgroup = match &parent {
            Some(parent) => parent.cgroup()?.join(scope.id()),
            None => scope.cgroup()?,
        };
        cgroup::make(cgroup.clone())?;
        let netns = format!("{}-node", scope.id());
        netns::make(&netns)?;
        let (v4, v6) = addresses(1);
        let lines = format!(
            "link add {BRIDGE} type bridge\naddr add {v4}/16 dev {BRIDGE}\naddr add {v6}/64 dev {BRIDGE} nodad\n\
             link set {BRIDGE} up\n"
        );
        command::ip(Some(&netns), &lines)?;
        fs::create_dir_all(scope.directory().join("manifests"))
            .context("failed to make a directory")?;
        let inner = Inner {
            cgroup,
            _parent: parent,
            scope,
            pods: AtomicU16::new(1),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Leaves out the addresses of so many pods. Nodes have the same ones, and where nothing but its address leads to a pod, no other node's
    /// may have it, either.
    pub fn leave_out(&self, pods: u16) {
        self.inner.pods.fetch_add(pods, Ordering::Relaxed);
    }

    /// Adds a pod on the bridge.
    ///
    /// # Errors
    /// When `ip` or the cgroup tree refuses.
    pub fn pod(&self, name: &str) -> Result<Pod> {
        let (pod, number) = self.bare_pod(name)?;
        let (node, link) = (self.netns(), format!("v{number}"));
        let lines = format!(
            "link add {link} type veth peer name eth0 netns {}\nlink set {link} master {BRIDGE} up\n",
            pod.netns()
        );
        command::ip(Some(&node), &lines)?;
        let mut lines = address_lines(&pod, "eth0");
        let (v4, v6) = addresses(1);
        let routes = writeln!(
            lines,
            "route add default via {v4}\nroute add default via {v6}"
        );
        routes.context("failed to format")?;
        command::ip(Some(pod.netns()), &lines)?;
        Ok(pod)
    }

    /// Adds a pod with a link of its own to the node, which routes: what it sends to other pods passes the node's rules.
    ///
    /// # Errors
    /// When `ip` or the cgroup tree refuses.
    pub fn routed_pod(&self, name: &str) -> Result<Pod> {
        let (pod, number) = self.bare_pod(name)?;
        let link = format!("v{number}");
        let (v4, v6) = (pod.v4(), pod.v6());
        let lines = format!(
            "link add {link} type veth peer name eth0 netns {}\naddr add 169.254.77.1/32 dev {link}\n\
             addr add fe80::77/64 dev {link} nodad\nlink set {link} up\nroute add {v4}/32 dev {link}\n\
             route add {v6}/128 dev {link}\n",
            pod.netns()
        );
        command::ip(Some(&self.netns()), &lines)?;
        let lines = format!(
            "addr add {v4}/32 dev eth0\naddr add {v6}/128 dev eth0 nodad\nlink set eth0 up\n\
             route add 169.254.77.1 dev eth0\nroute add default via 169.254.77.1 dev eth0\n\
             route add default via fe80::77 dev eth0\n"
        );
        command::ip(Some(pod.netns()), &lines)?;
        let forward = || {
            fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
            fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1")
        };
        self.enter(forward)?
            .context("failed to let the node forward")?;
        Ok(pod)
    }

    /// Adds two pods that one veth pair joins, with nothing between them: the shortest way two namespaces can have.
    ///
    /// # Errors
    /// When `ip` or the cgroup tree refuses.
    pub fn pair(&self, first: &str, second: &str) -> Result<(Pod, Pod)> {
        let (first, _) = self.bare_pod(first)?;
        let (second, _) = self.bare_pod(second)?;
        let lines = format!(
            "link add eth0 type veth peer name eth0 netns {}\n",
            second.netns()
        );
        command::ip(Some(first.netns()), &lines)?;
        for pod in [&first, &second] {
            command::ip(Some(pod.netns()), &address_lines(pod, "eth0"))?;
        }
        Ok((first, second))
    }

    /// Makes a pod with its own namespace, cgroups and addresses, but no link.
    fn bare_pod(&self, name: &str) -> Result<(Pod, u16)> {
        let scope = &self.inner.scope;
        let number = self.inner.pods.fetch_add(1, Ordering::Relaxed) + 1;
        let netns = format!("{}-{name}", scope.id());
        netns::make(&netns)?;
        let unified = cgroup::make(self.cgroup()?.join(name))?;
        let memory = scope.memory_cgroup()?;
        let memory = memory
            .map(|path| cgroup::make(path.join(name)))
            .transpose()?;
        let (v4, v6) = addresses(number);
        let place = Place {
            name: name.to_owned(),
            netns,
            cgroup: unified,
            memory_cgroup: memory,
            files: scope.directory().to_owned(),
            v4,
            v6,
        };
        Ok((Pod::new(self.clone(), place), number))
    }

    /// Returns the name of the node's own network namespace.
    pub fn netns(&self) -> String {
        format!("{}-node", self.inner.scope.id())
    }

    /// Returns the node's cgroup, which holds those of its pods and its agent.
    ///
    /// # Errors
    /// When no cgroup2 tree is mounted.
    pub fn cgroup(&self) -> Result<PathBuf> {
        Ok(self.inner.cgroup.clone())
    }

    /// Returns the directory that is the node's own in the bpf file system. It is not made yet, and goes with the node.
    ///
    /// # Errors
    /// When the mounts cannot be read.
    pub fn bpf_directory(&self) -> Result<PathBuf> {
        self.inner.scope.bpf_directory()
    }

    /// Returns the directory that the node's agent reads manifests from.
    pub fn manifests(&self) -> PathBuf {
        self.inner.scope.directory().join("manifests")
    }

    /// Returns a directory for files of this node.
    pub fn files(&self) -> &Path {
        self.inner.scope.directory()
    }

    /// Returns a command that will run in the node's own namespace, outside every pod.
    ///
    /// # Errors
    /// When the cgroup `agent` beside the pods cannot be made.
    pub fn command(&self, program: &Path) -> Result<Command> {
        let cgroup = cgroup::make(self.cgroup()?.join("agent"))?;
        Ok(crate::pod::wrap(
            &[cgroup.as_path()],
            &self.netns(),
            program.as_os_str(),
        ))
    }

    /// Starts `command` (of [`Node::command`], for one), with its output in a file named after `name`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&self, name: &str, command: &mut Command) -> Result<Running> {
        Running::start(name, command, self.files().join(format!("{name}.log")))
    }

    /// Returns what `work` returns on a thread inside the node's own namespace.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        netns::enter(&self.netns(), work)
    }

    pub(crate) fn scope(&self) -> &Scope {
        &self.inner.scope
    }
}

/// Returns the addresses of pod `number`; the bridge is number 1. Nodes use the same ones: each is a world of its own.
fn addresses(number: u16) -> (Ipv4Addr, Ipv6Addr) {
    let [high, low] = number.to_be_bytes();
    let v6 = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, number);
    (Ipv4Addr::new(10, 77, high, low), v6)
}

fn address_lines(pod: &Pod, device: &str) -> String {
    format!(
        "addr add {}/16 dev {device}\naddr add {}/64 dev {device} nodad\nlink set {device} up\n",
        pod.v4(),
        pod.v6()
    )
}
