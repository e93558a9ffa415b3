//! Readers that have to be woken: the programs say in which network namespaces, and a pass over the sockets there wakes them.
//!
//! What a reader misses, and why, is told in `mesh-ebpf/src/wake.rs`.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use anyhow::Context as _;
use aya::Ebpf;
use aya::maps::{Array, MapData, RingBuf};
use rustix::time::{ClockId, clock_gettime};

use crate::kernel::{iterate, records, sys};

/// Who reads what the programs ask for. There is one; it belongs on a thread of its own, and tells the programs as long as it is there.
pub struct Wakes {
    ring: RingBuf<MapData>,
    until: Array<MapData, u64>,
    program: OwnedFd,
}

impl std::fmt::Debug for Wakes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wakes").finish_non_exhaustive()
    }
}

impl Wakes {
    /// `None` where the kernel did not take the program: then more is redirected before TCP takes over, and a reader that waits for an edge
    /// may miss what TCP brings.
    pub(super) fn take(ebpf: &mut Ebpf) -> anyhow::Result<Option<Self>> {
        let Some(program) = iterate::program(ebpf, "mesh_wakes") else {
            return Ok(None);
        };
        let mut map = |name: &str| {
            let map = ebpf.take_map(name);
            map.with_context(|| format!("the kernel object has no map `{name}`"))
        };
        Ok(Some(Self {
            ring: RingBuf::try_from(map("WAKES")?)?,
            until: Array::try_from(map("WAKER")?)?,
            program,
        }))
    }

    /// Tells the programs that readers are woken for so long from now on.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn promise(&mut self, time: Duration) -> io::Result<()> {
        let now = Duration::try_from(clock_gettime(ClockId::Monotonic)).unwrap_or_default();
        let until = u64::try_from((now + time).as_nanos()).unwrap_or(u64::MAX);
        self.until.set(0, until, 0).map_err(io::Error::other)
    }

    /// Waits until the programs ask for something, or `patience` is over.
    pub fn wait(&self, patience: Duration) {
        records::wait(&self.ring, patience);
    }

    /// Adds the cookies of the network namespaces that were asked for meanwhile; returns whether there were any.
    pub fn asked(&mut self, namespaces: &mut BTreeSet<u64>) -> bool {
        let mut any = false;
        while let Some(bytes) = self.ring.next() {
            if let Ok(bytes) = <[u8; 8]>::try_from(&*bytes) {
                namespaces.insert(u64::from_ne_bytes(bytes));
                any = true;
            }
        }
        any
    }

    /// Wakes the readers in the network namespace that this thread is in, and returns whether there is still one that has something to
    /// read of TCP.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn pass(&self) -> io::Result<bool> {
        let mut shown = [0; 4096];
        let mut passing = File::from(sys::iterate(self.program.as_fd(), None)?);
        let mut any = false;
        loop {
            match passing.read(&mut shown)? {
                0 => return Ok(any),
                _ => any = true,
            }
        }
    }
}
