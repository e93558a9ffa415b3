//! The look-up program run by the kernel's own test call, over many addresses and ports that nobody has.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd as _;

use harness::Pod;
use mesh_agent::kernel::loader::load;
use mesh_agent::kernel::map_dir;
use mesh_agent::model::policy::Policy;
use mesh_agent::model::service::Protocol;
use mesh_agent::policy::Connection;
use mesh_common::addr::Addr;

use super::ground::{Ground, allow, block, deny, labelled, network};
use crate::sys;

/// `struct bpf_sk_lookup`, include/uapi/linux/bpf.h.
fn context(from: IpAddr, to: IpAddr, port: u16, protocol: Protocol) -> Vec<u8> {
    let v4 = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets(),
        IpAddr::V6(_) => [0; 4],
    };
    let v6 = |address: IpAddr| match address {
        IpAddr::V4(_) => [0; 16],
        IpAddr::V6(address) => address.octets(),
    };
    let family = if from.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    let mut bytes = vec![0; 8];
    bytes.extend(family.to_ne_bytes());
    bytes.extend(u32::from(protocol.number()).to_ne_bytes());
    bytes.extend(v4(from));
    bytes.extend(v6(from));
    bytes.extend(40_000u16.to_be_bytes());
    bytes.extend([0; 2]);
    bytes.extend(v4(to));
    bytes.extend(v6(to));
    bytes.extend(u32::from(port).to_ne_bytes());
    bytes.extend([0; 4]);
    bytes
}

#[test]
fn look_ups_are_judged_as_the_tables_say() {
    const SK_PASS: u32 = 1;
    let Some(mut ground) = Ground::new() else {
        return;
    };
    let maps = map_dir(&ground.node.bpf_directory().unwrap());
    let loaded = load(&maps).unwrap();
    let program = loaded.ebpf.program("mesh_lookup").unwrap().fd().unwrap();
    let [client, server, outside] = ground.pods.clone();
    ground.set(policies(&outside));
    let mut seen = [0; 2];
    let mut next = numbers();
    for _ in 0..5000 {
        let from = stranger(&mut next, &client, &outside);
        let pod = if next(2) == 0 { &server } else { &client };
        let family = usize::try_from(next(2)).unwrap();
        let port = [0, 80, 81, 443, 8080, 9000, 65_534, 65_535][usize::try_from(next(8)).unwrap()];
        let protocol = if next(2) == 0 {
            Protocol::Tcp
        } else {
            Protocol::Udp
        };
        let (from, to) = (from[family], pod.addresses()[family]);
        let connection = Connection {
            source: Addr::from(from),
            destination: Addr::from(to),
            port,
            protocol: protocol.number(),
        };
        let directed = ground
            .tables
            .directed(&connection, mesh_common::policy::Direction::Ingress);
        let expected = directed.is_none_or(|verdict| verdict.allowed);
        let verdict =
            sys::run_with_context(program.as_fd(), &context(from, to, port, protocol)).unwrap();
        assert_eq!(
            verdict == SK_PASS,
            expected,
            "{from} to {to}:{port} {protocol:?}"
        );
        seen[usize::from(expected)] += 1;
    }
    println!("{} denied, {} allowed", seen[0], seen[1]);
    assert!(seen.iter().all(|count| *count > 500), "{seen:?}");
    // What the registry does not know is denied.
    let nobody = context(
        client.v4().into(),
        Ipv4Addr::new(10, 77, 9, 9).into(),
        80,
        Protocol::Tcp,
    );
    assert_ne!(
        sys::run_with_context(program.as_fd(), &nobody).unwrap(),
        SK_PASS
    );
}

/// Policies of all kinds, for both pods.
fn policies(outside: &Pod) -> Vec<Policy> {
    let wide: IpAddr = "10.77.1.0".parse().unwrap();
    vec![
        network(
            "a",
            "server",
            vec![allow(
                block("10.77.0.0/16", &[outside.v4().into(), wide]),
                &[80, 443, 65_535],
            )],
        ),
        network(
            "b",
            "server",
            vec![
                allow(block("fd77::/112", &[]), &[]),
                allow(labelled("client"), &[0, 9000]),
            ],
        ),
        deny(
            "c",
            "server",
            vec![allow(block("10.77.2.0/24", &[]), &[443])],
        ),
        network("d", "client", vec![allow(None, &[8080])]),
    ]
}

/// Returns a row of numbers below any bound: Knuth's, of which the upper bits are used.
fn numbers() -> impl FnMut(u64) -> u64 {
    let mut random = 1u64;
    move |below| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below
    }
}

/// Returns the addresses of somebody who dials: a pod, somebody in the pods' blocks, or somebody far away.
fn stranger(next: &mut impl FnMut(u64) -> u64, client: &Pod, outside: &Pod) -> [IpAddr; 2] {
    let low = u16::try_from(next(1024)).unwrap();
    match next(4) {
        0 => client.addresses(),
        1 => outside.addresses(),
        2 => {
            let [high, low] = low.to_be_bytes();
            [
                Ipv4Addr::new(10, 77, high, low).into(),
                Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, low.into()).into(),
            ]
        }
        _ => [
            Ipv4Addr::from_bits(0x0b00_0000 | u32::from(low)).into(),
            Ipv6Addr::new(0x2001, low, 0, 0, 0, 0, 0, 1).into(),
        ],
    }
}
