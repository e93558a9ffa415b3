//! Where a redirected connection differs from TCP, pinned, and where it must not. README names the differences.

use harness::manifest::Acceleration;
use harness::remote::protocol::{Call, Piece};
use harness::remote::{Socket, errno};
use harness::wait::{PATIENCE, wait_for};

use crate::world::{MIXED, MODES, Mode, World, exchange, finish};

const CONTROL_AND_ON: [Mode; 2] = [None, Some(Acceleration::On)];

const IPPROTO_TCP: i32 = 6;
const TCP_CORK: i32 = 3;
const TCP_INFO: i32 = 11;
const MSG_MORE: i32 = 0x8000;
const POLLIN: i16 = 1;
const EPIPE: i32 = 32;
const ECONNRESET: i32 = 104;

fn send(socket: &Socket, bytes: &[u8], flags: i32) -> anyhow::Result<u64> {
    let bytes = bytes.to_vec();
    let to = None;
    Ok(socket.call(Call::Send { bytes, flags, to })?.count)
}

fn await_readable(socket: &Socket) {
    let (events, timeout) = (POLLIN, 10_000);
    let seen = socket.call(Call::Poll { events, timeout }).unwrap().count;
    assert_ne!(seen & 1, 0, "{seen}");
}

#[test]
fn a_close_with_bytes_unread_is_an_end_and_not_a_reset_where_they_were_redirected() {
    for mode in MODES {
        for read_before in [0, 400] {
            let Some(world) = World::new(mode) else {
                return;
            };
            let (client, server) = world.join();
            let piece = Piece::first(1, 1000);
            client.write(piece, (200, 200)).unwrap();
            await_readable(&server);
            let some = Piece::first(1, read_before);
            assert_eq!(server.read(some, (100, 100)).unwrap(), read_before);
            server.close().unwrap();
            let rest = client.start_read(Piece::first(2, 1), MIXED).unwrap();
            let seen = rest.wait(PATIENCE).map(|answer| answer.count);
            let redirected = mode == Some(Acceleration::On);
            if redirected {
                assert_eq!(seen.unwrap(), 0);
            } else {
                assert_eq!(errno(&seen), Some(ECONNRESET), "{mode:?}: {seen:?}");
            }
            client.close().unwrap();
            if mode.is_none() {
                continue;
            }
            let flow = world.ended_flow(&client);
            let (path, close) = if redirected {
                ("redirect", "destination_closed")
            } else {
                ("tcp", "destination_reset")
            };
            assert_eq!(flow["path"], path, "{flow:#}");
            assert_eq!(flow["close"], close, "{flow:#}");
            // What was sent; nothing came back.
            assert_eq!(
                (&flow["tx_bytes"], &flow["rx_bytes"]),
                (&1000.into(), &0.into())
            );
        }
    }
}

#[test]
fn a_send_to_an_end_that_has_closed_fails() {
    for mode in CONTROL_AND_ON {
        let Some(world) = World::new(mode) else {
            return;
        };
        let (client, server) = world.join();
        let pieces = (Piece::first(1, 10_000), Piece::first(2, 10_000));
        exchange((&client, &server), pieces, MIXED);
        server.close().unwrap();
        assert_eq!(client.read(pieces.1.rest(), MIXED).unwrap(), 0);
        wait_for("a send to fail", PATIENCE, || {
            let sent = send(&client, b"anybody?", 0);
            matches!(errno(&sent), Some(EPIPE | ECONNRESET))
        })
        .unwrap();
        client.close().unwrap();
        if mode.is_some() {
            let flow = world.ended_flow(&client);
            assert_eq!(flow["close"], "destination_reset", "{flow:#}");
            assert_eq!(flow["redirected_tx_bytes"], 10_000, "{flow:#}");
        }
    }
}

#[test]
fn a_send_after_the_own_half_close_fails_at_either_end() {
    for mode in MODES {
        let Some(world) = World::new(mode) else {
            return;
        };
        let (client, server) = world.join();
        let (up, down) = (Piece::first(1, 10_000), Piece::first(2, 10_000));
        exchange((&client, &server), (up, down), MIXED);
        client.finish().unwrap();
        let late = send(&client, b"late", 0);
        assert_eq!(errno(&late), Some(EPIPE), "{mode:?}: {late:?}");
        assert_eq!(server.read(up.rest(), MIXED).unwrap(), 0);
        // The other direction goes on as before, until it is closed too.
        let more = down.then(5000);
        server.write(more, (700, 700)).unwrap();
        assert_eq!(client.read(more, MIXED).unwrap(), 5000);
        server.finish().unwrap();
        let late = send(&server, b"late", 0);
        assert_eq!(errno(&late), Some(EPIPE), "{mode:?}: {late:?}");
        assert_eq!(client.read(more.rest(), MIXED).unwrap(), 0);
        client.close().unwrap();
        server.close().unwrap();
        if mode.is_some() {
            let flow = world.ended_flow(&client);
            assert_eq!(flow["close"], "source_closed", "{flow:#}");
            assert_eq!(
                (&flow["tx_bytes"], &flow["rx_bytes"]),
                (&10_000.into(), &15_000.into())
            );
            if mode == Some(Acceleration::On) {
                assert_eq!(flow["path"], "redirect", "{flow:#}");
                assert_eq!(flow["reason"], "none", "{flow:#}");
            }
        }
    }
}

#[test]
fn held_back_bytes_arrive_and_requests_are_answered() {
    for mode in CONTROL_AND_ON {
        for cork in [false, true] {
            let Some(world) = World::new(mode) else {
                return;
            };
            let (client, server) = world.join();
            for socket in [&client, &server] {
                socket
                    .set_option(IPPROTO_TCP, TCP_CORK, i32::from(cork))
                    .unwrap();
            }
            let more = if cork { 0 } else { MSG_MORE };
            for _ in 0..20 {
                for (from, to) in [(&client, &server), (&server, &client)] {
                    assert_eq!(send(from, b"head, ", more).unwrap(), 6);
                    if mode.is_some() {
                        // Redirect does not hold anything back.
                        await_readable(to);
                    }
                    assert_eq!(send(from, b"body", 0).unwrap(), 4);
                    if cork {
                        from.set_option(IPPROTO_TCP, TCP_CORK, 0).unwrap();
                        from.set_option(IPPROTO_TCP, TCP_CORK, 1).unwrap();
                    }
                    let mut got = Vec::new();
                    while got.len() < 10 {
                        await_readable(to);
                        let (length, flags) = (10, 0);
                        let part = to.call(Call::Receive { length, flags }).unwrap();
                        got.extend(part.bytes);
                    }
                    assert_eq!(got, b"head, body");
                }
            }
            if mode.is_some() {
                let flow = world.flow(&client);
                assert_eq!(flow["redirected_tx_bytes"], 200, "{flow:#}");
                assert_eq!(flow["redirected_rx_bytes"], 200, "{flow:#}");
            }
        }
    }
}

/// Returns `tcpi_bytes_acked` and `tcpi_bytes_received` (`struct tcp_info`, include/uapi/linux/tcp.h).
fn tcp_info(socket: &Socket) -> (u64, u64) {
    let call = Call::OptionBytes {
        level: IPPROTO_TCP,
        name: TCP_INFO,
        length: 136,
    };
    let bytes = socket.call(call).unwrap().bytes;
    let word = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap());
    (word(120), word(128))
}

#[test]
fn tcp_info_stands_still_on_a_redirected_connection_and_the_agents_counts_do_not() {
    for mode in CONTROL_AND_ON {
        let Some(world) = World::new(mode) else {
            return;
        };
        let (client, server) = world.join();
        let pieces = (Piece::first(1, 12_345), Piece::first(2, 98_765));
        exchange((&client, &server), pieces, (1, 3000));
        if mode.is_none() {
            // The SYN counts as a byte. The last acknowledgement may be on its way.
            wait_for("all to be acknowledged", PATIENCE, || {
                tcp_info(&client) == (12_346, 98_765)
            })
            .unwrap();
            continue;
        }
        assert_eq!(tcp_info(&client), (1, 0));
        let flow = world.flow(&client);
        for (count, bytes) in [
            ("tx_bytes", 12_345),
            ("redirected_tx_bytes", 12_345),
            ("rx_bytes", 98_765),
            ("redirected_rx_bytes", 98_765),
        ] {
            assert_eq!(flow[count], bytes, "{count}: {flow:#}");
        }
        finish((&client, &server), pieces);
    }
}

#[test]
fn a_send_after_the_own_half_close_fails_also_once_the_end_was_read_together_with_bytes_of_tcp() {
    let Some(world) = World::new(Some(Acceleration::On)) else {
        return;
    };
    let (client, server) = world.join();
    let (up, down) = (Piece::first(1, 100), Piece::first(2, 100));
    exchange((&client, &server), (up, down), MIXED);
    world.agent().allow_redirect(false).unwrap();
    // The last bytes wait for the half-close, so that both are one segment, and one call reads past both.
    client.set_option(IPPROTO_TCP, TCP_CORK, 1).unwrap();
    let last = up.then(100);
    client.write(last, (100, 100)).unwrap();
    client.finish().unwrap();
    await_readable(&server);
    assert_eq!(server.read(last, (200, 200)).unwrap(), 100);
    world.agent().allow_redirect(true).unwrap();
    let late = send(&client, b"late", 0);
    assert_eq!(errno(&late), Some(EPIPE), "{late:?}");
    assert_eq!(server.read(last.rest(), MIXED).unwrap(), 0);
    let flow = world.flow(&client);
    assert_eq!(flow["tx_bytes"], 200, "{flow:#}");
    assert_eq!(flow["redirected_tx_bytes"], 100, "{flow:#}");
}
