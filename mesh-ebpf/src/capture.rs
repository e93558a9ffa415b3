//! Capture: a connection to a service that needs the agent goes to the agent's listener in the caller's own network namespace, with
//! word of what was dialled.
//!
//! Fails as the service says: closed, with an error that only this has, or open, to a backend that the kernel picks. A socket that
//! is bound to a device does not reach the loopback device, so for it the agent is away.

use core::ffi::c_void;

use aya_ebpf::programs::SockAddrContext;
use mesh_common::addr::{Addr, PortBe};
use mesh_common::close::CloseReason;
use mesh_common::handover::{CaptureCounters, Handover, HandoverKey};
use mesh_common::limits;
use mesh_common::service::{
    COUNTED_CONNECTING, COUNTED_DIALLED, COUNTED_NOT, CaptureKey, DIAL_CAPTURED, Dial,
    SERVICE_FAILS_CLOSED, SERVICE_PROXIED, SERVICE_PROXIED_SOME, TCP,
};
use mesh_common::sock::{SockKey, SockState};
use mesh_common::stats;

use crate::loopback::{self, Owner};
use crate::maps::{CAPTURED, CAPTURES, CONTROL, HANDOVERS, SERVICES, count};
use crate::service::Backend;
use crate::sockaddr::{Caller, Place};
use crate::{atomic, brief, dials, sockaddr};

/// "Host is down": no other refusal of the node has it (`ECONNREFUSED` is a service without backends or the backend itself,
/// `EPERM` a policy), none of TCP's is likely to, and clients take it for what may pass, as it will.
const EHOSTDOWN: i32 = 112;
/// "No buffer space available": the bound of captured connections is met.
const ENOBUFS: i32 = 105;

/// Where a connection to a service goes.
pub(crate) enum Way {
    /// To a backend that the kernel picks.
    Backend,
    /// To the agent; the call bears its listener's address.
    Agent,
    /// Nowhere: the call fails with this error.
    Refused(CloseReason, i32),
}

/// Decides on a connect to the service port `number`, and leads it to the agent where it is to go there.
#[inline(always)]
pub(crate) fn way<const V6: bool>(
    ctx: &SockAddrContext,
    sk: *mut c_void,
    caller: &Caller,
    number: u32,
    dialled: &Place,
) -> Way {
    let Some(service) = SERVICES.get_ptr_mut(number) else {
        return Way::Backend;
    };
    // SAFETY: a slot of the array; the agent writes it.
    let flags = unsafe { (&raw const (*service).flags).read_volatile() };
    if !is_captured(flags, number, caller) {
        return Way::Backend;
    }
    let Some(listener) = agent(ctx, sk, dialled) else {
        if flags & SERVICE_FAILS_CLOSED == 0 {
            return Way::Backend;
        }
        bump(|counters| &raw mut counters.away);
        return Way::Refused(CloseReason::AgentAway, EHOSTDOWN);
    };
    if !brief::dials(ctx, sk, caller, number, dialled, &listener) {
        let Some(dial) = dials::of_new(sk, TCP) else {
            count(stats::STATE_FAILED, 1);
            return Way::Refused(CloseReason::AgentBusy, ENOBUFS);
        };
        if !take_place(dial) {
            return Way::Refused(CloseReason::AgentBusy, ENOBUFS);
        }
        dials::fill(dial, number, *dialled, &Backend::none(listener));
        dial.kind = DIAL_CAPTURED;
    }
    // SAFETY: a slot of the array.
    unsafe { atomic::add(&raw mut (*service).turn, 1) };
    sockaddr::write::<V6>(ctx, listener);
    Way::Agent
}

#[inline(always)]
fn is_captured(flags: u32, number: u32, caller: &Caller) -> bool {
    if flags & SERVICE_PROXIED_SOME == 0 {
        return flags & SERVICE_PROXIED != 0;
    }
    let key = CaptureKey {
        service: number,
        namespace: caller.workload.namespace,
    };
    // SAFETY: only its being there counts.
    unsafe { CAPTURES.get(key) }.is_some()
}

/// Returns the agent's listener that the socket can reach.
#[inline(always)]
fn agent(ctx: &SockAddrContext, sk: *mut c_void, dialled: &Place) -> Option<Place> {
    let port = CONTROL.get(0)?.proxy_port;
    if port == PortBe(0) || loopback::is_bound_to_device(sk) {
        return None;
    }
    loopback::listener(ctx, dialled.address.is_v4(), port, TCP, Owner::Agent)
}

/// Counts the socket among the captured ones; returns false where there are as many as may be.
#[inline(always)]
fn take_place(dial: &mut Dial) -> bool {
    let Some(counters) = CAPTURED.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: the slot of the array.
    let open = unsafe { atomic::fetch_add(&raw mut (*counters).open, 1) };
    if open >= limits::CAPTURED as u64 {
        // SAFETY: as above.
        unsafe { atomic::add(&raw mut (*counters).open, u64::MAX) };
        // SAFETY: as above.
        unsafe { atomic::add(&raw mut (*counters).refused, 1) };
        return false;
    }
    dial.counted = COUNTED_DIALLED;
    true
}

/// Returns whether one more may be captured, give or take one for each CPU.
#[inline(always)]
pub(crate) fn has_room() -> bool {
    let open = CAPTURED.get(0).map_or(u64::MAX, |counters| counters.open);
    open < limits::CAPTURED as u64
}

/// Counts a captured socket that has no state.
#[inline(always)]
pub(crate) fn enter() {
    bump(|counters| &raw mut counters.open);
}

/// Counts off such a socket.
#[inline(always)]
pub(crate) fn leave() {
    if let Some(counters) = CAPTURED.get_ptr_mut(0) {
        // SAFETY: the slot of the array.
        unsafe { atomic::add(&raw mut (*counters).open, u64::MAX) };
    }
}

/// Counts a captured socket that has got a state only now, whether there is room or not.
#[inline(always)]
pub(crate) fn count_in(dial: &mut Dial) {
    enter();
    dial.counted = COUNTED_DIALLED;
}

/// Returns whether it is the agent's listener in the own namespace, by its address.
#[inline(always)]
pub(crate) fn is_agent(place: &Place) -> bool {
    is_agent_at(place.address, place.port)
}

/// As [`is_agent`].
#[inline(always)]
pub(crate) fn is_agent_at(address: Addr, port: PortBe) -> bool {
    is_agents_port(port) && address.is_loopback()
}

/// Returns whether the agent's listeners have this port.
#[inline(always)]
pub(crate) fn is_agents_port(port: PortBe) -> bool {
    CONTROL
        .get(0)
        .is_some_and(|control| control.proxy_port == port)
}

/// The socket dials anew or its owner has released it: where its connect never came to TCP, this is its end.
#[inline(always)]
pub(crate) fn given_up(dial: &mut Dial) {
    if dial.counted == COUNTED_DIALLED {
        leave_place(dial);
    }
}

/// A captured socket is about to send its SYN, and now has a port: tells the agent what was dialled.
#[inline(always)]
pub(crate) fn hand_over(state: &mut SockState) {
    let dial = &mut state.dial;
    dial.counted = COUNTED_CONNECTING;
    let handover = Handover {
        dialled: dial.dialled,
        service: dial.service,
        workload: state.self_id,
        dialled_port: dial.dialled_port,
        _pad: [0; 3],
    };
    // There is room for all that are counted.
    if HANDOVERS.insert(key(&state.key), handover, 0).is_err() {
        bump(|counters| &raw mut counters.lost);
    }
}

/// Returns whether a socket that was accepted is the agent's: who dialled was led here.
#[inline(always)]
pub(crate) fn is_agents(socket: &SockKey) -> bool {
    let client = Place {
        address: socket.remote,
        port: socket.remote_port,
    };
    if !is_agent_at(socket.local, socket.local_port) {
        return false;
    }
    // The agent takes it once it has accepted, which is later than this.
    // SAFETY: only its being there counts.
    brief::dialled(socket.netns, &client).is_some()
        || unsafe { HANDOVERS.get(key(&socket.mirrored(socket.netns))) }.is_some()
}

/// TCP has closed a captured socket; its port is not free yet.
#[inline(always)]
pub(crate) fn closed(state: &mut SockState) {
    HANDOVERS.remove(key(&state.key)).ok();
    leave_place(&mut state.dial);
}

#[inline(always)]
fn leave_place(dial: &mut Dial) {
    // SAFETY: a word of this socket's storage.
    if unsafe { atomic::exchange32(&raw mut dial.counted, COUNTED_NOT) } == COUNTED_NOT {
        return;
    }
    leave();
}

#[inline(always)]
fn bump(field: impl FnOnce(&mut CaptureCounters) -> *mut u64) {
    if let Some(counters) = CAPTURED.get_ptr_mut(0) {
        // SAFETY: the slot of the array.
        let word = field(unsafe { &mut *counters });
        // SAFETY: one of its words.
        unsafe { atomic::add(word, 1) };
    }
}

#[inline(always)]
fn key(socket: &SockKey) -> HandoverKey {
    HandoverKey {
        netns: socket.netns,
        address: socket.local,
        port: socket.local_port,
        _pad: [0; 3],
    }
}
