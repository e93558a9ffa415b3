//! Does something small inside a workload's network namespace, such as making a socket.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::net::IpAddr;
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
    /// Addresses of its network namespace, of every interface.
    pub addresses: Vec<IpAddr>,
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
            enter(&namespace)?;
            check(place)?;
            work()
        };
        let thread = builder.spawn_scoped(scope, entered)?;
        thread
            .join()
            .map_err(|_| io::Error::other("the thread in the namespace panicked"))?
    })
}

/// A thread's way back from namespaces that it enters for a moment, so that it does for many what [`inside`] starts a thread for.
/// Of the thread that made it.
#[derive(Debug)]
pub struct Visitor {
    own: File,
    stranded: Cell<bool>,
}

impl Visitor {
    /// Returns one for this thread, which is where it is to come back to.
    ///
    /// # Errors
    ///
    /// Those of opening a file.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            own: File::open("/proc/thread-self/ns/net")?,
            stranded: Cell::new(false),
        })
    }

    /// Calls `work` inside the namespace, on this thread.
    ///
    /// # Errors
    ///
    /// As those of [`inside`]; and of coming back, after which the thread must end ([`Visitor::is_stranded`]).
    pub fn inside<T>(&self, place: &Place, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        enter(&File::open(&place.handle)?)?;
        let done = check(place).and_then(|()| work());
        if let Err(error) = enter(&self.own) {
            self.stranded.set(true);
            return Err(error);
        }
        done
    }

    /// Returns whether the thread could not leave a namespace, which it keeps alive until it ends.
    pub fn is_stranded(&self) -> bool {
        self.stranded.get()
    }
}

fn enter(namespace: &File) -> io::Result<()> {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
    Ok(())
}

/// Fails where this thread is not in the namespace that was meant.
fn check(place: &Place) -> io::Result<()> {
    let (kind, flags) = (SocketType::DGRAM, SocketFlags::CLOEXEC);
    let socket = socket_with(AddressFamily::UNIX, kind, flags, None)?;
    if netns_cookie(socket.as_fd())? == place.netns_cookie {
        Ok(())
    } else {
        Err(io::ErrorKind::NotFound.into())
    }
}
