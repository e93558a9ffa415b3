//! What the agent writes of services, in the kernel's own maps: readers find a whole table at every moment, another agent takes
//! over, and what is full is named.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Instant;

use aya::maps::MapData;
use mesh_agent::balance::Balancing as _;
use mesh_agent::kernel::map_dir;
use mesh_agent::kernel::maps::Maps;
use mesh_agent::model::balanced::{Balanced, PortId, Target};
use mesh_agent::model::service::{Drain, Protocol, ServiceName};
use mesh_common::addr::{Addr, PortBe};
use mesh_common::balance::{Algorithm, Draw, Pool, pick};
use mesh_common::limits;
use mesh_common::service::{BackendEntry, Chunk, Frontend, TCP};

use crate::ground::Ground;

type Wanted = BTreeMap<PortId, Arc<Balanced>>;

/// The maps, as a program reads them.
struct Reader<'a>(&'a Maps);

impl Pool for Reader<'_> {
    fn chunk(&self, index: u32) -> Option<Chunk> {
        self.0.chunks.get(index)
    }

    fn open(&self, backend: u32) -> u64 {
        self.0.backends.get(backend).map_or(0, |entry| entry.open)
    }
}

impl Reader<'_> {
    /// Returns what a connect to a frontend gets.
    fn dial(&self, frontend: SocketAddr, draw: Draw) -> Option<BackendEntry> {
        let number = self.0.frontends.get(&key(frontend)).unwrap()?;
        let set = self.0.services.get(number)?.set;
        let backend = self.0.backends.get(pick(self, set, draw)?)?;
        assert_eq!(backend.service, number);
        Some(backend)
    }
}

fn key(address: SocketAddr) -> Frontend {
    Frontend {
        address: address.ip().into(),
        port: PortBe::new(address.port()),
        protocol: TCP,
        _pad: 0,
    }
}

fn v4(net: u8, host: u32) -> SocketAddr {
    let base = Ipv4Addr::new(net, 0, 0, 0).to_bits();
    SocketAddr::new(IpAddr::V4(Ipv4Addr::from_bits(base + host)), 80)
}

fn balanced(
    name: &str,
    frontends: Vec<SocketAddr>,
    targets: impl Iterator<Item = SocketAddr>,
) -> Balanced {
    Balanced {
        id: PortId {
            service: ServiceName {
                namespace: "default".to_owned(),
                name: name.to_owned(),
            },
            port: 80,
            protocol: Protocol::Tcp,
        },
        frontends,
        node_port: None,
        algorithm: Algorithm::Random,
        affinity: None,
        proxied: None,
        drops: false,
        drain: Drain::Keep,
        targets: targets
            .map(|address| Target {
                address,
                workload: None,
                weight: 1,
            })
            .collect(),
        resting: Vec::new(),
        candidates: Vec::new(),
    }
}

fn wanted(all: impl IntoIterator<Item = Balanced>) -> Wanted {
    all.into_iter()
        .map(|balanced| (balanced.id.clone(), Arc::new(balanced)))
        .collect()
}

fn balance(ground: &Ground, wanted: &Wanted) {
    assert_eq!(ground.kernel.balance(wanted).unwrap(), []);
}

/// The backends of a version: the version is in their addresses.
fn version(version: u64, algorithm: Algorithm, frontend: SocketAddr) -> Balanced {
    let base = u32::try_from(version).unwrap() * 16;
    let name = format!("s{}", version % 2);
    let count = u32::try_from(version % 7).unwrap() + 1;
    let mut balanced = balanced(
        &name,
        vec![frontend],
        (0..count).map(|host| v4(11, base + host)),
    );
    balanced.algorithm = algorithm;
    balanced
}

#[test]
fn a_reader_gets_a_backend_of_the_old_or_the_new_set_at_every_moment() {
    const UPDATES: u64 = 10_000;
    let Some(ground) = Ground::new() else {
        return;
    };
    let frontend = v4(10, 1);
    let algorithms = [
        Algorithm::Random,
        Algorithm::RoundRobin,
        Algorithm::LeastConnections,
        Algorithm::Maglev,
    ];
    let at = |number: u64| {
        let algorithm = algorithms[usize::try_from(number / 3 % 4).unwrap()];
        wanted([version(number, algorithm, frontend)])
    };
    balance(&ground, &at(0));
    let (begun, done, over) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    // A program holds RCU's lock; this stands for it.
    let rcu = RwLock::new(());
    let dials = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let reader = Reader(&ground.maps);
            let mut dials = 0u64;
            while !over.load(Ordering::SeqCst) {
                let _held = rcu.read().unwrap();
                let oldest = done.load(Ordering::SeqCst);
                let random = u32::try_from(dials & 0xffff_ffff)
                    .unwrap()
                    .wrapping_mul(0x9E37_79B9);
                let draw = Draw {
                    random,
                    turn: dials,
                    client: random,
                };
                let backend = reader.dial(frontend, draw).expect("a backend");
                let newest = begun.load(Ordering::SeqCst);
                let IpAddr::V4(address) = backend.address.into() else {
                    panic!("{backend:?}");
                };
                let version = u64::from(address.to_bits() & 0x00ff_ffff) / 16;
                assert!(
                    (oldest..=newest).contains(&version),
                    "{version}: {oldest} to {newest}"
                );
                dials += 1;
            }
            dials
        });
        for number in 1..=UPDATES {
            begun.store(number, Ordering::SeqCst);
            balance(&ground, &at(number));
            done.store(number, Ordering::SeqCst);
            if number % 100 == 0 {
                let _ended = rcu.write().unwrap();
                ground.kernel.tick().unwrap();
            }
            if reader.is_finished() {
                break;
            }
        }
        over.store(true, Ordering::SeqCst);
        reader.join().unwrap()
    });
    assert!(dials > UPDATES, "{dials}");
}

#[test]
fn another_agent_takes_over_what_the_maps_hold() {
    let Some(mut ground) = Ground::new() else {
        return;
    };
    let (kept, gone) = (v4(10, 1), v4(10, 2));
    let all = [("kept", kept), ("gone", gone)];
    let all =
        all.map(|(name, frontend)| balanced(name, vec![frontend], (1..6).map(|host| v4(11, host))));
    balance(&ground, &wanted(all.clone()));
    ground
        .kernel
        .set_node_addresses(&BTreeSet::from([v4(10, 9).ip(), v4(10, 8).ip()]))
        .unwrap();
    let look = |ground: &Ground| {
        let number = ground.maps.frontends.get(&key(kept)).unwrap().unwrap();
        let service = ground.maps.services.get(number).unwrap();
        let dial = |turn: u32| {
            let random = turn.wrapping_mul(0x9E37_79B9);
            let draw = Draw {
                random,
                ..Draw::default()
            };
            Reader(&ground.maps).dial(kept, draw).unwrap()
        };
        let dialled: Vec<BackendEntry> = (0..50).map(dial).collect();
        (number, service, dialled)
    };
    let before = look(&ground);
    ground.restart();
    // Nothing goes before it is known what is wanted.
    ground.kernel.tick().unwrap();
    assert_eq!(look(&ground), before);
    assert!(Reader(&ground.maps).dial(gone, Draw::default()).is_some());
    let [first, _] = all;
    balance(&ground, &wanted([first.clone()]));
    assert_eq!(look(&ground), before);
    assert_eq!(ground.maps.frontends.get(&key(gone)).unwrap(), None);
    assert_eq!(*ground.kernel.service_name(before.0).unwrap(), first.id);
    let counters = ground.kernel.backend_counters();
    assert_eq!(counters.len(), 1);
    assert!(
        counters
            .iter()
            .all(|(id, backends)| **id == first.id && backends.len() == 5)
    );
    ground
        .kernel
        .set_node_addresses(&BTreeSet::from([v4(10, 9).ip()]))
        .unwrap();
    let mut nodes: Vec<Addr> = Vec::new();
    ground
        .maps
        .node_addresses
        .for_each(|address, _| nodes.push(*address))
        .unwrap();
    assert_eq!(nodes, [Addr::from(v4(10, 9).ip())]);
}

#[test]
fn what_is_full_is_named_and_what_was_there_stays() {
    let Some(ground) = Ground::new() else {
        return;
    };
    let small = || balanced("small", vec![v4(10, 1)], std::iter::once(v4(11, 1)));
    let dials = |frontend| {
        Reader(&ground.maps)
            .dial(frontend, Draw::default())
            .is_some()
    };
    let limit = u32::try_from(limits::FRONTENDS).unwrap();
    let many: Vec<SocketAddr> = (2..limit + 3).map(|host| v4(10, host)).collect();
    let wide = balanced("wide", many, std::iter::once(v4(11, 2)));
    let failed = ground.kernel.balance(&wanted([small(), wide])).unwrap();
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0].id.service.name, "wide");
    assert_eq!(failed[0].why, "the table of frontends is full");
    assert!(dials(v4(10, 1)) && dials(v4(10, 3)));
    assert_eq!(ground.maps.frontends.count().unwrap(), u64::from(limit));
    balance(&ground, &wanted([small()]));
    assert_eq!(ground.maps.frontends.count().unwrap(), 1);

    // Tables of Maglev's largest size.
    let large = |number: u32| {
        let targets = (0..656).map(move |host| v4(12, number * 1000 + host));
        let mut large = balanced(
            &format!("large{number:02}"),
            vec![v4(10, 100 + number)],
            targets,
        );
        large.algorithm = Algorithm::Maglev;
        large
    };
    let all: Vec<Balanced> = (0..70).map(large).chain([small()]).collect();
    let failed = ground.kernel.balance(&wanted(all.clone())).unwrap();
    assert_eq!(failed.len(), 70 - limits::CHUNKS / 16_382);
    assert!(
        failed
            .iter()
            .all(|failed| failed.why == "the pool of backend tables is full")
    );
    assert!(dials(v4(10, 1)) && dials(v4(10, 100)) && !dials(v4(10, 169)));
    let mut nodes: BTreeSet<IpAddr> = (0..=limits::NODE_ADDRESSES)
        .map(|host| v4(13, u32::try_from(host).unwrap()).ip())
        .collect();
    let full = ground
        .kernel
        .set_node_addresses(&nodes)
        .unwrap_err()
        .to_string();
    assert!(
        full.contains("more than 16384 addresses of nodes"),
        "{full}"
    );
    nodes.pop_first();
    ground.kernel.set_node_addresses(&nodes).unwrap();
}

#[test]
fn ten_thousand_services_with_a_hundred_thousand_endpoints_fit_as_stated() {
    let Some(ground) = Ground::new() else {
        return;
    };
    let dir = map_dir(&ground.node.bpf_directory().unwrap());
    let empty = ["FRONTENDS", "NODE_ADDRESSES"].map(|name| memory(&dir.join(name)));
    let service = |number: u32| {
        let targets = (0..10).map(move |host| v4(11, number * 16 + host));
        balanced(&format!("service-{number}"), vec![v4(10, number)], targets)
    };
    let mut all = wanted((0..10_000).map(service));
    let began = Instant::now();
    balance(&ground, &all);
    println!("first fill {:?}", began.elapsed());
    let began = Instant::now();
    balance(&ground, &all);
    println!("nothing changed {:?}", began.elapsed());
    for count in [9, 10] {
        let mut changed = service(5000);
        changed.targets.truncate(count);
        all.insert(changed.id.clone(), Arc::new(changed));
        let began = Instant::now();
        balance(&ground, &all);
        println!("one changed {:?}", began.elapsed());
    }
    let began = Instant::now();
    let counters = ground.kernel.backend_counters();
    println!("counters {:?}", began.elapsed());
    assert_eq!(
        counters
            .iter()
            .map(|(_, backends)| backends.len())
            .sum::<usize>(),
        100_000
    );
    for number in [0, 5000, 9999] {
        assert!(
            Reader(&ground.maps)
                .dial(v4(10, number), Draw::default())
                .is_some()
        );
    }
    let nodes: BTreeSet<IpAddr> = (0..10_000).map(|host| v4(13, host).ip()).collect();
    ground.kernel.set_node_addresses(&nodes).unwrap();
    // What `limits` says that an entry takes.
    for (name, empty, bytes) in [
        ("FRONTENDS", empty[0], 88),
        ("NODE_ADDRESSES", empty[1], 80),
    ] {
        let each = (memory(&dir.join(name)) - empty) / 10_000;
        println!("{name}: {each} B each");
        assert!((1..=bytes).contains(&each), "{name}: {each}");
    }
    for (name, entries, bytes) in [
        ("SERVICES", limits::SERVICES, 64),
        ("BACKENDS", limits::BACKENDS, 64),
        ("CHUNKS", limits::CHUNKS, 16),
    ] {
        let all = memory(&dir.join(name));
        println!("{name}: {all} B");
        // And a page for the map itself.
        let entries = u64::try_from(entries * bytes).unwrap();
        assert!((entries..=entries + 4096).contains(&all), "{name}: {all}");
    }
}

/// Returns what a pinned map takes, as the kernel says.
fn memory(path: &std::path::Path) -> u64 {
    use std::os::fd::AsFd as _;
    let map = MapData::from_pin(path).unwrap();
    let fd = map.fd().as_fd().as_raw_fd();
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap();
    let mut bytes = info
        .lines()
        .filter_map(|line| line.strip_prefix("memlock:"));
    bytes.next().unwrap().trim().parse().unwrap()
}
