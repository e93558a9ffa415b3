//! How the C library keeps memory that was freed. Others than glibc are left as they are.

/// Makes all threads allocate from one heap. To be called before there are others.
///
/// Else glibc gives each thread one of its own, which keeps what the thread once needed: a dozen threads that each looked at
/// 10,000 services hold tens of megabytes that nobody uses. The agent allocates little, so they hardly wait for each other.
pub fn share() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets a number, under the library's own lock.
    let taken = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    #[cfg(target_env = "gnu")]
    if taken == 0 {
        tracing::debug!("the C library keeps a heap for each thread");
    }
}

/// Gives memory that was freed back to the system. Walks over the heap, which takes some milliseconds for each 100 MB: for those
/// who have just freed much of it.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no pointer, and the library locks the heap.
    unsafe {
        libc::malloc_trim(0)
    };
}
