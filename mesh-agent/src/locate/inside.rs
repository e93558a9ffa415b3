//! Does something small inside a workload's network namespace, such as making a socket.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::thread;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::locate::netns_cookie::netns_cookie;
use crate::model::workload::WorkloadName;

/// Where a workload was found. What is at `handle` may have become another namespace since: the cookie tells.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// Path to open its network namespace at.
    pub handle: PathBuf,
    /// Cookie of its network namespace.
    pub netns_cookie: u64,
}

/// Where each workload of this node was found.
pub type Places = BTreeMap<WorkloadName, Place>;

/// Calls `work` on a thread of its own inside the namespace and returns what it returns. Blocking, for as long as that takes.
///
/// The thread ends with `work`, so it does not keep the namespace alive; a socket that is returned does.
///
/// # Errors
///
/// Those of `work` and of entering the namespace; `NotFound` where it is another one by now.
pub fn inside<T: Send>(
    place: &Place,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    let namespace = File::open(&place.handle)?;
    thread::scope(|scope| {
        let builder = thread::Builder::new().name("netns-inside".to_owned());
        let entered = move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            let (kind, flags) = (SocketType::DGRAM, SocketFlags::CLOEXEC);
            let socket = socket_with(AddressFamily::UNIX, kind, flags, None)?;
            if netns_cookie(socket.as_fd())? != place.netns_cookie {
                return Err(io::ErrorKind::NotFound.into());
            }
            work()
        };
        let thread = builder.spawn_scoped(scope, entered)?;
        thread
            .join()
            .map_err(|_| io::Error::other("the thread in the namespace panicked"))?
    })
}
