//! The cookie of the network namespace that a socket is in.
//!
//! No safe crate has the getter of this socket option (kernel 5.14, commit e8b9eab99232); it is the only `unsafe` of `locate`.
#![expect(
    unsafe_code,
    reason = "getsockopt(SO_NETNS_COOKIE) has no safe wrapper"
)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Returns the cookie of the network namespace that `socket` was made in.
///
/// # Errors
///
/// Those of getsockopt(2); `ENOPROTOOPT` before kernel 5.14.
pub(super) fn netns_cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    const SIZE: libc::socklen_t = 8;
    let mut cookie = 0u64;
    let mut len = SIZE;
    // SAFETY: both pointers are to live locals of this function, `len` says how large `cookie` is, and the descriptor is
    // open for as long as it is borrowed.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    if len != SIZE {
        return Err(io::Error::other("the kernel's cookie is not 8 bytes"));
    }
    Ok(cookie)
}
