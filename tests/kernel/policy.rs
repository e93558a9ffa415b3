//! Policy in the kernel: what is denied is denied at once, and nothing that is missing lets anything through.

mod ground;
mod lookup;
mod upstream;

use std::net::{IpAddr, SocketAddr};

use harness::remote::errno;
use harness::remote::protocol::{Call, Kind};
use harness::wait::PATIENCE;
use harness::{Remote, wait_for};
use mesh_agent::model::observed::KernelView as _;
use mesh_agent::model::policy::Policy;
use mesh_agent::model::service::Protocol;
use mesh_agent::policy::Connection;
use mesh_common::addr::Addr;
use mesh_common::close::CloseReason;
use mesh_common::policy::{DENIALS_PER_WINDOW, Direction};

use ground::{Ground, PORTS, allow, block, deny, labelled, network};

/// Dials and returns the error's number, if it failed.
fn dial(from: &Remote, to: SocketAddr) -> Option<i32> {
    let socket = from.connect(to);
    let error = errno(&socket);
    if let Ok(socket) = socket {
        socket.close().unwrap();
        return None;
    }
    Some(error.unwrap())
}

/// Sends a datagram from an unconnected socket and returns the error's number, if it failed.
fn send(from: &Remote, to: SocketAddr) -> Option<i32> {
    let socket = from.bare(Kind::Udp, to.is_ipv6()).unwrap();
    let sent = socket.call(Call::Send {
        bytes: vec![7],
        flags: 0,
        to: Some(to),
    });
    socket.close().unwrap();
    errno(&sent)
}

fn connection(from: IpAddr, to: SocketAddr, protocol: Protocol) -> Connection {
    Connection {
        source: Addr::from(from),
        destination: Addr::from(to.ip()),
        port: to.port(),
        protocol: protocol.number(),
    }
}

/// Every pod dials every other and itself, by each family, port and protocol: what comes of it is what the tables say, which
/// unit tests hold against the words.
fn check_all(ground: &Ground) {
    let mut seen = [0; 2];
    for (from, remote) in ground.pods.iter().zip(&ground.remotes) {
        for to in &ground.pods {
            for (source, address) in from.addresses().into_iter().zip(to.addresses()) {
                for port in PORTS {
                    let to = SocketAddr::new(address, port);
                    let tables = &ground.tables;
                    let tcp = connection(source, to, Protocol::Tcp);
                    let local = tables.owner(tcp.source).is_some();
                    let expected = match tables.judge(&tcp).allowed {
                        true => None,
                        // Outsiders are refused where they arrive.
                        false if local => Some(libc::EPERM),
                        false => Some(libc::ECONNREFUSED),
                    };
                    assert_eq!(dial(remote, to), expected, "{source} to {to}");
                    seen[usize::from(expected.is_some())] += 1;
                    if local {
                        let udp = connection(source, to, Protocol::Udp);
                        let expected = (!tables.judge(&udp).allowed).then_some(libc::EPERM);
                        assert_eq!(
                            send(remote, to),
                            expected,
                            "a datagram from {source} to {to}"
                        );
                    }
                }
            }
        }
    }
    println!("{} allowed, {} denied", seen[0], seen[1]);
    assert!(seen.iter().all(|count| *count > 0));
}

#[test]
fn what_is_dialled_is_judged_as_the_tables_say() {
    let Some(mut ground) = Ground::new() else {
        return;
    };
    let outside: IpAddr = ground.pods[2].v4().into();
    let nowhere = |policy: Policy| Policy {
        egress: Some(Vec::new()),
        ..policy
    };
    let worlds: Vec<Vec<Policy>> = vec![
        vec![network("closed", "server", vec![])],
        vec![network(
            "one",
            "server",
            vec![allow(labelled("client"), &[80])],
        )],
        vec![
            network(
                "all-but",
                "server",
                vec![allow(block("10.0.0.0/8", &[outside]), &[])],
            ),
            nowhere(network("no-way-out", "client", vec![])),
        ],
        vec![
            network("one", "server", vec![allow(labelled("client"), &[80, 81])]),
            deny("not-81", "server", vec![allow(labelled("client"), &[81])]),
        ],
        vec![network("anybody", "", vec![allow(None, &[81])])],
    ];
    for policies in worlds {
        ground.set(policies);
        check_all(&ground);
    }
}

#[test]
fn a_denial_names_its_rule_and_is_counted() {
    let Some(mut ground) = Ground::new() else {
        return;
    };
    ground.set(vec![deny("no", "server", vec![allow(None, &[80])])]);
    let [client, server, outside] = ground.pods.clone();
    let to = SocketAddr::new(server.v4().into(), 80);
    let ids = [ground.id(&client), ground.id(&server)];
    let (rule, _) = ground.tables.rules().next().unwrap();
    assert_eq!(dial(&ground.remotes[0], to), Some(libc::EPERM));
    let record = ground.record(CloseReason::Denied);
    assert_eq!(
        (record.rule, record.from_source, record.would_deny),
        (rule, 1, 0)
    );
    assert_eq!([record.source_id, record.destination_id], ids);
    assert_eq!(
        (record.source, record.destination),
        (Addr::from(IpAddr::from(client.v4())), Addr::from(to.ip()))
    );
    assert_eq!(record.destination_port.number(), 80);
    assert_eq!(dial(&ground.remotes[2], to), Some(libc::ECONNREFUSED));
    let record = ground.record(CloseReason::Denied);
    assert_eq!((record.rule, record.from_source), (rule, 0));
    assert_eq!([record.source_id, record.destination_id], [0, ids[1]]);
    assert_eq!(record.source, Addr::from(IpAddr::from(outside.v4())));
    let hits = ground.kernel().hits(rule).unwrap();
    assert_eq!((hits.allowed, hits.denied, hits.would_deny), (0, 2, 0));
    // Another port: the flow says that no rule decided.
    assert_eq!(dial(&ground.remotes[0], SocketAddr::new(to.ip(), 81)), None);
    let record = ground.record(CloseReason::SourceClosed);
    assert_eq!((record.rule, record.would_deny), (0, 0));
}

#[test]
fn a_storm_of_denials_leaves_room_for_others() {
    let Some(mut ground) = Ground::new() else {
        return;
    };
    ground.set(vec![network("closed", "server", vec![])]);
    let to = SocketAddr::new(ground.pods[1].v4().into(), 80);
    let before = ground.kernel().hits(0).unwrap().denied;
    let storm = 200;
    for _ in 0..storm {
        assert_eq!(dial(&ground.remotes[0], to), Some(libc::EPERM));
    }
    let recorded = ground.denials();
    let unrecorded = ground.kernel().counters().unwrap().denials_unrecorded;
    assert_eq!(ground.kernel().hits(0).unwrap().denied - before, storm);
    assert_eq!(recorded + unrecorded, storm);
    assert!(
        recorded >= u64::from(DENIALS_PER_WINDOW) && unrecorded > 0,
        "{recorded}"
    );
}

#[test]
fn dry_run_allows_and_tells() {
    let Some(mut ground) = Ground::new() else {
        return;
    };
    let dry = |mut policy: Policy| {
        policy.dry_run = true;
        policy
    };
    ground.set(vec![dry(network("closed", "server", vec![]))]);
    let (rule, name) = ground.tables.rules().next().unwrap();
    assert_eq!(name.rule, "default");
    let to = SocketAddr::new(ground.pods[1].v4().into(), 80);
    assert_eq!(dial(&ground.remotes[0], to), None);
    let record = ground.record(CloseReason::SourceClosed);
    assert_eq!((record.rule, record.would_deny), (rule, 1));
    let kept = ground.remotes[2].connect(to).unwrap();
    let flow = ground.live(kept.local);
    assert_eq!((flow.rule, flow.would_deny), (rule, 1));
    kept.close().unwrap();
    let hits = ground.kernel().hits(rule).unwrap();
    assert_eq!((hits.allowed, hits.denied, hits.would_deny), (0, 0, 2));
    assert_eq!(ground.kernel().judged_lookups(), 0);
}

#[test]
fn datagrams_from_outside_are_refused() {
    let Some(mut ground) = Ground::new() else {
        return;
    };
    ground.set(vec![network("one", "server", vec![allow(None, &[80])])]);
    for address in ground.pods[1].addresses() {
        for (port, refused) in [(80, false), (81, true)] {
            let to = SocketAddr::new(address, port);
            let socket = ground.remotes[2].connect_from(None, to, Kind::Udp).unwrap();
            let send = || Call::Send {
                bytes: vec![7],
                flags: 0,
                to: None,
            };
            socket.call(send()).unwrap();
            if refused {
                // The ICMP answer arrives as an error of the next call.
                let answer = socket.call(Call::Receive {
                    length: 1,
                    flags: 0,
                });
                assert_eq!(errno(&answer), Some(libc::ECONNREFUSED), "{to}");
            } else {
                let peer = ground.datagrams(&to);
                assert_eq!(
                    peer.call(Call::Receive {
                        length: 9,
                        flags: 0
                    })
                    .unwrap()
                    .bytes,
                    [7]
                );
            }
        }
    }
}

#[test]
fn whatever_is_missing_denies() {
    let Some(mut ground) = Ground::new() else {
        return;
    };
    let open = vec![network("open", "server", vec![allow(None, &[])])];
    let to = SocketAddr::new(ground.pods[1].v4().into(), 80);
    let both = |ground: &Ground| [0, 2].map(|from| dial(&ground.remotes[from], to));
    let denied = [Some(libc::EPERM), Some(libc::ECONNREFUSED)];
    ground.set(open.clone());
    assert_eq!(both(&ground), [None, None]);
    // A row.
    let mut rows = Vec::new();
    ground
        .maps
        .verdicts
        .for_each(|key, lists| rows.push((*key, lists[0])))
        .unwrap();
    let rows: Vec<_> = rows
        .into_iter()
        .filter(|(key, _)| key.direction == Direction::Ingress as u8)
        .collect();
    rows.iter()
        .for_each(|(key, _)| ground.maps.verdicts.remove(key).unwrap());
    assert_eq!(both(&ground), denied);
    // A broken list.
    for (key, list) in &rows {
        let broken = mesh_common::policy::RangeList {
            count: u32::MAX,
            ..*list
        };
        ground.maps.verdicts.set(key, &broken).unwrap();
    }
    assert_eq!(both(&ground), denied);
    // Another agent removes what is broken, and brings what is missing.
    ground.restart();
    assert_eq!(both(&ground), denied);
    ground.set(open.clone());
    assert_eq!(both(&ground), [None, None]);
    // The prefixes.
    for prefix in ground.maps.prefixes.keys().unwrap() {
        ground.maps.prefixes.remove(&prefix).unwrap();
    }
    assert_eq!(both(&ground), denied);
    ground.restart();
    ground.set(open);
    assert_eq!(both(&ground), [None, None]);
}

#[test]
fn policy_outlives_the_agent_and_goes_with_it_when_it_is_removed() {
    let Some(mut ground) = Ground::new() else {
        return;
    };
    ground.set(vec![network("closed", "server", vec![])]);
    let to = SocketAddr::new(ground.pods[1].v4().into(), 80);
    let both = |ground: &Ground| [0, 2].map(|from| dial(&ground.remotes[from], to));
    let denied = [Some(libc::EPERM), Some(libc::ECONNREFUSED)];
    assert_eq!(both(&ground), denied);
    ground.stop();
    assert_eq!(both(&ground), denied);
    ground.start();
    assert_eq!(ground.kernel().judged_lookups(), 1);
    assert_eq!(both(&ground), denied);
    ground.set(Vec::new());
    assert_eq!(both(&ground), [None, None]);
    assert_eq!(ground.kernel().judged_lookups(), 0);
    ground.set(vec![network("closed", "server", vec![])]);
    assert_eq!(both(&ground), denied);
    ground.stop();
    mesh_agent::kernel::uninstall(&ground.node.bpf_directory().unwrap()).unwrap();
    // The kernel detaches what a pin alone has held in a work queue (`bpf_link_put`), after the pin is gone.
    wait_for("the programs to be detached", PATIENCE, || {
        both(&ground) == [None, None]
    })
    .unwrap();
}

#[test]
fn the_machine_itself_is_let_in() {
    let Some(mut ground) = Ground::new() else {
        return;
    };
    ground.set(vec![network("closed", "server", vec![])]);
    for address in ground.pods[1].addresses() {
        let to = SocketAddr::new(address, 80);
        let probe = || std::net::TcpStream::connect(to).map(drop);
        ground.node.enter(probe).unwrap().unwrap();
        assert_eq!(dial(&ground.remotes[2], to), Some(libc::ECONNREFUSED));
        // And the pod itself.
        assert_eq!(dial(&ground.remotes[1], to), None);
        let own = if to.is_ipv4() { "127.0.0.1" } else { "::1" };
        assert_eq!(
            dial(
                &ground.remotes[1],
                SocketAddr::new(own.parse().unwrap(), 82)
            ),
            None
        );
    }
}

#[test]
fn a_new_workload_is_closed_from_its_first_moment() {
    let Some(mut ground) = Ground::new() else {
        return;
    };
    let to = SocketAddr::new(ground.pods[1].v4().into(), 80);
    ground.close_and_apply(vec![network("open", "server", vec![allow(None, &[])])]);
    // Where the client dials from is known from the first moment on, too; an outsider is refused where it arrives.
    for (from, error) in [(0, libc::EPERM), (2, libc::ECONNREFUSED)] {
        assert_eq!(dial(&ground.remotes[from], to), Some(error));
    }
    ground.enforce();
    assert_eq!(dial(&ground.remotes[0], to), None);
    assert_eq!(dial(&ground.remotes[2], to), None);
}

#[test]
fn live_flows_are_judged_by_new_tables() {
    let Some(mut ground) = Ground::new() else {
        return;
    };
    ground.set(Vec::new());
    let to = |port| SocketAddr::new(ground.pods[1].v4().into(), port);
    let kept = ground.remotes[0].connect(to(80)).unwrap();
    let lost = ground.remotes[0].connect(to(81)).unwrap();
    let from_outside = ground.remotes[2].connect(to(81)).unwrap();
    ground.set(vec![network("one", "server", vec![allow(None, &[80])])]);
    let all = [&kept, &lost, &from_outside].map(|socket| ground.live(socket.local));
    let flows = all.to_vec();
    let denied: Vec<u16> = ground
        .tables
        .denied(&flows)
        .map(|flow| flow.source_port.number())
        .collect();
    let mut expected = vec![lost.local.port(), from_outside.local.port()];
    expected.sort_unstable();
    let mut found = denied;
    found.sort_unstable();
    assert_eq!(found, expected);
    kept.close().unwrap();
}
