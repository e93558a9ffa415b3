//! Handshakes and ends that are not the usual ones.

use std::net::SocketAddr;

use harness::Remote;
use harness::manifest::Acceleration;
use harness::remote::protocol::{Call, Kind, Piece};
use harness::remote::{Socket, errno};
use harness::wait::{PATIENCE, wait_for};
use serde_json::Value;

use crate::wall::Wall;
use crate::world::{MIXED, MODES, Mode, World, exchange, finish};

const CONTROL_AND_ON: [Mode; 2] = [None, Some(Acceleration::On)];

const SOL_SOCKET: i32 = 1;
const SO_LINGER: i32 = 13;
const SO_REUSEPORT: i32 = 15;
const SO_BINDTODEVICE: i32 = 25;
const IPPROTO_TCP: i32 = 6;
const TCP_DEFER_ACCEPT: i32 = 9;
const TCP_ULP: i32 = 31;
const POLLIN: i16 = 1;
const POLLOUT: i16 = 4;
const EINPROGRESS: i32 = 115;
const ECONNRESET: i32 = 104;

/// Bytes each way: fewer than what makes a bulk stream or fills the bound.
const LENGTH: u64 = 50_000;

fn pieces() -> (Piece, Piece) {
    (Piece::first(1, LENGTH), Piece::first(2, LENGTH))
}

fn polled(socket: &Socket, events: i16, timeout: i32) -> bool {
    let seen = socket.call(Call::Poll { events, timeout }).unwrap();
    seen.count & events as u64 != 0
}

fn unblock(sockets: &[&Socket]) {
    for socket in sockets {
        socket.call(Call::Nonblocking(true)).unwrap();
    }
}

/// Uses a connection to its end: bytes both ways, and, with an agent, a record that says so. Returns the record.
fn use_up(world: &World, mode: Mode, client: &Socket, server: &Socket) -> Option<Value> {
    unblock(&[client, server]);
    exchange((client, server), pieces(), MIXED);
    finish((client, server), pieces());
    client.close().unwrap();
    server.close().unwrap();
    mode?;
    let flow = world.ended_flow(client);
    let counts = (&flow["tx_bytes"], &flow["rx_bytes"]);
    assert_eq!(counts, (&LENGTH.into(), &LENGTH.into()), "{flow:#}");
    assert_eq!(flow["close"], "source_closed", "{flow:#}");
    Some(flow)
}

fn assert_path(flow: Option<Value>, path: &str) {
    if let Some(flow) = flow {
        assert_eq!(flow["path"], path, "{flow:#}");
    }
}

/// Dials from a port of its own, and does not wait for the end of the handshake.
fn dial(remote: &Remote, from: SocketAddr, to: SocketAddr) -> Socket {
    let mut socket = remote.bare(Kind::Tcp, false).unwrap();
    socket.local = from;
    socket.call(Call::Bind(from)).unwrap();
    socket.call(Call::Nonblocking(true)).unwrap();
    let dialled = socket.call(Call::Connect(to));
    assert_eq!(errno(&dialled), Some(EINPROGRESS), "{dialled:?}");
    socket
}

/// Uses a connection between these ports that both ends dialled, to its end. Returns its record, of one end or the other.
fn use_up_dialled(world: &World, mode: Mode, one: &Socket, other: &Socket) -> Option<Value> {
    for socket in [one, other] {
        assert!(polled(socket, POLLOUT, 10_000));
    }
    exchange((one, other), pieces(), MIXED);
    finish((one, other), pieces());
    one.close().unwrap();
    other.close().unwrap();
    mode?;
    let ports = [one.local.port(), other.local.port()];
    let mut found = Vec::new();
    wait_for("the flow to end", PATIENCE, || {
        let flows = world.agent().flows().unwrap();
        let flows = flows["flows"].as_array().unwrap().iter();
        let own = flows.filter(|flow| ports.iter().any(|port| flow["source"]["port"] == *port));
        found = own.cloned().collect();
        !found.is_empty() && found.iter().all(|flow| !flow["end"].is_null())
    })
    .unwrap();
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!(found[0]["tx_bytes"], LENGTH, "{found:#?}");
    assert_eq!(found[0]["rx_bytes"], LENGTH, "{found:#?}");
    found.pop()
}

#[test]
fn both_ends_dial_at_once() {
    if !Wall::is_possible() {
        return;
    }
    for mode in CONTROL_AND_ON {
        let Some(world) = World::new(mode) else {
            return;
        };
        let walls = [Wall::raise(&world.pods[0]), Wall::raise(&world.pods[1])];
        let [here, there] = [(0, 4000), (1, 4001)]
            .map(|(pod, port)| SocketAddr::new(world.pods[pod].v4().into(), port));
        let one = dial(&world.client, here, there);
        let other = dial(&world.server, there, here);
        // Either SYN is lost; each is sent again.
        for wall in walls {
            wait_for("a SYN to be lost", PATIENCE, || wall.dropped() > 0).unwrap();
            wall.fall();
        }
        if let Some(flow) = use_up_dialled(&world, mode, &one, &other) {
            // Where they crossed, neither end is the one that was dialled, and the two do not find each other.
            let expected = [("tcp", "peer_not_joined"), ("redirect", "none")];
            let is = |(path, reason)| flow["path"] == path && flow["reason"] == reason;
            assert!(expected.into_iter().any(is), "{flow:#}");
        }
    }
}

#[test]
fn one_end_dials_another_that_has_dialled_it_in_vain() {
    if !Wall::is_possible() {
        return;
    }
    for mode in CONTROL_AND_ON {
        let Some(world) = World::new(mode) else {
            return;
        };
        // Several: which initial sequence number is the lower one is chance.
        for port in 4000..4010 {
            let [here, there] =
                [0, 1].map(|pod| SocketAddr::new(world.pods[pod].v4().into(), port));
            let wall = Wall::raise(&world.pods[0]);
            let other = dial(&world.server, there, here);
            wait_for("the SYN to be lost", PATIENCE, || wall.dropped() > 0).unwrap();
            wall.fall();
            let one = dial(&world.client, here, there);
            let flow = use_up_dialled(&world, mode, &one, &other);
            assert_path(flow, "redirect");
        }
        if mode.is_some() {
            // A second record of any but the last would be there by now.
            let flows = world.agent().flows().unwrap();
            assert_eq!(flows["flows"].as_array().unwrap().len(), 10, "{flows:#}");
        }
    }
}

#[test]
fn handshakes_with_syn_cookies() {
    for mode in CONTROL_AND_ON {
        let Some(world) = World::new(mode) else {
            return;
        };
        let pod = &world.pods[1];
        let always = || std::fs::write("/proc/sys/net/ipv4/tcp_syncookies", "2");
        pod.enter(always).unwrap().unwrap();
        for _ in 0..5 {
            let (client, server) = world.join();
            let flow = use_up(&world, mode, &client, &server);
            assert_path(flow, "redirect");
        }
        let counters = || std::fs::read_to_string("/proc/thread-self/net/netstat");
        let counters = pod.enter(counters).unwrap().unwrap();
        // One cookie comes back more than once where the first bytes meet the listener, too.
        assert!(counter(&counters, "SyncookiesRecv") >= 5, "{counters}");
    }
}

/// Returns a counter of `/proc/net/netstat`: a line of names, then a line of numbers.
fn counter(text: &str, name: &str) -> u64 {
    let lines: Vec<&str> = text.lines().collect();
    let mut pairs = lines.chunks_exact(2).flat_map(|pair| {
        pair[0]
            .split(' ')
            .zip(pair[1].split(' '))
            .collect::<Vec<_>>()
    });
    let found = pairs.find(|(found, _)| *found == name).unwrap();
    found.1.parse().unwrap()
}

#[test]
fn a_listener_that_waits_for_the_first_bytes() {
    for mode in CONTROL_AND_ON {
        let Some(world) = World::new(mode) else {
            return;
        };
        let listener = world.server.listen().unwrap();
        listener
            .set_option(IPPROTO_TCP, TCP_DEFER_ACCEPT, 10)
            .unwrap();
        let client = world.client.connect(listener.local).unwrap();
        let first = Piece::first(1, 500);
        client.write(first, (50, 50)).unwrap();
        let server = listener.accept().unwrap();
        unblock(&[&client, &server]);
        assert_eq!(server.read(first, MIXED).unwrap(), 500);
        let (up, down) = (first.then(LENGTH), Piece::first(2, LENGTH));
        exchange((&client, &server), (up, down), MIXED);
        finish((&client, &server), (up, down));
        client.close().unwrap();
        server.close().unwrap();
        if mode.is_some() {
            let flow = world.ended_flow(&client);
            // The first bytes make the server's socket; the rest go straight to it.
            assert_eq!(flow["path"], "mixed", "{flow:#}");
            assert_eq!(flow["reason"], "peer_not_joined", "{flow:#}");
            assert_eq!(flow["tx_bytes"], LENGTH + 500, "{flow:#}");
            assert_eq!(flow["redirected_rx_bytes"], LENGTH, "{flow:#}");
        }
    }
}

#[test]
fn two_listeners_on_one_port() {
    for mode in CONTROL_AND_ON {
        let Some(world) = World::new(mode) else {
            return;
        };
        let address = SocketAddr::new(world.pods[1].v4().into(), 4000);
        let listeners = [(); 2].map(|()| {
            let listener = world.server.bare(Kind::Tcp, false).unwrap();
            listener.set_option(SOL_SOCKET, SO_REUSEPORT, 1).unwrap();
            listener.call(Call::Bind(address)).unwrap();
            listener.call(Call::Listen).unwrap();
            listener
        });
        let mut accepted = [0, 0];
        for _ in 0..16 {
            let client = world.client.connect(address).unwrap();
            let mut chosen = None;
            wait_for("a listener to have it", PATIENCE, || {
                chosen = listeners.iter().position(|one| polled(one, POLLIN, 0));
                chosen.is_some()
            })
            .unwrap();
            let chosen = chosen.unwrap();
            accepted[chosen] += 1;
            let server = listeners[chosen].accept().unwrap();
            let flow = use_up(&world, mode, &client, &server);
            assert_path(flow, "redirect");
        }
        // All on one side once in 32,768 runs.
        assert!(accepted.iter().all(|count| *count > 0), "{accepted:?}");
    }
}

#[test]
fn a_socket_that_is_bound_to_a_device() {
    for mode in CONTROL_AND_ON {
        let Some(world) = World::new(mode) else {
            return;
        };
        let listener = world.server.listen().unwrap();
        let mut client = world.client.bare(Kind::Tcp, false).unwrap();
        for socket in [&listener, &client] {
            socket
                .set_option_bytes(SOL_SOCKET, SO_BINDTODEVICE, b"eth0")
                .unwrap();
        }
        let from = SocketAddr::new(world.pods[0].v4().into(), 4000);
        client.call(Call::Bind(from)).unwrap();
        client.call(Call::Connect(listener.local)).unwrap();
        client.local = from;
        let server = listener.accept().unwrap();
        let flow = use_up(&world, mode, &client, &server);
        assert_path(flow, "redirect");
    }
}

#[test]
fn a_pod_that_dials_its_own_address() {
    for mode in MODES {
        let Some(world) = World::new(mode) else {
            return;
        };
        for listener in [
            world.server.listen().unwrap(),
            world.server.listen_v6().unwrap(),
            world
                .server
                .listen_on("127.0.0.1:0".parse().unwrap(), Kind::Tcp)
                .unwrap(),
        ] {
            let client = world.server.connect(listener.local).unwrap();
            let server = listener.accept().unwrap();
            let flow = use_up(&world, mode, &client, &server);
            if let Some(flow) = &flow {
                assert_eq!(flow["source"]["workload"]["name"], "server", "{flow:#}");
                assert_eq!(
                    flow["destination"]["workload"]["name"], "server",
                    "{flow:#}"
                );
            }
            let on = mode == Some(Acceleration::On);
            assert_path(flow, if on { "redirect" } else { "tcp" });
        }
    }
}

#[test]
fn a_reset_by_either_end_after_all_was_read_or_before() {
    for mode in CONTROL_AND_ON {
        for by_client in [true, false] {
            for unread in [0, 1000] {
                let Some(world) = World::new(mode) else {
                    return;
                };
                let (client, server) = world.join();
                let (mut up, mut down) = (Piece::first(1, 5000), Piece::first(2, 5000));
                exchange((&client, &server), (up, down), MIXED);
                let (from, to, piece) = if by_client {
                    (&client, &server, &mut up)
                } else {
                    (&server, &client, &mut down)
                };
                *piece = piece.then(unread);
                // In one: what a sender holds back is lost in a reset.
                from.write(*piece, (1000, 1000)).unwrap();
                let at_once = [1i32.to_ne_bytes(), 0i32.to_ne_bytes()].concat();
                from.set_option_bytes(SOL_SOCKET, SO_LINGER, &at_once)
                    .unwrap();
                from.close().unwrap();
                // What had arrived before the reset can still be read.
                assert_eq!(to.read(*piece, MIXED).unwrap(), unread);
                let end = to.start_read(piece.rest(), MIXED).unwrap().wait(PATIENCE);
                assert_eq!(errno(&end), Some(ECONNRESET), "{end:?}");
                to.close().unwrap();
                if mode.is_none() {
                    continue;
                }
                let flow = world.ended_flow(&client);
                let (close, tx, rx) = if by_client {
                    ("source_reset", 5000 + unread, 5000)
                } else {
                    ("destination_reset", 5000, 5000 + unread)
                };
                assert_eq!(flow["close"], close, "{flow:#}");
                assert_eq!(flow["path"], "redirect", "{flow:#}");
                assert_eq!(
                    (&flow["tx_bytes"], &flow["rx_bytes"]),
                    (&tx.into(), &rx.into()),
                    "{flow:#}"
                );
            }
        }
    }
}

#[test]
fn an_attempt_at_an_upper_layer_protocol() {
    for mode in CONTROL_AND_ON {
        let Some(world) = World::new(mode) else {
            return;
        };
        let (client, server) = world.join();
        let (up, down) = pieces();
        exchange((&client, &server), (up, down), MIXED);
        // A kernel that has it may take it or, on a redirected connection, not.
        let tried = client.set_option_bytes(IPPROTO_TCP, TCP_ULP, b"tls");
        assert!(tried.is_ok() || errno(&tried).is_some(), "{tried:?}");
        let (more, answer) = (up.then(1000), down.then(1000));
        exchange((&client, &server), (more, answer), MIXED);
        finish((&client, &server), (more, answer));
        client.close().unwrap();
        server.close().unwrap();
        if mode.is_some() {
            let flow = world.ended_flow(&client);
            // From then on this end sends by TCP.
            assert_eq!(flow["redirected_tx_bytes"], LENGTH, "{flow:#}");
            assert_eq!(flow["tx_bytes"], LENGTH + 1000, "{flow:#}");
            assert_eq!(flow["reason"], "socket_option", "{flow:#}");
            wait_for("it to be seen", PATIENCE, || {
                let workload = world.agent().workload("client").unwrap();
                let seen = workload["behaviours"].as_array().unwrap();
                seen.contains(&"ulp".into())
            })
            .unwrap();
        }
    }
}
