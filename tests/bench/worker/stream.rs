//! One connection, written to as fast as it takes it. What the server has read counts, not what the client has sent.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::WARM_UP;
use super::board::{Board, EVERY, Slot};
use super::link::{Address, Link, Listener};
use super::window::{Sample, Window};

/// Bytes of the reader's buffer.
const BUFFER: usize = 128 * 1024;

/// Reads one connection to its end, and checks that nothing was lost.
pub(super) fn serve(listener: &Listener, board: &Board) -> Result<()> {
    let mut link = listener.accept()?;
    let mut buffer = vec![0; BUFFER];
    let (mut received, mut shown) = (0, 0);
    loop {
        let count = link.read(&mut buffer)?;
        received += count as u64;
        if count == 0 {
            break;
        }
        if received - shown >= EVERY {
            board.write(Slot::Received, received)?;
            shown = received;
        }
    }
    let sent = board.read(Slot::Sent)?;
    ensure!(
        sent == received,
        "{sent} bytes were sent and {received} arrived"
    );
    Ok(())
}

pub(super) fn drive(
    address: &Address,
    board: &Board,
    write: usize,
    server: u32,
    length: Duration,
) -> Result<Sample> {
    let mut writer = Writer {
        link: Link::connect(address)?,
        bytes: vec![7; write],
        board,
        sent: 0,
        in_flight: 0,
    };
    writer.go_on(WARM_UP)?;
    writer.in_flight = 0;
    let before = board.read(Slot::Received)?;
    let window = Window::open(server)?;
    writer.go_on(length)?;
    let received = board.read(Slot::Received)? - before;
    let sample = window.close(megabytes(received))?;
    board.write(Slot::Sent, writer.sent)?;
    writer.link.finish()?;
    // The server reads the rest. This end does not wait for it with `recv`: after a half-close, a blocking one may fail with
    // EAGAIN on a redirected socket, which is why the agent's default mode does not accelerate programs that do it.
    Ok(Sample {
        in_flight_bytes: Some(writer.in_flight),
        ..sample
    })
}

/// Returns how many MB these are; exact for anything below 9 PB.
#[expect(clippy::cast_precision_loss, reason = "below 2^53")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

struct Writer<'a> {
    link: Link,
    bytes: Vec<u8>,
    board: &'a Board,
    sent: u64,
    in_flight: u64,
}

impl Writer<'_> {
    fn go_on(&mut self, length: Duration) -> Result<()> {
        let begin = Instant::now();
        loop {
            let mark = self.sent + EVERY;
            while self.sent < mark {
                self.link.write_all(&self.bytes)?;
                self.sent += self.bytes.len() as u64;
            }
            let received = self.board.read(Slot::Received)?;
            self.in_flight = self.in_flight.max(self.sent.saturating_sub(received));
            if begin.elapsed() >= length {
                return Ok(());
            }
        }
    }
}
