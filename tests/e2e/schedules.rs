//! Random writers, readers, pauses and half-closes: a redirected pair gives the bytes that a plain TCP pair gives.

use harness::manifest::Acceleration;
use harness::remote::Socket;
use harness::remote::protocol::{Call, Piece};
use harness::wait::PATIENCE;

use crate::world::{MIXED, World, exchange};

/// Schedules, each from its own seed.
const SCHEDULES: u64 = 12;
/// Steps of a schedule.
const STEPS: usize = 12;

/// A small generator of numbers (xorshift64*), so that a failure can be run again from its seed.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % limit
    }
}

/// One direction: who writes, who reads, and how far they are.
struct Direction<'a> {
    from: &'a Socket,
    to: &'a Socket,
    last: Piece,
    /// Bytes written and not yet read: the reader pauses.
    unread: u64,
}

impl Direction<'_> {
    /// Writes some bytes that the reader may leave for later.
    fn write(&mut self, length: u64, cut: (usize, usize)) {
        let piece = self.last.then(length);
        self.from.write(piece, cut).unwrap();
        self.unread += length;
        self.last = piece;
    }

    /// Reads all that was written.
    fn read(&mut self, cut: (usize, usize)) {
        let end = self.last.offset + self.last.length;
        let piece = Piece {
            offset: end - self.unread,
            length: self.unread,
            ..self.last
        };
        assert_eq!(self.to.read(piece, cut).unwrap(), self.unread);
        self.unread = 0;
    }
}

fn run(world: &World, seed: u64) {
    let (client, server) = world.join();
    for socket in [&client, &server] {
        socket.call(Call::Nonblocking(true)).unwrap();
    }
    let mut numbers = Numbers(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let start = |from, to, seed| Direction {
        from,
        to,
        last: Piece::first(seed, 0),
        unread: 0,
    };
    let mut up = start(&client, &server, 2 * seed + 100);
    let mut down = start(&server, &client, 2 * seed + 101);
    for _ in 0..STEPS {
        let cut = match numbers.below(4) {
            0 => (1, 100),
            1 => (1, 5000),
            2 => MIXED,
            _ => (60_000, 70_000),
        };
        let way = if numbers.below(2) == 0 {
            &mut up
        } else {
            &mut down
        };
        // What is left unread fits into any socket's buffers.
        if way.unread > 60_000 || numbers.below(3) == 0 {
            way.read(cut);
        } else {
            way.write(numbers.below(30_000), cut);
        }
        if numbers.below(6) == 0 {
            up.read(cut);
            down.read(cut);
            let length = numbers.below(400_000);
            let pieces = (up.last.then(length), down.last.then(length / 2));
            exchange((&client, &server), pieces, cut);
            (up.last, down.last) = pieces;
        }
    }
    // One side ends first, with bytes of both still unread; the other goes on.
    let (first, second) = if seed.is_multiple_of(2) {
        (&mut up, &mut down)
    } else {
        (&mut down, &mut up)
    };
    first.from.finish().unwrap();
    second.write(numbers.below(50_000), MIXED);
    first.read(MIXED);
    assert_eq!(first.to.read(first.last.rest(), MIXED).unwrap(), 0);
    second.from.finish().unwrap();
    second.read(MIXED);
    assert_eq!(second.to.read(second.last.rest(), MIXED).unwrap(), 0);
}

#[test]
fn random_schedules_equal_plain_tcp() {
    for mode in [None, Some(Acceleration::On)] {
        let Some(world) = World::new(mode) else {
            return;
        };
        for seed in 0..SCHEDULES {
            println!("schedule {seed}, {mode:?}");
            run(&world, seed);
        }
    }
}

/// Connections that live at once.
const CONNECTIONS: u64 = 64;

/// Drives one connection of many: some bytes each way, then half-closes in an order of its own. Returns what went each way.
fn drive((client, server): (&Socket, &Socket), seed: u64) -> (u64, u64) {
    let mut numbers = Numbers(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let (mut up, mut down) = (
        Piece::first(seed, numbers.below(20_000)),
        Piece::first(seed + CONNECTIONS, numbers.below(20_000)),
    );
    exchange((client, server), (up, down), MIXED);
    // One end half-closes, with the last bytes still unread or not; the other goes on for a while.
    let by_client = numbers.below(2) == 0;
    let (first, second) = if by_client {
        ((client, &mut up), (server, &mut down))
    } else {
        ((server, &mut down), (client, &mut up))
    };
    let last = first.1.then(numbers.below(10_000));
    first.0.write(last, (1, 3000)).unwrap();
    let early = numbers.below(2) == 0;
    if early {
        first.0.finish().unwrap();
    }
    assert_eq!(second.0.read(last, MIXED).unwrap(), last.length);
    if !early {
        first.0.finish().unwrap();
    }
    assert_eq!(second.0.read(last.rest(), MIXED).unwrap(), 0);
    let more = second.1.then(numbers.below(30_000));
    let read = first.0.start_read(more, MIXED).unwrap();
    second.0.write(more, MIXED).unwrap();
    assert_eq!(read.wait(PATIENCE).unwrap().count, more.length);
    second.0.finish().unwrap();
    assert_eq!(first.0.read(more.rest(), MIXED).unwrap(), 0);
    (*first.1, *second.1) = (last, more);
    for socket in [client, server] {
        socket.close().unwrap();
    }
    (up.offset + up.length, down.offset + down.length)
}

#[test]
fn many_connections_at_once_end_in_any_order() {
    for mode in [None, Some(Acceleration::On)] {
        let Some(world) = World::new(mode) else {
            return;
        };
        let listener = world.server.listen().unwrap();
        let join = |_| world.client.join(&listener).unwrap();
        let pairs: Vec<(Socket, Socket)> = (0..CONNECTIONS).map(join).collect();
        let mut sent = Vec::new();
        std::thread::scope(|scope| {
            let drivers: Vec<_> = (1..)
                .zip(&pairs)
                .map(|(seed, (client, server))| scope.spawn(move || drive((client, server), seed)))
                .collect();
            sent.extend(drivers.into_iter().map(|driver| driver.join().unwrap()));
        });
        if mode.is_none() {
            continue;
        }
        for ((client, _), (up, down)) in pairs.iter().zip(sent) {
            let flow = world.ended_flow(client);
            let counts = (&flow["tx_bytes"], &flow["rx_bytes"]);
            assert_eq!(counts, (&up.into(), &down.into()), "{flow:#}");
            let redirected = (&flow["redirected_tx_bytes"], &flow["redirected_rx_bytes"]);
            assert_eq!(redirected, counts, "{flow:#}");
        }
    }
}
