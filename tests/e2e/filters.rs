//! A packet filter between two pods: it does not see redirected bytes, and does stop the connection once they go by TCP.

use harness::manifest::Acceleration;
use harness::remote::protocol::{Call, Piece};
use harness::remote::{Socket, errno};
use harness::wait::PATIENCE;

use crate::wall::Wall;
use crate::world::{MIXED, World, exchange, finish};

const SOL_SOCKET: i32 = 1;
const SO_KEEPALIVE: i32 = 9;
const IPPROTO_TCP: i32 = 6;
const TCP_KEEPIDLE: i32 = 4;
const TCP_KEEPINTVL: i32 = 5;
const TCP_KEEPCNT: i32 = 6;
const TCP_USER_TIMEOUT: i32 = 18;
const POLLIN: i16 = 1;
const ETIMEDOUT: i32 = 110;

fn is_readable(socket: &Socket) -> bool {
    let (events, timeout) = (POLLIN, 0);
    let seen = socket.call(Call::Poll { events, timeout }).unwrap();
    seen.count != 0
}

fn world(mode: Option<Acceleration>) -> Option<World> {
    if !Wall::is_possible() {
        return None;
    }
    World::new(mode)
}

/// Puts a live connection back on TCP.
type Back = fn(&World);

#[test]
fn redirected_bytes_pass_it_until_the_connection_is_back_on_tcp() {
    let ways: [(&str, Option<Back>); 3] = [
        ("no mesh", None),
        (
            "the kill switch",
            Some(|world| world.agent().allow_redirect(false).unwrap()),
        ),
        (
            "mode off",
            Some(|world| world.switch(Acceleration::Off, "not-accelerated")),
        ),
    ];
    for (name, back) in ways {
        let Some(world) = world(back.map(|_| Acceleration::On)) else {
            return;
        };
        let (client, server) = world.join();
        let (mut up, mut down) = (Piece::first(1, 10_000), Piece::first(2, 10_000));
        exchange((&client, &server), (up, down), MIXED);
        let wall = Wall::raise(&world.pods[1]);
        if let Some(back) = back {
            (up, down) = (up.then(100_000), down.then(100_000));
            exchange((&client, &server), (up, down), MIXED);
            assert_eq!(wall.dropped(), 0, "{name}");
            assert_eq!(world.flow(&client)["path"], "redirect", "{name}");
            back(&world);
        }
        up = up.then(5000);
        client.write(up, MIXED).unwrap();
        // The segment itself, or one of its repetitions.
        wall.await_drop();
        assert!(!is_readable(&server), "{name}");
        wall.fall();
        assert_eq!(server.read(up, MIXED).unwrap(), 5000, "{name}");
        (up, down) = (up.then(10_000), down.then(10_000));
        exchange((&client, &server), (up, down), MIXED);
        finish((&client, &server), (up, down));
        if back.is_some() {
            client.close().unwrap();
            server.close().unwrap();
            let flow = world.ended_flow(&client);
            assert_eq!(flow["path"], "mixed", "{name}: {flow:#}");
            assert_eq!(flow["redirected_tx_bytes"], 110_000, "{name}: {flow:#}");
            assert_eq!(flow["tx_bytes"], 125_000, "{name}: {flow:#}");
            assert_eq!(flow["close"], "source_closed", "{name}: {flow:#}");
        }
    }
}

#[test]
fn keepalive_ends_a_connection_although_its_bytes_pass() {
    for mode in [None, Some(Acceleration::On)] {
        let Some(world) = world(mode) else {
            return;
        };
        let (client, server) = world.join();
        let (mut up, mut down) = (Piece::first(1, 10_000), Piece::first(2, 10_000));
        exchange((&client, &server), (up, down), MIXED);
        for (name, value) in [(TCP_KEEPIDLE, 1), (TCP_KEEPINTVL, 2), (TCP_KEEPCNT, 2)] {
            client.set_option(IPPROTO_TCP, name, value).unwrap();
        }
        client.set_option(SOL_SOCKET, SO_KEEPALIVE, 1).unwrap();
        let wall = Wall::raise(&world.pods[1]);
        if mode.is_some() {
            // Bytes pass between any two probes, and are no sign of life.
            for _ in 0..2 {
                wall.await_drop();
                (up, down) = (up.then(10_000), down.then(10_000));
                exchange((&client, &server), (up, down), MIXED);
            }
        }
        let end = client.start_read(down.rest(), MIXED).unwrap();
        let end = end.wait(PATIENCE);
        assert_eq!(errno(&end), Some(ETIMEDOUT), "{mode:?}: {end:?}");
        client.close().unwrap();
        if mode.is_some() {
            let flow = world.ended_flow(&client);
            assert_eq!(flow["close"], "timed_out", "{flow:#}");
            assert_eq!(flow["path"], "redirect", "{flow:#}");
            assert_eq!(
                (&flow["tx_bytes"], &flow["rx_bytes"]),
                (&30_000.into(), &30_000.into())
            );
        }
    }
}

#[test]
fn the_user_timeout_never_passes_while_bytes_are_redirected() {
    for mode in [None, Some(Acceleration::On)] {
        let Some(world) = world(mode) else {
            return;
        };
        let (client, server) = world.join();
        let (mut up, mut down) = (Piece::first(1, 10_000), Piece::first(2, 10_000));
        exchange((&client, &server), (up, down), MIXED);
        client
            .set_option(IPPROTO_TCP, TCP_USER_TIMEOUT, 500)
            .unwrap();
        let wall = Wall::raise(&world.pods[1]);
        up = up.then(1000);
        client.write(up, MIXED).unwrap();
        if mode.is_none() {
            let end = client
                .start_read(down.rest(), MIXED)
                .unwrap()
                .wait(PATIENCE);
            assert_eq!(errno(&end), Some(ETIMEDOUT), "{end:?}");
            continue;
        }
        assert_eq!(server.read(up, MIXED).unwrap(), 1000);
        // Nothing was given to TCP, so no timer of it runs.
        assert_eq!(wall.dropped(), 0);
        (up, down) = (up.then(10_000), down.then(10_000));
        exchange((&client, &server), (up, down), MIXED);
        wall.fall();
        finish((&client, &server), (up, down));
    }
}
