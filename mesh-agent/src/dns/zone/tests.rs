//! Tests of `zone`.

use super::*;
use crate::model::service::{Balance, Distribution};
use crate::model::workload::WorkloadName;

fn endpoint(address: &str, ready: bool, pod: Option<&str>) -> Endpoint {
    Endpoint {
        address: address.parse().unwrap(),
        port: 8080,
        ready,
        serving: ready,
        terminating: false,
        node: None,
        zone: None,
        region: None,
        hints: None,
        weight: 1,
        priority: 0,
        workload: pod.map(|name| {
            Arc::new(WorkloadName {
                namespace: "shop".into(),
                name: name.into(),
            })
        }),
        hostname: None,
        checked_elsewhere: false,
    }
}

/// Returns a service `shop/NAME` with a TCP port `http` (80).
pub(in crate::dns) fn service(
    name: &str,
    kind: ServiceKind,
    addresses: &[&str],
    endpoints: Vec<Endpoint>,
) -> Service {
    let name = ServiceName {
        namespace: "shop".into(),
        name: name.into(),
    };
    let port = Port {
        name: Some("http".into()),
        number: 80,
        protocol: Protocol::Tcp,
        node_port: None,
        app_protocol: None,
        endpoints,
    };
    Service {
        name,
        kind,
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        external_addresses: Vec::new(),
        ports: vec![port],
        portless: Vec::new(),
        affinity: None,
        local_only: false,
        distribution: Distribution::Any,
        publish_not_ready: false,
        balance: Balance::default(),
        origin: "test".into(),
    }
}

pub(in crate::dns) fn zone(all: Vec<Service>) -> Zone {
    let services = all
        .into_iter()
        .map(|service| (service.name.clone(), Arc::new(service)));
    Zone::new("cluster.local", 7, Arc::new(services.collect()))
}

/// Returns a zone with a service of each kind.
pub(in crate::dns) fn shop() -> Zone {
    let external = |target: &str| ServiceKind::ExternalName(target.into());
    let mut eager = service(
        "eager",
        ServiceKind::Headless,
        &[],
        vec![endpoint("10.0.0.9", false, None)],
    );
    eager.publish_not_ready = true;
    zone(vec![
        service(
            "cart",
            ServiceKind::ClusterIp,
            &["10.96.0.1", "fd00:96::1"],
            vec![endpoint("10.0.0.1", true, None)],
        ),
        service(
            "db",
            ServiceKind::Headless,
            &[],
            vec![
                endpoint("10.0.0.2", true, Some("db-0")),
                endpoint("fd00::3", true, None),
                endpoint("10.0.0.4", false, Some("db-2")),
            ],
        ),
        service("empty", ServiceKind::Headless, &[], Vec::new()),
        service("far", external("db.example.org"), &[], Vec::new()),
        service(
            "near",
            external("cart.shop.svc.cluster.local."),
            &[],
            Vec::new(),
        ),
        service(
            "lost",
            external("x.shop.svc.cluster.local"),
            &[],
            Vec::new(),
        ),
        service(
            "ring",
            external("ring.shop.svc.cluster.local"),
            &[],
            Vec::new(),
        ),
        eager,
    ])
}

fn find(name: &str, kind: RecordType) -> Found {
    shop().find(&Name::from_ascii(name).unwrap(), kind)
}

/// Returns what was found, a line each.
fn lines(name: &str, kind: RecordType) -> Vec<String> {
    lines_of(find(name, kind))
}

fn lines_of(found: Found) -> Vec<String> {
    match found {
        Found::Records(records, _) => {
            let mut lines: Vec<String> = records
                .iter()
                .map(|record| format!("{} {}", record.record_type(), record.data))
                .collect();
            lines.sort();
            lines
        }
        other @ (Found::NotOurs
        | Found::Unknown
        | Found::NoName
        | Found::NoData
        | Found::Alias(..)) => {
            vec![format!("{other:?}")]
        }
    }
}

#[test]
fn a_service_with_an_address() {
    let cart = "cart.shop.svc.cluster.local.";
    assert_eq!(lines(cart, RecordType::A), ["A 10.96.0.1"]);
    assert_eq!(lines(cart, RecordType::AAAA), ["AAAA fd00:96::1"]);
    assert_eq!(find(cart, RecordType::MX), Found::NoData);
    assert_eq!(
        lines("CART.Shop.svc.Cluster.LOCAL.", RecordType::A),
        ["A 10.96.0.1"]
    );
    assert_eq!(
        lines("_http._tcp.cart.shop.svc.cluster.local.", RecordType::SRV),
        ["SRV 0 100 80 cart.shop.svc.cluster.local."]
    );
    for name in ["1.0.96.10.in-addr.arpa.", "1.0.96.10.IN-ADDR.arpa."] {
        assert_eq!(
            lines(name, RecordType::PTR),
            ["PTR cart.shop.svc.cluster.local."]
        );
    }
    let six = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.0.0.0.0.d.f.ip6.arpa.";
    assert_eq!(
        lines(six, RecordType::PTR),
        ["PTR cart.shop.svc.cluster.local."]
    );
}

#[test]
fn a_headless_service_is_its_ready_endpoints() {
    let db = "db.shop.svc.cluster.local.";
    assert_eq!(lines(db, RecordType::A), ["A 10.0.0.2"]);
    assert_eq!(lines(db, RecordType::AAAA), ["AAAA fd00::3"]);
    assert_eq!(
        lines("_http._tcp.db.shop.svc.cluster.local.", RecordType::SRV),
        [
            "SRV 0 100 8080 db-0.db.shop.svc.cluster.local.",
            "SRV 0 100 8080 fd00-0-0-0-0-0-0-3.db.shop.svc.cluster.local."
        ]
    );
    for host in ["db-0", "10-0-0-2"] {
        let name = format!("{host}.{db}");
        assert_eq!(lines(&name, RecordType::A), ["A 10.0.0.2"]);
        assert_eq!(find(&name, RecordType::AAAA), Found::NoData);
    }
    assert_eq!(
        lines(&format!("fd00-0-0-0-0-0-0-3.{db}"), RecordType::AAAA),
        ["AAAA fd00::3"]
    );
    // One that is not ready has no name, unless the service says otherwise.
    assert_eq!(find(&format!("db-2.{db}"), RecordType::A), Found::NoName);
    assert_eq!(
        lines("eager.shop.svc.cluster.local.", RecordType::A),
        ["A 10.0.0.9"]
    );
    assert_eq!(
        lines("2.0.0.10.in-addr.arpa.", RecordType::PTR),
        ["PTR db-0.db.shop.svc.cluster.local."]
    );
    assert_eq!(
        find("empty.shop.svc.cluster.local.", RecordType::A),
        Found::NoData
    );
}

#[test]
fn an_endpoint_with_a_hostname_is_known_by_it() {
    let own = |address: &str, pod: &str, hostname: &str| Endpoint {
        hostname: Some(hostname.into()),
        ..endpoint(address, true, Some(pod))
    };
    let endpoints = vec![
        own("10.0.0.1", "db-7f9c", "first"),
        // Several with one name are one name with several addresses.
        own("10.0.0.2", "db-8a21", "rest"),
        own("10.0.0.3", "db-93b0", "rest"),
        own("fd00::2", "db-8a21", "rest"),
        Endpoint {
            ready: false,
            ..own("10.0.0.4", "db-a0c4", "late")
        },
        endpoint("10.0.0.5", true, Some("db-b1d9")),
    ];
    let zone = zone(vec![service("db", ServiceKind::Headless, &[], endpoints)]);
    let lines = |name: &str, kind| lines_of(zone.find(&Name::from_ascii(name).unwrap(), kind));
    let db = "db.shop.svc.cluster.local.";
    let a = |host: &str| lines(&format!("{host}.{db}"), RecordType::A);
    assert_eq!(a("first"), ["A 10.0.0.1"]);
    assert_eq!(a("FIRST"), ["A 10.0.0.1"]);
    assert_eq!(a("rest"), ["A 10.0.0.2", "A 10.0.0.3"]);
    assert_eq!(
        lines(&format!("rest.{db}"), RecordType::AAAA),
        ["AAAA fd00::2"]
    );
    assert_eq!(a("10-0-0-1"), ["A 10.0.0.1"]);
    assert_eq!(a("db-b1d9"), ["A 10.0.0.5"]);
    for host in ["db-7f9c", "late", "rest.first"] {
        assert_eq!(a(host), ["NoName"], "{host}");
    }
    assert_eq!(
        lines(&format!("_http._tcp.{db}"), RecordType::SRV),
        [
            format!("SRV 0 100 8080 db-b1d9.{db}"),
            format!("SRV 0 100 8080 first.{db}"),
            format!("SRV 0 100 8080 rest.{db}"),
            format!("SRV 0 100 8080 rest.{db}"),
            format!("SRV 0 100 8080 rest.{db}"),
        ]
    );
    let ptr = lines("3.0.0.10.in-addr.arpa.", RecordType::PTR);
    assert_eq!(ptr, [format!("PTR rest.{db}")]);
}

#[test]
fn a_headless_service_without_ports_has_names() {
    let mut db = service("db", ServiceKind::Headless, &[], Vec::new());
    db.ports.clear();
    db.portless = vec![
        endpoint("10.0.0.1", true, Some("db-0")),
        endpoint("10.0.0.2", false, Some("db-1")),
    ];
    let zone = zone(vec![db]);
    let lines = |name: &str, kind| lines_of(zone.find(&Name::from_ascii(name).unwrap(), kind));
    let db = "db.shop.svc.cluster.local.";
    assert_eq!(lines(db, RecordType::A), ["A 10.0.0.1"]);
    assert_eq!(lines(&format!("db-0.{db}"), RecordType::A), ["A 10.0.0.1"]);
    assert_eq!(lines(&format!("db-1.{db}"), RecordType::A), ["NoName"]);
    assert_eq!(lines(&format!("_tcp.{db}"), RecordType::SRV), ["NoName"]);
    let ptr = lines("1.0.0.10.in-addr.arpa.", RecordType::PTR);
    assert_eq!(ptr, [format!("PTR db-0.{db}")]);
}

#[test]
fn an_external_name_is_an_alias() {
    let far = "far.shop.svc.cluster.local.";
    assert_eq!(lines(far, RecordType::CNAME), ["CNAME db.example.org."]);
    let Found::Alias(cname, target) = find(far, RecordType::A) else {
        panic!("no alias");
    };
    assert_eq!(cname.record_type(), RecordType::CNAME);
    assert_eq!(target.to_ascii(), "db.example.org.");
}

#[test]
fn what_exists_and_what_does_not() {
    for (name, wanted) in [
        ("svc.cluster.local.", Found::NoData),
        ("shop.svc.cluster.local.", Found::NoData),
        ("_tcp.cart.shop.svc.cluster.local.", Found::NoData),
        ("_http._tcp.cart.shop.svc.cluster.local.", Found::NoData),
        ("_udp.cart.shop.svc.cluster.local.", Found::NoName),
        ("_http._udp.cart.shop.svc.cluster.local.", Found::NoName),
        ("http._tcp.cart.shop.svc.cluster.local.", Found::NoName),
        ("_x._tcp.cart.shop.svc.cluster.local.", Found::NoName),
        ("10-0-0-1.cart.shop.svc.cluster.local.", Found::NoName),
        ("other.shop.svc.cluster.local.", Found::Unknown),
        ("cart.other.svc.cluster.local.", Found::Unknown),
        ("other.svc.cluster.local.", Found::Unknown),
        ("cart.shop.cluster.local.", Found::Unknown),
        ("a.b.cart.shop.svc.cluster.local.", Found::NoName),
        ("example.org.shop.svc.cluster.local.", Found::Unknown),
        ("10-0-0-1.shop.pod.cluster.local.", Found::Unknown),
        ("example.org.", Found::NotOurs),
        ("cluster.local.example.org.", Found::NotOurs),
        ("local.", Found::NotOurs),
        (".", Found::NotOurs),
        ("9.9.9.9.in-addr.arpa.", Found::NotOurs),
        ("96.10.in-addr.arpa.", Found::NotOurs),
    ] {
        assert_eq!(find(name, RecordType::A), wanted, "{name}");
    }
}

#[test]
fn the_domain_itself() {
    assert!(lines("cluster.local.", RecordType::SOA)[0].contains("hostmaster.cluster.local. 7 "));
    assert_eq!(
        lines("cluster.local.", RecordType::NS),
        ["NS ns.dns.cluster.local."]
    );
    assert_eq!(find("ns.dns.cluster.local.", RecordType::MX), Found::NoData);
    assert_eq!(
        lines("dns-version.cluster.local.", RecordType::TXT),
        ["TXT 1.1.0"]
    );
}

#[test]
fn many_endpoints_are_bounded_and_take_turns() {
    let endpoints = (0..200).map(|n| endpoint(&format!("10.1.0.{n}"), true, None));
    let many = service("many", ServiceKind::Headless, &[], endpoints.collect());
    let zone = zone(vec![many]);
    let name = Name::from_ascii("many.shop.svc.cluster.local.").unwrap();
    let mut first = HashSet::new();
    for _ in 0..100 {
        let Found::Records(records, _) = zone.find(&name, RecordType::A) else {
            panic!("no records");
        };
        let distinct: HashSet<String> = records.iter().map(|r| r.data.to_string()).collect();
        assert_eq!(distinct.len(), limits::RECORDS);
        first.insert(records[0].data.to_string());
    }
    // 100 draws out of 200 are at least 50 different ones, unless the odds are against it by a thousand digits.
    assert!(first.len() > 50, "{first:?}");
}

#[test]
fn names_that_are_too_long_are_left_out() {
    let long = "a".repeat(63);
    let mut service = service(&long, ServiceKind::ClusterIp, &["10.96.0.7"], Vec::new());
    service.name.namespace = "b".repeat(63);
    service.ports[0].name = Some("c".repeat(62));
    let domain = ["d"; 50].join(".");
    let services = Services::from([(service.name.clone(), Arc::new(service))]);
    let zone = Zone::new(&domain, 1, Arc::new(services));
    let name = Name::from_ascii("7.0.96.10.in-addr.arpa.").unwrap();
    assert!(matches!(
        zone.find(&name, RecordType::PTR),
        Found::Records(..) | Found::NotOurs
    ));
}
