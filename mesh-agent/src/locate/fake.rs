//! A machine in memory, for tests.
#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use crate::locate::machine::{Machine, Stamp, Visit, handle_of};

/// Inode number of the node's own network namespace.
pub(super) const NODE: u64 = 1;
/// Its cookie.
const NODE_COOKIE: u64 = 1;

/// A machine that a test changes. Clones are the same machine.
#[derive(Clone, Debug, Default)]
pub(super) struct Fake(Rc<State>);

#[derive(Debug, Default)]
struct State {
    /// By inode number: cookie and addresses.
    namespaces: RefCell<BTreeMap<u64, (u64, Vec<IpAddr>)>>,
    /// By PID: start and namespace; no namespace once it ended.
    processes: RefCell<BTreeMap<u32, (u64, Option<u64>)>>,
    /// Paths with what is bound to them, and since when.
    paths: RefCell<BTreeMap<PathBuf, (u64, i128)>>,
    /// Cgroups with their inode numbers and processes.
    cgroups: RefCell<BTreeMap<PathBuf, (u64, Vec<u32>)>>,
    counter: Cell<u64>,
    visits: Cell<usize>,
    /// Directories of cgroups that were read.
    reads: Cell<usize>,
    now: Cell<Duration>,
    search_takes: Cell<Duration>,
    /// The cgroup that programs are attached to.
    seen: RefCell<Option<PathBuf>>,
}

impl Fake {
    /// Returns a machine with its own namespace, in which process 1 runs, and nothing else.
    pub(super) fn new() -> Self {
        let fake = Self::default();
        fake.0.counter.set(100);
        let own = (NODE_COOKIE, vec!["192.0.2.1".parse().unwrap()]);
        fake.0.namespaces.borrow_mut().insert(NODE, own);
        fake.start(1, NODE);
        fake
    }

    fn count(&self) -> u64 {
        self.0.counter.set(self.0.counter.get() + 1);
        self.0.counter.get()
    }

    /// Makes a namespace, or replaces it by another one with the same inode number.
    pub(super) fn namespace(&self, inode: u64, addresses: &[&str]) {
        let addresses = addresses.iter().map(|address| address.parse().unwrap());
        let namespace = (self.count(), addresses.collect());
        self.0.namespaces.borrow_mut().insert(inode, namespace);
    }

    /// Changes the addresses of a namespace.
    pub(super) fn readdress(&self, inode: u64, addresses: &[&str]) {
        let addresses = addresses.iter().map(|address| address.parse().unwrap());
        let mut namespaces = self.0.namespaces.borrow_mut();
        namespaces.get_mut(&inode).unwrap().1 = addresses.collect();
    }

    /// Starts a process, in the place of one that has this ID.
    pub(super) fn start(&self, pid: u32, inode: u64) {
        let process = (self.count(), Some(inode));
        self.0.processes.borrow_mut().insert(pid, process);
    }

    /// Ends a process but leaves its entry, as its parent does that does not wait for it.
    pub(super) fn zombie(&self, pid: u32) {
        self.0.processes.borrow_mut().get_mut(&pid).unwrap().1 = None;
    }

    pub(super) fn kill(&self, pid: u32) {
        self.0.processes.borrow_mut().remove(&pid);
        for (_, pids) in self.0.cgroups.borrow_mut().values_mut() {
            pids.retain(|other| *other != pid);
        }
    }

    pub(super) fn bind(&self, path: &str, inode: u64) {
        let bound = (inode, i128::from(self.count()));
        self.0.paths.borrow_mut().insert(path.into(), bound);
    }

    pub(super) fn unbind(&self, path: &str) {
        self.0.paths.borrow_mut().remove(Path::new(path));
    }

    /// Makes a cgroup with processes, in the place of one that is there, and those above it that are not.
    pub(super) fn cgroup(&self, path: &str, pids: &[u32]) {
        for above in Path::new(path).ancestors().skip(1) {
            let empty = (self.count(), Vec::new());
            let mut cgroups = self.0.cgroups.borrow_mut();
            cgroups.entry(above.to_owned()).or_insert(empty);
        }
        let cgroup = (self.count(), pids.to_vec());
        self.0.cgroups.borrow_mut().insert(path.into(), cgroup);
    }

    pub(super) fn remove_cgroup(&self, path: &str) {
        let mut cgroups = self.0.cgroups.borrow_mut();
        cgroups.retain(|other, _| !other.starts_with(path));
    }

    /// Attaches the agent's programs to a cgroup.
    pub(super) fn attach(&self, path: &str) {
        *self.0.seen.borrow_mut() = Some(path.into());
    }

    /// Returns how many namespaces were entered so far.
    pub(super) fn visits(&self) -> usize {
        self.0.visits.get()
    }

    /// Returns how many directories of cgroups were read so far.
    pub(super) fn reads(&self) -> usize {
        self.0.reads.get()
    }

    pub(super) fn let_search_take(&self, time: Duration) {
        self.0.search_takes.set(time);
    }

    pub(super) fn pass(&self, time: Duration) {
        self.0.now.set(self.0.now.get() + time);
    }

    /// Returns the namespace that a handle leads to, and since when.
    fn resolve(&self, handle: &Path) -> Option<(u64, i128)> {
        if let Some(pid) = crate::locate::machine::pid_of(handle) {
            let (_, inode) = *self.0.processes.borrow().get(&pid)?;
            // Never the same time twice, as below a real `/proc`.
            return Some((inode?, i128::from(self.count())));
        }
        self.0.paths.borrow().get(handle).copied()
    }

    fn enter(&self, handle: &Path) -> io::Result<Visit> {
        self.0.visits.set(self.0.visits.get() + 1);
        let (inode, _) = self.resolve(handle).ok_or(io::ErrorKind::NotFound)?;
        let namespaces = self.0.namespaces.borrow();
        let (cookie, addresses) = namespaces.get(&inode).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Visit {
            inode,
            cookie: *cookie,
            addresses: addresses.clone(),
        })
    }
}

impl Machine for Fake {
    fn stat(&self, path: &Path) -> io::Result<Stamp> {
        let cgroup = self
            .0
            .cgroups
            .borrow()
            .get(path)
            .map(|(inode, _)| (*inode, 0));
        let (inode, changed_ns) = cgroup
            .or_else(|| self.resolve(path))
            .ok_or(io::ErrorKind::NotFound)?;
        Ok(Stamp {
            device: 4,
            inode,
            changed_ns,
        })
    }

    fn start_time(&self, pid: u32) -> io::Result<u64> {
        let processes = self.0.processes.borrow();
        Ok(processes.get(&pid).ok_or(io::ErrorKind::NotFound)?.0)
    }

    fn cgroup_dir(&self, path: &Path) -> PathBuf {
        Path::new("/cgroup").join(path)
    }

    fn cgroup_pids(&self, dir: &Path) -> io::Result<Vec<u32>> {
        let cgroups = self.0.cgroups.borrow();
        cgroups.get(dir).ok_or(io::ErrorKind::NotFound)?;
        let below = cgroups.iter().filter(|(path, _)| path.starts_with(dir));
        Ok(below.flat_map(|(_, (_, pids))| pids.clone()).collect())
    }

    fn outside(&self, pid: u32, _: Option<&Path>) -> Option<PathBuf> {
        let (seen, cgroups) = (self.0.seen.borrow(), self.0.cgroups.borrow());
        let mut of_v2 = cgroups
            .iter()
            .filter(|(path, _)| path.starts_with("/cgroup"));
        let (path, _) = of_v2.find(|(_, (_, pids))| pids.contains(&pid))?;
        (!path.starts_with(seen.as_ref()?)).then(|| path.clone())
    }

    fn subdirectories(&self, dir: &Path) -> Vec<String> {
        self.0.reads.set(self.0.reads.get() + 1);
        let cgroups = self.0.cgroups.borrow();
        let below = cgroups
            .keys()
            .filter_map(|path| path.strip_prefix(dir).ok());
        let names = below.filter_map(|path| path.iter().next()?.to_str());
        let names: BTreeSet<String> = names.map(str::to_owned).collect();
        names.into_iter().collect()
    }

    fn cgroup_mounts(&self) -> (Vec<PathBuf>, Vec<PathBuf>) {
        (
            vec!["/cgroup".into()],
            vec!["/v1/pids".into(), "/v1/cpu".into()],
        )
    }

    fn namespaces(&self) -> Vec<(PathBuf, Stamp)> {
        self.pass(self.0.search_takes.get());
        let paths: Vec<PathBuf> = self.0.paths.borrow().keys().cloned().collect();
        let pids: Vec<u32> = self.0.processes.borrow().keys().copied().collect();
        let mut found = BTreeMap::new();
        for handle in paths.into_iter().chain(pids.into_iter().map(handle_of)) {
            if let Ok(stamp) = self.stat(&handle) {
                found.entry(stamp.inode).or_insert((handle, stamp));
            }
        }
        found.into_values().collect()
    }

    fn visit(&self, handles: &[PathBuf]) -> Vec<io::Result<Visit>> {
        handles.iter().map(|handle| self.enter(handle)).collect()
    }

    fn node_cookies(&self) -> &[u64] {
        &[NODE_COOKIE]
    }

    fn now(&self) -> Duration {
        self.0.now.get()
    }
}
