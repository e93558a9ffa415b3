//! Bulk streams leave the socket map in mid-stream, and not a byte is lost or out of order.

use harness::manifest::Acceleration;
use harness::remote::Cut;
use harness::remote::protocol::Piece;
use harness::wait::{PATIENCE, wait_for};

use crate::world::{MIXED, World, exchange, finish};

/// More than what marks a flow as a bulk stream for good (16 MiB).
const BULK: u64 = 60_000_000;

#[test]
fn a_stream_in_either_direction_leaves_the_map_and_answers_still_arrive() {
    let Some(world) = World::new(Some(Acceleration::On)) else {
        return;
    };
    // Small writes are redirected up to the mark, large ones go by TCP earlier.
    let cuts: [Cut; 3] = [(1000, 1000), (16_384, 65_536), MIXED];
    for (up, down) in [(BULK, 10_000), (10_000, BULK), (BULK, BULK)] {
        for cut in cuts {
            let (client, server) = world.join();
            let first = (Piece::first(31, up), Piece::first(32, down));
            exchange((&client, &server), first, cut);
            let second = (first.0.then(50_000), first.1.then(50_000));
            exchange((&client, &server), second, MIXED);
            if up.min(down) < BULK {
                wait_for("the flow to leave the socket map", PATIENCE, || {
                    sockets_in_map(&world) == 0
                })
                .unwrap();
                assert_eq!(world.flow(&client)["path"], "mixed");
            }
            let third = (second.0.then(50_000), second.1.then(50_000));
            exchange((&client, &server), third, MIXED);
            finish((&client, &server), third);
        }
    }
}

/// The socket map cannot be counted, but a key that was found in it once is gone.
fn sockets_in_map(world: &World) -> usize {
    let version = format!("v{}", mesh_common::ABI_VERSION);
    let map = world.agent().bpf_dir().join(version).join("maps/SOCKETS");
    let dump = std::process::Command::new("bpftool")
        .args(["-j", "map", "getnext", "pinned"])
        .arg(map)
        .output()
        .unwrap();
    usize::from(dump.status.success())
}
