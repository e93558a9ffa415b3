//! Listeners for captured connections, on the loopback addresses of workloads' network namespaces: one for each data thread, among
//! which the kernel spreads connections (`SO_REUSEPORT`).

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::AsFd as _;
use std::sync::Arc;

use rustix::net::sockopt::set_tcp_quickack;
use socket2::{Domain, Protocol, Socket, Type};

use crate::locate::inside::{Place, inside};
use crate::locate::opened::Opened;
use crate::model::workload::Workload;
use crate::proxy::handover::Marks;

/// Port of the listeners, unless settings say otherwise.
pub const PORT: u16 = 15_001;

/// Connections that may wait to be accepted, for each listener: what clients dial in 100 ms at 40,000 connections a second. The
/// kernel bounds it by `net.core.somaxconn`, which is 4,096 by default, too.
const BACKLOG: i32 = 4096;

/// A workload whose connections are captured, and where it runs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Home {
    /// The workload, as it was when its listeners were opened.
    pub workload: Arc<Workload>,
    /// Its network namespace.
    pub place: Place,
}

/// The data threads, as far as this room knows them.
pub trait Intake: Send + Sync {
    /// Returns how many there are. Never changes.
    fn threads(&self) -> usize;

    /// Gives a listener, which does not block, to the data thread of this number. What it accepts never delays small messages
    /// (`TCP_NODELAY` is inherited).
    fn open(&self, thread: usize, home: &Arc<Home>, listener: TcpListener);

    /// The workload is gone: all data threads close its listeners, its connections, and their upstream ones, at once; each keeps the
    /// workload's network namespace alive.
    fn close(&self, netns_cookie: u64);
}

/// Listeners inside of namespaces. Dropping it closes all of them.
pub struct Listeners {
    port: u16,
    intake: Arc<dyn Intake>,
    marks: Arc<dyn Marks>,
    open: Opened<Given>,
}

/// Listeners of a workload that data threads have.
struct Given {
    intake: Arc<dyn Intake>,
    netns_cookie: u64,
}

impl Drop for Given {
    fn drop(&mut self) {
        self.intake.close(self.netns_cookie);
    }
}

impl std::fmt::Debug for Listeners {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listeners")
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

impl Listeners {
    /// Returns none yet.
    pub fn new(port: u16, intake: Arc<dyn Intake>, marks: Arc<dyn Marks>) -> Self {
        Self {
            port,
            intake,
            marks,
            open: Opened::default(),
        }
    }

    /// Returns the port that they listen on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Closes those that are not wanted, opens those that are missing, and returns where there are some now: cookies of network
    /// namespaces. Blocking. To be called twice a second, before services are made to need the agent; but for the first time after
    /// the kernel has been told all services, since what an earlier agent left in force has no names yet.
    ///
    /// Those that cannot be opened are tried again some seconds later; until then services fail in that workload as they say.
    pub fn set(&mut self, wanted: &[Arc<Home>]) -> BTreeSet<u64> {
        let Self {
            port,
            intake,
            marks,
            open,
        } = self;
        let (port, intake, marks) = (*port, &*intake, &**marks);
        let give = |home: &Arc<Home>| {
            let threads = intake.threads();
            let sockets = inside(&home.place, || listeners(port, threads, marks))?;
            // From here on, whoever closes closes all.
            let given = Given {
                intake: intake.clone(),
                netns_cookie: home.place.netns_cookie,
            };
            for (thread, listener) in sockets {
                intake.open(thread, home, listener);
            }
            Ok(given)
        };
        let complain = |netns, error: &str| {
            tracing::warn!(
                netns,
                error,
                "failed to listen for captured connections on port {port} in a workload: services that need the agent fail there as they are configured to"
            );
        };
        open.set(wanted, |home| &home.place, give, complain)
    }
}

/// Returns a listener of each family for each thread.
fn listeners(
    port: u16,
    threads: usize,
    marks: &dyn Marks,
) -> io::Result<Vec<(usize, TcpListener)>> {
    let mut all = Vec::with_capacity(2 * threads);
    for thread in 0..threads {
        let v4 = (Ipv4Addr::LOCALHOST, port).into();
        all.push((thread, listen(v4, marks)?));
        match listen((Ipv6Addr::LOCALHOST, port).into(), marks) {
            Ok(listener) => all.push((thread, listener)),
            // There is no IPv6 in this namespace.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported
                ) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

fn listen(address: SocketAddr, marks: &dyn Marks) -> io::Result<TcpListener> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(
        domain,
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )?;
    // An earlier agent's connections may still be on their way out.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    marks.listener(socket.as_fd())?;
    socket.listen(BACKLOG)?;
    // What is accepted inherits it: first bytes are acknowledged with the response, unless more of them are waited for. To listen
    // would undo it.
    set_tcp_quickack(&socket, false)?;
    Ok(socket.into())
}
