//! Captured connections that are short: the client's socket gets no state, which takes longer to make than all else that is done for
//! it. What is needed of it lies in arrays: from `connect` to the SYN by the socket's cookie, then by its port until TCP closes.
//!
//! Whoever finds no place gets a state. A few get one all the same: by these it is known how long connections are.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use aya_ebpf::programs::{SockAddrContext, SockOpsContext};
use mesh_common::addr::PortBe;
use mesh_common::handover::{BRIEF_PLACES, BRIEF_UNFINISHED, Brief, BriefDial};
use mesh_common::limits::{BRIEF_DIALS as DIALS, BRIEFS as PLACES};
use mesh_common::pair::PairKey;
use mesh_common::path::Path;
use mesh_common::service::{DIAL_CAPTURED, TCP};
use mesh_common::sock::{SockKey, SockState};

use crate::maps::{BRIEF_DIALS, BRIEFS};
use crate::service::Backend;
use crate::sockaddr::{Caller, Place};
use crate::{account, atomic, capture, dials, established, kernel, observe, sockaddr};

// include/uapi/linux/in.h
const IPPROTO_TCP: u32 = 6;

/// A place whose socket has not sent its SYN so long after its `connect` is given to another: it had no route or port, and the kernel
/// has no hook for that.
const CONNECTING_NS: u64 = 1_000_000_000;

/// One of so many connections gets a state, to tell how long they are.
const TOLD: u64 = 16;

/// A socket dials the service port `number` and is to go to the agent's listener: notes what it dialled, and returns true, where it
/// needs no state.
#[inline(always)]
pub(crate) fn dials(
    ctx: &SockAddrContext,
    sk: *mut c_void,
    caller: &Caller,
    number: u32,
    dialled: &Place,
    listener: &Place,
) -> bool {
    // SAFETY: a field of the context. Multipath TCP has several sockets, whose cookies are others.
    let protocol = unsafe { (&raw const (*ctx.sock_addr).protocol).read_volatile() };
    if protocol != IPPROTO_TCP || kernel::state(sk).is_some() || !capture::has_room() {
        return false;
    }
    let me = caller.workload.id;
    if established::observed(me) || (observe::is_admitted(me) && !is_short(me, number, listener)) {
        return false;
    }
    let cookie = sockaddr::cookie(ctx);
    // Multiplied, since the kernel counts cookies up and a connection may take just as many each time.
    if cookie.wrapping_mul(0x9E37_79B9_7F4A_7C15) / (u64::MAX / TOLD) == 0 {
        return false;
    }
    let Some(place) = begin(cookie) else {
        return false;
    };
    place.dialled = dialled.address;
    place.service = number;
    place.dialled_port = dialled.port;
    true
}

/// Returns whether connections like this one are too short to be redirected.
#[inline(always)]
fn is_short(me: u32, number: u32, listener: &Place) -> bool {
    account::is_pair_short(PairKey {
        source_id: me,
        destination_id: me,
        service: number,
        destination_port: listener.port,
        path: Path::Tcp as u8,
        requests: 0,
    })
}

/// Takes the place where it is noted what the socket dialled; `None` where another has it.
#[inline(always)]
fn begin(cookie: u64) -> Option<&'static mut BriefDial> {
    let place = BRIEF_DIALS.get_ptr_mut(cookie as u32 % DIALS as u32)?;
    // SAFETY: a slot of the array.
    let word = unsafe { &raw mut (*place).cookie };
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_coarse_ns() };
    // SAFETY: as above.
    let was = unsafe { atomic::compare_exchange(word, 0, cookie) };
    if was != 0 && was != cookie {
        // SAFETY: as above; only compared.
        let since = unsafe { (&raw const (*place).since_ns).read_volatile() };
        if now.saturating_sub(since) < CONNECTING_NS {
            return None;
        }
        // SAFETY: as above.
        if unsafe { atomic::compare_exchange(word, was, cookie) } != was {
            return None;
        }
    }
    // SAFETY: this socket's from now on, until its SYN.
    let place = unsafe { &mut *place };
    place.since_ns = now;
    Some(place)
}

/// A socket without a state is about to send its SYN, and now has a port. Returns false where it is none of these, or has got a
/// state now.
#[inline(always)]
pub(crate) fn connecting(ctx: &SockOpsContext, sk: *mut c_void) -> bool {
    let cookie = established::socket_cookie(ctx);
    let Some(begun) = BRIEF_DIALS.get_ptr_mut(cookie as u32 % DIALS as u32) else {
        return false;
    };
    // SAFETY: a slot of the array. Who has it is the only one that writes it.
    let begun = unsafe { &mut *begun };
    if begun.cookie != cookie {
        return false;
    }
    let netns = established::netns_cookie(ctx);
    let key = established::key(ctx, netns);
    // Else that dial came to nothing, and this is another one of the same socket.
    if !capture::is_agent_at(key.remote, key.remote_port) {
        return false;
    }
    let done = enter(cookie, &key, begun);
    if !done && let Some(state) = kernel::state_or_new(sk) {
        captured(state, &key, begun);
    }
    // SAFETY: as above.
    unsafe { (&raw mut begun.cookie).write_volatile(0) };
    if done {
        established::ask_for_state_changes(ctx);
    }
    done
}

/// Makes a state that is as if `connect` had made it.
#[inline(always)]
fn captured(state: &mut SockState, key: &SockKey, begun: &BriefDial) {
    let dialled = Place {
        address: begun.dialled,
        port: begun.dialled_port,
    };
    let listener = Place {
        address: key.remote,
        port: key.remote_port,
    };
    dials::fill(
        &mut state.dial,
        begun.service,
        dialled,
        &Backend::none(listener),
    );
    state.dial.kind = DIAL_CAPTURED;
    capture::count_in(&mut state.dial);
}

/// Returns a place, counted from the first of all and on from there after the last.
#[inline(always)]
fn place(number: u32) -> Option<*mut Brief> {
    BRIEFS.get_ptr_mut(number % PLACES as u32)
}

/// Takes a place for a socket that is about to send its SYN, counts it, and tells the agent what was dialled; returns false where no
/// place is free.
#[inline(always)]
fn enter(cookie: u64, key: &SockKey, begun: &BriefDial) -> bool {
    let first = Brief::first_place(key.netns, key.local_port);
    let mut i = 0;
    while i < BRIEF_PLACES {
        if let Some(place) = place(first + i) {
            // SAFETY: a slot of the array.
            let word = unsafe { &raw mut (*place).cookie };
            let unfinished = cookie | BRIEF_UNFINISHED;
            // SAFETY: as above.
            if unsafe { atomic::compare_exchange(word, 0, unfinished) } == 0 {
                // SAFETY: as above; this socket's until it closes. The agent writes one word of it, after this.
                let place = unsafe { &mut *place };
                place.netns = key.netns;
                place.address = key.local;
                place.port = key.local_port;
                place.dialled = begun.dialled;
                place.dialled_port = begun.dialled_port;
                place.service = begun.service;
                // A full barrier: who sees the cookie sees all of it.
                // SAFETY: as above.
                unsafe { atomic::compare_exchange(word, unfinished, cookie) };
                capture::enter();
                return true;
            }
        }
        i += 1;
    }
    false
}

/// TCP has closed a socket without a state; its port is not free yet.
#[inline(always)]
pub(crate) fn closed(ctx: &SockOpsContext) {
    let cookie = established::socket_cookie(ctx);
    let port = PortBe::new(ctx.local_port() as u16);
    let first = Brief::first_place(established::netns_cookie(ctx), port);
    let mut i = 0;
    while i < BRIEF_PLACES {
        if let Some(place) = place(first + i) {
            // SAFETY: a slot of the array.
            let word = unsafe { &raw mut (*place).cookie };
            // SAFETY: as above.
            if unsafe { word.read_volatile() } == cookie {
                // SAFETY: as above.
                unsafe { word.write_volatile(0) };
                return capture::leave();
            }
        }
        i += 1;
    }
}

/// Returns whether a socket that was accepted is the agent's, of a client without a state.
#[inline(never)]
pub(crate) fn is_accepted(ctx: &SockOpsContext) -> bool {
    // Before all addresses: nearly all other sockets go no further.
    let port = PortBe::new(ctx.local_port() as u16);
    capture::is_agents_port(port)
        && dialled(established::netns_cookie(ctx), &established::remote(ctx)).is_some()
}

/// Returns what the socket with this name dialled; `None` where it is none of these.
#[inline(always)]
pub(crate) fn dialled(netns: u64, own: &Place) -> Option<Place> {
    let first = Brief::first_place(netns, own.port);
    let mut i = 0;
    while i < BRIEF_PLACES {
        if let Some(place) = place(first + i) {
            // SAFETY: a slot of the array; what is another's is not used.
            let place = unsafe { &*place };
            if place.cookie != 0
                && place.cookie & BRIEF_UNFINISHED == 0
                && place.netns == netns
                && own.is(place.address, place.port)
            {
                return Some(Place {
                    address: place.dialled,
                    port: place.dialled_port,
                });
            }
        }
        i += 1;
    }
    None
}

/// `service::TCP` is what all of these are.
const _: () = assert!(TCP as u32 == IPPROTO_TCP);
