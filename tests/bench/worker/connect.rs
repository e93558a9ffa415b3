//! Connections opened and closed, one after another.
//!
//! The server closes first and the client waits for that, so that neither runs ahead and the accept queue never fills.

use std::io::Read;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::WARM_UP;
use super::link::{Address, Link, Listener};
use super::window::{Sample, Times, Window};

/// Accepts and closes until it is killed.
pub(super) fn serve(listener: &Listener) -> Result<()> {
    loop {
        drop(listener.accept()?);
    }
}

/// What of a connection is timed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Timed {
    /// From `connect` to the last `close`.
    Whole,
    /// `connect` alone.
    Call,
}

pub(super) fn drive(
    address: &Address,
    timed: Timed,
    server: u32,
    length: Duration,
) -> Result<Sample> {
    let mut times = Times::new();
    repeat(address, timed, &mut times, WARM_UP)?;
    times.clear();
    let window = Window::open(server)?;
    repeat(address, timed, &mut times, length)?;
    let sample = window.close(times.count())?;
    Ok(times.into(sample))
}

fn repeat(address: &Address, timed: Timed, times: &mut Times, length: Duration) -> Result<()> {
    let begin = Instant::now();
    let mut now = begin;
    while now - begin < length {
        let mut link = Link::connect(address)?;
        let call = now.elapsed();
        ensure!(link.read(&mut [0; 1])? == 0, "a byte came from nowhere");
        drop(link);
        let then = std::mem::replace(&mut now, Instant::now());
        times.push(match timed {
            Timed::Whole => now - then,
            Timed::Call => call,
        });
    }
    Ok(())
}
