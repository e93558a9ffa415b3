//! Sockets that change hands: the process that uses one need not be the one that made it.

use std::cell::RefCell;

use harness::Remote;
use harness::manifest::Acceleration;
use harness::remote::Socket;
use harness::remote::protocol::Piece;

use crate::world::{MIXED, Mode, World, exchange, finish};

const CONTROL_AND_ON: [Mode; 2] = [None, Some(Acceleration::On)];

/// Bytes each way and step: fewer than what makes a bulk stream or fills the bound.
const LENGTH: u64 = 20_000;

/// Makes `pass` hand over both ends of a connection in mid-stream, with bytes unread, and goes on with old and new in turn.
fn hand_over(pass: impl Fn(&World, &Socket) -> Socket) {
    for mode in CONTROL_AND_ON {
        let Some(world) = World::new(mode) else {
            return;
        };
        let (client, server) = world.join();
        let (mut up, mut down) = (Piece::first(1, LENGTH), Piece::first(2, LENGTH));
        exchange((&client, &server), (up, down), MIXED);
        (up, down) = (up.then(LENGTH), down.then(LENGTH));
        client.write(up, MIXED).unwrap();
        server.write(down, MIXED).unwrap();
        let (new_client, new_server) = (pass(&world, &client), pass(&world, &server));
        assert_eq!(new_server.read(up, MIXED).unwrap(), LENGTH);
        assert_eq!(new_client.read(down, MIXED).unwrap(), LENGTH);
        for pair in [
            (&new_client, &new_server),
            (&client, &new_server),
            (&new_client, &server),
        ] {
            (up, down) = (up.then(LENGTH), down.then(LENGTH));
            exchange(pair, (up, down), MIXED);
        }
        // The connection lives as long as the last who has it.
        client.close().unwrap();
        server.close().unwrap();
        (up, down) = (up.then(LENGTH), down.then(LENGTH));
        exchange((&new_client, &new_server), (up, down), MIXED);
        if mode.is_some() {
            let flow = world.flow(&client);
            assert!(flow["end"].is_null(), "{flow:#}");
        }
        finish((&new_client, &new_server), (up, down));
        new_client.close().unwrap();
        new_server.close().unwrap();
        if mode.is_some() {
            let flow = world.ended_flow(&client);
            assert_eq!(flow["path"], "redirect", "{flow:#}");
            assert_eq!(flow["close"], "source_closed", "{flow:#}");
            let counts = (&flow["tx_bytes"], &flow["rx_bytes"]);
            let sent = 6 * LENGTH;
            assert_eq!(counts, (&sent.into(), &sent.into()), "{flow:#}");
        }
    }
}

#[test]
fn by_inheritance() {
    hand_over(|_, socket| socket.bequeath().unwrap());
}

#[test]
fn over_a_unix_socket_to_another_process_of_the_pod() {
    let others = RefCell::new(Vec::new());
    hand_over(|world, socket| {
        let pod = world.pods.iter().find(|pod| socket.local.ip() == pod.v4());
        let other = Remote::start(pod.unwrap()).unwrap();
        let given = socket.give(&other).unwrap();
        // It runs on: it has the socket now.
        others.borrow_mut().push(other);
        given
    });
}

#[test]
fn over_a_unix_socket_to_the_other_pod() {
    hand_over(|world, socket| {
        let of_client = socket.local.ip() == world.pods[0].v4();
        socket
            .give(if of_client {
                &world.server
            } else {
                &world.client
            })
            .unwrap()
    });
}
