//! Name servers inside of workloads' network namespaces, on loopback.
//!
//! A socket keeps its namespace alive. So these are closed as soon as the workload is gone, which shows in what led to the
//! namespace (a process, a path), and not in the namespace itself.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Instant;

use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use crate::dns::limits;
use crate::dns::serve::{Asker, Server, Sockets, serve};
use crate::locate::inside::{Place, inside};

/// Name servers inside of namespaces. Dropping it closes all of them.
#[derive(Debug)]
pub struct Listeners {
    server: Arc<Server>,
    runtime: Handle,
    port: u16,
    open: BTreeMap<u64, AbortHandle>,
    failed: BTreeMap<u64, (Instant, String)>,
}

impl Listeners {
    pub(super) fn new(server: Arc<Server>, runtime: Handle, port: u16) -> Self {
        Self {
            server,
            runtime,
            port,
            open: BTreeMap::new(),
            failed: BTreeMap::new(),
        }
    }

    /// Returns the port that they listen on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Closes those that are not wanted, opens those that are missing, and returns where there is one now: cookies of network
    /// namespaces.
    ///
    /// One that cannot be opened is tried again some seconds later; until then the workload keeps its own name servers.
    pub fn set(&mut self, wanted: &[Place]) -> BTreeSet<u64> {
        let cookies: BTreeSet<u64> = wanted.iter().map(|place| place.netns_cookie).collect();
        self.failed.retain(|cookie, _| cookies.contains(cookie));
        self.open.retain(|cookie, task| {
            let stays = cookies.contains(cookie);
            if !stays {
                task.abort();
            }
            stays
        });
        for place in wanted {
            let cookie = &place.netns_cookie;
            let waits = self
                .failed
                .get(cookie)
                .is_some_and(|(at, _)| at.elapsed() < limits::REOPEN);
            if waits || self.open.contains_key(cookie) {
                continue;
            }
            let port = self.port;
            match inside(place, || bind(port)) {
                Ok(sockets) => {
                    let task =
                        self.runtime
                            .spawn(serve(self.server.clone(), Asker::Captured, sockets));
                    self.open.insert(*cookie, task.abort_handle());
                    self.failed.remove(cookie);
                }
                Err(error) => self.note(*cookie, &error),
            }
        }
        self.open.keys().copied().collect()
    }

    /// Remembers when to try again, and says the same thing only once.
    fn note(&mut self, cookie: u64, error: &io::Error) {
        let text = error.to_string();
        let before = self.failed.insert(cookie, (Instant::now(), text.clone()));
        if before.is_none_or(|(_, before)| before != text) {
            let port = self.port;
            tracing::warn!(
                netns = cookie,
                error = text,
                "failed to listen for name queries on port {port} in a workload: it keeps its own name servers"
            );
        }
    }
}

impl Drop for Listeners {
    fn drop(&mut self) {
        self.open.values().for_each(AbortHandle::abort);
    }
}

fn bind(port: u16) -> io::Result<Sockets> {
    let mut sockets = Sockets::default();
    sockets.bind((Ipv4Addr::LOCALHOST, port).into())?;
    match sockets.bind((Ipv6Addr::LOCALHOST, port).into()) {
        // There is no IPv6 in this namespace.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported
            ) => {}
        bound => bound?,
    }
    Ok(sockets)
}
