//! What sockets dialled and got instead, and which backends count them as open.
//!
//! Of TCP it is part of the socket's state, of UDP in storage of its own: to make a socket's storage takes longer than all else that
//! is done at `connect`, so no socket has two.

use core::ffi::c_void;

use aya_ebpf::bindings::BPF_SK_STORAGE_GET_F_CREATE;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::helpers::generated::bpf_sk_storage_get;
use mesh_common::service::{DIAL_BALANCED, Dial, TCP};
use mesh_common::stats;

use crate::maps::{DIALS, count};
use crate::service::{self, Backend};
use crate::sockaddr::Place;
use crate::{atomic, capture, kernel};

/// Returns what the socket `sk` of `service::TCP` or `service::UDP` dialled. Its service is 0 where that was none.
#[inline(always)]
pub(crate) fn of(sk: *mut c_void, protocol: u8) -> Option<&'static mut Dial> {
    if protocol == TCP {
        return kernel::state(sk).map(|state| &mut state.dial);
    }
    storage(sk, 0)
}

/// As [`of`], and makes room for it where there is none yet; `None` when memory is short.
#[inline(always)]
pub(crate) fn of_new(sk: *mut c_void, protocol: u8) -> Option<&'static mut Dial> {
    if protocol == TCP {
        return kernel::state_or_new(sk).map(|state| &mut state.dial);
    }
    storage(sk, u64::from(BPF_SK_STORAGE_GET_F_CREATE))
}

#[inline(always)]
fn storage(sk: *mut c_void, flags: u64) -> Option<&'static mut Dial> {
    let map = core::ptr::from_ref(&DIALS).cast_mut().cast();
    // SAFETY: `sk` comes from the context; a null initial value means zeros.
    let dial = unsafe { bpf_sk_storage_get(map, sk, core::ptr::null_mut(), flags) };
    // SAFETY: null, or this socket's value, which lives as long as the program runs.
    unsafe { dial.cast::<Dial>().as_mut() }
}

/// The socket is about to connect anew: what it dialled before is forgotten. Returns false where it is the agent's own, which goes
/// where the agent has said.
#[inline(always)]
pub(crate) fn forget(sk: *mut c_void, protocol: u8) -> bool {
    if let Some(dial) = of(sk, protocol) {
        if dial.is_upstream() {
            return false;
        }
        ended(dial);
        dial.service = 0;
        dial.kind = DIAL_BALANCED;
    }
    true
}

/// The socket's owner gives up what it dialled, or listens instead.
#[inline(always)]
pub(crate) fn ended(dial: &mut Dial) {
    closed(dial);
    capture::given_up(dial);
}

/// Remembers that the socket dialled `dialled` and gets `to`. Without memory for it the connection is made all the same; the
/// application then sees the backend's own address, and the backend does not count it as open.
#[inline(always)]
pub(crate) fn remember(sk: *mut c_void, protocol: u8, service: u32, dialled: Place, to: &Backend) {
    let Some(dial) = of_new(sk, protocol) else {
        return count(stats::STATE_FAILED, 1);
    };
    // In this order: from `fill` on, the iterator may count it off.
    opened(to);
    fill(dial, service, dialled, to);
}

/// Writes what was dialled into `dial`.
#[inline(always)]
pub(crate) fn fill(dial: &mut Dial, service: u32, dialled: Place, to: &Backend) {
    dial.dialled = dialled.address;
    dial.dialled_port = dialled.port;
    dial.backend = to.place.address;
    dial.backend_port = to.place.port;
    dial.generation = to.generation;
    // SAFETY: no arguments.
    dial.used_ns = unsafe { bpf_ktime_get_ns() };
    dial.backend_number = to.number;
    dial.service = service;
    dial.kind = DIAL_BALANCED;
}

#[inline(always)]
fn opened(backend: &Backend) {
    if let Some(entry) = service::entry(backend.number, backend.generation) {
        // SAFETY: a slot of the array.
        unsafe { atomic::add(&raw mut (*entry).open, 1) };
    }
}

/// The socket's backend no longer counts it as open. Called at every end that a socket may come to; only the first counts.
#[inline(always)]
pub(crate) fn closed(dial: &mut Dial) {
    // Most that close dialled no service, or were counted off by now.
    if dial.backend_number == 0 {
        return;
    }
    // SAFETY: a word of this socket's storage.
    let backend = unsafe { atomic::exchange32(&raw mut dial.backend_number, 0) };
    if let Some(entry) = service::entry(backend, dial.generation) {
        // SAFETY: a slot of the array.
        unsafe { atomic::add(&raw mut (*entry).open, u64::MAX) };
    }
}
