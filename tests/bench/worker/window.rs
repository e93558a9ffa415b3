//! The measured stretch of time.

use std::time::{Duration, Instant};

use anyhow::Result;
use harness::cpu;
use serde::{Deserialize, Serialize};

/// What one run of a case gave.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// Units a second.
    pub(crate) rate: f64,
    /// CPU time of both ends for each unit.
    pub(crate) cpu_us_per_unit: f64,
    /// CPU time of the whole machine for each unit, whoever used it.
    pub(crate) machine_cpu_us_per_unit: f64,
    /// Cores that anything but the two ends kept busy: other programs, or interrupts.
    pub(crate) other_cores: f64,
    /// The machine's time in soft interrupts, out of all its busy time.
    pub(crate) softirq_share: f64,
    /// Median time of a unit.
    pub(crate) p50_us: Option<f64>,
    /// 99th percentile of the time of a unit.
    pub(crate) p99_us: Option<f64>,
    /// Most bytes that were sent and not yet read.
    pub(crate) in_flight_bytes: Option<u64>,
}

/// An open window; its client is this process.
#[derive(Debug)]
pub(super) struct Window {
    server: u32,
    start: Instant,
    processes: Duration,
    machine: cpu::Whole,
}

fn processes(server: u32) -> Result<Duration> {
    Ok(cpu::of_process(std::process::id())? + cpu::of_process(server)?)
}

impl Window {
    pub(super) fn open(server: u32) -> Result<Self> {
        Ok(Self {
            server,
            processes: processes(server)?,
            machine: cpu::of_machine()?,
            start: Instant::now(),
        })
    }

    /// Returns what it gave, with `units` done.
    pub(super) fn close(self, units: f64) -> Result<Sample> {
        let elapsed = self.start.elapsed();
        let used = processes(self.server)?.saturating_sub(self.processes);
        let machine = cpu::of_machine()?.since(self.machine);
        let micros = |time: Duration| time.as_secs_f64() * 1e6;
        Ok(Sample {
            rate: units / elapsed.as_secs_f64(),
            cpu_us_per_unit: micros(used) / units,
            machine_cpu_us_per_unit: micros(machine.busy) / units,
            other_cores: machine.busy.saturating_sub(used).as_secs_f64() / elapsed.as_secs_f64(),
            softirq_share: machine.softirq.as_secs_f64() / machine.busy.as_secs_f64().max(0.01),
            ..Sample::default()
        })
    }
}

/// Durations of units.
#[derive(Debug)]
pub(super) struct Times(Vec<u32>);

impl Times {
    pub(super) fn new() -> Self {
        // Room for the fastest case, so that no growing is measured.
        Self(Vec::with_capacity(1 << 19))
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn push(&mut self, time: Duration) {
        self.0
            .push(u32::try_from(time.as_nanos()).unwrap_or(u32::MAX));
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn count(&self) -> f64 {
        u32::try_from(self.0.len()).unwrap_or(u32::MAX).into()
    }

    /// Returns the times in microseconds below which so many thousandths of all are.
    pub(super) fn quantiles<const N: usize>(mut self, thousandths: [usize; N]) -> [Option<f64>; N] {
        self.0.sort_unstable();
        thousandths.map(|share| quantile(&self.0, share))
    }

    /// Returns one such time for each part between two `cuts`, numbers of times that had come until then.
    pub(super) fn quantile_of_parts(&self, cuts: &[usize], thousandths: usize) -> Vec<f64> {
        let parts = cuts.windows(2).filter_map(|cut| {
            let mut part = self.0.get(cut[0]..cut[1])?.to_vec();
            part.sort_unstable();
            quantile(&part, thousandths)
        });
        parts.collect()
    }

    /// Adds the percentiles to `sample`.
    pub(super) fn into(self, sample: Sample) -> Sample {
        let [p50_us, p99_us] = self.quantiles([500, 990]);
        Sample {
            p50_us,
            p99_us,
            ..sample
        }
    }
}

fn quantile(sorted: &[u32], thousandths: usize) -> Option<f64> {
    let index = (sorted.len() * thousandths / 1000).min(sorted.len().saturating_sub(1));
    sorted.get(index).map(|ns| f64::from(*ns) / 1e3)
}
