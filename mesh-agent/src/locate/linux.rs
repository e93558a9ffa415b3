//! The machine that the agent runs on, seen through `/proc`, the cgroup file systems and network namespaces.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::locate::machine::{Machine, Stamp, Visit, handle_of};
use crate::locate::visit;

/// Where `ip netns` keeps namespaces.
const NETNS_DIR: &str = "/run/netns";
/// Processes of one cgroup that are looked at: more than a pod may have by default on any Kubernetes (`podPidsLimit`).
const CGROUP_PIDS: usize = 4096;
/// Cgroups below one that are looked at, so that a cgroup that delegates to a whole system takes no longer than a pod.
const CGROUPS: usize = 256;

/// This machine.
#[derive(Debug)]
pub struct Linux {
    cgroup2: Option<PathBuf>,
    /// The cgroup whose processes the agent's programs see, unless they see all.
    seen: Option<Stamp>,
    cgroup1: Vec<PathBuf>,
    node_cookies: Vec<u64>,
    start: Instant,
}

impl Linux {
    /// Looks at the machine for what does not change: the cgroup2 mount and the node's own namespaces. `attached` is the cgroup that the
    /// agent's programs are attached to: processes elsewhere are not captured.
    ///
    /// # Errors
    ///
    /// When the agent's own network namespace cannot be entered, which takes root; or on a kernel before 5.14.
    pub fn new(attached: Option<&Path>) -> io::Result<Self> {
        let mut visits = visit::visit_all(&["/proc/self/ns/net".into(), handle_of(1)]).into_iter();
        let own = visits
            .next()
            .unwrap_or_else(|| Err(io::ErrorKind::Other.into()))?;
        let mut node_cookies = vec![own.cookie];
        // In a container without the node's PID namespace, process 1 is the agent's.
        node_cookies.extend(visits.flatten().map(|visit| visit.cookie));
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let cgroup2 = cgroup_mounts(&mounts, "cgroup2").into_iter().next();
        let root = cgroup2.as_deref().and_then(|root| stamp(root).ok());
        let seen = attached.and_then(|cgroup| stamp(cgroup).ok());
        Ok(Self {
            cgroup2,
            seen: seen.filter(|seen| root.is_none_or(|root| !root.is_same_inode(seen))),
            cgroup1: cgroup_mounts(&mounts, "cgroup"),
            node_cookies,
            start: Instant::now(),
        })
    }
}

impl Machine for Linux {
    fn stat(&self, path: &Path) -> io::Result<Stamp> {
        stamp(path)
    }

    fn start_time(&self, pid: u32) -> io::Result<u64> {
        // The entry of the thread, not of the process: that one adds up all its threads first.
        let stat = fs::read(format!("/proc/{pid}/task/{pid}/stat"))?;
        start_time(&stat).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    fn cgroup_dir(&self, path: &Path) -> PathBuf {
        // `/proc/PID/cgroup` shows paths from the mount on, with a `/` first: those are meant where no such directory is.
        if path.is_absolute() && path.is_dir() {
            return path.to_owned();
        }
        match &self.cgroup2 {
            Some(mount) => mount.join(path.strip_prefix("/").unwrap_or(path)),
            None => path.to_owned(),
        }
    }

    fn cgroup_pids(&self, dir: &Path) -> io::Result<Vec<u32>> {
        let mut pids = pids_in(dir)?;
        // The upper ones first: those of containers, before what a container makes below its own.
        let mut dirs: VecDeque<PathBuf> = subdirectories(dir).collect();
        let mut count = 0;
        while let Some(dir) = dirs.pop_front()
            && pids.len() < CGROUP_PIDS
            && count < CGROUPS
        {
            // One that is gone meanwhile, or is of threads, has no processes.
            pids.extend(pids_in(&dir).unwrap_or_default());
            dirs.extend(subdirectories(&dir));
            count += 1;
        }
        pids.truncate(CGROUP_PIDS);
        Ok(pids)
    }

    fn outside(&self, pid: u32, dir: Option<&Path>) -> Option<PathBuf> {
        let (seen, mount) = (self.seen.as_ref()?, self.cgroup2.as_ref()?);
        let dir = match dir.filter(|dir| dir.starts_with(mount)) {
            Some(dir) => dir.to_owned(),
            None => {
                let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
                let dir = mount.join(unified(&text)?);
                // Where the agent has a namespace of cgroups, those beside its own are not told by a path that leads there.
                dir.is_dir().then_some(dir)?
            }
        };
        let mut above = dir.ancestors().filter_map(|dir| stamp(dir).ok());
        let is_seen = above.any(|stamp| stamp.is_same_inode(seen));
        (!is_seen).then_some(dir)
    }

    fn subdirectories(&self, dir: &Path) -> Vec<String> {
        let names = subdirectories(dir).filter_map(|path| Some(path.file_name()?.to_str()?.into()));
        names.collect()
    }

    fn cgroup_mounts(&self) -> (Vec<PathBuf>, Vec<PathBuf>) {
        (self.cgroup2.iter().cloned().collect(), self.cgroup1.clone())
    }

    fn namespaces(&self) -> Vec<(PathBuf, Stamp)> {
        let named = names(NETNS_DIR).map(|name| Path::new(NETNS_DIR).join(name));
        let mut pids: Vec<u32> = names("/proc")
            .filter_map(|name| name.parse().ok())
            .collect();
        // The first process of a namespace is likely to be the last to go.
        pids.sort_unstable();
        let mut found: BTreeMap<u64, (PathBuf, Stamp)> = BTreeMap::new();
        for handle in named.chain(pids.into_iter().map(handle_of)) {
            if let Ok(stamp) = self.stat(&handle) {
                found.entry(stamp.inode).or_insert((handle, stamp));
            }
        }
        found.into_values().collect()
    }

    fn visit(&self, handles: &[PathBuf]) -> Vec<io::Result<Visit>> {
        visit::visit_all(handles)
    }

    fn node_cookies(&self) -> &[u64] {
        &self.node_cookies
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }
}

fn stamp(path: &Path) -> io::Result<Stamp> {
    let metadata = fs::metadata(path)?;
    Ok(Stamp {
        device: metadata.dev(),
        inode: metadata.ino(),
        changed_ns: i128::from(metadata.ctime()) * 1_000_000_000
            + i128::from(metadata.ctime_nsec()),
    })
}

fn names(dir: &str) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}

fn pids_in(cgroup: &Path) -> io::Result<Vec<u32>> {
    let procs = fs::read_to_string(cgroup.join("cgroup.procs"))?;
    Ok(procs.lines().filter_map(|pid| pid.parse().ok()).collect())
}

fn subdirectories(dir: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|sort| sort.is_dir()))
        .map(|entry| entry.path())
}

/// Returns where whole trees of cgroups are mounted, from `/proc/self/mountinfo` (proc_pid_mountinfo(5)), those first that show most.
///
/// A process in a cgroup namespace of its own, as in a container, sees the root of that as `/`, and what lies above as `/..`: there
/// the machine's own tree is the one with most of them.
fn cgroup_mounts(mounts: &str, sort: &str) -> Vec<PathBuf> {
    let mut found: Vec<(usize, PathBuf)> = Vec::new();
    for line in mounts.lines() {
        let Some((mount, system)) = line.split_once(" - ") else {
            continue;
        };
        let mut fields = mount.split(' ').skip(3);
        let (Some(root), Some(point)) = (fields.next(), fields.next()) else {
            continue;
        };
        let mut above = root.split('/').filter(|part| !part.is_empty());
        if system.split(' ').next() == Some(sort) && above.all(|part| part == "..") {
            let point = PathBuf::from(point.replace("\\040", " "));
            found.push((root.matches("..").count(), point));
        }
    }
    let most = found.iter().map(|(above, _)| *above).max().unwrap_or(0);
    found.retain(|(above, _)| *above == most);
    found.into_iter().map(|(_, point)| point).collect()
}

/// Returns the path in the tree of v2 from `/proc/PID/cgroup` (cgroups(7)), without what leads above the reader's own namespace.
fn unified(text: &str) -> Option<PathBuf> {
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    let path = path.strip_suffix(" (deleted)").unwrap_or(path);
    let parts = path.split('/').filter(|part| !part.is_empty());
    Some(parts.skip_while(|part| *part == "..").collect())
}

/// Returns field 22 of `/proc/PID/stat` (proc_pid_stat(5)). The name of the program before it may hold anything.
fn start_time(stat: &[u8]) -> Option<u64> {
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let fields = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
    // The field after the name is the third.
    fields.split_ascii_whitespace().nth(22 - 3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{cgroup_mounts, start_time, unified};

    #[test]
    fn the_path_of_v2_is_found_beside_v1() {
        let hybrid = "12:pids:/kubepods/podx\n1:name=systemd:/a\n0::/kubepods/podx\n";
        assert_eq!(unified(hybrid).as_deref(), Some(Path::new("kubepods/podx")));
        let above = unified("0::/../../system.slice/a (deleted)\n");
        assert_eq!(above.as_deref(), Some(Path::new("system.slice/a")));
        assert_eq!(unified("0::/\n").as_deref(), Some(Path::new("")));
        assert_eq!(unified("3:pids:/x\n"), None);
    }

    #[test]
    fn the_start_is_found_behind_any_name() {
        let rest = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20";
        let stat = |name: &str| format!("77 ({name}) {rest}").into_bytes();
        assert_eq!(start_time(&stat("sh")), Some(4711));
        assert_eq!(start_time(&stat("a) R 1 (")), Some(4711));
        assert_eq!(start_time(b"77 (sh"), None);
        assert_eq!(start_time(b""), None);
    }

    #[test]
    fn whole_trees_are_found_on_a_hybrid_machine() {
        let mounts = "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
            33 31 0:30 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
            40 31 0:38 /part /elsewhere rw - cgroup2 cgroup2 rw\n\
            41 31 0:38 / /sys/fs/cgroup/uni\\040fied rw shared:1 - cgroup2 cgroup2 rw\n";
        let paths = |sort| cgroup_mounts(mounts, sort);
        assert_eq!(paths("cgroup2"), [Path::new("/sys/fs/cgroup/uni fied")]);
        let v1 = ["/sys/fs/cgroup/cpu", "/sys/fs/cgroup/systemd"];
        assert_eq!(paths("cgroup"), v1.map(Path::new));
        assert!(cgroup_mounts("", "cgroup2").is_empty());
    }

    #[test]
    fn from_a_container_the_machines_own_tree_is_found() {
        let mounts = "40 31 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup rw\n\
            41 31 0:38 /../../.. /host/cgroup rw - cgroup2 cgroup rw\n\
            42 31 0:38 /../../../kubepods /host/pods rw - cgroup2 cgroup rw\n";
        assert_eq!(
            cgroup_mounts(mounts, "cgroup2"),
            [Path::new("/host/cgroup")]
        );
    }
}
