//! Pods of a cluster: found by UID, in the mesh or not.
#![forbid(unsafe_code)]

use super::*;
use crate::model::enrolment::Absent;

const A: &str = "aaaaaaaa-0000-0000-0000-000000000001";
const B: &str = "bbbbbbbb-0000-0000-0000-000000000002";
const ID: &str = "dd55c9bd83f2a6634aea5bb09e626f7c0029ffdd33a76ee504bc5b6010b05b3f";

fn pod(name: &str, uid: &str, addresses: &[&str]) -> Workload {
    Workload {
        uid: Some(uid.to_owned()),
        node: Some("here".to_owned()),
        ..Arc::unwrap_or_clone(workload(name, Location::Kubelet, addresses))
    }
}

fn world(pods: &[Workload]) -> World {
    World::new(pods.iter().cloned().map(Arc::new).collect())
}

fn set(world: &mut World, pods: &[Workload]) {
    world.configure(pods.iter().cloned().map(Arc::new).collect());
}

fn dir(uid: &str) -> String {
    format!("/cgroup/kubepods/burstable/pod{uid}")
}

/// Starts a pod's sandbox, as process and namespace of the same number.
fn start(fake: &Fake, uid: &str, number: u32, addresses: &[&str]) {
    fake.namespace(number.into(), addresses);
    fake.start(number, number.into());
    fake.cgroup(&format!("{}/{ID}", dir(uid)), &[number]);
}

fn reason(world: &World, index: usize) -> Option<Absent> {
    match &world.registry.located()[index].outcome {
        Outcome::NotFound { reason, .. } => Some(*reason),
        Outcome::Found { .. } | Outcome::NotEnrolled => None,
    }
}

fn note(world: &World) -> &str {
    world.registry.located()[0].note.as_deref().unwrap_or("")
}

#[test]
fn a_pod_is_found_as_soon_as_its_sandbox_runs_also_without_an_address() {
    let mut starting = pod("a", A, &[]);
    starting.started = false;
    let mut world = world(&[starting.clone()]);
    let why = "it has no address, and no cgroup on this machine bears its UID";
    assert_eq!(world.look(0), Err(why.to_owned()));
    assert_eq!(reason(&world, 0), Some(Absent::NotStarted));
    assert!(world.registry.awaits_pods());
    world.fake.pass(Duration::from_secs(20));
    assert!(
        !world.registry.awaits_pods(),
        "whatever it waits for takes long"
    );
    world.fake.cgroup(&dir(A), &[]);
    let why = world.look(0).unwrap_err();
    assert!(
        why.ends_with("nothing of it runs yet, or any more"),
        "{why}"
    );
    start(&world.fake, A, 50, &["10.0.0.1"]);
    let cookie = world.look(0).unwrap();
    assert!(!world.registry.awaits_pods());
    // The API server learns of its address, of its containers and that it runs: it stays the same.
    let running = pod("a", A, &["10.0.0.1"]);
    set(&mut world, &[running]);
    assert_eq!((world.look(0), note(&world)), (Ok(cookie), ""));
    // Its sandbox failed, and comes back.
    world.fake.kill(50);
    assert!(world.look(0).is_err());
    assert_eq!(reason(&world, 0), Some(Absent::NotFound));
    start(&world.fake, A, 60, &["10.0.0.1"]);
    assert_ne!(world.look(0).unwrap(), cookie);
    world.fake.kill(60);
    world.fake.remove_cgroup(&dir(A));
    assert!(world.look(0).is_err());
}

#[test]
fn the_uid_decides_between_pods_that_have_one_address_in_turn() {
    let (mut old, new) = (pod("a", A, &["10.0.0.1"]), pod("b", B, &["10.0.0.1"]));
    let mut world = world(&[old.clone()]);
    start(&world.fake, A, 50, &["10.0.0.1"]);
    let first = world.look(0).unwrap();
    // The API server gave the address to the new pod; what has it on this machine is still the old one.
    old.addresses.clear();
    old.terminating = true;
    set(&mut world, &[old.clone(), new.clone()]);
    assert_eq!(world.look(0), Ok(first));
    assert!(world.look(1).is_err());
    start(&world.fake, B, 60, &["10.0.0.1"]);
    let second = world.look(1).unwrap();
    assert_ne!(second, first);
    assert_eq!(world.look(0), Ok(first));
    // The old one is forgotten while it still runs: it does not become the new one.
    set(&mut world, &[new]);
    world.fake.kill(60);
    world.fake.remove_cgroup(&dir(B));
    assert!(world.look(0).is_err());
}

#[test]
fn a_pod_of_the_same_name_is_another_one() {
    let mut world = world(&[pod("a", A, &["10.0.0.1"])]);
    start(&world.fake, A, 50, &["10.0.0.1"]);
    let first = world.look(0).unwrap();
    set(&mut world, &[pod("a", B, &["10.0.0.1"])]);
    assert!(world.look(0).is_err());
    start(&world.fake, B, 60, &["10.0.0.1"]);
    assert_ne!(world.look(0).unwrap(), first);
}

#[test]
fn without_a_cgroup_its_addresses_lead_to_a_pod_and_that_is_said() {
    let mut world = world(&[pod("a", A, &["10.0.0.1"])]);
    world.fake.namespace(50, &["10.0.0.1"]);
    world.fake.start(50, 50);
    let cookie = world.look(0).unwrap();
    let words = "found by its addresses: no cgroup on this machine bears its UID";
    assert_eq!(note(&world), words);
    // Once there is a cgroup, it leads.
    start(&world.fake, A, 60, &["10.0.0.1"]);
    assert_ne!(world.look(0).unwrap(), cookie);
    assert_eq!(note(&world), "");
}

#[test]
fn containers_are_a_check() {
    let mut known = pod("a", A, &["10.0.0.1"]);
    known.containers = vec!["another".to_owned(), ID.to_owned()];
    let mut world = world(&[known.clone()]);
    start(&world.fake, A, 50, &["10.0.0.1"]);
    assert!(world.look(0).is_ok());
    assert_eq!(note(&world), "");
    known.containers.pop();
    set(&mut world, &[known]);
    let cookie = world.look(0);
    let words = "its cgroup holds no container that the API server knows";
    assert_eq!((cookie.is_ok(), note(&world)), (true, words));
}

#[test]
fn who_is_not_in_the_mesh_is_not_looked_for_and_costs_nothing() {
    let mut out = pod("a", A, &["10.0.0.1"]);
    out.enrolled = false;
    let mut world = world(&[out]);
    start(&world.fake, A, 50, &["10.0.0.1"]);
    world.refresh();
    assert_eq!(world.registry.located()[0].outcome, Outcome::NotEnrolled);
    assert_eq!((world.fake.visits(), world.fake.reads()), (0, 0));
    assert!(world.registry.places().is_empty());
}

#[test]
fn who_is_let_go_is_known_until_nothing_of_it_is_carried_on() {
    let (within, mut without) = (pod("a", A, &["10.0.0.1"]), pod("a", A, &["10.0.0.1"]));
    without.enrolled = false;
    let mut world = world(std::slice::from_ref(&within));
    start(&world.fake, A, 50, &["10.0.0.1"]);
    let cookie = world.look(0).unwrap();
    let released = |world: &World| {
        let all = world.registry.released();
        all.map(|(_, since, place)| (since, place.netns_cookie))
            .collect::<Vec<_>>()
    };
    assert!(released(&world).is_empty());
    set(&mut world, std::slice::from_ref(&without));
    world.refresh();
    assert_eq!(world.registry.located()[0].outcome, Outcome::NotEnrolled);
    world.fake.pass(Duration::from_secs(3));
    assert_eq!(released(&world), [(Duration::from_secs(3), cookie)]);
    // Taken in again, it is what it was.
    set(&mut world, std::slice::from_ref(&within));
    assert_eq!(world.look(0), Ok(cookie));
    assert!(released(&world).is_empty());
    // Let go, and done.
    set(&mut world, std::slice::from_ref(&without));
    world.refresh();
    world.registry.forget_released(&within.name);
    assert!(released(&world).is_empty());
    // Let go, and gone, or for too long.
    for is_gone in [true, false] {
        start(&world.fake, A, 50, &["10.0.0.1"]);
        set(&mut world, std::slice::from_ref(&within));
        assert!(world.look(0).is_ok());
        set(&mut world, std::slice::from_ref(&without));
        world.refresh();
        assert_eq!(released(&world).len(), 1);
        match is_gone {
            true => world.fake.kill(50),
            false => world.fake.pass(Duration::from_secs(3600)),
        }
        world.refresh();
        assert!(released(&world).is_empty());
    }
}

#[test]
fn looking_for_many_pods_takes_one_look_at_the_tree() {
    let uid = |number: u32| format!("aaaaaaaa-0000-0000-0000-{number:012}");
    let pods: Vec<Workload> = (100..200)
        .map(|number| pod(&format!("p{number}"), &uid(number), &[]))
        .collect();
    let mut world = world(&pods);
    for number in 100..199 {
        start(&world.fake, &uid(number), number, &[]);
    }
    world.refresh();
    let found = world.registry.places().len();
    assert_eq!(found, 99);
    let before = world.fake.reads();
    world.fake.let_search_take(Duration::from_secs(1));
    world.refresh();
    // `kubepods` and its level, and the containers of the few whose turn it is; a search for other trees reads some more.
    let reads = world.fake.reads() - before;
    assert!(
        reads <= 2 * 2 + super::super::VERIFIED_EACH_TIME + 8,
        "{reads}"
    );
}

#[test]
fn a_pod_whose_processes_the_agents_programs_do_not_see_is_found_and_said_to_be_outside() {
    let mut world = world(&[pod("a", A, &["10.0.0.1"]), pod("b", B, &["10.0.0.2"])]);
    start(&world.fake, A, 50, &["10.0.0.1"]);
    start(&world.fake, B, 60, &["10.0.0.2"]);
    world.fake.attach(&dir(B));
    assert!(world.look(0).is_ok() && world.look(1).is_ok());
    let outside = |world: &World, index: usize| world.registry.located()[index].outside.clone();
    let place = PathBuf::from(format!("{}/{ID}", dir(A)));
    assert_eq!(outside(&world, 0), Some(place));
    assert_eq!(outside(&world, 1), None);
}
