//! Flows between a pair whose flows carry few messages are left to TCP at both ends, until they carry more.

use harness::remote::Socket;
use harness::remote::protocol::Piece;
use mesh_common::flow::FlowRecord;
use mesh_common::reason::Reason;
use mesh_common::redirect::{SHORT_FLOWS_MIN, SHORT_MESSAGES};
use mesh_common::sock::FLAG_MEMBER;

use crate::ground::{Ground, state};

/// Asks and answers on a connection of its own until the client has seen so many messages, and returns the flow's record.
fn flow(ground: &mut Ground, listener: &Socket, messages: u32) -> FlowRecord {
    let (client, server) = ground.client.join(listener).unwrap();
    let mut piece = Piece::first(1, 10);
    for _ in 0..messages / 2 {
        client.write(piece, (10, 10)).unwrap();
        assert_eq!(server.read(piece, (10, 10)).unwrap(), 10);
        server.write(piece, (10, 10)).unwrap();
        assert_eq!(client.read(piece, (10, 10)).unwrap(), 10);
        piece = piece.then(10);
    }
    client.close().unwrap();
    assert_eq!(server.read(piece, (10, 10)).unwrap(), 0);
    server.close().unwrap();
    let flow = ground.ended(client.local);
    assert_eq!(flow.tx_messages + flow.rx_messages, u64::from(messages));
    flow
}

/// Returns whether the whole flow was redirected.
fn redirected(flow: &FlowRecord) -> bool {
    flow.redirect_tx_bytes == flow.tx_bytes
}

#[test]
fn short_flows_stay_on_tcp_until_they_are_longer() {
    let Some(mut ground) = Ground::new() else {
        return;
    };
    let all = ground.free_cells();
    let (here, other) = (
        ground.server.listen().unwrap(),
        ground.server.listen().unwrap(),
    );
    for number in 0..SHORT_FLOWS_MIN {
        let flow = flow(&mut ground, &here, 2);
        assert!(redirected(&flow), "{number}: {flow:#?}");
    }
    let short = flow(&mut ground, &here, 2);
    assert_eq!(short.redirect_tx_bytes, 0, "{short:#?}");
    assert_eq!(short.reason, Reason::Short as u8);
    // Neither end joined, and neither took anything.
    let (client, server) = ground.client.join(&here).unwrap();
    let (at_client, _descriptor) = state(&ground.maps, &mut ground.client, &client);
    let (at_server, _descriptor) = state(&ground.maps, &mut ground.server, &server);
    let at_client = at_client.unwrap();
    assert_eq!(at_client.flags & FLAG_MEMBER, 0);
    assert_eq!(at_client.reason, Reason::Short as u32);
    // Alone in the map it could do nothing, and the client's end reports the flow.
    assert!(at_server.is_none(), "{at_server:?}");
    assert_eq!(ground.free_cells(), all);
    // Another port of the same server is another pair.
    assert!(redirected(&flow(&mut ground, &other, 2)));
    // By their average over the last, long ones are accelerated again, and soon.
    let long = 4 * SHORT_MESSAGES;
    let accelerated = (0..SHORT_FLOWS_MIN).any(|_| redirected(&flow(&mut ground, &here, long)));
    assert!(accelerated);
    assert!(redirected(&flow(&mut ground, &here, long)));
    assert_eq!(ground.free_cells(), all);
}
