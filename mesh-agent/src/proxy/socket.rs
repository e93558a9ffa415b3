//! Where sockets to upstreams come from.

use std::io;
use std::os::fd::OwnedFd;

/// Makes sockets inside workloads' network namespaces, so that upstreams see the workload's address.
pub trait Sockets: Send + Sync {
    /// Returns a TCP socket, not connected and non-blocking, inside the network namespace with this cookie.
    ///
    /// # Errors
    /// Returns an error where the namespace is gone, or there are no more descriptors.
    fn stream(&self, netns: u64, v6: bool) -> io::Result<OwnedFd>;
}
