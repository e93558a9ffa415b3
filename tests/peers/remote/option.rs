//! Socket options by number: the tests need ones that no safe wrapper knows.

use std::io;
use std::os::fd::AsRawFd;

use socket2::Socket;

/// Size of an `int` option's value.
const SIZE: libc::socklen_t = 4;

pub(super) fn set(socket: &Socket, level: i32, name: i32, value: i32) -> io::Result<()> {
    let pointer = std::ptr::from_ref(&value).cast();
    // SAFETY: `pointer` points to `SIZE` bytes that live to the end of this function, and the kernel only reads them.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, pointer, SIZE) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

pub(super) fn get(socket: &Socket, level: i32, name: i32) -> io::Result<i32> {
    let mut value = 0i32;
    let mut size = SIZE;
    let pointer = std::ptr::from_mut(&mut value).cast();
    // SAFETY: `pointer` points to `size` bytes, which the kernel writes at most, and both live to the end of this function.
    let result =
        unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, pointer, &raw mut size) };
    if result == 0 {
        Ok(value)
    } else {
        Err(io::Error::last_os_error())
    }
}
