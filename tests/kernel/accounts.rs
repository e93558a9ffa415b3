//! What is counted is complete: live flows, pairs of a full table, records of a full ring.

use std::os::fd::AsRawFd as _;
use std::time::Duration;

use harness::remote::protocol::{Call, Piece};
use harness::wait::PATIENCE;
use harness::wait_for;
use mesh_agent::model::observed::KernelView as _;
use mesh_common::addr::PortBe;
use mesh_common::close::CloseReason;
use mesh_common::limits;
use mesh_common::pair::{PairCounters, PairKey};
use mesh_common::reason::Reason;

use crate::ground::{Ground, source, state};
use crate::sys;

#[test]
fn the_iterator_reports_every_live_flow_once_and_no_other() {
    let Some(ground) = Ground::new() else {
        return;
    };
    let mut joined: Vec<_> = (0..60).map(|_| ground.join()).collect();
    for (client, server) in joined.drain(..30) {
        client.close().unwrap();
        server.close().unwrap();
    }
    // A list: two clients may have one port, to different servers.
    let mut expected: Vec<_> = joined.iter().map(|(client, _)| client.local).collect();
    expected.sort_unstable();
    let mut last = Vec::new();
    wait_for("closed flows to be gone", PATIENCE, || {
        last = ground.kernel.live_flows().unwrap();
        last.len() <= expected.len()
    })
    .unwrap();
    let mut found: Vec<_> = last.iter().map(source).collect();
    found.sort_unstable();
    assert_eq!(found, expected);
    for flow in &last {
        assert_eq!((flow.end_ns, flow.close), (0, CloseReason::Open as u8));
        assert_eq!(flow.reason, Reason::Idle as u8);
        assert!(flow.start_ns > 0 && flow.cookie > 0);
    }
}

#[test]
fn what_finds_no_row_is_in_the_overflow_row() {
    let Some(mut ground) = Ground::new() else {
        return;
    };
    let used = usize::try_from(ground.maps.pairs.count().unwrap()).unwrap();
    let stranger = |number: u32| PairKey {
        source_id: 1_000_000 + number,
        destination_id: 1,
        service: 0,
        destination_port: PortBe::new(1),
        path: 0,
        requests: 0,
    };
    for number in 0..u32::try_from(limits::PAIRS - used).unwrap() {
        let row = &ground.maps.pairs;
        // The kernel's allocator fills up on the side, and is empty now and then.
        wait_for("memory for a row", PATIENCE, || {
            row.set(&stranger(number), &PairCounters::ZERO).is_ok()
        })
        .unwrap();
    }
    assert_eq!(ground.maps.pairs.count().unwrap(), limits::PAIRS as u64);
    let (client, server) = ground.join();
    let (up, down) = (Piece::first(1, 12_345), Piece::first(2, 67_890));
    client.write(up, (100, 1000)).unwrap();
    assert_eq!(server.read(up, (1, 5000)).unwrap(), up.length);
    server.write(down, (100, 1000)).unwrap();
    assert_eq!(client.read(down, (1, 5000)).unwrap(), down.length);
    // A look at the live flows brings the counters up to date.
    let flow = ground.live(client.local).unwrap();
    let overflow = |ground: &Ground| {
        let row = ground.maps.pairs.get_all(&PairKey::OVERFLOW);
        let mut sum = PairCounters::ZERO;
        row.unwrap().unwrap().iter().for_each(|cpu| sum.add(cpu));
        sum
    };
    let row = overflow(&ground);
    assert_eq!((row.tx_bytes, row.rx_bytes), (12_345, 67_890));
    assert_eq!(
        (row.tx_messages, row.rx_messages),
        (flow.tx_messages, flow.rx_messages)
    );
    assert_eq!((row.opened, row.closed), (1, 0));
    client.close().unwrap();
    server.close().unwrap();
    ground.ended(client.local);
    let row = overflow(&ground);
    assert_eq!(
        (row.tx_bytes, row.rx_bytes, row.closed),
        (12_345, 67_890, 1)
    );
    assert_eq!(ground.maps.pairs.count().unwrap(), limits::PAIRS as u64);
    assert!(ground.kernel.counters().unwrap().pairs_overflowed > 0);
}

#[test]
fn a_message_that_was_counted_and_could_not_be_taken_is_counted_off_again() {
    const LOST: u32 = 100_000;
    let Some(mut ground) = Ground::new() else {
        return;
    };
    let (client, server) = ground.join();
    let mut piece = Piece::first(1, 5000);
    let cut = (100, 1000);
    let pass = |piece: Piece| {
        client.write(piece, cut).unwrap();
        assert_eq!(server.read(piece, cut).unwrap(), piece.length);
    };
    pass(piece);
    // What the programs leave behind when the kernel has no memory for a message; it is hard to be short of that.
    let (known, descriptor) = state(&ground.maps, &mut ground.client, &client);
    let mut known = known.unwrap();
    assert_eq!(
        (known.window.sent_bytes, known.redirect_tx_bytes),
        (5000, 5000)
    );
    known.window.sent(LOST);
    known.redirect_tx_bytes += u64::from(LOST);
    let key = descriptor.as_raw_fd();
    ground.maps.sock_states.set(&key, &known).unwrap();
    sys::send_nothing(&descriptor);
    let check = |ground: &Ground, bytes: u32| {
        let known = ground.maps.sock_states.get(&key).unwrap().unwrap();
        let (_, _, cell) = ground.maps.flow_cells().unwrap()[0];
        assert_eq!(known.window.sent_bytes, bytes);
        assert_eq!(known.redirect_tx_bytes, u64::from(bytes));
        assert_eq!(known.tx_bytes, u64::from(bytes));
        assert_eq!(cell.client.redirect_sent, cell.server.redirect_read);
    };
    check(&ground, 5000);
    // More messages than may be in flight: the lost one does not count among them, either.
    for _ in 0..20 {
        piece = piece.then(30_000);
        pass(piece);
    }
    check(&ground, 605_000);
    // And a call that fails after the half-close does not take its number for a byte.
    client.finish().unwrap();
    sys::send_nothing(&descriptor);
    check(&ground, 605_000);
}

#[test]
fn a_refused_connect_names_the_workload_that_refused() {
    let Some(mut ground) = Ground::new() else {
        return;
    };
    let listener = ground.server.listen().unwrap();
    listener.close().unwrap();
    let dialling = ground
        .client
        .bare(harness::remote::protocol::Kind::Tcp, false)
        .unwrap();
    let refused = dialling.call(Call::Connect(listener.local));
    assert_eq!(harness::remote::errno(&refused), Some(libc::ECONNREFUSED));
    let mut records = Vec::new();
    wait_for("the record", PATIENCE, || {
        ground
            .records
            .drain(Duration::ZERO, |flow| records.push(flow));
        !records.is_empty()
    })
    .unwrap();
    let flow = records[0];
    assert_eq!(flow.close, CloseReason::Refused as u8);
    assert_eq!(flow.source_id, ground.id(&ground.pods[0]));
    assert_eq!(flow.destination_id, ground.id(&ground.pods[1]), "{flow:#?}");
    assert_ne!(flow.cookie, 0);
}
