//! Bytes of a connection whose protocol is no business of ours, from one socket to the other and back.
//!
//! Each end closes its direction by itself, and a reset of one end is one of the other. Neither a buffer nor a pipe is held
//! while nothing is to be moved, so that idle connections cost their sockets alone.

mod spares;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use rustix::pipe::{SpliceFlags, splice};
use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::time::{Instant, sleep_until};

use spares::PIPE;
pub use spares::Spares;

/// How bytes are moved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// Through a pipe, without copying, what comes in large pieces; else through a buffer. Not between sockets of which one is in
    /// the socket map: `splice` never sees what was redirected to its socket.
    Splice,
    /// Through a buffer.
    Copy,
}

/// Bytes in a piece from which on a pipe is better for the next: 64 kB then take half the time of copying (8 us instead of 17), 16 kB
/// nine tenths, 100 B nearly twice as much.
const LARGE: usize = 16 << 10;

/// The end that was the first to do something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// The client's.
    Client,
    /// The upstream's.
    Upstream,
}

/// How a connection ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// Both ends closed.
    Closed,
    /// This end reset it, so the other end was reset, too.
    Reset(Side),
    /// Nothing was moved for too long; both ends were reset.
    Idle,
}

/// Bytes of a connection so far. May be read while it goes on.
#[derive(Debug, Default)]
pub struct Counts {
    sent: AtomicU64,
    received: AtomicU64,
}

impl Counts {
    /// Returns the bytes that went to the upstream.
    pub fn sent(&self) -> u64 {
        self.sent.load(Relaxed)
    }

    /// Returns the bytes that went to the client.
    pub fn received(&self) -> u64 {
        self.received.load(Relaxed)
    }
}

/// What a relay may take, and what it works with.
#[derive(Clone, Copy, Debug)]
pub struct Options<'o> {
    /// How bytes are moved.
    pub way: Way,
    /// How long nothing may be moved in either direction.
    pub idle: Duration,
    /// Buffers and pipes that are not in use.
    pub spares: &'o Spares,
}

/// Moves bytes until both directions are closed. `start` is what was read from the client before.
pub async fn relay(
    mut client: TcpStream,
    mut upstream: TcpStream,
    start: &[u8],
    counts: &Counts,
    options: Options<'_>,
) -> End {
    let clock = Clock::new();
    let (client_read, client_write) = client.split();
    let (upstream_read, upstream_write) = upstream.split();
    let up = Direction {
        from: client_read,
        to: upstream_write,
        sides: (Side::Client, Side::Upstream),
        moved: &counts.sent,
    };
    let down = Direction {
        from: upstream_read,
        to: client_write,
        sides: (Side::Upstream, Side::Client),
        moved: &counts.received,
    };
    let both = async {
        let up = up.run(start, &clock, options);
        let down = down.run(&[], &clock, options);
        tokio::try_join!(up, down)
    };
    let end = tokio::select! {
        biased;
        outcome = both => match outcome {
            Ok(_) => return End::Closed,
            Err(side) => End::Reset(side),
        },
        () = clock.idle(options.idle) => End::Idle,
    };
    for socket in [&client, &upstream] {
        // Closing resets it. Fails only for a socket that is reset already.
        SockRef::from(socket).set_linger(Some(Duration::ZERO)).ok();
    }
    end
}

/// One direction of a connection.
struct Direction<'d> {
    from: ReadHalf<'d>,
    to: WriteHalf<'d>,
    sides: (Side, Side),
    moved: &'d AtomicU64,
}

impl Direction<'_> {
    /// Moves bytes until the sender closes, and passes that on.
    ///
    /// # Errors
    /// Returns which end failed.
    async fn run(mut self, start: &[u8], clock: &Clock, options: Options<'_>) -> Result<(), Side> {
        let (from, to) = self.sides;
        if !start.is_empty() {
            self.to.write_all(start).await.map_err(|_| to)?;
            self.count(start.len(), clock);
        }
        let mut is_large = false;
        loop {
            self.from.readable().await.map_err(|_| from)?;
            let moved = match options.way {
                Way::Splice if is_large => self.splice(options.spares).await?,
                Way::Splice | Way::Copy => self.copy(options.spares).await?,
            };
            match moved {
                Some(0) => break,
                Some(moved) => {
                    is_large = moved >= LARGE;
                    self.count(moved, clock);
                }
                // It was not readable after all.
                None => {}
            }
        }
        // Fails where the receiver has closed both directions, which its own direction tells.
        self.to.shutdown().await.unwrap_or(());
        Ok(())
    }

    fn count(&self, moved: usize, clock: &Clock) {
        self.moved.fetch_add(moved as u64, Relaxed);
        clock.moved();
    }

    async fn copy(&mut self, spares: &Spares) -> Result<Option<usize>, Side> {
        let mut buffer = spares.buffer();
        let read = self.from.read(&mut buffer).await;
        let read = read.map_err(|_| self.sides.0)?;
        let written = self.to.write_all(&buffer[..read]).await;
        written.map_err(|_| self.sides.1)?;
        Ok(Some(read))
    }

    async fn splice(&mut self, spares: &Spares) -> Result<Option<usize>, Side> {
        let Ok(pipe) = spares.pipe() else {
            // Without file descriptors for a pipe, by a buffer.
            return self.copy(spares).await;
        };
        let (from, to) = (self.from.as_ref(), self.to.as_ref());
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        let filled = from.try_io(Interest::READABLE, || {
            Ok(splice(from, None, &pipe.input, None, PIPE, flags)?)
        });
        let filled = match filled {
            Ok(filled) => filled,
            Err(why) if why.kind() == io::ErrorKind::WouldBlock => {
                spares.keep_pipe(pipe);
                return Ok(None);
            }
            Err(_) => return Err(self.sides.0),
        };
        let mut left = filled;
        while left > 0 {
            let drained = to.async_io(Interest::WRITABLE, || {
                Ok(splice(&pipe.output, None, to, None, left, flags)?)
            });
            match drained.await {
                Ok(drained) if drained > 0 => left -= drained,
                Ok(_) | Err(_) => return Err(self.sides.1),
            }
        }
        spares.keep_pipe(pipe);
        Ok(Some(filled))
    }
}

/// When something was moved last.
struct Clock {
    began: Instant,
    last_ns: AtomicU64,
}

impl Clock {
    fn new() -> Self {
        Self {
            began: Instant::now(),
            last_ns: AtomicU64::new(0),
        }
    }

    fn moved(&self) {
        let now = self.began.elapsed().as_nanos();
        self.last_ns
            .store(u64::try_from(now).unwrap_or(u64::MAX), Relaxed);
    }

    /// Returns once nothing was moved for this long.
    async fn idle(&self, most: Duration) {
        loop {
            let last = self.began + Duration::from_nanos(self.last_ns.load(Relaxed));
            if last + most <= Instant::now() {
                return;
            }
            sleep_until(last + most).await;
        }
    }
}
