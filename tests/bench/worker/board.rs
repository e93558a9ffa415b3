//! Two counters that both ends see: in a file, because sharing memory takes unsafe code and a `pwrite` for every 128 KiB
//! costs less than can be measured.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result};

/// How many bytes go by between two looks at the board; what is read off it is that much wrong at most.
pub(super) const EVERY: u64 = 128 * 1024;

#[derive(Debug)]
pub(super) struct Board(File);

/// Place of a counter.
#[derive(Clone, Copy, Debug)]
pub(super) enum Slot {
    /// Bytes that the server has read.
    Received = 0,
    /// Bytes that the client sent in all; written once, at its end.
    Sent = 8,
}

impl Board {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let opened = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path);
        Ok(Self(opened.context("failed to open the board")?))
    }

    pub(super) fn write(&self, slot: Slot, value: u64) -> Result<()> {
        let written = self.0.write_all_at(&value.to_ne_bytes(), slot as u64);
        written.context("failed to write to the board")
    }

    /// Returns the counter; 0 when it was never written.
    pub(super) fn read(&self, slot: Slot) -> Result<u64> {
        let mut bytes = [0; 8];
        let count = self.0.read_at(&mut bytes, slot as u64);
        let count = count.context("failed to read the board")?;
        Ok(if count == 8 {
            u64::from_ne_bytes(bytes)
        } else {
            0
        })
    }
}
