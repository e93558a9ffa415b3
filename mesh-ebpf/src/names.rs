//! `getpeername` and `getsockname`: the application sees the address that it dialled, and its own.
//!
//! A socket that goes to a backend has the very address that it would have had. One that goes to the agent has a loopback address, as
//! has its other end: the kernel remembers the way between two loopback addresses, and looks any other one up anew for each segment of
//! a handshake.

use core::ffi::c_void;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::generated::bpf_get_netns_cookie;
use aya_ebpf::programs::SockAddrContext;
use mesh_common::addr::Addr;
use mesh_common::service::TCP;

use crate::maps::WORKLOADS;
use crate::sockaddr::Place;
use crate::{brief, capture, dials, sockaddr};

/// Puts the dialled address in the place of the backend's.
#[inline(always)]
pub(crate) fn peer<const V6: bool>(ctx: &SockAddrContext) {
    let (Some(protocol), Some(sk)) = (sockaddr::protocol(ctx), sockaddr::socket(ctx)) else {
        return;
    };
    let Some(dial) = dials::of(sk, protocol) else {
        if protocol == TCP {
            brief::<V6>(ctx, sk);
        }
        return;
    };
    // The socket may have connected elsewhere since, or have failed to. The agent's own goes where it was told to.
    if dial.service == 0
        || dial.is_upstream()
        || !sockaddr::read::<V6>(ctx).is(dial.backend, dial.backend_port)
    {
        return;
    }
    let dialled = Place {
        address: dial.dialled,
        port: dial.dialled_port,
    };
    sockaddr::write::<V6>(ctx, dialled);
}

/// Does so for a socket without a state that was led to the agent.
#[inline(always)]
fn brief<const V6: bool>(ctx: &SockAddrContext, sk: *mut c_void) {
    if !capture::is_agent(&sockaddr::read::<V6>(ctx)) {
        return;
    }
    if let Some(dialled) = brief::dialled(netns(ctx), &sockaddr::own::<V6>(sk)) {
        sockaddr::write::<V6>(ctx, dialled);
    }
}

/// Puts the workload's address in the place of the loopback address of a socket that was led to the agent.
#[inline(always)]
pub(crate) fn own<const V6: bool>(ctx: &SockAddrContext) {
    let own = sockaddr::read::<V6>(ctx);
    if !own.address.is_loopback() {
        return;
    }
    let (Some(TCP), Some(sk)) = (sockaddr::protocol(ctx), sockaddr::socket(ctx)) else {
        return;
    };
    // Whoever has dialled the agent's port itself may as well see this.
    if !capture::is_agent(&sockaddr::remote::<V6>(sk)) {
        return;
    }
    // SAFETY: read at once; the agent replaces entries as a whole.
    let Some(workload) = (unsafe { WORKLOADS.get(netns(ctx)) }) else {
        return;
    };
    let address = if own.address.is_v4() {
        workload.v4
    } else {
        workload.v6
    };
    if address != Addr::UNSPECIFIED {
        let port = own.port;
        sockaddr::write::<V6>(ctx, Place { address, port });
    }
}

#[inline(always)]
fn netns(ctx: &SockAddrContext) -> u64 {
    // SAFETY: the context is valid.
    unsafe { bpf_get_netns_cookie(ctx.as_ptr()) }
}
