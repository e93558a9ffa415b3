//! Enters network namespaces, on a thread that lives only for that.
//!
//! A thread in a namespace keeps it alive, and a tokio worker must never change its namespace: so each round of visits is a
//! thread of its own, which ends after the last one.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;

use rustix::fs::fstatfs;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::locate::machine::Visit;
use crate::locate::{netlink, netns_cookie};

/// `NSFS_MAGIC` of linux/magic.h.
const NSFS_MAGIC: u64 = 0x6e73_6673;

/// Returns what is seen in each namespace. `InvalidInput` means that a path is no network namespace.
pub(super) fn visit_all(handles: &[PathBuf]) -> Vec<io::Result<Visit>> {
    let visits = || handles.iter().map(|handle| visit(handle)).collect();
    let result = thread::scope(|scope| {
        let builder = thread::Builder::new().name("netns-visit".to_owned());
        let thread = builder.spawn_scoped(scope, visits)?;
        thread
            .join()
            .map_err(|_| io::Error::other("the visiting thread panicked"))
    });
    result.unwrap_or_else(|error: io::Error| {
        let copy = || io::Error::new(error.kind(), error.to_string());
        handles.iter().map(|_| Err(copy())).collect()
    })
}

/// Moves this thread into the namespace for good and returns what is seen there.
fn visit(handle: &Path) -> io::Result<Visit> {
    let namespace = File::open(handle)?;
    // `ip netns add` makes a plain file first and then mounts the namespace on it.
    if fstatfs(&namespace)?.f_type.cast_unsigned() != NSFS_MAGIC {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let inode = namespace.metadata()?.ino();
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    Ok(Visit {
        inode,
        cookie: netns_cookie::netns_cookie(socket.as_fd())?,
        addresses: netlink::addresses()?,
    })
}
