//! Arrays of the kernel's that this process shares, mapped part by part as they are used.
//!
//! The kernel puts all of a mapping's pages in place at once, so an array of 16 MB that holds little would count as 16 MB of the
//! agent's memory.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;

/// Words mapped at a time: 128 KiB, a multiple of every page size there is.
const PART: usize = 128 * 1024 / size_of::<AtomicU64>();

/// The values of an array map as words that this process shares with the kernel.
#[derive(Debug)]
pub(crate) struct SharedWords {
    array: OwnedFd,
    length: usize,
    parts: Box<[OnceLock<Option<Part>>]>,
}

impl SharedWords {
    /// Shares the first `length` words of an array made with `BPF_F_MMAPABLE`, whose elements have `stride` words.
    ///
    /// # Errors
    ///
    /// The kernel's: `EINVAL` where the array is smaller, `ENOTSUPP` where it cannot be mapped; `InvalidInput` where an element
    /// would lie in two parts.
    pub(crate) fn map(array: BorrowedFd<'_>, length: usize, stride: usize) -> io::Result<Self> {
        if length > PART && !PART.is_multiple_of(stride) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let words = Self {
            array: array.try_clone_to_owned()?,
            length,
            parts: (0..length.div_ceil(PART))
                .map(|_| OnceLock::new())
                .collect(),
        };
        // Whether it can be mapped at all, and is as long as that.
        Part::map(&words.array, length.saturating_sub(1) / PART * PART, 1).map(drop)?;
        Ok(words)
    }

    /// Makes words that no kernel knows of, for tests.
    #[cfg(test)]
    pub(crate) fn private(length: usize, stride: usize) -> io::Result<Self> {
        let memory = rustix::fs::memfd_create("words", rustix::fs::MemfdFlags::CLOEXEC)?;
        rustix::fs::ftruncate(&memory, (length * size_of::<AtomicU64>()) as u64)?;
        Self::map(std::os::fd::AsFd::as_fd(&memory), length, stride)
    }

    /// Lets go of every part that is mapped; each is mapped again when it is used.
    pub(crate) fn let_go(&mut self) {
        self.parts.iter_mut().for_each(|part| drop(part.take()));
    }

    /// Returns the `count` words of the element that begins at word `first`; `None` beyond the end, or without memory for the part.
    pub(crate) fn element(&self, first: usize, count: usize) -> Option<&[AtomicU64]> {
        let part = first / PART;
        let begin = part * PART;
        let mapped = self.parts.get(part)?.get_or_init(|| {
            let length = PART.min(self.length - begin);
            Part::map(&self.array, begin, length)
                .inspect_err(
                    |error| tracing::error!(%error, "failed to map a part of a kernel map"),
                )
                .ok()
        });
        let first = first - begin;
        mapped.as_ref()?.get().get(first..first + count)
    }
}

/// A part of an array that is mapped.
#[derive(Debug)]
struct Part {
    words: NonNull<AtomicU64>,
    length: usize,
}

impl Part {
    /// Maps `length` words from word `begin` on, which is the first of a part.
    fn map(array: &OwnedFd, begin: usize, length: usize) -> io::Result<Self> {
        let offset = begin * size_of::<AtomicU64>();
        // SAFETY: a new mapping at a place of the kernel's choice; only this value knows of it. rustix's is as unsafe.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length * size_of::<AtomicU64>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                array.as_raw_fd(),
                libc::off_t::try_from(offset).map_err(io::Error::other)?,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let words = NonNull::new(address.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { words, length })
    }

    /// Returns the words.
    fn get(&self) -> &[AtomicU64] {
        // SAFETY: mapped, page-aligned and of this length for as long as `self` lives; others write to it, hence atomics.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr(), self.length) }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let bytes = self.length * size_of::<AtomicU64>();
        // SAFETY: this mapping and no other; no borrow of it is left.
        let ret = unsafe { libc::munmap(self.words.as_ptr().cast(), bytes) };
        debug_assert_eq!(ret, 0, "the mapping was there");
    }
}

// SAFETY: plain memory behind atomics; any thread may use or unmap it.
unsafe impl Send for Part {}
// SAFETY: as above.
unsafe impl Sync for Part {}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn elements_are_found_in_their_parts_and_none_beyond_the_last() {
        let words = SharedWords::private(2 * PART + 6, 2).unwrap();
        assert!(words.parts.iter().all(|part| part.get().is_none()));
        for first in [0, PART - 2, PART, 2 * PART + 4] {
            let element = words.element(first, 2).unwrap();
            element[1].store(first as u64 + 1, Ordering::Relaxed);
        }
        for first in [0, PART - 2, PART, 2 * PART + 4] {
            let again = words.element(first, 2).unwrap();
            assert_eq!(again[1].load(Ordering::Relaxed), first as u64 + 1);
        }
        assert!(words.element(2 * PART + 6, 2).is_none());
        assert!(words.element(3 * PART, 2).is_none());
        assert!(SharedWords::private(2 * PART, 3).is_err());
        assert!(SharedWords::private(3, 3).is_ok());
    }
}
