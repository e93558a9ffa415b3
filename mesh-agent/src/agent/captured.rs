//! What the data path needs of the kernel, from the kernel.

use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

use crate::kernel::Kernel;
use crate::model::balanced::Upstream;
use crate::proxy::handover::{Handover, Handovers, Marks};

impl Handovers for Kernel {
    fn take(&self, netns: u64, client: SocketAddr) -> Option<Handover> {
        let (port, dialled) = self.take_handover(netns, client)?;
        Some(Handover { port, dialled })
    }
}

impl Marks for Kernel {
    fn listener(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        self.mark_listener(socket)
    }

    fn upstream(&self, socket: BorrowedFd<'_>, upstream: &Upstream<'_>) -> io::Result<()> {
        self.mark_upstream(socket, upstream)
    }
}
