//! What applications do that redirect breaks on this kernel, and whether that stands against a socket.

use core::ffi::c_void;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::helpers::generated::{bpf_get_current_task, bpf_get_netns_cookie};
use aya_ebpf::programs::{SockoptContext, TracePointContext};
use mesh_common::behaviour;
use mesh_common::reason::Reason;
use mesh_common::sock::{FLAG_AGENT, FLAG_PEER_AGENT, SockState};
use mesh_common::stats;
use mesh_common::workload::{
    ADMISSION_AUTO, ADMISSION_OFF, ADMISSION_ON, Admission, REDIRECT_ALLOWED, REDIRECT_KILLED,
};

use crate::kernel::{
    FDTABLE_FD, FDTABLE_MAX_FDS, FILE_F_INODE, FILE_PRIVATE_DATA, FILES_STRUCT_FDT, INODE_I_MODE,
    NET_NET_COOKIE, NSPROXY_NET_NS, SOCK_SK_PROTOCOL, SOCKET_SK, TASK_STRUCT_FILES,
    TASK_STRUCT_NSPROXY, field,
};
use crate::maps::{ADMISSIONS, CONTROL, WORKLOADS, count};
use crate::{atomic, kernel};

// include/linux/socket.h
const MSG_OOB: u32 = 0x1;
const MSG_TRUNC: u32 = 0x20;
const MSG_WAITALL: u32 = 0x100;
const MSG_ZEROCOPY: u32 = 0x0400_0000;

const FIONREAD: u64 = 0x541B;
const S_IFMT: u16 = 0o170_000;
const S_IFSOCK: u16 = 0o140_000;

const SOL_SOCKET: i32 = 1;
const SO_RCVLOWAT: i32 = 18;
const SO_PEEK_OFF: i32 = 42;
const SO_ZEROCOPY: i32 = 60;
const IPPROTO_TCP: i32 = 6;
const TCP_REPAIR: i32 = 19;
const TCP_ULP: i32 = 31;
const TCP_ZEROCOPY_RECEIVE: u64 = 35;
const TCP_INQ: i32 = 36;

/// Offset of a syscall tracepoint's first argument; each takes eight bytes.
const ARGS: usize = 16;

/// Returns what stands against redirect for this socket at this moment, or `Reason::None`.
///
/// Read anew for each message, so the kill switch and a newly seen behaviour act at once on live flows.
#[inline(always)]
pub(crate) fn refusal(state: &SockState) -> Reason {
    let Some(control) = CONTROL.get(0) else {
        return Reason::KillSwitch;
    };
    match control.redirect {
        REDIRECT_ALLOWED => {}
        REDIRECT_KILLED => return Reason::KillSwitch,
        _ => return Reason::KernelLevel,
    }
    if state.behaviours & control.forbidden != 0 {
        return Reason::SocketOption;
    }
    // The agent's own sockets do none of it, whatever else is in their namespace.
    if state.flags & FLAG_AGENT == 0 {
        let own = admitted(state.self_id, control.forbidden);
        if own != Reason::None
            || state.self_id == state.peer_id
            || state.flags & FLAG_PEER_AGENT != 0
        {
            return own;
        }
    }
    admitted(state.peer_id, control.forbidden)
}

/// Returns whether nothing stands against redirect as far as the workload `id` goes.
#[inline(always)]
pub(crate) fn is_admitted(id: u32) -> bool {
    let Some(control) = CONTROL.get(0) else {
        return false;
    };
    admitted(id, control.forbidden) as u32 == Reason::None as u32
}

#[inline(always)]
fn admitted(id: u32, forbidden: u64) -> Reason {
    let Some(admission) = ADMISSIONS.get(id) else {
        return Reason::Observing;
    };
    match admission.admission {
        ADMISSION_ON => Reason::None,
        ADMISSION_AUTO if admission.behaviours & forbidden == 0 => Reason::None,
        ADMISSION_AUTO => Reason::Behaviour,
        ADMISSION_OFF => Reason::ModeOff,
        _ if admission.behaviours & forbidden != 0 => Reason::Behaviour,
        _ => Reason::Observing,
    }
}

/// A receive call of an observed workload that read something.
#[inline(always)]
pub(crate) fn received(state: &SockState, flags: u32) {
    let Some(admission) = ADMISSIONS.get_ptr_mut(state.self_id) else {
        return;
    };
    // SAFETY: a word of a map value.
    unsafe { atomic::add(&raw mut (*admission).reads, 1) };
    let mut seen = 0;
    if flags & MSG_WAITALL != 0 {
        seen |= behaviour::WAITALL;
    }
    if flags & MSG_OOB != 0 {
        seen |= behaviour::OOB;
    }
    if flags & MSG_TRUNC != 0 {
        seen |= behaviour::TRUNC;
    }
    saw(admission, seen);
}

/// A receive call that was ready to wait; of an observed workload, and of every socket in the socket map.
#[inline(always)]
pub(crate) fn blocking_receive(state: &SockState) {
    if state.flags & FLAG_AGENT == 0
        && let Some(admission) = ADMISSIONS.get_ptr_mut(state.self_id)
    {
        saw(admission, behaviour::BLOCKING_RECEIVE);
    }
}

/// A blocking receive call of a socket in the socket map failed with `EAGAIN`, which TCP's own would not have done.
#[inline(always)]
pub(crate) fn spurious_eagain(state: &SockState) {
    count(stats::SPURIOUS_EAGAIN, 1);
    if let Some(admission) = ADMISSIONS.get_ptr_mut(state.self_id) {
        saw(admission, behaviour::SPURIOUS_EAGAIN);
    }
}

/// `sendto`, `sendmsg` or `sendmmsg`, whose flags are argument `index`.
#[inline(always)]
pub(crate) fn send_flags(ctx: &TracePointContext, index: usize) {
    let flags = arg(ctx, index) as u32;
    let mut seen = 0;
    if flags & MSG_OOB != 0 {
        seen |= behaviour::OOB;
    }
    if flags & MSG_ZEROCOPY != 0 {
        seen |= behaviour::ZEROCOPY_SEND;
    }
    if seen == 0 {
        return;
    }
    let Some(admission) = current() else { return };
    if is_tcp_file(arg(ctx, 0)) {
        saw(admission, seen);
    }
}

/// `setsockopt` on any socket in the cgroup.
#[inline(always)]
pub(crate) fn option_set(ctx: &SockoptContext) {
    let options = ctx.sockopt;
    // SAFETY: fields of the context.
    let level = unsafe { (&raw const (*options).level).read_volatile() };
    // SAFETY: fields of the context.
    let name = unsafe { (&raw const (*options).optname).read_volatile() };
    let seen = match (level, name) {
        (SOL_SOCKET, SO_RCVLOWAT) => behaviour::RCVLOWAT,
        (SOL_SOCKET, SO_PEEK_OFF) => behaviour::PEEK_OFF,
        (SOL_SOCKET, SO_ZEROCOPY) => behaviour::ZEROCOPY_SEND,
        (IPPROTO_TCP, TCP_REPAIR) => behaviour::REPAIR,
        (IPPROTO_TCP, TCP_ULP) => behaviour::ULP,
        (IPPROTO_TCP, TCP_INQ) => behaviour::INQ,
        _ => 0,
    };
    if seen != 0 && is_tcp(ctx) && takes_effect(ctx, seen) {
        option_seen(ctx, seen);
    }
    leave_to_kernel(ctx);
}

/// Returns whether the option is set on a TCP socket: others have options of the same names.
#[inline(always)]
fn is_tcp(ctx: &SockoptContext) -> bool {
    // SAFETY: a field of the context.
    let Some(sk) = kernel::full(unsafe { (*ctx.sockopt).__bindgen_anon_1.sk }) else {
        return false;
    };
    let sk: *const bpf_sock = sk.cast_const().cast();
    // SAFETY: the context's socket, not null.
    let protocol = unsafe { &raw const (*sk).protocol };
    // SAFETY: as above. Volatile, so that it stays a read of four bytes.
    (unsafe { protocol.read_volatile() }) == IPPROTO_TCP as u32
}

/// Returns whether the value switches the option to something that redirect does not honour.
#[inline(always)]
fn takes_effect(ctx: &SockoptContext, seen: u64) -> bool {
    // SAFETY: fields of the context.
    let value: *const i32 = unsafe { (*ctx.sockopt).__bindgen_anon_2.optval }.cast();
    // SAFETY: fields of the context.
    let end: *const i32 = unsafe { (*ctx.sockopt).__bindgen_anon_3.optval_end }.cast();
    if value.wrapping_add(1) > end {
        return true;
    }
    // SAFETY: inside the option's value, as just checked.
    let value = unsafe { value.read_volatile() };
    match seen {
        behaviour::RCVLOWAT => value > 1,
        behaviour::PEEK_OFF => value >= 0,
        behaviour::ULP => true,
        _ => value != 0,
    }
}

#[inline(always)]
fn option_seen(ctx: &SockoptContext, seen: u64) {
    // SAFETY: the context is valid.
    let netns = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    // SAFETY: copied at once; the agent replaces entries as a whole.
    let Some(workload) = (unsafe { WORKLOADS.get(netns) }).copied() else {
        return;
    };
    // SAFETY: a field of the context.
    let sk = unsafe { (*ctx.sockopt).__bindgen_anon_1.sk };
    let state = kernel::full(sk).and_then(kernel::state_or_new);
    // The agent's own says nothing of the workload.
    let agents = state
        .as_ref()
        .is_some_and(|state| state.flags & FLAG_AGENT != 0);
    if let Some(state) = state {
        state.behaviours |= seen;
    }
    if !agents && let Some(admission) = ADMISSIONS.get_ptr_mut(workload.id) {
        saw(admission, seen);
    }
}

/// Lets the kernel take the caller's value as it is: a value longer than a page was not copied for us and must be left out.
#[inline(always)]
fn leave_to_kernel(ctx: &SockoptContext) {
    const PAGE: i32 = 4096;
    // SAFETY: fields of the context.
    let length = unsafe { &raw mut (*ctx.sockopt).optlen };
    // SAFETY: as above. Volatile, or it is merged with the return value's store: "invalid bpf_context access".
    if unsafe { length.read_volatile() } > PAGE {
        // SAFETY: as above.
        unsafe { length.write_volatile(0) };
    }
}

/// `splice(fd_in, ..)`.
#[inline(always)]
pub(crate) fn splice(ctx: &TracePointContext) {
    let Some(admission) = current() else { return };
    if is_tcp_file(arg(ctx, 0)) {
        saw(admission, behaviour::SPLICE);
    }
}

/// `ioctl(fd, cmd, ..)`.
#[inline(always)]
pub(crate) fn ioctl(ctx: &TracePointContext) {
    if arg(ctx, 1) != FIONREAD {
        return;
    }
    let Some(admission) = current() else { return };
    if is_tcp_file(arg(ctx, 0)) {
        saw(admission, behaviour::FIONREAD);
    }
}

/// `getsockopt(fd, level, name, ..)`.
#[inline(always)]
pub(crate) fn getsockopt(ctx: &TracePointContext) {
    if arg(ctx, 1) != IPPROTO_TCP as u64 || arg(ctx, 2) != TCP_ZEROCOPY_RECEIVE {
        return;
    }
    if let Some(admission) = current() {
        saw(admission, behaviour::ZEROCOPY_RECEIVE);
    }
}

/// `io_uring_setup(..)`.
#[inline(always)]
pub(crate) fn io_uring() {
    if let Some(admission) = current() {
        saw(admission, behaviour::IO_URING);
    }
}

#[inline(always)]
fn saw(admission: *mut Admission, seen: u64) {
    // SAFETY: a live slot of the array.
    let known = unsafe { (*admission).behaviours };
    // Most calls show nothing new; only those that do pay for the atomic.
    if seen & !known != 0 {
        // SAFETY: a word of a map value.
        unsafe { atomic::or(&raw mut (*admission).behaviours, seen) };
    }
}

/// Returns the admission of the calling thread's workload if it is observed.
#[inline(always)]
fn current() -> Option<*mut Admission> {
    // SAFETY: no arguments.
    let task = unsafe { bpf_get_current_task() } as *const c_void;
    let proxy: *const c_void = field(task, &TASK_STRUCT_NSPROXY)?;
    let net: *const c_void = field(proxy, &NSPROXY_NET_NS)?;
    let netns: u64 = field(net, &NET_NET_COOKIE)?;
    // SAFETY: copied at once.
    let workload = unsafe { WORKLOADS.get(netns) }.copied()?;
    let admission = ADMISSIONS.get_ptr_mut(workload.id)?;
    // SAFETY: a live slot of the array.
    if unsafe { (*admission).observed } != 0 {
        Some(admission)
    } else {
        None
    }
}

/// Returns whether the calling thread's open file `fd` is a TCP socket.
#[inline(always)]
fn is_tcp_file(fd: u64) -> bool {
    protocol(fd).is_some_and(|protocol| i32::from(protocol) == IPPROTO_TCP)
}

/// Returns the protocol of the calling thread's open file `fd` if it is a socket.
#[inline(always)]
fn protocol(fd: u64) -> Option<u16> {
    // SAFETY: no arguments.
    let task = unsafe { bpf_get_current_task() } as *const c_void;
    let files: *const c_void = field(task, &TASK_STRUCT_FILES)?;
    let table: *const c_void = field(files, &FILES_STRUCT_FDT)?;
    let limit: u32 = field(table, &FDTABLE_MAX_FDS)?;
    if fd >= u64::from(limit) {
        return None;
    }
    let entries: *const *const c_void = field(table, &FDTABLE_FD)?;
    // SAFETY: the helper checks the address and fails instead of faulting.
    let file =
        unsafe { aya_ebpf::helpers::bpf_probe_read_kernel(entries.wrapping_add(fd as usize)) }
            .ok()?;
    let inode: *const c_void = field(file, &FILE_F_INODE)?;
    let mode: u16 = field(inode, &INODE_I_MODE)?;
    if mode & S_IFMT != S_IFSOCK {
        return None;
    }
    let socket: *const c_void = field(file, &FILE_PRIVATE_DATA)?;
    let sk: *const c_void = field(socket, &SOCKET_SK)?;
    field(sk, &SOCK_SK_PROTOCOL)
}

#[inline(always)]
fn arg(ctx: &TracePointContext, n: usize) -> u64 {
    // SAFETY: inside a syscall tracepoint's record, whose layout every kernel shares.
    unsafe { ctx.read_at(ARGS + 8 * n) }.unwrap_or(0)
}
