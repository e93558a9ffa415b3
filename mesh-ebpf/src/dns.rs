//! Name queries go to the agent's listener in the workload's own network namespace, while there is one.
//!
//! Fails open: without a listener they go where the application said.

use core::ffi::c_void;

use aya_ebpf::programs::SockAddrContext;
use mesh_common::addr::PortBe;
use mesh_common::workload::WORKLOAD_DNS;

use crate::loopback::{self, Owner};
use crate::maps::CONTROL;
use crate::service::Backend;
use crate::sockaddr::{Caller, Place};

/// The port that name servers listen on (RFC 1035, section 4.2).
const DNS: PortBe = PortBe::new(53);

/// Returns the listener that a query to `dialled` goes to; `None` when it is no query, or there is no listener.
///
/// A query to a loopback address is left alone: the workload's own resolver is there, whose queries come here in turn. So is
/// one from a socket that is bound to a device, which does not reach the loopback device.
#[inline(always)]
pub(crate) fn server(
    ctx: &SockAddrContext,
    sk: *mut c_void,
    caller: &Caller,
    dialled: &Place,
    protocol: u8,
) -> Option<Backend> {
    if dialled.port != DNS || caller.workload.flags & WORKLOAD_DNS == 0 {
        return None;
    }
    let port = CONTROL.get(0)?.dns_port;
    if port == PortBe(0) || loopback::is_bound_to_device(sk) || dialled.address.is_loopback() {
        return None;
    }
    let place = loopback::listener(ctx, dialled.address.is_v4(), port, protocol, Owner::Anybody)?;
    Some(Backend::none(place))
}
