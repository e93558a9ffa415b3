//! What an application does that redirect breaks is seen, and costs it its admission; one that does nothing of it gets in.

use std::time::Duration;

use harness::manifest::Acceleration;
use harness::remote::Socket;
use harness::remote::protocol::{Call, Piece};
use harness::wait::PATIENCE;
use mesh_common::behaviour::LONG_SEND_BYTES;

use crate::world::{MIXED, World};

const SOL_SOCKET: i32 = 1;
const IPPROTO_TCP: i32 = 6;
const MSG_OOB: i32 = 0x1;
const MSG_TRUNC: i32 = 0x20;
const MSG_WAITALL: i32 = 0x100;
const SO_RCVLOWAT: i32 = 18;
const SO_PEEK_OFF: i32 = 42;
const SO_ZEROCOPY: i32 = 60;
const TCP_REPAIR: i32 = 19;
const TCP_INQ: i32 = 36;

/// One thing that an application does on a connection whose other end has just sent 100 bytes.
type Act = fn(&Socket);

/// Each by the label that the agent gives it.
const ACTS: [(&str, Act); 12] = [
    ("splice", |socket| act(socket, Call::Splice(10))),
    ("fionread", |socket| act(socket, Call::Readable)),
    ("half_close_blocking", |socket| act(socket, Call::Finish)),
    ("waitall", |socket| {
        act(
            socket,
            Call::Receive {
                length: 10,
                flags: MSG_WAITALL,
            },
        )
    }),
    ("trunc", |socket| {
        act(
            socket,
            Call::Receive {
                length: 10,
                flags: MSG_TRUNC,
            },
        )
    }),
    ("long_send_blocking", |socket| {
        let piece = Piece::first(2, LONG_SEND_BYTES + 1);
        socket.write(piece, (1000, 1000)).unwrap();
        act(
            socket,
            Call::Receive {
                length: 10,
                flags: 0,
            },
        )
    }),
    ("oob", |socket| {
        act(
            socket,
            Call::Send {
                bytes: b"!".into(),
                flags: MSG_OOB,
                to: None,
            },
        )
    }),
    ("rcvlowat", |socket| {
        socket.set_option(SOL_SOCKET, SO_RCVLOWAT, 10).unwrap()
    }),
    ("zerocopy_send", |socket| {
        socket.set_option(SOL_SOCKET, SO_ZEROCOPY, 1).unwrap()
    }),
    ("peek_off", |socket| {
        socket.set_option(SOL_SOCKET, SO_PEEK_OFF, 0).unwrap()
    }),
    ("inq", |socket| {
        socket.set_option(IPPROTO_TCP, TCP_INQ, 1).unwrap()
    }),
    ("repair", |socket| {
        socket.set_option(IPPROTO_TCP, TCP_REPAIR, 1).unwrap();
        socket.set_option(IPPROTO_TCP, TCP_REPAIR, 0).unwrap();
    }),
];

/// Those that are seen for ever, not only in the window.
const LASTING: [&str; 6] = [
    "rcvlowat",
    "zerocopy_send",
    "peek_off",
    "inq",
    "repair",
    "long_send_blocking",
];

fn act(socket: &Socket, call: Call) {
    socket.call(call).unwrap();
}

/// Exchanges requests and answers on a connection of its own until the workloads are out of their window.
fn chat_until_decided(world: &World) {
    let (client, server) = world.join();
    let (mut up, mut down) = (Piece::first(1, 100), Piece::first(2, 100));
    harness::wait_for("the agent to decide", Duration::from_secs(60), || {
        client.write(up, MIXED).unwrap();
        assert_eq!(server.read(up, MIXED).unwrap(), 100);
        server.write(down, MIXED).unwrap();
        assert_eq!(client.read(down, MIXED).unwrap(), 100);
        (up, down) = (up.then(100), down.then(100));
        let undecided = |name| world.agent().workload(name).unwrap()["state"] == "observing";
        !(undecided("client") || undecided("server"))
    })
    .unwrap();
}

/// Returns whether redirect breaks this behaviour on this kernel. Sockets repaired by hand stay out on every kernel.
fn forbidden(world: &World, label: &str) -> bool {
    if label == "repair" {
        return true;
    }
    let status = world.agent().status().unwrap();
    let defects = status["kernel"]["defects"].as_array().unwrap();
    let labels = defects
        .iter()
        .filter_map(|defect| defect["forbids"].as_array())
        .flatten();
    labels.into_iter().any(|found| found == label)
}

fn seen(world: &World, label: &str) -> bool {
    let workload = world.agent().workload("client").unwrap();
    workload["behaviours"]
        .as_array()
        .is_some_and(|all| all.iter().any(|found| found == label))
}

fn do_it(world: &World, act: Act) {
    let listener = world.server.listen().unwrap();
    let client = world.client.connect(listener.local).unwrap();
    let server = listener.accept().unwrap();
    server.write(Piece::first(1, 100), MIXED).unwrap();
    act(&client);
}

#[test]
fn one_that_does_nothing_wrong_is_accelerated() {
    let Some(world) = World::with(Some(Acceleration::Auto), &["--observation-window", "1s"]) else {
        return;
    };
    chat_until_decided(&world);
    for name in ["client", "server"] {
        let workload = world.agent().workload(name).unwrap();
        assert_eq!(workload["state"], "accelerated", "{workload:#}");
    }
    let (client, server) = world.join();
    let piece = Piece::first(1, 1000);
    client.write(piece, MIXED).unwrap();
    assert_eq!(server.read(piece, MIXED).unwrap(), 1000);
    let flow = world.flow(&client);
    assert_eq!(flow["redirected_tx_bytes"], 1000, "{flow:#}");
}

#[test]
fn one_that_does_it_while_it_is_watched_is_not_accelerated() {
    let mut failures = Vec::new();
    for (label, act) in ACTS {
        let Some(world) = World::with(Some(Acceleration::Auto), &["--observation-window", "1s"])
        else {
            return;
        };
        do_it(&world, act);
        chat_until_decided(&world);
        let workload = world.agent().workload("client").unwrap();
        let state = if forbidden(&world, label) {
            "not-accelerated"
        } else {
            "accelerated"
        };
        if !seen(&world, label) || workload["state"] != state {
            failures.push(format!("{label}: {workload:#}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn one_that_does_it_later_loses_its_acceleration() {
    let mut failures = Vec::new();
    for (label, act) in ACTS {
        let Some(world) = World::with(Some(Acceleration::Auto), &["--observation-window", "1s"])
        else {
            return;
        };
        if !LASTING.contains(&label) || !forbidden(&world, label) {
            continue;
        }
        chat_until_decided(&world);
        do_it(&world, act);
        let lost = world
            .agent()
            .wait_for_state(&["client"], "not-accelerated", PATIENCE);
        failures.extend(lost.err().map(|error| format!("{label}: {error:#}")));
        let (client, server) = world.join();
        let piece = Piece::first(1, 1000);
        client.write(piece, MIXED).unwrap();
        assert_eq!(server.read(piece, MIXED).unwrap(), 1000);
        let flow = world.flow(&client);
        assert_eq!(flow["redirected_tx_bytes"], 0, "{label}: {flow:#}");
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn one_that_was_given_a_spurious_eagain_loses_its_acceleration() {
    let Some(world) = World::with(Some(Acceleration::Auto), &["--observation-window", "1s"]) else {
        return;
    };
    chat_until_decided(&world);
    if !forbidden(&world, "spurious_eagain") {
        eprintln!("this kernel gives no such EAGAIN");
        return;
    }
    let given = (0..50).any(|_| {
        let listener = world.server.listen().unwrap();
        let client = world.client.connect(listener.local).unwrap();
        client.wakes_in_vain(&listener.accept().unwrap()).unwrap()
    });
    assert!(given, "no call was asleep in time");
    let agent = world.agent();
    agent
        .wait_for_state(&["client"], "not-accelerated", PATIENCE)
        .unwrap();
    let workload = agent.workload("client").unwrap();
    let why = "a blocking recv failed with EAGAIN because of redirect";
    assert_eq!(workload["why"], why, "{workload:#}");
    assert_eq!(agent.workload("server").unwrap()["state"], "accelerated");
    let metrics = agent.metrics().unwrap();
    assert!(metrics.contains("\nmesh_spurious_eagain_total 1\n"));
    let status = agent.status_text().unwrap();
    assert!(status.contains("1 spurious EAGAINs"), "{status}");
    // And from here on, there is none.
    for _ in 0..5 {
        let listener = world.server.listen().unwrap();
        let client = world.client.connect(listener.local).unwrap();
        let server = listener.accept().unwrap();
        assert!(!client.wakes_in_vain(&server).unwrap());
    }
}

#[test]
fn two_threads_on_a_blocking_socket_are_seen() {
    let Some(world) = World::with(Some(Acceleration::Auto), &["--observation-window", "10m"])
    else {
        return;
    };
    let listener = world.server.listen().unwrap();
    let client = world.client.connect(listener.local).unwrap();
    let server = listener.accept().unwrap();
    let read = client.start_read(Piece::first(1, 100), (100, 100)).unwrap();
    for number in 0..20 {
        client
            .write(
                Piece {
                    offset: number * 10,
                    ..Piece::first(2, 10)
                },
                (10, 10),
            )
            .unwrap();
    }
    assert!(read.runs().unwrap());
    server.write(Piece::first(1, 100), MIXED).unwrap();
    assert_eq!(read.wait(PATIENCE).unwrap().count, 100);
    // A call is seen when it returns.
    let label = "blocking_threads";
    harness::wait_for(label, Duration::from_secs(10), || seen(&world, label)).unwrap();
}
