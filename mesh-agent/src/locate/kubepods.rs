//! Pods in the trees of cgroups, as kubelet and container runtimes name them. No I/O of its own.
//!
//! kubelet makes a cgroup for each pod and names it after the pod's UID; the runtime makes one below it for each container, that of
//! the pod's sandbox included:
//!
//! | kubelet's driver | pod | container |
//! | --- | --- | --- |
//! | `cgroupfs` | `kubepods/burstable/podUID` | `ID`, `crio-ID` |
//! | `systemd` | `kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID.slice`, the UID with `_` for `-` | `cri-containerd-ID.scope`, `crio-ID.scope`, `docker-ID.scope` |
//!
//! The level in the middle is that of the pod's quality of service; a guaranteed pod has none. With `--cgroup-root` all of it lies
//! deeper, and each slice bears the names of those above. Where v1 and v2 are mounted side by side, either may have the processes.
//!
//! A pod of a file on the node has the hash of that as its UID here, and another UID in the API server, which tells the hash by an
//! annotation.
//!
//! The UID leads: no pod can choose its own. Containers' IDs are a check, since the API server learns of them late.
#![forbid(unsafe_code)]

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::locate::find::{By, Lead, Process};
use crate::locate::machine::{Machine, Stamp, handle_of};

/// Cgroups that are looked at for `kubepods`, in one mount: some hundred services and sessions are usual.
const DIRECTORIES: usize = 4096;

/// Levels below a mount at which `kubepods` may lie: `--cgroup-root` gives one or two, a kubelet in a container three or four.
const LEVELS: usize = 6;

/// After a search for `kubepods` that took `t`, the next one is this many times `t` away: at most 0.5 % of a core.
const PAUSE: u32 = 200;

/// But it is never further away than this.
const PAUSE_AT_MOST: Duration = Duration::from_secs(5);

/// Cgroups of pods, by the UIDs that they are named after.
pub(super) type Pods = HashMap<String, Vec<PathBuf>>;

/// Where pods are in the trees.
#[derive(Debug, Default)]
pub(super) struct Kubepods {
    /// Cgroups such as `kubepods`, in the order in which they are asked.
    roots: Vec<PathBuf>,
    /// When they may be searched for again.
    search_at: Duration,
}

impl Kubepods {
    /// Returns the cgroups of all pods. Searches for `kubepods` itself where a pod is missing, now and then.
    ///
    /// Costs three directories to read, whatever the number of pods.
    pub(super) fn list(
        &mut self,
        machine: &impl Machine,
        is_missing: impl Fn(&Pods) -> bool,
    ) -> Pods {
        let pods = pods(machine, &self.roots);
        let start = machine.now();
        if start < self.search_at || !is_missing(&pods) {
            return pods;
        }
        let roots = roots(machine);
        let end = machine.now();
        let pause = end.saturating_sub(start) * PAUSE;
        self.search_at = end + pause.min(PAUSE_AT_MOST);
        if roots == self.roots {
            return pods;
        }
        self.roots = roots;
        self::pods(machine, &self.roots)
    }
}

/// Returns the cgroups below these, by UID.
fn pods(machine: &impl Machine, roots: &[PathBuf]) -> Pods {
    let mut pods = Pods::new();
    for root in roots {
        let mut levels = vec![root.clone()];
        while let Some(dir) = levels.pop() {
            for name in machine.subdirectories(&dir) {
                if let Some(uid) = uid(&name) {
                    pods.entry(uid).or_default().push(dir.join(name));
                } else if is_quality(&name) && dir == *root {
                    levels.push(dir.join(name));
                }
            }
        }
    }
    pods
}

/// Searches all mounts for cgroups such as `kubepods`. One of v1 is enough, they are all alike.
fn roots(machine: &impl Machine) -> Vec<PathBuf> {
    let (v2, v1) = machine.cgroup_mounts();
    let mut roots = Vec::new();
    for mount in v2 {
        roots.extend(roots_in(machine, &mount));
    }
    let mut of_v1 = v1.iter().map(|mount| roots_in(machine, mount));
    roots.extend(of_v1.find(|roots| !roots.is_empty()).unwrap_or_default());
    roots
}

fn roots_in(machine: &impl Machine, mount: &Path) -> Vec<PathBuf> {
    let mut roots = Vec::new();
    let mut dirs = VecDeque::from([(mount.to_owned(), 0)]);
    let mut count = 0;
    while let Some((dir, level)) = dirs.pop_front()
        && count < DIRECTORIES
    {
        count += 1;
        for name in machine.subdirectories(&dir) {
            if is_root(&name) {
                roots.push(dir.join(name));
            } else if level < LEVELS {
                dirs.push_back((dir.join(name), level + 1));
            }
        }
    }
    roots
}

/// Returns what leads to the network namespace of the pod with these cgroups.
///
/// It is that of the pod's oldest process: the sandbox's comes first, and what a container makes of its own namespaces comes later.
/// Processes in the node's own are a runtime's, such as CRI-O's monitors.
///
/// # Errors
///
/// When there is none, with the reason in words.
pub(super) fn lead(machine: &impl Machine, dirs: &[PathBuf]) -> Result<Lead, String> {
    let mut why = "its cgroup is gone".to_owned();
    for dir in dirs {
        match lead_of(machine, dir) {
            Ok(lead) => return Ok(lead),
            Err(words) => why = words,
        }
    }
    Err(why)
}

fn lead_of(machine: &impl Machine, dir: &Path) -> Result<Lead, String> {
    let shown = dir.display();
    let gone = |_| format!("its cgroup `{shown}` is gone");
    let stamp = machine.stat(dir).map_err(gone)?;
    let node = node_namespaces(machine);
    let (mut oldest, mut on_node) = (None::<(Process, Stamp)>, 0);
    for pid in machine.cgroup_pids(dir).map_err(gone)? {
        // One that ended meanwhile does not count.
        let (Ok(start), Ok(netns)) = (machine.start_time(pid), machine.stat(&handle_of(pid)))
        else {
            continue;
        };
        if node.iter().any(|of_node| of_node.is_same_inode(&netns)) {
            on_node += 1;
            continue;
        }
        let process = Process { pid, start };
        let age = |process: &Process| (process.start, process.pid);
        if oldest.is_none_or(|(other, _)| age(&process) < age(&other)) {
            oldest = Some((process, netns));
        }
    }
    match oldest {
        Some((process, netns)) => Ok(Lead {
            handle: handle_of(process.pid),
            netns,
            process: Some(process),
            cgroup: Some((dir.to_owned(), stamp)),
            by: By::Uid {
                containers: containers(machine, dir),
            },
        }),
        None if on_node > 0 => Err(format!(
            "all processes of its cgroup `{shown}` are in the node's own network namespace"
        )),
        None => Err(format!(
            "its cgroup `{shown}` has no processes: nothing of it runs yet, or any more"
        )),
    }
}

/// Returns the IDs of the containers that a pod's cgroup holds.
pub(super) fn containers(machine: &impl Machine, dir: &Path) -> Vec<String> {
    let names = machine.subdirectories(dir).into_iter();
    let ids = names.filter_map(|name| container(&name).map(str::to_owned));
    ids.collect()
}

fn node_namespaces(machine: &impl Machine) -> Vec<Stamp> {
    let handles = [handle_of(1), "/proc/self/ns/net".into()];
    let stamps = handles.iter().filter_map(|it| machine.stat(it).ok());
    stamps.collect()
}

/// Returns which pod each network namespace is of, by inode number, as far as their cgroups tell.
pub(super) fn namespaces(machine: &impl Machine, pods: &Pods) -> HashMap<u64, String> {
    let leads = pods
        .iter()
        .filter_map(|(uid, dirs)| Some((lead(machine, dirs).ok()?.netns.inode, uid.clone())));
    leads.collect()
}

/// Returns whether all pods are below a cgroup of this name.
fn is_root(name: &str) -> bool {
    let slice = name.strip_suffix(".slice");
    slice.map_or(name, |slice| {
        slice.rsplit_once('-').map_or(slice, |(_, last)| last)
    }) == "kubepods"
}

/// Returns whether the pods of a quality of service are below a cgroup of this name.
fn is_quality(name: &str) -> bool {
    let slice = name.strip_suffix(".slice");
    let level = match slice {
        Some(slice) => slice.rsplit_once("kubepods-").map(|(_, level)| level),
        None => Some(name),
    };
    matches!(level, Some("burstable" | "besteffort"))
}

/// Returns the UID of the pod that a cgroup of this name is of.
fn uid(name: &str) -> Option<String> {
    let uid = match name.strip_suffix(".slice") {
        // To systemd a `-` is a level, so there is none in the UID.
        Some(slice) => slice.rsplit_once("-pod")?.1.replace('_', "-"),
        None => name.strip_prefix("pod")?.to_owned(),
    };
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    (!uid.is_empty() && uid.bytes().all(is_plain)).then_some(uid)
}

/// Returns the ID of the container that a cgroup of this name is of.
fn container(name: &str) -> Option<&str> {
    /// Bytes of an ID, in hexadecimal.
    const ID: usize = 64;
    let name = name.strip_suffix(".scope").unwrap_or(name);
    let id = name.rsplit_once('-').map_or(name, |(_, id)| id);
    let is_id = id.len() == ID && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_id.then_some(id)
}

#[cfg(test)]
mod tests;
