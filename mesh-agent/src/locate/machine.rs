//! What finding workloads needs to know of a machine.
#![forbid(unsafe_code)]

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What a `stat` tells of a file.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Stamp {
    /// Device.
    pub device: u64,
    /// Inode number. The kernel gives that of a namespace that is gone to the next one.
    pub inode: u64,
    /// Time of the last change, in nanoseconds. For a namespace bound to a path it is fixed while it is bound; for one below
    /// `/proc` it is that of some earlier look and means nothing.
    pub changed_ns: i128,
}

impl Stamp {
    /// Returns whether both are the same file by device and inode number.
    pub fn is_same_inode(&self, other: &Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }
}

/// What was seen inside of a network namespace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Visit {
    /// Inode number of the namespace that was entered.
    pub inode: u64,
    /// Its cookie.
    pub cookie: u64,
    /// Its addresses, of every interface.
    pub addresses: Vec<IpAddr>,
}

/// A machine on which workloads run. Two implementations: [`Linux`](crate::locate::linux::Linux), and a small one in tests.
pub trait Machine: std::fmt::Debug {
    /// Returns the stamp of a file, symbolic links followed.
    fn stat(&self, path: &Path) -> io::Result<Stamp>;
    /// Returns when a process started, in ticks since boot: with its ID it tells it from every other process.
    fn start_time(&self, pid: u32) -> io::Result<u64>;
    /// Returns the directory of a cgroup that is given by its path, absolute or relative to the cgroup2 mount.
    fn cgroup_dir(&self, path: &Path) -> PathBuf;
    /// Returns the processes of a cgroup and of those below it. Bounded; not in any order.
    fn cgroup_pids(&self, dir: &Path) -> io::Result<Vec<u32>>;
    /// Returns the cgroup of a process where programs of the agent's cgroup do not see it, if that is known. `dir` is a cgroup that it is
    /// in, where one is known.
    fn outside(&self, pid: u32, dir: Option<&Path>) -> Option<PathBuf>;
    /// Returns the names of the cgroups right below one.
    fn subdirectories(&self, dir: &Path) -> Vec<String>;
    /// Returns where cgroup v2 is mounted, and where v1 is.
    fn cgroup_mounts(&self) -> (Vec<PathBuf>, Vec<PathBuf>);
    /// Returns every network namespace that can be found, once each: a path to open it at, and the stamp of it.
    fn namespaces(&self) -> Vec<(PathBuf, Stamp)>;
    /// Enters each of these namespaces in turn and returns what is seen there.
    fn visit(&self, handles: &[PathBuf]) -> Vec<io::Result<Visit>>;
    /// Returns the cookies of the node's own namespaces: that of the agent and that of process 1.
    fn node_cookies(&self) -> &[u64];
    /// Returns the time since some fixed moment.
    fn now(&self) -> Duration;
}

/// Returns where the network namespace of a process is found.
pub(crate) fn handle_of(pid: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/ns/net"))
}

/// Returns the process that a handle leads through, if it does.
pub(crate) fn pid_of(handle: &Path) -> Option<u32> {
    let pid = handle.to_str()?.strip_prefix("/proc/")?;
    pid.strip_suffix("/ns/net")?.parse().ok()
}
