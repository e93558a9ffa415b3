//! `connect`: a service's address becomes that of one of its backends, or of the agent, before the first packet.
//!
//! Fails open, save where `capture` says otherwise: what is not understood goes where the application said. Where it goes then is judged by `policy`, whose program
//! runs after this one.

use core::ffi::c_void;

use aya_ebpf::programs::SockAddrContext;
use mesh_common::close::CloseReason;
use mesh_common::service::{DNS_SERVICE, TCP};

use crate::capture::Way;
use crate::record::Attempt;
use crate::service::Backend;
use crate::sockaddr::{Caller, ECONNREFUSED, PASS, Place};
use crate::{capture, dials, dns, record, service, sockaddr};

/// A workload's socket connects; returns what the hook is to return.
#[inline(always)]
pub(crate) fn connect<const V6: bool>(ctx: &SockAddrContext) -> i32 {
    let Some(caller) = Caller::of(ctx) else {
        return PASS;
    };
    let (Some(protocol), Some(sk)) = (sockaddr::protocol(ctx), sockaddr::socket(ctx)) else {
        return PASS;
    };
    if !dials::forget(sk, protocol) {
        return PASS;
    }
    let dialled = sockaddr::read::<V6>(ctx);
    let number = service::number(&dialled, protocol).unwrap_or(0);
    // A name server that is a service of the mesh, as in a cluster, knows what it answers for.
    if number == 0
        && let Some(server) = dns::server(ctx, sk, &caller, &dialled, protocol)
    {
        return redirect::<V6>(ctx, sk, protocol, DNS_SERVICE, dialled, &server);
    }
    if number != 0 && protocol == TCP {
        match capture::way::<V6>(ctx, sk, &caller, number, &dialled) {
            Way::Backend => {}
            Way::Agent => return PASS,
            Way::Refused(close, error) => {
                report::<V6>(ctx, &caller, sk, &dialled, number, protocol, close);
                return sockaddr::fail(error);
            }
        }
    }
    let mut to = Backend::none(dialled);
    if number != 0 && !service::choose(number, &caller, protocol == TCP, &mut to) {
        let close = CloseReason::NoBackend;
        report::<V6>(ctx, &caller, sk, &dialled, number, protocol, close);
        return sockaddr::fail(ECONNREFUSED);
    }
    if to.number == 0 {
        return PASS;
    }
    service::count_pick(&to);
    redirect::<V6>(ctx, sk, protocol, number, dialled, &to)
}

/// Lets the socket connect to another place than the one that was dialled.
#[inline(always)]
fn redirect<const V6: bool>(
    ctx: &SockAddrContext,
    sk: *mut c_void,
    protocol: u8,
    service: u32,
    dialled: Place,
    to: &Backend,
) -> i32 {
    dials::remember(sk, protocol, service, dialled, to);
    sockaddr::write::<V6>(ctx, to.place);
    PASS
}

/// Reports a connect to a service that is refused.
#[inline(always)]
fn report<const V6: bool>(
    ctx: &SockAddrContext,
    caller: &Caller,
    sk: *mut c_void,
    dialled: &Place,
    service: u32,
    protocol: u8,
    close: CloseReason,
) {
    let attempt = Attempt {
        cookie: sockaddr::cookie(ctx),
        netns: caller.netns,
        workload: caller.workload.id,
        own: sockaddr::own::<V6>(sk),
        dialled: *dialled,
        service,
        rule: 0,
        protocol,
    };
    record::failed(&attempt, close);
}
