//! Service state against maps in plain memory.

mod captures;
mod fake;

use std::time::Duration;

use mesh_common::balance::Algorithm;
use mesh_common::service::{Chunk, ServiceEntry};
use proptest::prelude::*;

use super::*;
use crate::kernel::services::tests::fake::{Bench, ROOM, addresses, balanced, key};
use crate::model::service::{Drain, Protocol};

const A: &str = "10.96.0.1:80";
const B: &str = "10.96.0.2:80";
const C: &str = "[fd00::1]:80";
const ONE: &str = "10.0.0.1:8080";
const TWO: &str = "10.0.0.2:8080";
const SIX: &str = "[fd00:1::6]:8080";

#[test]
fn each_family_leads_to_its_own_targets() {
    let mut bench = Bench::new();
    let mut service = balanced("web", &[A, C], &[(ONE, 1), (SIX, 1), (TWO, 3)]);
    service.node_port = Some(30080);
    service.affinity = Some(Duration::from_secs(1));
    service.drops = true;
    bench.want(service);
    bench.balanced();
    for four in [A, "0.0.0.0:30080"] {
        assert_eq!(bench.fake.dial(four), addresses(&[ONE, TWO]));
    }
    for six in [C, "[::]:30080"] {
        assert_eq!(bench.fake.dial(six), addresses(&[SIX]));
    }
    let number = bench.fake.number(A).unwrap();
    let entry = bench.fake.services.get(number).unwrap();
    assert_eq!((entry.flags, entry.affinity_ns), (1, 1_000_000_000));
    let name = |number| bench.state.names.get(number).unwrap().service.name.clone();
    assert_eq!(name(number), "web");
    assert_eq!(name(bench.fake.number(C).unwrap()), "web");
}

#[test]
fn what_is_the_same_by_pointer_costs_nothing_and_numbers_stay() {
    let mut bench = Bench::new();
    bench.want(balanced("web", &[A], &[(ONE, 1), (TWO, 1)]));
    bench.want(balanced("db", &[B], &[(ONE, 1)]));
    bench.balanced();
    let written = bench.fake.written.borrow().len();
    let (number, two) = (bench.fake.number(A), bench.fake.backend(TWO));
    bench.balanced();
    bench.want(balanced("web", &[A], &[(TWO, 1), ("10.0.0.3:1", 9)]));
    bench.balanced();
    assert_eq!(bench.fake.written.borrow().len(), written);
    assert_eq!(bench.fake.number(A), number);
    assert_eq!(bench.fake.backend(TWO), two);
    assert_eq!(bench.fake.dial(A), addresses(&[TWO, "10.0.0.3:1"]));
    assert_eq!(bench.fake.graces.get(), 0);
}

#[test]
fn a_frontend_moves_by_one_write() {
    let mut bench = Bench::new();
    bench.want(balanced("old", &[A, B], &[(ONE, 1)]));
    bench.balanced();
    bench.fake.written.borrow_mut().clear();
    bench.want(balanced("old", &[B], &[(ONE, 1)]));
    bench.want(balanced("new", &[A], &[(TWO, 1)]));
    bench.balanced();
    let number = bench.fake.number(A).unwrap();
    let frontend = key(A.parse().unwrap());
    assert_eq!(*bench.fake.written.borrow(), [(frontend, number)]);
    assert_eq!(bench.fake.dial(A), addresses(&[TWO]));
    assert_eq!(bench.fake.dial(B), addresses(&[ONE]));
    // Also when the one that had it goes.
    bench.fake.written.borrow_mut().clear();
    bench.drop("new");
    bench.want(balanced("old", &[A, B], &[(ONE, 1)]));
    bench.balanced();
    // A program that was led there just before still finds a backend.
    let set = |bench: &Bench| bench.fake.services.get(number).unwrap().set;
    assert_ne!(set(&bench), 0);
    bench.tick();
    assert_eq!(set(&bench), 0);
    assert_eq!(bench.fake.written.borrow().len(), 1);
    assert_eq!(bench.fake.dial(A), addresses(&[ONE]));
}

#[test]
fn a_frontend_has_one_owner_and_the_next_gets_it_when_that_goes() {
    let mut bench = Bench::new();
    bench.want(balanced("first", &[A], &[(ONE, 1)]));
    bench.balanced();
    bench.want(balanced("second", &[A, B], &[(TWO, 1)]));
    for _ in 0..2 {
        let why = "`10.96.0.1:80` is taken by `default/first`".to_owned();
        assert_eq!(bench.balance(), [("second".to_owned(), why)]);
        assert_eq!(bench.fake.dial(A), addresses(&[ONE]));
        assert_eq!(bench.fake.dial(B), addresses(&[TWO]));
    }
    bench.drop("first");
    bench.balanced();
    assert_eq!(bench.fake.dial(A), addresses(&[TWO]));
    // The loser takes nothing with it when it goes.
    bench.want(balanced("third", &[A], &[(ONE, 1)]));
    assert_eq!(bench.balance().len(), 1);
    bench.drop("third");
    bench.balanced();
    assert_eq!(bench.fake.dial(A), addresses(&[TWO]));
}

#[test]
fn a_removed_backend_keeps_its_number_while_flows_are_open_and_its_generation_grows() {
    let mut bench = Bench::new();
    bench.want(balanced("web", &[A], &[(ONE, 1), (TWO, 1)]));
    bench.balanced();
    let (number, entry) = bench.fake.backend(ONE);
    assert_eq!((entry.usable, entry.generation), (1, 1));
    bench.fake.set_open(number, 2);
    bench.want(balanced("web", &[A], &[(TWO, 1)]));
    bench.balanced();
    bench.tick();
    let (same, entry) = bench.fake.backend(ONE);
    assert_eq!((same, entry.usable, entry.open), (number, 0, 2));
    // It comes back before they end.
    bench.want(balanced("web", &[A], &[(ONE, 1), (TWO, 1)]));
    bench.balanced();
    let (same, entry) = bench.fake.backend(ONE);
    assert_eq!(
        (same, entry.usable, entry.open, entry.generation),
        (number, 1, 2, 1)
    );
    // It goes, and so do they.
    bench.want(balanced("web", &[A], &[(TWO, 1)]));
    bench.balanced();
    bench.fake.set_open(number, 0);
    assert_eq!(
        bench.fake.backends.get(number).unwrap().service,
        entry.service
    );
    bench.tick();
    let freed = bench.fake.backends.get(number).unwrap();
    assert_eq!((freed.service, freed.usable, freed.generation), (0, 0, 1));
    // Others come first; then it is given again.
    let many: Vec<String> = (0..254).map(|i| format!("10.1.0.{i}:1")).collect();
    let many: Vec<(&str, u32)> = many.iter().map(|address| (address.as_str(), 1)).collect();
    bench.want(balanced("many", &[B], &many));
    bench.balanced();
    let next = bench.fake.backends.get(number).unwrap();
    assert_eq!((next.usable, next.generation, next.picked), (1, 2, 0));
}

#[test]
fn one_that_rests_keeps_its_counters_and_gets_nothing() {
    let mut bench = Bench::new();
    bench.want(balanced("web", &[A], &[(ONE, 1), (TWO, 1)]));
    bench.balanced();
    let (number, _) = bench.fake.backend(ONE);
    bench.fake.set_open(number, 5);
    let mut resting = balanced("web", &[A], &[(TWO, 1)]);
    resting.resting = vec![ONE.parse().unwrap(), "10.0.0.9:1".parse().unwrap()];
    bench.want(resting);
    bench.balanced();
    bench.tick();
    assert_eq!(bench.fake.dial(A), addresses(&[TWO]));
    assert_eq!(bench.fake.backend(ONE).1.usable, 0);
    let counters = bench.state.backend_counters(bench.fake.arrays());
    let open: Vec<_> = counters
        .iter()
        .flat_map(|(_, backends)| backends)
        .map(|(at, own)| (*at, own.open))
        .collect();
    assert_eq!(open, [(ONE.parse().unwrap(), 5), (TWO.parse().unwrap(), 0)]);
    bench.want(balanced("web", &[A], &[(ONE, 2), (TWO, 1)]));
    bench.balanced();
    let (same, entry) = bench.fake.backend(ONE);
    assert_eq!(
        (same, entry.usable, entry.weight, entry.open),
        (number, 1, 2, 5)
    );
}

#[test]
fn without_targets_a_service_is_there_and_empty() {
    let mut bench = Bench::new();
    bench.want(balanced("web", &[A], &[]));
    bench.balanced();
    assert_eq!(bench.fake.dial(A), addresses(&[]));
    bench.want(balanced("web", &[A], &[(ONE, 1)]));
    bench.balanced();
    assert_eq!(bench.fake.dial(A), addresses(&[ONE]));
    bench.want(balanced("web", &[A], &[]));
    bench.balanced();
    bench.tick();
    assert_eq!(bench.fake.dial(A), addresses(&[]));
    assert_eq!(bench.state.pool.free(), u64::from(ROOM.chunks) - 1);
}

#[test]
fn what_is_full_is_named_and_the_rest_goes_on() {
    let mut bench = Bench::new();
    bench.want(balanced("web", &[A], &[(ONE, 1)]));
    bench.balanced();
    let many: Vec<String> = (0..260)
        .map(|i| format!("10.2.{}.{}:1", i / 250, i % 250))
        .collect();
    let many: Vec<(&str, u32)> = many.iter().map(|address| (address.as_str(), 1)).collect();
    bench.want(balanced("web", &[A], &many));
    bench.want(balanced("after", &[B], &[(TWO, 1)]));
    let full = |what: &str| ("web".to_owned(), format!("the {what} is full"));
    assert_eq!(bench.balance(), [full("table of backends")]);
    assert_eq!(bench.fake.dial(A), addresses(&[ONE]));
    assert_eq!(bench.fake.dial(B), addresses(&[TWO]));
    let mut maglev = balanced("web", &[A], &many[..200]);
    maglev.algorithm = Algorithm::Maglev;
    bench.want(maglev);
    assert_eq!(bench.balance(), [full("pool of backend tables")]);
    assert_eq!(bench.fake.dial(A), addresses(&[ONE]));
    bench.want(balanced("web", &[A], &many[..250]));
    bench.balanced();
    assert!(bench.fake.dial(A).len() > 100);
    // One that is new and does not fit is not there at all, until it does.
    bench.want(balanced("zoo", &[C], &[(SIX, 1)]));
    bench.fake.room.set(2);
    let (name, why) = bench.balance().remove(0);
    assert_eq!(
        (name.as_str(), why.as_str()),
        ("zoo", "the table of frontends is full")
    );
    assert_eq!(bench.fake.number(C), None);
    bench.drop("after");
    bench.balanced();
    assert_eq!(bench.fake.dial(C), addresses(&[SIX]));
}

#[test]
fn all_service_numbers_given_is_no_end() {
    let mut bench = Bench::new();
    let frontend = |i: u32| format!("10.97.0.{i}:80");
    for i in 0..64 {
        bench.want(balanced(&format!("s{i:02}"), &[&frontend(i)], &[(ONE, 1)]));
    }
    let (name, why) = bench.balance().remove(0);
    assert_eq!(
        (name.as_str(), why.as_str()),
        ("s63", "the table of services is full")
    );
    bench.drop("s10");
    assert_eq!(bench.balance().len(), 1);
    bench.tick();
    bench.balanced();
    assert_eq!(bench.fake.dial(&frontend(63)), addresses(&[ONE]));
    assert_eq!(bench.fake.number(&frontend(10)), None);
}

#[test]
fn another_agent_takes_over_without_a_gap() {
    let mut bench = Bench::new();
    bench.want(balanced("web", &[A], &[(ONE, 1), (TWO, 1)]));
    bench.want(balanced("old", &[B, C], &[(ONE, 1), (SIX, 1)]));
    bench.balanced();
    let (number, one) = (bench.fake.number(A).unwrap(), bench.fake.backend(TWO));
    bench.fake.set_open(one.0, 3);
    let entry = bench.fake.services.get(number).unwrap();
    let counted = ServiceEntry {
        turn: 9,
        refused: 2,
        ..entry
    };
    bench.fake.services.write(number, &counted, 2..4);
    bench.fake.written.borrow_mut().clear();
    bench.restart();
    bench.tick();
    assert_eq!(bench.fake.dial(B), addresses(&[ONE]));
    // One goes on under another name, one goes.
    bench.drop("old");
    bench.drop("web");
    bench.want(balanced("renamed", &[A], &[(ONE, 1), (TWO, 1)]));
    bench.balanced();
    assert_eq!(bench.fake.number(A), Some(number));
    assert_eq!(bench.fake.services.get(number), Some(counted));
    let (same, entry) = bench.fake.backend(TWO);
    assert_eq!((same, entry.open, entry.generation), (one.0, 3, 1));
    let removed: BTreeSet<_> = bench.fake.written.borrow().iter().copied().collect();
    let gone = [B, C].map(|own| (key(own.parse().unwrap()), 0));
    assert_eq!(removed, gone.into_iter().collect());
    // Everything that nobody wants is free again.
    bench.tick();
    assert_eq!(bench.state.pool.free(), u64::from(ROOM.chunks) - 1 - 3);
    assert_eq!(bench.state.numbers.free(), 62);
    assert_eq!(bench.state.slots.free(), 253);
}

#[test]
fn broken_maps_are_replaced_by_what_is_wanted() {
    let mut bench = Bench::new();
    bench.want(balanced("web", &[A], &[(ONE, 1)]));
    bench.want(balanced("twin", &[B], &[(TWO, 1)]));
    bench.balanced();
    let arrays = bench.fake.arrays();
    let [web, twin] = [A, B].map(|own| bench.fake.number(own).unwrap());
    // Two share a table, one leads nowhere, one to a number there is not.
    let set = bench.fake.services.get(web).unwrap().set;
    arrays.name_table(twin, set, 0, 0);
    for (address, number) in [(C, 0), ("10.96.0.9:80", 5000), ("10.96.0.8:80", 9)] {
        let frontend = key(address.parse().unwrap());
        bench.fake.frontends.borrow_mut().insert(frontend, number);
    }
    arrays.name_table(20, ROOM.chunks - 1, 0, 0);
    bench
        .fake
        .chunks
        .write(ROOM.chunks - 1, &Chunk([0, 77, 0, 0]), 0..2);
    bench.restart();
    bench.balanced();
    assert_eq!(bench.fake.dial(A), addresses(&[ONE]));
    assert_eq!(bench.fake.dial(B), addresses(&[TWO]));
    assert_eq!(bench.fake.frontends.borrow().len(), 2);
    bench.tick();
    assert_eq!(bench.fake.services.get(20).unwrap().set, 0);
    assert_eq!(bench.state.pool.free(), u64::from(ROOM.chunks) - 1 - 4);
}

#[test]
fn what_was_removed_is_drained_when_its_time_has_come() {
    let mut bench = Bench::new();
    let mut service = balanced("web", &[A], &[(ONE, 1), (TWO, 1)]);
    service.drain = Drain::After(Duration::from_secs(30));
    bench.want(service.clone());
    bench.balanced();
    let (number, entry) = bench.fake.backend(ONE);
    bench.fake.set_open(number, 1);
    service.targets.remove(0);
    bench.want(service);
    bench.balanced();
    bench.tick();
    let now = Instant::now();
    let due = |bench: &Bench, after| {
        let at = now + Duration::from_secs(after);
        bench.state.due(bench.fake.arrays(), at, Protocol::Tcp)
    };
    assert!(due(&bench, 29).is_empty());
    let expected = [(entry.service, (entry.address, entry.port))];
    assert_eq!(due(&bench, 31), expected.into_iter().collect());
    bench.fake.set_open(number, 0);
    assert!(due(&bench, 31).is_empty());
    // A service that goes is drained, too.
    let (number, _) = bench.fake.backend(TWO);
    bench.fake.set_open(number, 1);
    bench.drop("web");
    bench.balanced();
    assert_eq!(due(&bench, 31).len(), 1);
}

#[test]
fn connected_udp_sockets_are_told_from_connections() {
    let mut bench = Bench::new();
    let mut service = balanced("names", &[A], &[(ONE, 1)]);
    service.id.protocol = Protocol::Udp;
    service.drain = Drain::Now;
    bench.want(service.clone());
    bench.balanced();
    let (number, _) = bench.fake.backend(ONE);
    bench.fake.set_open(number, 1);
    service.targets.clear();
    bench.want(service);
    bench.balanced();
    let due = |protocol| {
        bench
            .state
            .due(bench.fake.arrays(), Instant::now(), protocol)
    };
    assert_eq!(due(Protocol::Tcp).len(), 0);
    assert_eq!(due(Protocol::Udp).len(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any wishes in any order, ticks and restarts between them: every frontend leads to what is wanted of it, and in the end
    /// everything is free again.
    #[test]
    fn whatever_was_before_what_is_wanted_is_there(
        steps in proptest::collection::vec(
            (0..6usize, 0..4u8, proptest::collection::btree_map(0..12u8, 0..4u32, 0..8), 0..5u8),
            1..40,
        ),
    ) {
        let mut bench = Bench::new();
        for (service, algorithm, targets, then) in steps {
            let name = format!("s{service}");
            let frontend = format!("10.96.0.{service}:80");
            if targets.len() == 7 {
                bench.drop(&name);
            } else {
                let places: Vec<(String, u32)> = targets
                    .iter()
                    .map(|(place, weight)| (format!("10.0.0.{place}:80"), *weight))
                    .collect();
                let places: Vec<(&str, u32)> =
                    places.iter().map(|(place, weight)| (place.as_str(), *weight)).collect();
                let mut wanted = balanced(&name, &[&frontend], &places);
                wanted.algorithm = [
                    Algorithm::Random, Algorithm::RoundRobin, Algorithm::LeastConnections, Algorithm::Maglev,
                ][usize::from(algorithm)];
                bench.want(wanted);
            }
            match then {
                0 => bench.tick(),
                1 => bench.restart(),
                _ => {}
            }
            bench.balanced();
            prop_assert_eq!(bench.fake.frontends.borrow().len(), bench.wanted.len());
            for (id, wanted) in &bench.wanted {
                let frontend = wanted.frontends[0].to_string();
                let positive = wanted.targets.iter().filter(|target| target.weight > 0);
                let expected: BTreeSet<SocketAddr> = positive.map(|target| target.address).collect();
                let got = bench.fake.dial(&frontend);
                // With nothing open anywhere, the least loaded is always the heaviest.
                let right = if wanted.algorithm == Algorithm::LeastConnections {
                    got.is_subset(&expected) && got.is_empty() == expected.is_empty()
                } else {
                    got == expected
                };
                prop_assert!(right, "{}: {got:?} for {expected:?}", id.service);
            }
        }
        bench.wanted.clear();
        bench.balanced();
        bench.tick();
        prop_assert_eq!(bench.state.pool.free(), u64::from(ROOM.chunks) - 1);
        prop_assert_eq!(bench.state.slots.free(), 255);
        prop_assert_eq!(bench.state.numbers.free(), 63);
        prop_assert!(bench.state.owners.is_empty());
    }
}
