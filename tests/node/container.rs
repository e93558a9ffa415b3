//! What a container runtime made of a container: its process, as the kernel has it.

use std::fs;

use harness::{KubeNode, cgroup};
use serde_json::Value;

/// The first process of a container.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    status: String,
}

impl Process {
    /// Finds it by the cgroup that kubelet's driver `cgroupfs` would have given it, in the tree that programs are attached to.
    pub(crate) fn of(cluster: &KubeNode, pod: &Value) -> Self {
        let id = &pod["status"]["containerStatuses"][0]["containerID"];
        let id = id.as_str().unwrap().strip_prefix("containerd://").unwrap();
        let uid = pod["metadata"]["uid"].as_str().unwrap();
        let quality = pod["status"]["qosClass"].as_str().unwrap().to_lowercase();
        let own = cluster.node().cgroup().unwrap();
        assert!(own.starts_with(cgroup::unified_mount().unwrap()));
        let path = own.join(format!("kubepods/{quality}/pod{uid}/{id}/cgroup.procs"));
        let pids = fs::read_to_string(&path);
        let pids = pids.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let pid = pids.lines().next().unwrap().parse().unwrap();
        Self {
            pid,
            status: fs::read_to_string(format!("/proc/{pid}/status")).unwrap(),
        }
    }

    /// Returns a field of `/proc/PID/status` (proc(5)), its words with one blank in between.
    pub(crate) fn field(&self, name: &str) -> String {
        let mut lines = self.status.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let words: Vec<&str> = value.unwrap().split_whitespace().collect();
        words.join(" ")
    }

    /// Returns the options of a mount of its own.
    pub(crate) fn mount(&self, at: &str) -> String {
        let text = fs::read_to_string(format!("/proc/{}/mountinfo", self.pid)).unwrap();
        let lines = text.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let mut lines = lines.filter(|words| words[4] == at);
        lines.next_back().unwrap()[5].to_owned()
    }
}
