//! Many services, endpoints and policies: all of them reach the kernel's maps, and one change touches one service. How long that
//! takes at full size is what `cargo xtask bench scale` measures.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use harness::cluster::{self, Cluster, Size};
use harness::tables::Tables;
use harness::wait::PATIENCE;
use harness::{Agent, Node, Pod, wait_for};
use mesh_common::service::{BackendEntry, ServiceEntry};

const SIZE: Size = Size {
    namespaces: 5,
    services: 400,
    endpoints: 3,
    policies: 250,
    pods_elsewhere: 40,
};

/// Returns the addresses that a service's table may name, by the number of the service.
fn usable(backends: &[BackendEntry], number: u32) -> BTreeSet<Ipv4Addr> {
    let own = backends
        .iter()
        .filter(|entry| entry.service == number && entry.usable == 1);
    own.map(|entry| match entry.address.into() {
        std::net::IpAddr::V4(address) => address,
        std::net::IpAddr::V6(address) => panic!("{address} is no endpoint"),
    })
    .collect()
}

/// What the maps hold of services.
struct Held {
    services: Vec<ServiceEntry>,
    backends: Vec<BackendEntry>,
}

impl Held {
    fn read(tables: &Tables) -> Self {
        Self {
            services: tables.entries().unwrap(),
            backends: tables.backends().unwrap(),
        }
    }
}

fn number(tables: &Tables, service: usize) -> u32 {
    let address = cluster::address(service).unwrap();
    tables.service(address, cluster::PORT).unwrap()
}

fn wanted(cluster: &Cluster, service: usize) -> BTreeSet<Ipv4Addr> {
    cluster.endpoints(service).unwrap().into_iter().collect()
}

#[test]
fn a_large_cluster_is_in_the_maps_and_one_change_touches_one_service() {
    if !harness::require_root() {
        return;
    }
    let node = Node::new().unwrap();
    let pods: Vec<Pod> = (0..10)
        .map(|number| node.pod(&format!("p{number}")).unwrap())
        .collect();
    let mut cluster = Cluster::write(&node, SIZE, &pods).unwrap();
    let agent = Agent::start(&node, &[]).unwrap();
    let has = |page: &str, line: &str| page.lines().any(|it| it.starts_with(line));
    wait_for("every part to be in force", PATIENCE, || {
        let page = agent.metrics().unwrap();
        let parts = ["workloads", "services", "policies"];
        let mut parts = parts.iter();
        parts.all(|part| {
            has(
                &page,
                &format!("mesh_config_apply_seconds{{part=\"{part}\"}} "),
            )
        })
    })
    .unwrap();
    let page = agent.metrics().unwrap();
    for line in [
        "mesh_config_errors 0",
        "mesh_policy_errors 0",
        "mesh_services{state=\"balanced\"} 400",
        "mesh_config_read_seconds ",
    ] {
        assert!(has(&page, line), "no `{line}` in\n{page}");
    }
    let status = agent.status().unwrap();
    let verdicts = status["maps"].as_array().unwrap().iter();
    let verdicts = verdicts.filter(|map| map["map"] == "verdicts");
    let verdicts: u64 = verdicts.map(|map| map["used"].as_u64().unwrap()).sum();
    assert!(verdicts > 0, "no policy is in force: {status:#}");

    let tables = Tables::open(agent.bpf_dir()).unwrap();
    let before = Held::read(&tables);
    assert_eq!(tables.frontends().unwrap(), SIZE.services);
    for service in 0..SIZE.services {
        let number = number(&tables, service);
        assert_eq!(
            usable(&before.backends, number),
            wanted(&cluster, service),
            "service {service}"
        );
        assert_ne!(before.services[number as usize].set, 0, "has a table");
    }

    let changed = 123;
    let number = number(&tables, changed);
    let old = wanted(&cluster, changed);
    cluster.replace_endpoint(changed).unwrap().apply().unwrap();
    assert_ne!(wanted(&cluster, changed), old);
    wait_for("the change to reach the map", PATIENCE, || {
        usable(&tables.backends().unwrap(), number) == wanted(&cluster, changed)
    })
    .unwrap();
    let after = Held::read(&tables);
    assert_eq!(tables.frontends().unwrap(), SIZE.services);
    for (other, (was, is)) in (0u32..).zip(before.services.iter().zip(&after.services)) {
        assert_eq!(was == is, other != number, "service {other}");
    }
    for (was, is) in before.backends.iter().zip(&after.backends) {
        let own = |entry: &BackendEntry| [0, number].contains(&entry.service);
        assert!(was == is || own(was) && own(is), "{was:?} became {is:?}");
    }
}
