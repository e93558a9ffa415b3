//! Socket options by number: the tests need ones that no safe wrapper knows.

use std::io;
use std::os::fd::AsRawFd;

use socket2::Socket;

pub(super) fn set(socket: &Socket, level: i32, name: i32, value: &[u8]) -> io::Result<()> {
    let size = libc::socklen_t::try_from(value.len()).map_err(io::Error::other)?;
    let pointer = value.as_ptr().cast();
    // SAFETY: `pointer` points to `size` bytes that live to the end of this function, and the kernel only reads them.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, pointer, size) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

pub(super) fn get(socket: &Socket, level: i32, name: i32, length: usize) -> io::Result<Vec<u8>> {
    let mut value = vec![0; length];
    let mut size = libc::socklen_t::try_from(length).map_err(io::Error::other)?;
    let pointer = value.as_mut_ptr().cast();
    // SAFETY: `pointer` points to `size` bytes, which the kernel writes at most, and both live to the end of this function.
    let result =
        unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, pointer, &raw mut size) };
    if result == 0 {
        value.truncate(size as usize);
        Ok(value)
    } else {
        Err(io::Error::last_os_error())
    }
}

pub(super) fn get_int(socket: &Socket, level: i32, name: i32) -> io::Result<i32> {
    let value = get(socket, level, name, 4)?;
    let bytes = value.try_into().map_err(|_| io::ErrorKind::InvalidData)?;
    Ok(i32::from_ne_bytes(bytes))
}
