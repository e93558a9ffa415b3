//! What lies in the kernel unread has a bound.

use std::time::Duration;

use harness::manifest::Acceleration;
use harness::memory::slab_bytes;
use harness::remote::protocol::Piece;

use crate::world::{MIXED, Mode, World, exchange, finish};

const MODES: [Mode; 3] = [None, Some(Acceleration::Observe), Some(Acceleration::On)];

/// More than TCP's own buffers and the redirect's bound together, and far less than what an unbounded queue takes.
const BOUND: u64 = 32 << 20;

#[test]
fn a_paused_reader_holds_its_sender_back_and_loses_nothing() {
    for mode in MODES {
        let Some(world) = World::new(mode) else {
            return;
        };
        let (client, server) = world.join();
        let (mut up, mut down) = (Piece::first(1, 50_000), Piece::first(2, 50_000));
        // Several times: the flow leaves redirect when it is full, and comes back when it is drained.
        for _ in 0..3 {
            exchange((&client, &server), (up, down), MIXED);
            let filled = client.fill(up.then(4 * BOUND), MIXED).unwrap();
            assert!(filled < BOUND, "{mode:?}: {filled} bytes in flight");
            up = up.then(filled);
            assert_eq!(server.read(up, MIXED).unwrap(), filled);
            (up, down) = (up.then(50_000), down.then(50_000));
        }
        exchange((&client, &server), (up, down), MIXED);
        finish((&client, &server), (up, down));
    }
}

#[test]
fn single_bytes_that_nobody_reads_do_not_fill_the_kernel() {
    for mode in MODES {
        let Some(world) = World::new(mode) else {
            return;
        };
        let (client, server) = world.join();
        let (up, down) = (Piece::first(1, 100), Piece::first(2, 100));
        exchange((&client, &server), (up, down), MIXED);
        let before = slab_bytes().unwrap();
        let filled = client.fill(up.then(200_000), (1, 1)).unwrap();
        let grown = slab_bytes().unwrap().saturating_sub(before);
        // Unbounded, 200,000 messages take 200 MB; other work on the machine may take some meanwhile.
        assert!(
            grown < 60 << 20,
            "{mode:?}: {grown} bytes of slab for {filled} bytes unread"
        );
        let rest = up.then(filled);
        assert_eq!(server.read(rest, MIXED).unwrap(), filled);
        finish((&client, &server), (rest, down));
    }
}

#[test]
fn a_stream_at_full_speed_stays_within_a_small_memory_limit() {
    for mode in MODES {
        let Some(world) = World::new(mode) else {
            return;
        };
        for pod in &world.pods {
            pod.limit_memory(64 << 20).unwrap();
        }
        let (client, server) = world.join();
        let piece = Piece::first(1, 1 << 30);
        let cut = (60_000, 64_000);
        let read = server.start_read(piece, (1000, 30_000)).unwrap();
        let write = client.start_write(piece, cut).unwrap();
        write.wait(Duration::from_secs(120)).unwrap();
        assert_eq!(
            read.wait(Duration::from_secs(120)).unwrap().count,
            piece.length
        );
    }
}
