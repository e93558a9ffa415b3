//! Every byte arrives, once and in order, whatever the mesh does.

use std::net::SocketAddr;
use std::time::Duration;

use harness::bytes::Stream;
use harness::manifest::Acceleration;
use harness::remote::protocol::{Call, Kind, Piece};
use harness::wait::PATIENCE;

use crate::world::{MIXED, MODES, Mode, World, exchange, finish};

/// Bytes each way.
const LENGTH: u64 = 3_000_000;

fn pieces() -> (Piece, Piece) {
    (Piece::first(1, LENGTH), Piece::first(2, LENGTH))
}

#[test]
fn both_directions_at_once_in_every_mode() {
    for mode in MODES {
        let Some(world) = World::new(mode) else {
            return;
        };
        for listener in [
            world.server.listen().unwrap(),
            world.server.listen_v6().unwrap(),
        ] {
            let (client, server) = world.client.join(&listener).unwrap();
            exchange((&client, &server), pieces(), MIXED);
            finish((&client, &server), pieces());
        }
    }
}

#[test]
fn an_ipv4_client_of_a_dual_stack_server() {
    for mode in [None, Some(Acceleration::On)] {
        let Some(world) = World::new(mode) else {
            return;
        };
        let any = world
            .server
            .listen_on("[::]:0".parse().unwrap(), Kind::Tcp)
            .unwrap();
        let address = SocketAddr::new(world.pods[1].v4().into(), any.local.port());
        let client = world.client.connect(address).unwrap();
        let server = any.accept().unwrap();
        for socket in [&client, &server] {
            socket.call(Call::Nonblocking(true)).unwrap();
        }
        exchange((&client, &server), pieces(), MIXED);
        finish((&client, &server), pieces());
    }
}

#[test]
fn one_byte_at_a_time_and_in_lumps() {
    for mode in [None, Some(Acceleration::On)] {
        let Some(world) = World::new(mode) else {
            return;
        };
        for cut in [(1, 1), (1, 3), (65_536, 65_536), (1, 1_000_000)] {
            let length = if cut.1 < 10 { 20_000 } else { LENGTH };
            let pieces = (Piece::first(3, length), Piece::first(4, length));
            let (client, server) = world.join();
            exchange((&client, &server), pieces, cut);
            finish((&client, &server), pieces);
        }
    }
}

#[test]
fn data_that_was_sent_before_accept() {
    for mode in [None, Some(Acceleration::On)] {
        let Some(world) = World::new(mode) else {
            return;
        };
        let listener = world.server.listen().unwrap();
        let client = world.client.connect(listener.local).unwrap();
        let piece = Piece::first(5, 30_000);
        client.write(piece, MIXED).unwrap();
        client.finish().unwrap();
        let server = listener.accept().unwrap();
        assert_eq!(server.read(piece, MIXED).unwrap(), piece.length);
        assert_eq!(server.read(piece.rest(), MIXED).unwrap(), 0);
    }
}

#[test]
fn data_in_the_syn_with_fast_open() {
    const MSG_FASTOPEN: i32 = 0x2000_0000;
    const TCP_FASTOPEN: i32 = 23;
    for mode in [None, Some(Acceleration::On)] {
        let Some(world) = World::new(mode) else {
            return;
        };
        for pod in &world.pods {
            // 1 + 2: client and server; 4 and 0x200: also without a cookie; 0x400: on every listener.
            let path = "/proc/sys/net/ipv4/tcp_fastopen";
            pod.enter(|| std::fs::write(path, "1543")).unwrap().unwrap();
        }
        let listener = world.server.listen().unwrap();
        listener.set_option(libc_tcp(), TCP_FASTOPEN, 16).unwrap();
        let piece = Piece::first(6, 40_000);
        let mut bytes = vec![0; 500];
        Stream(6).fill(0, &mut bytes);
        let client = world.client.bare(Kind::Tcp, false).unwrap();
        let sent = client.call(Call::Send {
            bytes,
            flags: MSG_FASTOPEN,
            to: Some(listener.local),
        });
        assert_eq!(sent.unwrap().count, 500);
        let later = Piece {
            offset: 500,
            length: piece.length - 500,
            ..piece
        };
        client.write(later, (1, 900)).unwrap();
        client.finish().unwrap();
        let server = listener.accept().unwrap();
        assert_eq!(server.read(piece, MIXED).unwrap(), piece.length);
        assert_eq!(server.read(piece.rest(), MIXED).unwrap(), 0);
    }
}

#[test]
fn multipath_tcp_stays_as_it_is() {
    for mode in [None, Some(Acceleration::On)] {
        let Some(world) = World::new(mode) else {
            return;
        };
        let address = SocketAddr::new(world.pods[1].v4().into(), 0);
        let listener = world.server.listen_on(address, Kind::Mptcp);
        // Protocol not supported: a kernel without multipath TCP.
        if harness::remote::errno(&listener) == Some(93) {
            return;
        }
        let listener = listener.unwrap();
        let client = world
            .client
            .connect_from(None, listener.local, Kind::Mptcp)
            .unwrap();
        let server = listener.accept().unwrap();
        for socket in [&client, &server] {
            socket.call(Call::Nonblocking(true)).unwrap();
        }
        exchange((&client, &server), pieces(), MIXED);
        finish((&client, &server), pieces());
    }
}

#[test]
fn a_request_and_its_answer_many_times() {
    for mode in [None, Some(Acceleration::On)] {
        let Some(world) = World::new(mode) else {
            return;
        };
        let (client, server) = world.join();
        let (mut up, mut down) = (Piece::first(7, 100), Piece::first(8, 5000));
        for _ in 0..200 {
            client.write(up, (100, 100)).unwrap();
            assert_eq!(server.read(up, MIXED).unwrap(), up.length);
            server.write(down, MIXED).unwrap();
            assert_eq!(client.read(down, MIXED).unwrap(), down.length);
            (up, down) = (up.then(100), down.then(5000));
        }
    }
}

#[test]
fn first_writes_are_never_overtaken_where_receiving_is_spread_over_cores() {
    let modes: [Mode; 2] = [None, Some(Acceleration::On)];
    for mode in modes {
        let Some(world) = World::new(mode) else {
            return;
        };
        for pod in &world.pods {
            pod.spread_receiving().unwrap();
        }
        burst(&world, 16, 250);
    }
}

#[test]
fn first_writes_are_never_overtaken_on_a_slow_link() {
    let modes: [Mode; 2] = [None, Some(Acceleration::On)];
    for mode in modes {
        let Some(world) = World::new(mode) else {
            return;
        };
        // One small segment goes at once, the SYN; each next one waits for tens of milliseconds, and longer ones are lost.
        world.pods[0].slow_sending("16kbit", 100).unwrap();
        for seed in 1..6 {
            let listener = world.server.listen().unwrap();
            let client = world.client.connect(listener.local).unwrap();
            let first = Piece::first(seed, 10);
            client.write(first, (1, 5)).unwrap();
            // The handshake has ended here too, and the first bytes are still on their way.
            let server = listener.accept().unwrap();
            let second = first.then(10);
            client.write(second, (1, 5)).unwrap();
            for piece in [first, second] {
                assert_eq!(server.read(piece, MIXED).unwrap(), piece.length);
            }
            // Now nothing is, and the connection is redirected.
            let third = second.then(10);
            client.write(third, (1, 5)).unwrap();
            assert_eq!(server.read(third, MIXED).unwrap(), 10);
            if mode.is_some() {
                let flow = world.flow(&client);
                assert_eq!(flow["reason"], "peer_not_joined", "{flow:#}");
                assert_eq!(flow["redirected_tx_bytes"], 10, "{flow:#}");
            }
        }
    }
}

/// Makes connections with several writes right after `connect`, `count` on each of so many threads, and checks all answers.
fn burst(world: &World, threads: u32, count: u32) {
    let peer = env!("CARGO_BIN_EXE_peer");
    let [client, server] = &world.pods;
    let mut command = server.command(peer);
    command.args(["burst", "--listen", &format!("{}:0", server.v4())]);
    let mut serving = server.start("burst", &mut command).unwrap();
    let address = serving.line("ready ", PATIENCE).unwrap();
    let mut command = client.command(peer);
    command.args(["burst", "--connect", &address]);
    command.args(["--threads", &threads.to_string()]);
    command.args(["--count", &count.to_string()]);
    let mut driving = client.start("burst", &mut command).unwrap();
    let text = driving.success(Duration::from_secs(60)).unwrap();
    let expected = format!("{} right, 0 wrong", threads * count);
    assert!(text.contains(&expected), "{text}");
}

fn libc_tcp() -> i32 {
    // IPPROTO_TCP, on every system that has epoll.
    6
}
