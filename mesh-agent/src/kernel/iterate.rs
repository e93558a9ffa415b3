//! One pass over every live socket's state, in the kernel: brings pair counters up to date and returns the live flows.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use aya::Ebpf;
use aya::programs::Iter;
use mesh_common::flow::FlowRecord;

use crate::kernel::sys;

/// Returns the iterator program, or `None` when the kernel did not take it.
pub(super) fn program(ebpf: &Ebpf) -> Option<OwnedFd> {
    let program: &Iter = ebpf.program("mesh_flows")?.try_into().ok()?;
    program.fd().ok()?.as_fd().try_clone_to_owned().ok()
}

/// Runs the program for every socket with state.
///
/// # Errors
///
/// The kernel's.
pub(super) fn live_flows(
    program: BorrowedFd<'_>,
    sock_states: BorrowedFd<'_>,
) -> io::Result<Vec<FlowRecord>> {
    let mut bytes = Vec::new();
    File::from(sys::iterate(program, sock_states)?).read_to_end(&mut bytes)?;
    Ok(bytes
        .chunks_exact(size_of::<FlowRecord>())
        .map(bytemuck::pod_read_unaligned)
        .collect())
}
