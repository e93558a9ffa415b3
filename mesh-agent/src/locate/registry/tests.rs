//! The registry on a machine in memory.
#![forbid(unsafe_code)]

mod kubelet;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::Registry;
use crate::locate::fake::{Fake, NODE};
use crate::locate::{Located, Outcome};
use crate::model::labels::Labels;
use crate::model::snapshot::Snapshot;
use crate::model::workload::{Acceleration, Location, Workload, WorkloadName};

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

fn netns(path: &str) -> Location {
    Location::Netns(PathBuf::from(path))
}

fn cgroup(path: &str) -> Location {
    Location::Cgroup(PathBuf::from(path))
}

struct World {
    fake: Fake,
    registry: Registry<Fake>,
    snapshot: Snapshot,
}

impl World {
    fn new(workloads: Vec<Arc<Workload>>) -> Self {
        let fake = Fake::new();
        Self {
            registry: Registry::new(fake.clone(), "here"),
            fake,
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

    fn refresh(&mut self) -> bool {
        self.registry.refresh(&self.snapshot)
    }

    /// Refreshes and returns the cookie of the workload at `index`, or why it has none.
    fn look(&mut self, index: usize) -> Result<u64, String> {
        self.refresh();
        outcome(&self.registry.located()[index])
    }
}

fn outcome(located: &Located) -> Result<u64, String> {
    match &located.outcome {
        Outcome::Found { netns_cookie, .. } => Ok(*netns_cookie),
        Outcome::NotFound { why, .. } => Err(why.clone()),
        Outcome::NotEnrolled => Err("not in the mesh".to_owned()),
    }
}

#[test]
fn what_runs_on_another_node_is_not_looked_for() {
    let on = |name: &str, node: &str, location| {
        let mut workload = Arc::unwrap_or_clone(workload(name, location, &["10.0.0.1"]));
        workload.node = Some(node.to_owned());
        Arc::new(workload)
    };
    let mut world = World::new(vec![
        on("a", "there", Location::Addresses),
        on("b", "there", netns("/run/netns/b")),
        on("c", "here", netns("/run/netns/b")),
    ]);
    world.fake.namespace(10, &["10.0.0.1"]);
    world.fake.bind("/run/netns/b", 10);
    world.registry.refresh(&world.snapshot);
    let outcomes: Vec<_> = world
        .registry
        .located()
        .iter()
        .map(|located| located.outcome.clone())
        .collect();
    assert!(
        matches!(outcomes[..], [Outcome::Found { .. }]),
        "{outcomes:?}"
    );
}

#[test]
fn a_process_is_followed_to_its_end() {
    let mut world = World::new(vec![workload("a", Location::Pid(50), &[])]);
    assert_eq!(world.look(0), Err("no process 50".into()));
    world.fake.namespace(7, &["10.0.0.1"]);
    world.fake.start(50, 7);
    assert!(world.look(0).is_ok());
    assert!(!world.refresh());
    world.fake.zombie(50);
    assert_eq!(world.look(0), Err("process 50 ended".into()));
    world.fake.kill(50);
    assert_eq!(world.look(0), Err("no process 50".into()));
}

#[test]
fn another_process_with_the_same_id_is_not_the_workload() {
    let mut world = World::new(vec![workload("a", Location::Pid(50), &[])]);
    world.fake.namespace(7, &[]);
    world.fake.namespace(8, &[]);
    world.fake.start(50, 7);
    assert!(world.look(0).is_ok());
    world.fake.start(50, 8);
    let reused = Err("process 50 ended, and another process has its ID now".to_owned());
    assert_eq!(world.look(0), reused);
    assert_eq!(world.look(0), reused);
    // Not even in the same namespace: it may be anybody.
    world.fake.start(50, 7);
    assert_eq!(world.look(0), reused);
    // A changed workload is another one: then the process is what the operator means now.
    let mut changed = Workload::clone(&world.snapshot.workloads[0]);
    changed.uid = Some("2".to_owned());
    world.configure(vec![Arc::new(changed)]);
    assert!(world.look(0).is_ok());
}

#[test]
fn a_path_is_followed_to_whatever_is_bound_there() {
    let mut world = World::new(vec![workload("a", netns("/run/netns/a"), &[])]);
    assert_eq!(
        world.look(0),
        Err("no network namespace at `/run/netns/a`".into())
    );
    world.fake.bind("/run/netns/a", 9999);
    assert_eq!(
        world.look(0),
        Err("`/run/netns/a` is not a network namespace".into())
    );
    world.fake.namespace(7, &[]);
    world.fake.bind("/run/netns/a", 7);
    let first = world.look(0).unwrap();
    // Another namespace, that got the inode number of the first.
    world.fake.namespace(7, &[]);
    world.fake.bind("/run/netns/a", 7);
    let second = world.look(0).unwrap();
    assert_ne!(first, second);
    world.fake.unbind("/run/netns/a");
    assert!(world.look(0).is_err());
}

#[test]
fn an_inode_number_given_away_is_found_out_in_its_turn() {
    let mut world = World::new(vec![workload("a", Location::Pid(50), &[])]);
    world.fake.namespace(7, &[]);
    world.fake.start(50, 7);
    let first = world.look(0).unwrap();
    // The process moved to a new namespace, which got the number of its old one.
    world.fake.namespace(7, &[]);
    assert_ne!(world.look(0).unwrap(), first);
}

#[test]
fn a_cgroup_is_followed_through_its_processes() {
    let mut world = World::new(vec![workload("a", cgroup("mesh/a"), &[])]);
    assert_eq!(world.look(0), Err("no cgroup `/cgroup/mesh/a`".into()));
    world.fake.cgroup("/cgroup/mesh/a", &[]);
    assert_eq!(
        world.look(0),
        Err("cgroup `/cgroup/mesh/a` has no processes".into())
    );
    world.fake.namespace(7, &[]);
    world.fake.namespace(8, &[]);
    world.fake.start(50, 7);
    world.fake.start(51, 7);
    world.fake.cgroup("/cgroup/mesh/a", &[50, 51]);
    let first = world.look(0).unwrap();
    // The process that led to it goes, another one is still there.
    world.fake.kill(50);
    assert_eq!(world.look(0), Ok(first));
    world.fake.start(52, 8);
    world.fake.cgroup("/cgroup/mesh/a", &[51, 52]);
    let why = world.look(0).unwrap_err();
    assert!(
        why.contains("different network namespaces: process 51 in net:[7], process 52 in net:[8]"),
        "{why}"
    );
    world.fake.remove_cgroup("/cgroup/mesh/a");
    assert_eq!(world.look(0), Err("no cgroup `/cgroup/mesh/a`".into()));
}

#[test]
fn addresses_lead_to_the_one_namespace_that_has_them() {
    let mut world = World::new(vec![workload(
        "a",
        Location::Addresses,
        &["10.0.0.1", "fd00::1"],
    )]);
    let nowhere = Err("no network namespace on this machine has 10.0.0.1, fd00::1".to_owned());
    assert_eq!(world.look(0), nowhere);
    world.fake.namespace(7, &["127.0.0.1", "10.0.0.1"]);
    world.fake.start(50, 7);
    assert_eq!(
        world.look(0),
        Err("process 50 does not have fd00::1".into())
    );
    world
        .fake
        .readdress(7, &["127.0.0.1", "10.0.0.1", "fd00::1"]);
    let first = world.look(0).unwrap();
    world.fake.readdress(7, &["127.0.0.1"]);
    assert!(world.look(0).is_err());
    assert_eq!(world.look(0), nowhere);
    world.fake.namespace(8, &["10.0.0.1", "fd00::1"]);
    world.fake.bind("/run/netns/b", 8);
    assert_ne!(world.look(0).unwrap(), first);
    world.fake.unbind("/run/netns/b");
    assert!(world.look(0).is_err());
}

#[test]
fn addresses_that_two_namespaces_have_lead_nowhere() {
    let mut world = World::new(vec![workload("a", Location::Addresses, &["10.0.0.1"])]);
    world.fake.namespace(7, &["10.0.0.1"]);
    world.fake.namespace(8, &["10.0.0.1"]);
    world.fake.bind("/run/netns/b", 7);
    world.fake.start(50, 8);
    let why = "more than one network namespace has 10.0.0.1: `/run/netns/b` and process 50";
    assert_eq!(world.look(0), Err(why.into()));
}

#[test]
fn the_nodes_own_namespace_is_no_workloads() {
    let mut world = World::new(vec![
        workload("a", Location::Pid(1), &[]),
        workload("b", Location::Addresses, &["192.0.2.1"]),
    ]);
    world.fake.bind("/run/netns/node", NODE);
    for index in 0..2 {
        let why = world.look(index).unwrap_err();
        assert!(why.contains("the node's own network namespace"), "{why}");
    }
}

#[test]
fn one_namespace_has_one_workload() {
    let b = workload("b", Location::Pid(50), &[]);
    let mut world = World::new(vec![b.clone()]);
    world.fake.namespace(7, &["10.0.0.1"]);
    world.fake.start(50, 7);
    world.fake.bind("/run/netns/x", 7);
    let cookie = world.look(0).unwrap();
    // The second comes first by name, but the first has it already.
    world.configure(vec![workload("a", netns("/run/netns/x"), &[]), b]);
    let why = "its network namespace net:[7] is that of workload shop/b already";
    assert_eq!(world.look(0), Err(why.into()));
    assert_eq!(world.look(1), Ok(cookie));
    world.fake.kill(50);
    assert_eq!(world.look(0), Ok(cookie));
    assert!(world.look(1).is_err());
}

#[test]
fn an_address_that_the_namespace_does_not_have_is_noted() {
    let mut world = World::new(vec![workload("a", netns("/n"), &["10.0.0.1", "10.0.0.2"])]);
    world.fake.namespace(7, &["10.0.0.2"]);
    world.fake.bind("/n", 7);
    assert!(world.look(0).is_ok());
    let note = world.registry.located()[0].note.clone();
    assert_eq!(
        note.as_deref(),
        Some("its network namespace does not have 10.0.0.1")
    );
}

#[test]
fn searching_takes_a_bounded_share_of_time() {
    let mut world = World::new(vec![workload("a", Location::Addresses, &["10.0.0.1"])]);
    world.fake.let_search_take(Duration::from_millis(5));
    world.refresh();
    world.fake.namespace(7, &["10.0.0.1"]);
    world.fake.start(50, 7);
    assert!(world.look(0).is_err());
    world.fake.pass(Duration::from_millis(1001));
    assert!(world.look(0).is_ok());
}

#[test]
fn an_idle_refresh_enters_few_namespaces() {
    let path = |index| format!("/run/netns/{index}");
    let one = |index: u64| workload(&format!("w{index}"), netns(&path(index)), &[]);
    let mut world = World::new((1000..1100).map(one).collect());
    for inode in 1000..1100 {
        world.fake.namespace(inode, &[]);
        world.fake.bind(&path(inode), inode);
    }
    world.refresh();
    let before = world.fake.visits();
    assert!(!world.refresh());
    assert_eq!(world.fake.visits() - before, super::VERIFIED_EACH_TIME);
}

#[test]
fn ten_thousand_comings_and_goings_leave_nothing_behind() {
    let mut world = World::new(Vec::new());
    for round in 0..10_000u32 {
        let (pid, inode) = (100 + round, u64::from(10 + round % 5));
        world.fake.namespace(inode, &["10.0.0.1"]);
        world.fake.start(pid, inode);
        let location = match round % 2 {
            0 => Location::Pid(pid),
            _ => Location::Addresses,
        };
        world.configure(vec![workload(
            &format!("w{round}"),
            location,
            &["10.0.0.1"],
        )]);
        let cookie = world.look(0);
        assert!(cookie.is_ok(), "round {round}: {cookie:?}");
        world.fake.kill(pid);
        assert!(world.look(0).is_err());
        assert_eq!(
            (world.registry.held.len(), world.registry.located.len()),
            (1, 1)
        );
    }
    world.configure(Vec::new());
    world.refresh();
    assert_eq!(
        (world.registry.held.len(), world.registry.located.len()),
        (0, 0)
    );
}
