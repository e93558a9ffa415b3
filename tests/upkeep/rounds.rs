//! Requests and answers that go on while a test does something to the agent.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use harness::remote::Socket;
use harness::remote::protocol::Piece;

use crate::world::{MIXED, World, finish};

/// Bytes of a request.
pub(crate) const REQUEST: u64 = 100;
/// Bytes of an answer.
pub(crate) const ANSWER: u64 = 3000;

/// A connection that requests and answers go through.
#[derive(Debug)]
pub(crate) struct Rounds {
    pub(crate) client: Socket,
    pub(crate) server: Socket,
    next: Mutex<(Piece, Piece)>,
    done: AtomicU64,
    stopped: AtomicBool,
}

impl Rounds {
    pub(crate) fn new(world: &World) -> Self {
        Self::between(world.join())
    }

    /// Over this connection, client's end first.
    pub(crate) fn between((client, server): (Socket, Socket)) -> Self {
        Self {
            client,
            server,
            next: Mutex::new((Piece::first(11, REQUEST), Piece::first(12, ANSWER))),
            done: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
        }
    }

    /// Does `work` while rounds go on without a pause; every byte is checked.
    pub(crate) fn during<T>(&self, work: impl FnOnce() -> T) -> T {
        /// Stops the rounds also when `work` fails.
        struct Stop<'a>(&'a AtomicBool);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        self.stopped.store(false, Ordering::Relaxed);
        std::thread::scope(|scope| {
            let rounds = scope.spawn(|| {
                while !self.stopped.load(Ordering::Relaxed) {
                    self.once();
                }
            });
            let stop = Stop(&self.stopped);
            let worked = work();
            drop(stop);
            rounds.join().unwrap();
            worked
        })
    }

    /// One request and its answer.
    pub(crate) fn once(&self) {
        let mut next = self.next.lock().unwrap();
        let (up, down) = *next;
        self.client.write(up, MIXED).unwrap();
        assert_eq!(self.server.read(up, MIXED).unwrap(), up.length);
        self.server.write(down, MIXED).unwrap();
        assert_eq!(self.client.read(down, MIXED).unwrap(), down.length);
        *next = (up.then(REQUEST), down.then(ANSWER));
        self.done.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns once so many more rounds have gone through.
    pub(crate) fn wait_for_more(&self, rounds: u64) {
        let goal = self.done() + rounds;
        harness::wait_for("requests to go on", Duration::from_secs(60), || {
            self.done() >= goal
        })
        .unwrap();
    }

    /// Returns how many rounds went through.
    pub(crate) fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Ends the connection, and makes sure that nothing more comes out of it. Returns the bytes sent each way.
    pub(crate) fn finish(&self) -> (u64, u64) {
        let (up, down) = *self.next.lock().unwrap();
        let before = |piece: Piece| Piece {
            offset: piece.offset - piece.length,
            ..piece
        };
        finish((&self.client, &self.server), (before(up), before(down)));
        self.client.close().unwrap();
        self.server.close().unwrap();
        (up.offset, down.offset)
    }
}
