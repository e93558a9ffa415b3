//! A client of HTTP that keeps to a schedule, or goes as fast as it can; and the backend for HTTP/2.
//!
//! At a given rate, a request's time begins when it was due, not when there was a connection free to send it on: a proxy that
//! stalls is not spared the requests that it would have had meanwhile.

mod one;
mod pace;
pub(super) mod serve;
mod two;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use harness::cpu;
use serde::{Deserialize, Serialize};

use super::RESULT;
use super::window::Times;

#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// A `Load` as JSON.
    #[arg(long)]
    load: String,
}

/// What is spoken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Version {
    /// HTTP/1.1.
    One,
    /// HTTP/2 with prior knowledge.
    Two,
    /// The same, with gRPC's unary calls.
    Grpc,
}

/// When requests are sent.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) enum Mode {
    /// One request on each connection all the time; HTTP/1 only, since h2load does it for HTTP/2.
    Closed,
    /// At fixed distances.
    Rate {
        /// Requests a second, over all connections.
        per_second: f64,
    },
    /// One on each connection, which then stays open without any use until the client is killed; HTTP/1 only.
    Hold,
    /// One altogether, whose response's fields are told.
    Once,
}

/// What a client does.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Load {
    pub(crate) address: SocketAddr,
    pub(crate) path: String,
    /// Bytes that each response must have, if that is known.
    pub(crate) body: Option<usize>,
    pub(crate) version: Version,
    /// A new connection for each request; HTTP/1 only.
    pub(crate) fresh: bool,
    pub(crate) connections: usize,
    pub(crate) mode: Mode,
    pub(crate) window_ms: u64,
    /// Processes whose CPU time is measured over the window.
    pub(crate) processes: Vec<u32>,
}

/// What a client found.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// Responses within the window.
    pub(crate) requests: f64,
    /// Length of the window.
    pub(crate) seconds: f64,
    /// CPU time of the processes over the window.
    pub(crate) cpu_seconds: f64,
    /// Median time of a request.
    pub(crate) p50_us: f64,
    /// 99th percentile of each tenth of a second.
    pub(crate) p99_us: Vec<f64>,
    /// 99.9th percentile.
    pub(crate) p999_us: f64,
    /// Fields of the response, a line each.
    pub(crate) fields: String,
}

/// What requests are for: nobody looks at it, but HTTP/1.1 asks for one.
const HOST: &str = "backend.bench";

/// The part of the window's length that goes before it, for connections, caches and the scheduler to settle. Young connections on
/// loopback stall for tens of milliseconds with large bodies, whoever proxies them: their receive windows are still small.
const WARM_UP: f64 = 0.5;

/// The parts of a window that have a 99th percentile each, and the report has the median of them: where the machine stops for ten milliseconds, as
/// machines that others share do, a hundred requests of ten thousand are late, and the percentile of the whole tells of nothing else.
const PART: Duration = Duration::from_millis(100);

/// Does what a client is told.
pub(crate) fn drive(arguments: &Arguments) -> Result<()> {
    let load: Load = serde_json::from_str(&arguments.load).context("failed to parse the load")?;
    let outcome = match load.version {
        Version::One => one::drive(&load),
        Version::Two | Version::Grpc => two::drive(&load),
    }?;
    let text = serde_json::to_string(&outcome).context("failed to write the outcome")?;
    println!("{RESULT}{text}");
    Ok(())
}

/// Returns a gRPC message of `bytes` bytes, its framing included.
pub(crate) fn message(bytes: usize) -> Vec<u8> {
    let length = u32::try_from(bytes.saturating_sub(5)).unwrap_or(u32::MAX);
    let mut message = vec![0];
    message.extend(length.to_be_bytes());
    message.resize(bytes.max(5), b'a');
    message
}

/// The measured stretch of time, and what was seen in it.
#[derive(Debug)]
struct Window {
    start: Instant,
    end: Instant,
    /// CPU time at the start, once that has come.
    open: Option<(Instant, Duration)>,
    times: Times,
    /// How many times there were at the end of each part.
    cuts: Vec<usize>,
    /// The end of the part that is on.
    part_ends: Instant,
}

impl Window {
    /// Returns the window that opens after a warm-up.
    fn new(load: &Load) -> Self {
        let length = Duration::from_millis(load.window_ms);
        let start = Instant::now() + length.mul_f64(WARM_UP);
        Self {
            start,
            end: start + length,
            open: None,
            times: Times::new(),
            cuts: vec![0],
            part_ends: start + PART,
        }
    }

    /// Opens the window when it is time, and returns whether it is still to go on.
    fn look(&mut self, load: &Load, now: Instant) -> Result<bool> {
        if self.open.is_none() && now >= self.start {
            let opened = Instant::now();
            self.end = opened + (self.end - self.start);
            self.part_ends = opened + PART;
            self.open = Some((opened, cpu_time(&load.processes)?));
        }
        Ok(now < self.end)
    }

    /// Notes a response to a request that was due at `due`.
    fn note(&mut self, due: Instant, now: Instant) {
        let counts = match self.open {
            Some((opened, _)) => now >= opened,
            None => false,
        };
        if counts {
            while now >= self.part_ends {
                self.cuts.push(self.times.len());
                self.part_ends += PART;
            }
            self.times.push(now.saturating_duration_since(due));
        }
    }

    /// Closes the window. Requests of `unanswered` were due and have no response: they took at least until now.
    fn close(mut self, load: &Load, unanswered: impl Iterator<Item = Instant>) -> Result<Outcome> {
        let now = Instant::now();
        let (opened, before) = self.open.context("the window never opened")?;
        let cpu = cpu_time(&load.processes)?.saturating_sub(before);
        let requests = self.times.count();
        anyhow::ensure!(requests > 0.0, "no response within the window");
        for due in unanswered {
            self.times.push(now.saturating_duration_since(due));
        }
        self.cuts.push(self.times.len());
        let p99_us = self.times.quantile_of_parts(&self.cuts, 990);
        let [p50_us, p999_us] = self.times.quantiles([500, 999]);
        Ok(Outcome {
            requests,
            seconds: now.duration_since(opened).as_secs_f64(),
            cpu_seconds: cpu.as_secs_f64(),
            p50_us: p50_us.unwrap_or_default(),
            p99_us,
            p999_us: p999_us.unwrap_or_default(),
            fields: String::new(),
        })
    }
}

fn cpu_time(processes: &[u32]) -> Result<Duration> {
    processes.iter().map(|pid| cpu::of_process(*pid)).sum()
}

#[cfg(test)]
mod tests;
