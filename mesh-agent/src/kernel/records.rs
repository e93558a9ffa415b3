//! The ring buffer of flows that ended. It is pinned: what piles up while no agent runs is read by the next.

use std::os::fd::AsFd as _;
use std::time::Duration;

use anyhow::Context as _;
use aya::Ebpf;
use aya::maps::{MapData, RingBuf};
use mesh_common::flow::FlowRecord;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Reads records. There is one reader at a time; it belongs on a thread of its own.
pub struct Records {
    ring: RingBuf<MapData>,
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
        Ok(Self {
            ring: RingBuf::try_from(map)?,
        })
    }

    /// Waits until the kernel says that much has piled up, or `patience` is over, and hands every record to `take`.
    pub fn drain(&mut self, patience: Duration, mut take: impl FnMut(FlowRecord)) {
        let timeout = Timespec::try_from(patience).unwrap_or(Timespec {
            tv_sec: 1,
            tv_nsec: 0,
        });
        // An interrupted wait only means an earlier look.
        poll(
            &mut [PollFd::new(&self.ring.as_fd(), PollFlags::IN)],
            Some(&timeout),
        )
        .ok();
        while let Some(bytes) = self.ring.next() {
            if bytes.len() == size_of::<FlowRecord>() {
                take(bytemuck::pod_read_unaligned(&bytes));
            }
        }
    }
}
