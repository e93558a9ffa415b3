//! The ring buffers that the programs write: flows that ended, and log lines about rare events. They are pinned: what piles
//! up while no agent runs is read by the next.

use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use aya::Ebpf;
use aya::maps::{MapData, RingBuf};
use aya_log::EbpfLogger;
use mesh_common::flow::FlowRecord;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Reads records and log lines. There is one reader at a time; it belongs on a thread of its own.
pub struct Records {
    ring: RingBuf<MapData>,
    lines: Option<EbpfLogger<Limited>>,
    budget: Arc<Budget>,
}

impl std::fmt::Debug for Records {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Records").finish_non_exhaustive()
    }
}

impl Records {
    pub(super) fn take(ebpf: &mut Ebpf) -> anyhow::Result<Self> {
        let map = ebpf
            .take_map("RECORDS")
            .context("the kernel object has no map `RECORDS`")?;
        let budget = Arc::<Budget>::default();
        let lines = EbpfLogger::init_with_logger(ebpf, Limited(budget.clone()));
        let missing = |error: &aya_log::Error| {
            let error = crate::chain::chain(error);
            tracing::warn!(error, "log lines of the kernel programs cannot be read");
        };
        Ok(Self {
            ring: RingBuf::try_from(map)?,
            lines: lines.inspect_err(missing).ok(),
            budget,
        })
    }

    /// Waits until the kernel says that much has piled up, or `patience` is over, and hands every record to `take`. Log
    /// lines of the programs go to the log.
    pub fn drain(&mut self, patience: Duration, mut take: impl FnMut(FlowRecord)) {
        wait(&self.ring, patience);
        while let Some(bytes) = self.ring.next() {
            if bytes.len() == size_of::<FlowRecord>() {
                take(bytemuck::pod_read_unaligned(&bytes));
            }
        }
        if let Some(lines) = &mut self.lines {
            self.budget.left.store(LINES_EACH_TIME, Ordering::Relaxed);
            lines.flush();
            let dropped = self.budget.dropped.swap(0, Ordering::Relaxed);
            if dropped > 0 {
                tracing::warn!(dropped, "more log lines of the kernel programs, not shown");
            }
        }
    }
}

/// Waits until the kernel says that there is something to take out of a ring buffer, or `patience` is over.
pub(super) fn wait(ring: &RingBuf<MapData>, patience: Duration) {
    let timeout = Timespec::try_from(patience).unwrap_or(Timespec {
        tv_sec: 1,
        tv_nsec: 0,
    });
    // An interrupted wait only means an earlier look.
    poll(
        &mut [PollFd::new(&ring.as_fd(), PollFlags::IN)],
        Some(&timeout),
    )
    .ok();
}

/// Log lines that are shown at each look. What goes wrong for one socket may go wrong for all of them.
const LINES_EACH_TIME: u32 = 10;

/// How many more lines may be shown, and how many were not.
#[derive(Debug, Default)]
struct Budget {
    left: AtomicU32,
    dropped: AtomicU32,
}

/// Hands lines to the one log, within a budget.
struct Limited(Arc<Budget>);

impl log::Log for Limited {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        log::logger().enabled(metadata)
    }

    fn log(&self, record: &log::Record<'_>) {
        // One thread reads.
        let left = self.0.left.load(Ordering::Relaxed);
        if left == 0 {
            self.0.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.0.left.store(left - 1, Ordering::Relaxed);
        log::logger().log(record);
    }

    fn flush(&self) {
        log::logger().flush();
    }
}
