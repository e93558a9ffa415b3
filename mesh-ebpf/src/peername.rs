//! `getpeername`: the application sees the address that it dialled.
//!
//! `getsockname` needs no such thing: a socket that goes to a backend has the very address that it would have had.

use aya_ebpf::programs::SockAddrContext;
use mesh_common::service::DIAL_UPSTREAM;

use crate::sockaddr::Place;
use crate::{dials, sockaddr};

/// Puts the dialled address in the place of the backend's.
#[inline(always)]
pub(crate) fn translate<const V6: bool>(ctx: &SockAddrContext) {
    let (Some(protocol), Some(sk)) = (sockaddr::protocol(ctx), sockaddr::socket(ctx)) else {
        return;
    };
    let Some(dial) = dials::of(sk, protocol) else {
        return;
    };
    // The socket may have connected elsewhere since, or have failed to. The agent's own goes where it was told to.
    if dial.service == 0
        || dial.kind == DIAL_UPSTREAM
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
