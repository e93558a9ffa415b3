//! Does something inside of a workload's network namespace.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::thread;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::locate::netns_cookie::netns_cookie;

/// Returns what `work` returns on a thread inside of the namespace behind `handle`, which has to be the one with this cookie.
///
/// The thread ends with `work`, and the descriptor of the namespace is closed; what `work` returns may keep the namespace alive.
///
/// # Errors
///
/// Those of entering and of `work`; `NotFound` when another namespace is behind the handle by now.
pub fn run<T: Send>(
    handle: &Path,
    cookie: u64,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    let namespace = File::open(handle)?;
    thread::scope(|scope| {
        let builder = thread::Builder::new().name("netns-inside".to_owned());
        let inside = move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            drop(namespace);
            let (family, flags) = (AddressFamily::UNIX, SocketFlags::CLOEXEC);
            let socket = socket_with(family, SocketType::DGRAM, flags, None)?;
            if netns_cookie(socket.as_fd())? != cookie {
                return Err(io::ErrorKind::NotFound.into());
            }
            work()
        };
        let thread = builder.spawn_scoped(scope, inside)?;
        thread
            .join()
            .map_err(|_| io::Error::other("the thread in the namespace panicked"))?
    })
}
