//! Buffers and pipes that connections of a thread take turns in using.

use std::io;
use std::ops::{Deref, DerefMut};
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};

/// Bytes of a buffer: a bulk stream takes it whole, in one call.
const BUFFER: usize = 64 << 10;

/// Bytes of a pipe, at most: four times the kernel's default, as bulk streams deliver. Where the user may not have as many pages, the
/// default remains.
pub(super) const PIPE: usize = 256 << 10;

/// Buffers or pipes that are kept while nobody uses them: more than connections of one thread move bytes at once.
const KEPT: usize = 64;

/// Buffers and pipes for the taking.
#[derive(Debug, Default)]
pub struct Spares {
    buffers: Mutex<Vec<Box<[u8]>>>,
    pipes: Mutex<Vec<Pipe>>,
}

/// A buffer, given back when dropped.
#[derive(Debug)]
pub(super) struct Buffer<'s> {
    spares: &'s Spares,
    bytes: Box<[u8]>,
}

/// A pipe. Closed with what is in it unless it is [given back](Spares::keep_pipe).
#[derive(Debug)]
pub(super) struct Pipe {
    /// The end to read from.
    pub(super) output: OwnedFd,
    /// The end to write to.
    pub(super) input: OwnedFd,
}

impl Spares {
    /// Returns a buffer.
    pub(super) fn buffer(&self) -> Buffer<'_> {
        let spare = lock(&self.buffers).pop();
        Buffer {
            spares: self,
            bytes: spare.unwrap_or_else(|| vec![0; BUFFER].into_boxed_slice()),
        }
    }

    /// Returns an empty pipe.
    ///
    /// # Errors
    /// Returns the kernel's, if it makes none.
    pub(super) fn pipe(&self) -> io::Result<Pipe> {
        let spare = lock(&self.pipes).pop();
        spare.map_or_else(Pipe::new, Ok)
    }

    /// Takes back a pipe, which must be empty.
    pub(super) fn keep_pipe(&self, pipe: Pipe) {
        keep(&self.pipes, pipe);
    }

    #[cfg(test)]
    pub(super) fn kept(&self) -> (usize, usize) {
        (lock(&self.buffers).len(), lock(&self.pipes).len())
    }
}

impl Pipe {
    fn new() -> io::Result<Self> {
        let (output, input) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // Without it, the pipe is as big as the kernel made it.
        fcntl_setpipe_size(&input, PIPE).ok();
        Ok(Self { output, input })
    }
}

impl Deref for Buffer<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for Buffer<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Drop for Buffer<'_> {
    fn drop(&mut self) {
        keep(&self.spares.buffers, std::mem::take(&mut self.bytes));
    }
}

fn keep<T>(spares: &Mutex<Vec<T>>, spare: T) {
    let mut spares = lock(spares);
    if spares.len() < KEPT {
        spares.push(spare);
    }
}

fn lock<T>(spares: &Mutex<Vec<T>>) -> MutexGuard<'_, Vec<T>> {
    spares.lock().unwrap_or_else(PoisonError::into_inner)
}
