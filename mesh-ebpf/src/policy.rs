//! The verdict on a connection, from the tables that the agent wrote.
//!
//! Fails closed: a subject whose flag says that policies apply, and of whose tables anything is missing, is denied.

use core::ffi::c_void;

use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::programs::SockAddrContext;
use mesh_common::addr::{Addr, PortBe};
use mesh_common::policy::{
    DENIALS_PER_WINDOW, DENIALS_WINDOW_NS, Direction, Question, Range, RangeList, TABLE_BITS,
    TableAddress, Tables, Verdict, VerdictKey, answer,
};
use mesh_common::service::TCP;
use mesh_common::sock::{Judged, RULE_WOULD_DENY, SockKey, SockState};
use mesh_common::stats;
use mesh_common::workload::{
    AddrEntry, NetnsEntry, WORKLOAD_EGRESS_POLICY, WORKLOAD_INGRESS_POLICY, WORKLOAD_LOOKUP,
};

use crate::maps::{
    ADDRESSES, DENIALS, HOST_ADDRESSES, PREFIXES, RANGES, RULE_HITS, VERDICTS, WORKLOADS, count,
};
use crate::record::{self, Denial};
use crate::sockaddr::{self, Caller, PASS, Place};
use crate::{capture, kernel};

/// Judges a call after balancing; returns what the hook is to return: without the right to dial, `EPERM`.
///
/// By the caller's own policies for egress, and those for ingress of a destination on this node. Counts the verdict with its
/// rules, and hands over a record where it is denied.
#[inline(always)]
pub(crate) fn dials<const V6: bool>(ctx: &SockAddrContext) -> i32 {
    let (Some(protocol), Some(sk)) = (sockaddr::protocol(ctx), sockaddr::socket(ctx)) else {
        return PASS;
    };
    // What was found out for a connect that did not come to TCP is not true for this one.
    let mut known = followed(sk, protocol);
    if let Some(state) = &mut known {
        state.judged.netns = 0;
    }
    let to = sockaddr::read::<V6>(ctx);
    // Led to the agent, and needs no state. The agent's own way to the backend is judged.
    if protocol == TCP && known.is_none() && capture::is_agent(&to) {
        return PASS;
    }
    let Some(caller) = Caller::judged(ctx, sk, protocol) else {
        return PASS;
    };
    // As when nobody answers for a service.
    if sockaddr::has_failed() {
        return PASS;
    }
    let me = &caller.workload;
    let destination = owner(to.address);
    let destination_netns = destination.map_or(0, |owner| owner.netns);
    let own = sockaddr::own::<V6>(sk);
    let source = source(me, own.address, to.address.is_v4());
    let mut verdict = Verdict::UNJUDGED;
    // The kernel makes a loopback address of the unspecified one.
    let mut is_whole = to.address != Addr::UNSPECIFIED && to.address != Addr::v4([0; 4]);
    if !to.address.is_loopback() && destination_netns != caller.netns {
        if me.flags & WORKLOAD_EGRESS_POLICY != 0 {
            let egress = Direction::Egress;
            verdict = ask(&question(me, egress, to.address, to.port, protocol));
            hit(&verdict);
        }
        if verdict.allowed
            && let Some(them) = judging(destination_netns)
        {
            // Where the source is not known yet, the destination's own look-up judges alone.
            if source == Addr::UNSPECIFIED {
                is_whole = false;
            } else {
                let ingress = Direction::Ingress;
                let ingress = ask(&question(them, ingress, source, to.port, protocol));
                hit(&ingress);
                verdict = verdict.and(ingress);
            }
        }
    }
    if verdict.allowed && is_whole && protocol == TCP {
        let state = known.or_else(|| kernel::state_or_new(sk));
        remember(state, &caller, &to, destination, noted(&verdict));
    }
    if !verdict.allowed {
        denied(
            me.id,
            &Denial {
                cookie: sockaddr::cookie(ctx),
                netns: caller.netns,
                source: Place {
                    address: source,
                    port: own.port,
                },
                destination: to,
                source_id: me.id,
                destination_id: destination.map_or(0, |owner| owner.id),
                service: crate::dials::of(sk, protocol)
                    .filter(|dial| to.is(dial.backend, dial.backend_port))
                    .map_or(0, |dial| dial.service),
                rule: verdict.rule,
                protocol,
                from_source: 1,
            },
        );
    }
    i32::from(verdict.allowed)
}

/// Returns the state of a TCP socket that has one.
#[inline(always)]
fn followed(sk: *mut c_void, protocol: u8) -> Option<&'static mut SockState> {
    if protocol == TCP {
        kernel::state(sk)
    } else {
        None
    }
}

/// Keeps for the flow to come what was found out. Without memory for it, that is found out again.
#[inline(always)]
fn remember(
    state: Option<&mut SockState>,
    caller: &Caller,
    to: &Place,
    destination: Option<AddrEntry>,
    rule: u32,
) {
    let Some(state) = state else { return };
    let own = AddrEntry {
        netns: caller.netns,
        id: caller.workload.id,
        _pad: 0,
    };
    let peer = if to.address.is_loopback() {
        own
    } else {
        destination.unwrap_or_default()
    };
    state.judged = Judged {
        netns: own.netns,
        peer_netns: peer.netns,
        self_id: own.id,
        peer_id: peer.id,
        rule,
        _pad: 0,
    };
}

/// A packet for which a socket is looked up.
pub(crate) struct Arrival {
    pub(crate) source: Place,
    pub(crate) destination: Place,
    pub(crate) protocol: u8,
}

/// Returns whether what arrived at a workload may pass, by its policies for ingress.
#[inline(always)]
pub(crate) fn admits(arrival: &Arrival) -> bool {
    if arrival.destination.address.is_loopback() {
        return true;
    }
    // Only namespaces that have policies are looked at here: what is not known of one is denied. Neither is a broadcast known.
    let Some(destination) = owner(arrival.destination.address) else {
        return false;
    };
    // SAFETY: read at once; the agent replaces entries as a whole.
    let Some(me) = (unsafe { WORKLOADS.get(destination.netns) }) else {
        return false;
    };
    let source = owner(arrival.source.address);
    let own = source.is_some_and(|source| source.netns == destination.netns);
    if me.flags & WORKLOAD_INGRESS_POLICY == 0
        || own
        || arrival.source.address.is_loopback()
        || is_host(arrival.source.address)
    {
        return true;
    }
    let verdict = ask(&question(
        me,
        Direction::Ingress,
        arrival.source.address,
        arrival.destination.port,
        arrival.protocol,
    ));
    // What a workload of this node dials was counted there.
    if source.is_none() || !verdict.allowed {
        hit(&verdict);
    }
    if !verdict.allowed {
        denied(
            me.id,
            &Denial {
                cookie: 0,
                netns: destination.netns,
                source: arrival.source,
                destination: arrival.destination,
                source_id: source.map_or(0, |source| source.id),
                destination_id: me.id,
                service: 0,
                rule: verdict.rule,
                protocol: arrival.protocol,
                from_source: 0,
            },
        );
    }
    verdict.allowed
}

/// Returns the rule for the record of a flow that a workload dials, as `SockState::rule` has it. Counts nothing. `peer` is the other
/// end's owner.
#[inline(always)]
pub(crate) fn dialled(me: &NetnsEntry, key: &SockKey, peer: Option<AddrEntry>) -> u32 {
    let destination_netns = peer.map_or(0, |peer| peer.netns);
    if destination_netns == key.netns {
        return 0;
    }
    let mut verdict = Verdict::UNJUDGED;
    let (port, protocol) = (key.remote_port, TCP);
    if me.flags & WORKLOAD_EGRESS_POLICY != 0 {
        verdict = ask(&question(me, Direction::Egress, key.remote, port, protocol));
    }
    if let Some(them) = judging(destination_netns) {
        verdict = verdict.and(ask(&question(
            them,
            Direction::Ingress,
            key.local,
            port,
            protocol,
        )));
    }
    noted(&verdict)
}

/// Returns the rule for the record of a flow that a workload accepted from elsewhere. Counts what nobody else does.
#[inline(always)]
pub(crate) fn accepted(me: &NetnsEntry, key: &SockKey) -> u32 {
    if me.flags & WORKLOAD_INGRESS_POLICY == 0
        || key.remote.is_loopback()
        || owner(key.remote).is_some()
        || is_host(key.remote)
    {
        return 0;
    }
    let verdict = ask(&question(
        me,
        Direction::Ingress,
        key.remote,
        key.local_port,
        TCP,
    ));
    if me.flags & WORKLOAD_LOOKUP == 0 {
        hit(&verdict);
    }
    noted(&verdict)
}

/// The kernel's copy of the tables.
struct Kernel;

impl Tables for Kernel {
    #[inline(always)]
    fn class(&self, at: &TableAddress) -> Option<u32> {
        PREFIXES.get(&Key::new(TABLE_BITS + 128, *at)).copied()
    }

    #[inline(always)]
    fn list(&self, key: &VerdictKey) -> Option<RangeList> {
        // SAFETY: copied at once; the agent replaces entries as a whole.
        unsafe { VERDICTS.get(key) }.copied()
    }

    #[inline(always)]
    fn range(&self, index: u32) -> Option<Range> {
        RANGES.get(index).copied()
    }
}

#[inline(always)]
fn question(
    subject: &NetnsEntry,
    direction: Direction,
    peer: Addr,
    port: PortBe,
    protocol: u8,
) -> Question {
    Question {
        subject: subject.id,
        table: subject.table,
        peer,
        direction,
        protocol,
        port: port.number(),
    }
}

/// A function of its own to the verifier, too: it is called from four places, and each walk through the search is long.
#[inline(never)]
fn packed(question: &Question) -> u64 {
    let verdict = answer(&Kernel, question);
    u64::from(verdict.rule) << 32 | u64::from(verdict.would_deny) << 1 | u64::from(verdict.allowed)
}

#[inline(always)]
fn ask(question: &Question) -> Verdict {
    let packed = packed(question);
    Verdict {
        allowed: packed & 1 != 0,
        would_deny: packed & 2 != 0,
        rule: (packed >> 32) as u32,
    }
}

/// Returns the entry of a workload that has policies for ingress; `None` for 0, which is nobody's namespace.
#[inline(always)]
fn judging(netns: u64) -> Option<&'static NetnsEntry> {
    if netns == 0 {
        return None;
    }
    // SAFETY: read at once; the agent replaces entries as a whole.
    let them = unsafe { WORKLOADS.get(netns) }?;
    if them.flags & WORKLOAD_INGRESS_POLICY == 0 {
        return None;
    }
    Some(them)
}

#[inline(always)]
fn owner(address: Addr) -> Option<AddrEntry> {
    // SAFETY: copied at once; the agent replaces entries as a whole.
    unsafe { ADDRESSES.get(address) }.copied()
}

#[inline(always)]
fn is_host(address: Addr) -> bool {
    // SAFETY: only asked whether it is there.
    unsafe { HOST_ADDRESSES.get(address) }.is_some()
}

/// Returns the address that a workload's connection will have.
#[inline(always)]
fn source(me: &NetnsEntry, bound: Addr, v4: bool) -> Addr {
    if bound != Addr::UNSPECIFIED && bound != Addr::v4([0; 4]) {
        bound
    } else if v4 {
        me.v4
    } else {
        me.v6
    }
}

#[inline(always)]
fn noted(verdict: &Verdict) -> u32 {
    if verdict.would_deny {
        verdict.rule | RULE_WOULD_DENY
    } else {
        verdict.rule
    }
}

/// Counts what a rule decided; rule 0 stands for want of one.
#[inline(always)]
fn hit(verdict: &Verdict) {
    let Some(hits) = RULE_HITS.get_ptr_mut(verdict.rule) else {
        return;
    };
    // SAFETY: a per-CPU slot, so no other CPU writes it; the helper returned it as valid.
    let hits = unsafe { &mut *hits };
    if !verdict.allowed {
        hits.denied += 1;
    } else if verdict.would_deny {
        hits.would_deny += 1;
    } else {
        hits.allowed += 1;
    }
}

/// Records a denial, unless its workload had many of late.
#[inline(always)]
fn denied(subject: u32, denial: &Denial) {
    let Some(window) = DENIALS.get_ptr_mut(subject) else {
        return count(stats::DENIALS_UNRECORDED, 1);
    };
    // SAFETY: a slot of the array. Programs may race for it: a record more or less is all that comes of it.
    let window = unsafe { &mut *window };
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    if now.wrapping_sub(window.since_ns) >= DENIALS_WINDOW_NS {
        window.since_ns = now;
        window.recorded = 0;
    }
    if window.recorded >= u64::from(DENIALS_PER_WINDOW) {
        return count(stats::DENIALS_UNRECORDED, 1);
    }
    window.recorded += 1;
    record::denied(denial);
}
