//! Name servers inside of workloads' network namespaces, on loopback.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use crate::dns::serve::{Asker, Server, Sockets, serve};
use crate::locate::inside::{Place, inside};
use crate::locate::opened::Opened;

/// Name servers inside of namespaces. Dropping it closes all of them.
#[derive(Debug)]
pub struct Listeners {
    server: Arc<Server>,
    runtime: Handle,
    port: u16,
    open: Opened<Task>,
}

/// What serves a workload; ends when it is dropped.
#[derive(Debug)]
struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Listeners {
    pub(super) fn new(server: Arc<Server>, runtime: Handle, port: u16) -> Self {
        Self {
            server,
            runtime,
            port,
            open: Opened::default(),
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
        let port = self.port;
        let open = |place: &Place| {
            let sockets = inside(place, || bind(port))?;
            let serving = serve(self.server.clone(), Asker::Captured, sockets);
            Ok(Task(self.runtime.spawn(serving).abort_handle()))
        };
        let complain = |netns, error: &str| {
            tracing::warn!(
                netns,
                error,
                "failed to listen for name queries on port {port} in a workload: it keeps its own name servers"
            );
        };
        self.open.set(wanted, |place| place, open, complain)
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
