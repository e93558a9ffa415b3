//! `getpeername`: the application sees the address that it dialled.
//!
//! `getsockname` needs no such thing: a socket that goes to a backend has the very address that it would have had.

use core::ffi::c_void;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::generated::bpf_get_netns_cookie;
use aya_ebpf::programs::SockAddrContext;
use mesh_common::service::TCP;

use crate::sockaddr::Place;
use crate::{brief, capture, dials, sockaddr};

/// Puts the dialled address in the place of the backend's.
#[inline(always)]
pub(crate) fn translate<const V6: bool>(ctx: &SockAddrContext) {
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
    // SAFETY: the context is valid.
    let netns = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    if let Some(dialled) = brief::dialled(netns, &sockaddr::own::<V6>(sk)) {
        sockaddr::write::<V6>(ctx, dialled);
    }
}
