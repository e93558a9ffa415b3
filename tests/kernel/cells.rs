//! Cells: as many as there are, each with one flow at a time, and none is ever lost.

use std::time::Duration;

use harness::remote::protocol::Piece;
use harness::wait::PATIENCE;
use harness::wait_for;
use mesh_agent::model::observed::KernelView as _;
use mesh_common::limits;
use mesh_common::reason::Reason;

use crate::established::{cells_come_back, reason};
use crate::ground::Ground;

/// Connections of the long test: more than there is room for in the ring of records, which nobody reads meanwhile.
const SHORT: u64 = 20_000;

#[test]
fn none_is_lost_in_twenty_thousand_short_connections_nor_is_a_record_uncounted() {
    let Some(mut ground) = Ground::new() else {
        return;
    };
    let all: Vec<u32> = (0..u32::try_from(limits::FLOWS).unwrap()).collect();
    assert_eq!(ground.free_cells(), all);
    let peer = env!("CARGO_BIN_EXE_peer");
    let [client, server] = &ground.pods;
    let mut command = server.command(peer);
    command.args(["burst", "--listen", &format!("{}:0", server.v4())]);
    let mut serving = server.start("burst", &mut command).unwrap();
    let address = serving.line("ready ", PATIENCE).unwrap();
    let mut command = client.command(peer);
    let count = ["--threads", "16", "--count", "1250"];
    command.args(["burst", "--connect", &address]).args(count);
    let mut driving = client.start("burst", &mut command).unwrap();
    let text = driving.success(Duration::from_secs(120)).unwrap();
    assert!(text.contains("20000 right, 0 wrong"), "{text}");
    cells_come_back(&ground, &all);

    let ended = |ground: &Ground| -> u64 {
        let counters = ground.kernel.counters().unwrap();
        counters.flows_ended.iter().map(|(_, _, ended)| ended).sum()
    };
    wait_for("all flows to end", PATIENCE, || ended(&ground) == SHORT).unwrap();
    let counters = ground.kernel.counters().unwrap();
    let mut reasons = counters.flows_ended.iter().map(|(_, reason, _)| *reason);
    assert!(!reasons.any(|reason| reason == Reason::Short));
    let mut read = 0;
    ground.records.drain(Duration::ZERO, |_| read += 1);
    let lost = ground.kernel.counters().unwrap().records_lost;
    assert!(lost > 0);
    assert_eq!(read + lost, SHORT);
    // With room again, nothing is lost.
    let (client, server) = ground.join();
    client.close().unwrap();
    server.close().unwrap();
    ground.ended(client.local);
    assert_eq!(ground.kernel.counters().unwrap().records_lost, lost);
}

#[test]
fn without_a_free_one_a_flow_stays_on_tcp_until_one_is_free() {
    let Some(ground) = Ground::new() else {
        return;
    };
    let queue = &ground.maps.free_cells;
    let mut taken: Vec<u32> = std::iter::from_fn(|| queue.pop().unwrap()).collect();
    queue.push(&taken.pop().unwrap()).unwrap();
    let first = ground.join();
    let second = ground.join();
    assert_eq!(reason(&ground, &first.0), Reason::Idle);
    assert_eq!(reason(&ground, &second.0), Reason::FlowTableFull);
    let piece = Piece::first(1, 1000);
    second.0.write(piece, (100, 100)).unwrap();
    assert_eq!(second.1.read(piece, (100, 100)).unwrap(), 1000);
    let flow = ground.live(second.0.local).unwrap();
    assert_eq!((flow.tx_bytes, flow.redirect_tx_bytes), (1000, 0));

    for socket in [&first.0, &first.1] {
        socket.close().unwrap();
    }
    wait_for("the cell to be free again", PATIENCE, || {
        let (client, _server) = ground.join();
        reason(&ground, &client) == Reason::Idle
    })
    .unwrap();
    taken.iter().for_each(|number| queue.push(number).unwrap());
}

#[test]
fn an_end_that_joins_alone_gives_its_cell_back() {
    let Some(ground) = Ground::new() else {
        return;
    };
    let all = ground.free_cells();
    // The client joins when its handshake ends, the server when its own does; nobody accepts, and one goes at once. Each to a port
    // of its own, or they would soon be too short to join.
    for _ in 0..50 {
        let listener = ground.server.listen().unwrap();
        let client = ground.client.connect(listener.local).unwrap();
        client.close().unwrap();
        listener.close().unwrap();
    }
    cells_come_back(&ground, &all);
}
