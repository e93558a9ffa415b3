//! CPU time of processes and of the machine.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// Returns the CPU time that process `pid` has used, all its threads together.
///
/// From the scheduler's own sum, in nanoseconds; it lags by up to one tick (4 ms) for a thread that is running. On kernels
/// without separate accounting of interrupts it includes the network stack's work done in the process's name.
///
/// # Errors
/// When there is no such process.
pub fn of_process(pid: u32) -> Result<Duration> {
    let tasks = format!("/proc/{pid}/task");
    let entries = fs::read_dir(&tasks).with_context(|| format!("failed to read `{tasks}`"))?;
    let mut sum = 0;
    for entry in entries {
        let path = entry
            .context("failed to list threads")?
            .path()
            .join("schedstat");
        // A thread may end between listing and reading.
        let text = fs::read_to_string(&path).unwrap_or_default();
        sum += text
            .split(' ')
            .next()
            .and_then(|ns| ns.parse().ok())
            .unwrap_or(0u64);
    }
    Ok(Duration::from_nanos(sum))
}

/// CPU time of the whole machine since it started, in ticks of 10 ms summed over the cores.
#[derive(Clone, Copy, Debug, Default)]
pub struct Whole {
    /// Neither idle nor waiting for a disk nor taken by other machines.
    pub busy: Duration,
    /// In soft interrupts.
    pub softirq: Duration,
}

impl Whole {
    /// Returns the time from `earlier` to this.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            busy: self.busy.saturating_sub(earlier.busy),
            softirq: self.softirq.saturating_sub(earlier.softirq),
        }
    }
}

/// Returns the CPU time of the whole machine.
///
/// # Errors
/// When `/proc/stat` cannot be read.
pub fn of_machine() -> Result<Whole> {
    let text = fs::read_to_string("/proc/stat").context("failed to read `/proc/stat`")?;
    let line = text.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = line
        .split_whitespace()
        .skip(1)
        .filter_map(|word| word.parse().ok())
        .collect();
    let at = |index: usize| ticks.get(index).copied().unwrap_or(0);
    // user nice system idle iowait irq softirq (steal is other machines' time)
    let busy = at(0) + at(1) + at(2) + at(5) + at(6);
    Ok(Whole {
        busy: Duration::from_millis(busy * 10),
        softirq: Duration::from_millis(at(6) * 10),
    })
}

/// Pins the calling thread, and what it starts, to core `core`, counted modulo the cores there are.
///
/// # Errors
/// When the kernel refuses.
pub fn pin(core: usize) -> Result<()> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut set = rustix::thread::CpuSet::new();
    set.set(core % cores);
    rustix::thread::sched_setaffinity(None, &set).context("failed to pin a thread to a core")
}

/// Gives this process the highest ordinary priority, so that other programs on a shared machine hardly disturb it.
///
/// # Errors
/// When the kernel refuses.
pub fn prefer() -> Result<()> {
    rustix::process::setpriority_process(None, -20).context("failed to raise the priority")
}
