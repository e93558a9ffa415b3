//! A connection's bytes reach that connection's other end and no other, however alike two connections look.

use harness::manifest::Acceleration;
use harness::remote::protocol::{Kind, Piece};
use harness::{Node, Remote};

use crate::world::{MIXED, Mode, World, exchange, finish};

const MODES: [Mode; 2] = [None, Some(Acceleration::On)];

#[test]
fn the_same_addresses_and_ports_in_other_namespaces() {
    for mode in MODES {
        let Some(world) = World::new(mode) else {
            return;
        };
        // Pods with the very addresses of the others, on a network of their own, unknown to the agent but under its hooks.
        let twin = Node::within(&world.node).unwrap();
        let pods = [twin.pod("client").unwrap(), twin.pod("server").unwrap()];
        assert_eq!(pods[0].addresses(), world.pods[0].addresses());
        let client = Remote::start(&pods[0]).unwrap();
        let server = Remote::start(&pods[1]).unwrap();

        let (one, other) = world.join();
        let listener = server.listen_on(other.local, Kind::Tcp).unwrap();
        let twin_one = client
            .connect_from(Some(one.local), listener.local, Kind::Tcp)
            .unwrap();
        let twin_other = listener.accept().unwrap();
        let ours = (Piece::first(1, 200_000), Piece::first(2, 200_000));
        let theirs = (Piece::first(3, 200_000), Piece::first(4, 200_000));
        for socket in [&twin_one, &twin_other] {
            socket
                .call(harness::remote::protocol::Call::Nonblocking(true))
                .unwrap();
        }
        let (left, right) = ((&one, &other), (&twin_one, &twin_other));
        std::thread::scope(|scope| {
            scope.spawn(|| exchange(left, ours, MIXED));
            scope.spawn(|| exchange(right, theirs, MIXED));
        });
        finish(left, ours);
        finish(right, theirs);
    }
}

#[test]
fn the_same_port_again_while_the_old_end_is_still_open() {
    const IPPROTO_TCP: i32 = 6;
    /// A socket in this mode closes without telling the other end.
    const TCP_REPAIR: i32 = 19;
    for mode in MODES {
        let Some(world) = World::new(mode) else {
            return;
        };
        let listener = world.server.listen().unwrap();
        let (old, old_end) = world.client.join(&listener).unwrap();
        let piece = Piece::first(1, 3);
        exchange((&old, &old_end), (piece, piece), MIXED);
        old.write(piece.then(3), MIXED).unwrap();
        // This end forgets the connection; the other knows nothing of it until the new one's SYN arrives.
        old.set_option(IPPROTO_TCP, TCP_REPAIR, 1).unwrap();
        old.close().unwrap();
        let new = world
            .client
            .connect_from(Some(old.local), listener.local, Kind::Tcp)
            .unwrap();
        let new_end = listener.accept().unwrap();
        for socket in [&new, &new_end] {
            socket
                .call(harness::remote::protocol::Call::Nonblocking(true))
                .unwrap();
        }
        let pieces = (Piece::first(3, 50_000), Piece::first(4, 50_000));
        exchange((&new, &new_end), pieces, MIXED);
        finish((&new, &new_end), pieces);
        // What the old end has, if anything, is its own.
        let left = old_end
            .start_read(piece.then(3), (1, 10))
            .unwrap()
            .wait(harness::wait::PATIENCE);
        assert!(
            left.is_ok() || harness::remote::errno(&left).is_some(),
            "{left:?}"
        );
    }
}
