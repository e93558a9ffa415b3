//! Calls on sockets that the probe makes and rustix has no name for.

use std::io;
use std::os::fd::AsRawFd as _;

/// Brings the loopback interface of this thread's network namespace up.
///
/// # Errors
///
/// The kernel's.
pub(super) fn loopback_up() -> io::Result<()> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: a structure of plain integers and bytes, for which zero is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags =
        i16::try_from(libc::IFF_UP | libc::IFF_RUNNING).map_err(io::Error::other)?;
    // What a request is differs between C libraries.
    let code = libc::SIOCSIFFLAGS as libc::Ioctl;
    // SAFETY: a valid request for a live socket; rustix has no interface calls.
    let ret = unsafe { libc::ioctl(socket.as_raw_fd(), code, &raw const request) };
    if ret < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Sets a socket option that takes an `int`, and that rustix has no name for.
///
/// # Errors
///
/// The kernel's.
pub(super) fn set_int_option(
    socket: impl std::os::fd::AsFd,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let length = u32::try_from(size_of::<libc::c_int>()).map_err(io::Error::other)?;
    // SAFETY: a live socket and an `int`, with its length.
    let ret = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(&value).cast(),
            length,
        )
    };
    if ret < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Discards up to `length` received bytes by `recv(NULL, MSG_TRUNC)`, as tcp(7) has it; the error is the kernel's number.
pub(super) fn discard(socket: impl std::os::fd::AsFd, length: usize) -> Result<usize, i32> {
    // SAFETY: tcp(7): with MSG_TRUNC the bytes are discarded and the buffer is not used.
    let ret = unsafe {
        libc::recv(
            socket.as_fd().as_raw_fd(),
            std::ptr::null_mut(),
            length,
            libc::MSG_TRUNC,
        )
    };
    usize::try_from(ret).map_err(|_| io::Error::last_os_error().raw_os_error().unwrap_or(0))
}

/// Receives some bytes; returns whether any control message came with them.
///
/// # Errors
///
/// The kernel's.
pub(super) fn receives_control_message(socket: impl std::os::fd::AsFd) -> io::Result<bool> {
    let mut bytes = [0u8; 16];
    let mut control = [0u64; 16];
    let mut vector = libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    };
    // SAFETY: a structure of plain integers and addresses, for which zero is valid.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut vector;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    // Of another type in another C library.
    header.msg_controllen = size_of_val(&control) as _;
    // SAFETY: the header's pointers are to live locals with their lengths.
    let ret = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut header, 0) };
    if ret < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(header.msg_controllen > 0)
    }
}
