//! A pod: a network namespace, a cgroup, addresses, and the programs in it.

use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::node::Node;
use crate::process::Running;
use crate::{cgroup, memory, netns};

/// A pod on a [`Node`], which it keeps standing.
#[derive(Debug, Clone)]
pub struct Pod {
    node: Node,
    place: Place,
}

#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) name: String,
    pub(crate) netns: String,
    pub(crate) cgroup: PathBuf,
    /// In the memory controller's own tree, where there is one.
    pub(crate) memory_cgroup: Option<PathBuf>,
    /// Directory for logs.
    pub(crate) files: PathBuf,
    pub(crate) v4: Ipv4Addr,
    pub(crate) v6: Ipv6Addr,
}

impl Pod {
    pub(crate) fn new(node: Node, place: Place) -> Self {
        Self { node, place }
    }

    /// Returns this pod with another cgroup, for what is started in it from here on.
    pub(crate) fn within(&self, cgroup: PathBuf) -> Self {
        let mut pod = self.clone();
        pod.place.cgroup = cgroup;
        pod
    }

    /// Returns this pod with a memory cgroup of its own for what is started in it from here on, as each container of a pod has.
    /// Where memory is accounted in the cgroup2 tree it is this pod as it is.
    ///
    /// # Errors
    /// When the cgroup cannot be made.
    pub fn container(&self, name: &str) -> Result<Self> {
        let mut pod = self.clone();
        let own = self.place.memory_cgroup.as_ref();
        pod.place.memory_cgroup = own.map(|path| cgroup::make(path.join(name))).transpose()?;
        Ok(pod)
    }

    /// Returns its name.
    pub fn name(&self) -> &str {
        &self.place.name
    }

    /// Returns the node that it is on.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Returns its IPv4 address.
    pub fn v4(&self) -> Ipv4Addr {
        self.place.v4
    }

    /// Returns its IPv6 address.
    pub fn v6(&self) -> Ipv6Addr {
        self.place.v6
    }

    /// Returns its addresses, IPv4 first.
    pub fn addresses(&self) -> [IpAddr; 2] {
        [self.v4().into(), self.v6().into()]
    }

    /// Returns the name of its network namespace.
    pub fn netns(&self) -> &str {
        &self.place.netns
    }

    /// Returns the path of its network namespace.
    pub fn netns_path(&self) -> PathBuf {
        netns::path(&self.place.netns)
    }

    /// Returns its cgroup in the cgroup2 tree.
    pub fn cgroup(&self) -> &Path {
        &self.place.cgroup
    }

    /// Returns a command that will run in this pod: in its cgroups and its network namespace. The process that is started
    /// becomes the program itself, so its number and its end are the program's.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut cgroups = vec![self.cgroup()];
        cgroups.extend(self.place.memory_cgroup.as_deref());
        wrap(&cgroups, &self.place.netns, program.as_ref())
    }

    /// Starts `command` (of [`Pod::command`]), with its output in a file named after `name`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&self, name: &str, command: &mut Command) -> Result<Running> {
        let log = self
            .place
            .files
            .join(format!("{}-{name}.log", self.place.name));
        Running::start(&format!("{name} in pod {}", self.place.name), command, log)
    }

    /// Returns what `work` returns on a thread inside this pod's network namespace. Its sockets are in the pod's namespace,
    /// but the cgroup stays the caller's.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        netns::enter(&self.place.netns, work)
    }

    /// Limits the memory of the pod's processes, and what the kernel charges to them.
    ///
    /// # Errors
    /// When the memory controller is not to be had.
    pub fn limit_memory(&self, bytes: u64) -> Result<()> {
        memory::set_limit(self.memory_cgroup(), bytes)
    }

    /// Returns the memory charged to the pod in bytes.
    ///
    /// # Errors
    /// When the memory controller is not to be had.
    pub fn charged_memory(&self) -> Result<u64> {
        memory::charged(self.memory_cgroup())
    }

    /// Returns the CPU time that the pod's processes have used, those that have ended included.
    ///
    /// # Errors
    /// When the cgroup tree does not count it.
    pub fn cpu_time(&self) -> Result<Duration> {
        let path = self.cgroup().join("cpu.stat");
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("failed to read `{}`", path.display()))?;
        let micros = text
            .lines()
            .find_map(|line| line.strip_prefix("usage_usec "));
        let micros = micros.and_then(|micros| micros.parse().ok());
        micros
            .map(Duration::from_micros)
            .with_context(|| format!("`{}` has no `usage_usec`", path.display()))
    }

    fn memory_cgroup(&self) -> &Path {
        let own = self.place.memory_cgroup.as_deref();
        own.unwrap_or(&self.place.cgroup)
    }

    /// Lets every core take part in receiving on this pod's link (RPS), as many nodes are set up.
    ///
    /// # Errors
    /// When the link has no such setting.
    pub fn spread_receiving(&self) -> Result<()> {
        // `ip netns exec` mounts the namespace's own sysfs, which alone has its devices.
        let cores = std::thread::available_parallelism()
            .map_or(1, usize::from)
            .min(32);
        let mask = (1u64 << cores) - 1;
        let write = format!(
            "for f in /sys/class/net/eth0/queues/rx-*/rps_cpus; do echo {mask:x} > $f || exit; done"
        );
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.place.netns, "sh", "-c", &write]);
        crate::command::output_of(&mut command)
            .map(drop)
            .context("failed to set up RPS")
    }

    /// Lets this pod's link send at `rate` (in words of `tc`) only, after `burst_bytes` at once; longer packets are lost.
    ///
    /// # Errors
    /// When there is no `tc`, or it refuses.
    pub fn slow_sending(&self, rate: &str, burst_bytes: u32) -> Result<()> {
        let mut command = Command::new("tc");
        command.args(["-n", &self.place.netns]);
        let line = format!("qdisc add dev eth0 root tbf rate {rate} burst {burst_bytes} limit 1mb");
        command.args(line.split(' '));
        crate::command::output_of(&mut command)
            .map(drop)
            .context("failed to slow a link")
    }
}

/// Returns a command that moves itself to the cgroups and the network namespace, and then becomes `program`.
pub(crate) fn wrap(cgroups: &[&Path], netns: &str, program: &OsStr) -> Command {
    // `nsenter` and not `ip netns exec`: that would also give the program a mount namespace of its own.
    let script = "while [ \"$1\" != -- ]; do echo $$ > \"$1/cgroup.procs\" || exit 125; shift; done; shift; \
                  exec nsenter --net=\"$0\" -- \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", script]).arg(netns::path(netns));
    command.args(cgroups).arg("--").arg(program);
    command
}
