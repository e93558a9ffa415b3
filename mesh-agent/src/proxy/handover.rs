//! What the kernel tells of a connection that it led here, and what it has to be told of sockets that are opened.

use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use crate::model::balanced::{PortId, Upstream};

/// What a client dialled.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Handover {
    /// The service port.
    pub port: Arc<PortId>,
    /// The address that the application dialled, an IPv4 one never v4-mapped.
    pub dialled: SocketAddr,
}

/// Tells what clients dialled. Written by kernel programs, so no client can forge it.
pub trait Handovers: Send + Sync {
    /// Takes what the client at this address, in the network namespace with this cookie, has dialled. It is there before the
    /// connection can be accepted, and can be taken once.
    ///
    /// `None`: the connection was not led here, the client has closed it already, or memory was short. It is to be reset.
    fn take(&self, netns: u64, client: SocketAddr) -> Option<Handover>;
}

/// Tells the kernel which sockets in workloads' network namespaces are the agent's. What the kernel does not know as such, it
/// takes for the workload's.
pub trait Marks: Send + Sync {
    /// Marks a socket before it listens, and with it all that it accepts.
    ///
    /// # Errors
    ///
    /// The kernel's: without the mark no connection is led there.
    fn listener(&self, socket: BorrowedFd<'_>) -> io::Result<()>;

    /// Marks a socket before it connects to a backend on a workload's behalf: `connect` then fails with `EPERM` where a policy
    /// denies it to the workload, and the flow is the workload's to the service. Never waits.
    ///
    /// Such a socket, and one that a marked listener accepts, takes part in redirect where the application at its other end may. So it
    /// is never to be read by `splice(2)`, which does not see what was redirected, nor by a blocking call, nor asked for `FIONREAD`.
    ///
    /// # Errors
    ///
    /// The kernel's: the socket is not to be connected.
    fn upstream(&self, socket: BorrowedFd<'_>, upstream: &Upstream<'_>) -> io::Result<()>;
}
