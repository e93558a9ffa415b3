//! Handles pass from one workload to the next; what belongs to the former must not reach the latter.

use harness::remote::protocol::Piece;
use mesh_agent::model::observed::KernelView as _;
use mesh_agent::model::workload::Acceleration;
use mesh_common::reason::Reason;

use crate::established::reason;
use crate::ground::Ground;

#[test]
fn a_handle_rests_while_a_socket_of_its_former_owner_lives() {
    let Some(mut ground) = Ground::new() else {
        return;
    };
    let pods = ground.pods.clone();
    let [client, server] = &pods;
    let former = [ground.id(client), ground.id(server)];
    let (old, old_end) = ground.join();
    let piece = Piece::first(1, 1000);
    old.write(piece, (100, 100)).unwrap();
    assert_eq!(old_end.read(piece, (100, 100)).unwrap(), 1000);
    // Other workloads in the same namespaces, found by an agent that has just started.
    ground.apply(&[]);
    ground.restart();
    let on = Acceleration::On;
    ground.apply(&[(client, "2", on), (server, "2", on)]);
    let ids = [ground.id(client), ground.id(server)];
    assert!(
        ids.iter().all(|id| !former.contains(id)),
        "{former:?}, then {ids:?}"
    );
    // What the old connection goes on to send is not the new workloads'.
    let piece = piece.then(5000);
    old.write(piece, (100, 100)).unwrap();
    assert_eq!(old_end.read(piece, (100, 100)).unwrap(), 5000);
    old.close().unwrap();
    old_end.close().unwrap();
    let flow = ground.ended(old.local);
    assert_eq!([flow.source_id, flow.destination_id], former);
    for (pair, counters) in ground.kernel.pairs().unwrap() {
        assert!(
            !ids.contains(&pair.source_id) && !ids.contains(&pair.destination_id),
            "{pair:?}: {counters:?}"
        );
    }
    // With that gone, the handles may be given again.
    ground.apply(&[]);
    ground.restart();
    ground.apply(&[(client, "3", on), (server, "3", on)]);
    assert_eq!([ground.id(client), ground.id(server)], former);
}

#[test]
fn flows_of_a_workload_that_was_removed_are_not_redirected() {
    let Some(ground) = Ground::new() else {
        return;
    };
    let (client, server) = ground.join();
    let piece = Piece::first(1, 1000);
    client.write(piece, (100, 100)).unwrap();
    assert_eq!(server.read(piece, (100, 100)).unwrap(), 1000);
    assert_eq!(reason(&ground, &client), Reason::None);
    ground.apply(&[]);
    let piece = piece.then(1000);
    client.write(piece, (100, 100)).unwrap();
    assert_eq!(server.read(piece, (100, 100)).unwrap(), 1000);
    let flow = ground.live(client.local).unwrap();
    assert_eq!((flow.tx_bytes, flow.redirect_tx_bytes), (2000, 1000));
    assert_eq!(flow.reason, Reason::ModeOff as u8);
}
