//! Datagrams of unconnected UDP sockets, and where received ones seem to come from.
//!
//! A socket sticks to the backend that it got for a service's address, while that backend may be used. Fails open, as `connect`.

use core::ffi::c_void;

use aya_ebpf::bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::helpers::generated::bpf_sk_storage_get;
use aya_ebpf::programs::SockAddrContext;
use mesh_common::service::{DATAGRAM_DIALS as DIALS, DNS_SERVICE, DatagramDials, Dial, UDP};
use mesh_common::stats;

use crate::maps::{DATAGRAM_DIALS, count};
use crate::service::Backend;
use crate::sockaddr::{Caller, ECONNREFUSED, PASS, Place};
use crate::{dials, dns, service, sockaddr};

/// `TCP_ESTABLISHED`: the state of a connected socket, also of UDP.
const CONNECTED: u32 = 1;

/// A datagram leaves with an address of its own; returns what the hook is to return.
#[inline(always)]
pub(crate) fn send<const V6: bool>(ctx: &SockAddrContext) -> i32 {
    let Some(caller) = Caller::of(ctx) else {
        return PASS;
    };
    let (Some(UDP), Some(sk)) = (sockaddr::protocol(ctx), sockaddr::socket(ctx)) else {
        return PASS;
    };
    let dialled = sockaddr::read::<V6>(ctx);
    let number = service::number(&dialled, UDP).unwrap_or(0);
    // A name server that is a service of the mesh, as in a cluster, knows what it answers for.
    if number == 0
        && let Some(server) = dns::server(ctx, sk, &caller, &dialled, UDP)
    {
        return redirect::<V6>(ctx, sk, DNS_SERVICE, dialled, &server);
    }
    let mut to = Backend::none(dialled);
    let stuck = number != 0 && stuck_to(sk, number, &dialled, &mut to);
    if number != 0 && !stuck && !service::choose(number, &caller, false, &mut to) {
        return sockaddr::fail(ECONNREFUSED);
    }
    if stuck {
        sockaddr::write::<V6>(ctx, to.place);
    }
    if stuck || to.number == 0 {
        return PASS;
    }
    service::count_pick(&to);
    redirect::<V6>(ctx, sk, number, dialled, &to)
}

/// Sends the datagram to another place than the one that was dialled, and remembers it for the answer. Without memory for that
/// the answer bears the backend's own address.
#[inline(always)]
fn redirect<const V6: bool>(
    ctx: &SockAddrContext,
    sk: *mut c_void,
    service: u32,
    dialled: Place,
    to: &Backend,
) -> i32 {
    match storage(sk, u64::from(BPF_SK_STORAGE_GET_F_CREATE)) {
        Some(known) => dials::fill(slot(known, &dialled), service, dialled, to),
        None => count(stats::STATE_FAILED, 1),
    }
    sockaddr::write::<V6>(ctx, to.place);
    PASS
}

/// A datagram was received; gives it the address that the application knows its sender by.
#[inline(always)]
pub(crate) fn receive<const V6: bool>(ctx: &SockAddrContext) {
    let Some(sk) = sockaddr::socket(ctx) else {
        return;
    };
    let from = sockaddr::read::<V6>(ctx);
    if let Some(dial) = dials::of(sk, UDP)
        && is_connected(sk)
        && dial.service != 0
        && from.is(dial.backend, dial.backend_port)
    {
        return sockaddr::write::<V6>(ctx, dialled(dial));
    }
    let Some(known) = storage(sk, 0) else {
        return;
    };
    // Where one backend answers for two services, the one that was asked last.
    let mut latest = 0;
    let mut found = from;
    let mut i = 0;
    while i < DIALS {
        let dial = &known.dials[i];
        if dial.service != 0 && dial.used_ns > latest && from.is(dial.backend, dial.backend_port) {
            latest = dial.used_ns;
            found = dialled(dial);
        }
        i += 1;
    }
    if latest != 0 {
        sockaddr::write::<V6>(ctx, found);
    }
}

#[inline(always)]
fn dialled(dial: &Dial) -> Place {
    Place {
        address: dial.dialled,
        port: dial.dialled_port,
    }
}

/// Puts the backend that the socket sticks to for `dialled` into `to`; returns whether there is one.
#[inline(always)]
fn stuck_to(sk: *mut c_void, number: u32, dialled: &Place, to: &mut Backend) -> bool {
    let Some(known) = storage(sk, 0) else {
        return false;
    };
    let mut i = 0;
    while i < DIALS {
        let dial = &mut known.dials[i];
        if dial.service == number && dialled.is(dial.dialled, dial.dialled_port) {
            let generation = Some(dial.generation);
            let Some(backend) = service::usable(dial.backend_number, number, generation) else {
                return false;
            };
            // SAFETY: no arguments.
            dial.used_ns = unsafe { bpf_ktime_get_ns() };
            *to = backend;
            return true;
        }
        i += 1;
    }
    false
}

/// Returns the dial of `dialled`, or the one that makes room for it: unused ones were used longest ago.
#[inline(always)]
fn slot<'a>(known: &'a mut DatagramDials, dialled: &Place) -> &'a mut Dial {
    let mut oldest = u64::MAX;
    let mut at = 0;
    let mut i = 0;
    while i < DIALS {
        let dial = &known.dials[i];
        let used = if dialled.is(dial.dialled, dial.dialled_port) {
            0
        } else {
            dial.used_ns
        };
        if used < oldest {
            oldest = used;
            at = i;
        }
        i += 1;
    }
    &mut known.dials[at % DIALS]
}

#[inline(always)]
fn is_connected(sk: *mut c_void) -> bool {
    let sk: *const bpf_sock = sk.cast_const().cast();
    // SAFETY: the context's socket, not null.
    (unsafe { (&raw const (*sk).state).read_volatile() }) == CONNECTED
}

#[inline(always)]
fn storage(sk: *mut c_void, flags: u64) -> Option<&'static mut DatagramDials> {
    let map = core::ptr::from_ref(&DATAGRAM_DIALS).cast_mut().cast();
    // SAFETY: `sk` comes from the context; a null initial value means zeros.
    let dials = unsafe { bpf_sk_storage_get(map, sk, core::ptr::null_mut(), flags) };
    // SAFETY: null, or this socket's value, which lives as long as the program runs.
    unsafe { dials.cast::<DatagramDials>().as_mut() }
}
