//! Workloads in real network namespaces. Needs root and `ip`; fails without in CI, is skipped loudly elsewhere.
#![forbid(unsafe_code)]
#![expect(
    clippy::unwrap_used,
    reason = "a test may fail by a panic, its helpers too"
)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mesh_agent::locate::Outcome;
use mesh_agent::locate::linux::Linux;
use mesh_agent::locate::registry::Registry;
use mesh_agent::model::labels::Labels;
use mesh_agent::model::snapshot::Snapshot;
use mesh_agent::model::workload::{Acceleration, Location, Workload, WorkloadName};

use support::{Netns, ip, is_root, remove_leftovers, try_ip};

/// Longer than anything here takes, also on a busy machine.
const DEADLINE: Duration = Duration::from_secs(20);

/// One test at a time: they count the descriptors and the CPU time of this process.
static ALONE: Mutex<()> = Mutex::new(());

/// Returns a guard to hold for the length of a test, or `None` where it cannot run.
fn begin(test: &str) -> Option<MutexGuard<'static, ()>> {
    if !is_root(test) {
        return None;
    }
    let guard = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    remove_leftovers();
    Some(guard)
}

impl Netns {
    /// Starts a process in the namespace.
    fn run(&self) -> Process {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0, "sleep", "1000"]);
        let process = Process(command.spawn().unwrap());
        let handle = format!("/proc/{}/ns/net", process.pid());
        let own = fs::read_link("/proc/self/ns/net").unwrap();
        wait_for("the process to be in its namespace", || {
            fs::read_link(&handle).is_ok_and(|link| link != own)
        });
        process
    }
}

struct Process(Child);

impl Process {
    fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Kills it without waiting for it: a zombie stays.
    fn kill(&mut self) {
        self.0.kill().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// A cgroup that is removed when the test ends.
struct Cgroup {
    dir: PathBuf,
    name: String,
}

impl Cgroup {
    fn new(name: &str) -> Self {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let mut mounts = mounts
            .lines()
            .map(|line| line.split(' ').collect::<Vec<_>>());
        let mount = mounts
            .find(|fields| fields[2] == "cgroup2")
            .expect("no cgroup2 mount")[1]
            .to_owned();
        let name = format!("uptest-{}-{name}", std::process::id());
        let dir = Path::new(&mount).join(&name);
        fs::create_dir(&dir).unwrap();
        Self { dir, name }
    }

    fn add(&self, process: &Process) {
        fs::write(self.dir.join("cgroup.procs"), process.pid().to_string()).unwrap();
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // A killed process leaves its cgroup a moment later.
        let deadline = Instant::now() + DEADLINE;
        while fs::remove_dir(&self.dir).is_err() && Instant::now() < deadline {
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }
}

fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

fn workload(name: &str, location: Location, addresses: &[&str]) -> Arc<Workload> {
    Arc::new(Workload {
        name: WorkloadName {
            namespace: "shop".to_owned(),
            name: name.to_owned(),
        },
        uid: None,
        labels: Labels::default(),
        service_account: "default".to_owned(),
        node: None,
        ready: true,
        terminating: false,
        ports: Vec::new(),
        addresses: addresses
            .iter()
            .map(|address| address.parse().unwrap())
            .collect(),
        location,
        enrolled: true,
        started: true,
        containers: Vec::new(),
        acceleration: Acceleration::Auto,
        origin: String::new(),
    })
}

struct Agent {
    registry: Registry,
    snapshot: Snapshot,
}

impl Agent {
    fn new(workloads: Vec<Arc<Workload>>) -> Self {
        Self {
            registry: Registry::new(Linux::new(None).unwrap(), "here"),
            snapshot: Snapshot {
                generation: 1,
                workloads,
                errors: Vec::new(),
                ..Snapshot::default()
            },
        }
    }

    fn configure(&mut self, workloads: Vec<Arc<Workload>>) {
        self.snapshot.generation += 1;
        self.snapshot.workloads = workloads;
    }

    /// Refreshes once and returns the cookie of each workload, or why it has none.
    fn look(&mut self) -> Vec<Result<u64, String>> {
        self.registry.refresh(&self.snapshot);
        let outcomes = self
            .registry
            .located()
            .iter()
            .map(|located| match &located.outcome {
                Outcome::Found { netns_cookie, .. } => Ok(*netns_cookie),
                Outcome::NotFound { why, .. } => Err(why.clone()),
                Outcome::NotEnrolled => Err("not in the mesh".to_owned()),
            });
        outcomes.collect()
    }
}

#[test]
fn every_way_leads_to_the_same_namespace() {
    let Some(_guard) = begin("every_way_leads_to_the_same_namespace") else {
        return;
    };
    let netns = Netns::new("same");
    netns.address("10.99.77.1/32");
    netns.address("fd00:77::1/128");
    let mut process = netns.run();
    let cgroup = Cgroup::new("same");
    cgroup.add(&process);
    let ways = [
        Location::Netns(netns.path()),
        Location::Pid(process.pid()),
        Location::Cgroup(cgroup.dir.clone()),
        Location::Cgroup(PathBuf::from(&cgroup.name)),
        Location::Cgroup(Path::new("/").join(&cgroup.name)),
        Location::Addresses,
    ];
    let mut cookies = Vec::new();
    for way in ways {
        let mut agent = Agent::new(vec![workload(
            "a",
            way.clone(),
            &["10.99.77.1", "fd00:77::1"],
        )]);
        let found = agent.look().remove(0);
        cookies.push(found.unwrap_or_else(|why| panic!("{way:?}: {why}")));
        assert_eq!(agent.registry.located()[0].note, None);
    }
    cookies.dedup();
    assert_eq!(cookies.len(), 1, "{cookies:?}");
    // What leads through the process ends with it; what does not stays.
    let mut agent = Agent::new(vec![workload("a", Location::Pid(process.pid()), &[])]);
    assert!(agent.look()[0].is_ok());
    process.kill();
    wait_for("the killed process to be noticed", || {
        agent.look()[0].is_err()
    });
    agent.configure(vec![workload(
        "a",
        Location::Cgroup(cgroup.dir.clone()),
        &[],
    )]);
    wait_for("the cgroup to be empty", || agent.look()[0].is_err());
    agent.configure(vec![workload("a", Location::Addresses, &["10.99.77.1"])]);
    assert_eq!(agent.look()[0].as_ref(), Ok(&cookies[0]));
}

#[test]
fn what_is_no_workloads_namespace_is_refused() {
    let Some(_guard) = begin("what_is_no_workloads_namespace_is_refused") else {
        return;
    };
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut agent = Agent::new(vec![
        workload("a", Location::Pid(std::process::id()), &[]),
        workload("b", Location::Netns(file.path().to_owned()), &[]),
        workload("c", Location::Netns("/proc/self/ns/uts".into()), &[]),
        workload("d", Location::Netns("/run/netns/uptest-absent".into()), &[]),
        workload("e", Location::Cgroup("uptest-absent".into()), &[]),
    ]);
    let expected = [
        "node's own",
        "not a network",
        "not a network",
        "no network namespace at",
        "no cgroup",
    ];
    for (found, expected) in agent.look().into_iter().zip(expected) {
        let why = found.unwrap_err();
        assert!(why.contains(expected), "{why}");
    }
}

#[test]
fn a_replaced_namespace_is_another_one() {
    let Some(_guard) = begin("a_replaced_namespace_is_another_one") else {
        return;
    };
    let netns = Netns::new("replaced");
    let mut agent = Agent::new(vec![workload("a", Location::Netns(netns.path()), &[])]);
    let first = agent.look().remove(0).unwrap();
    drop(netns);
    assert!(agent.look()[0].is_err());
    let again = Netns::new("replaced");
    let second = agent.look().remove(0).unwrap();
    assert_ne!(first, second);
    // Replaced between two refreshes, most likely with the same inode number.
    drop(again);
    let _again = Netns::new("replaced");
    let third = agent.look().remove(0).unwrap();
    assert_ne!(second, third);
}

#[test]
fn a_namespace_that_is_followed_dies_when_its_workload_goes() {
    let Some(_guard) = begin("a_namespace_that_is_followed_dies_when_its_workload_goes") else {
        return;
    };
    let (gone, stays) = (Netns::new("gone"), Netns::new("stays"));
    ip(&[
        "link", "add", "up0", "netns", &gone.0, "type", "veth", "peer", "name", "up0", "netns",
        &stays.0,
    ]);
    gone.address("10.99.78.1/32");
    let mut agent = Agent::new(vec![workload("a", Location::Addresses, &["10.99.78.1"])]);
    assert!(agent.look()[0].is_ok());
    drop(gone);
    // The other end of the pair goes with the namespace, not with its name.
    wait_for("the namespace to die", || {
        agent.look();
        !try_ip(&["-n", &stays.0, "link", "show", "up0"])
    });
}

#[test]
fn comings_and_goings_leave_no_descriptor_behind() {
    let Some(_guard) = begin("comings_and_goings_leave_no_descriptor_behind") else {
        return;
    };
    let count = |dir: &str| fs::read_dir(dir).unwrap().count();
    let mut agent = Agent::new(Vec::new());
    agent.look();
    let before = (count("/proc/self/fd"), count("/proc/self/task"));
    for round in 0..50 {
        let netns = Netns::new(&round.to_string());
        netns.address("10.99.79.1/32");
        let location = match round % 2 {
            0 => Location::Netns(netns.path()),
            _ => Location::Addresses,
        };
        agent.configure(vec![workload("a", location, &["10.99.79.1"])]);
        let found = agent.look().remove(0);
        assert!(found.is_ok(), "round {round}: {found:?}");
        drop(netns);
        assert!(agent.look()[0].is_err());
    }
    assert_eq!((count("/proc/self/fd"), count("/proc/self/task")), before);
}

#[test]
fn a_hundred_idle_workloads_cost_little() {
    let Some(_guard) = begin("a_hundred_idle_workloads_cost_little") else {
        return;
    };
    let spaces: Vec<Netns> = (0..100)
        .map(|index| Netns::new(&index.to_string()))
        .collect();
    let processes: Vec<Process> = spaces.iter().take(30).map(Netns::run).collect();
    let mut workloads = Vec::new();
    for (index, netns) in spaces.iter().enumerate() {
        let address = format!("10.99.80.{index}");
        netns.address(&format!("{address}/32"));
        let location = match processes.get(index) {
            Some(process) => Location::Pid(process.pid()),
            None if index < 60 => Location::Addresses,
            None => Location::Netns(netns.path()),
        };
        workloads.push(workload(&format!("w{index:02}"), location, &[&address]));
    }
    let mut agent = Agent::new(workloads);
    let cookies = agent.look();
    assert!(cookies.iter().all(Result::is_ok), "{cookies:?}");
    let cpu = || {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        Duration::try_from(time).unwrap()
    };
    let before = cpu();
    let rounds = 40;
    for _ in 0..rounds {
        assert!(!agent.registry.refresh(&agent.snapshot));
    }
    let each = (cpu() - before) / rounds;
    eprintln!("one refresh of 100 idle workloads takes {each:?} of CPU time");
    // 0.5 % of a core at two refreshes a second, and this is no optimised build.
    assert!(each < Duration::from_micros(2500), "{each:?}");
}
