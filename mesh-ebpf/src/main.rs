//! Entry functions of the programs that run in the kernel. Each calls into the module of its concern and turns the result
//! into its hook's action. What has to do with acceleration denies nothing, so every failure there means "ordinary TCP, not
//! counted". Policy fails closed: whatever is missing is denied. Capture fails as each service says.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![allow(
    clippy::cast_possible_truncation,
    reason = "numbers of known range are narrowed to the width of their map field; a checked conversion is a branch with a panic behind it, which no program may have"
)]
#![allow(
    clippy::multiple_unsafe_ops_per_block,
    reason = "a member of a union behind the context pointer is one access, though two operations by this lint's count"
)]

mod account;
mod atomic;
mod brief;
mod calls;
mod capture;
mod connect;
mod datagram;
mod dials;
mod dns;
mod drain;
mod established;
mod iterator;
mod kernel;
mod listener;
mod lookup;
mod loopback;
mod maps;
mod names;
mod observe;
mod policy;
mod record;
mod redirect;
mod service;
mod sockaddr;
mod teardown;
mod wake;

use aya_ebpf::bindings::sk_action::SK_PASS;
use aya_ebpf::bindings::{
    BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB,
    BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_SOCK_OPS_TCP_LISTEN_CB,
};
use aya_ebpf::macros::{
    btf_tracepoint, cgroup_sock, cgroup_sock_addr, cgroup_sockopt, sk_lookup, sk_msg, sock_ops,
    tracepoint,
};
use aya_ebpf::programs::{
    BtfTracePointContext, SkLookupContext, SkMsgContext, SockAddrContext, SockContext,
    SockOpsContext, SockoptContext, TracePointContext,
};

/// Follows a workload's TCP socket from `connect` to its end, and counts those that listen.
#[sock_ops]
#[inline(always)]
fn mesh_sock_ops(ctx: SockOpsContext) -> u32 {
    match ctx.op() {
        BPF_SOCK_OPS_TCP_CONNECT_CB => established::connecting(&ctx),
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => established::active(&ctx),
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB if brief::is_accepted(&ctx) => {}
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => established::passive(&ctx),
        BPF_SOCK_OPS_TCP_LISTEN_CB => listener::opened(&ctx),
        BPF_SOCK_OPS_STATE_CB => teardown::state_changed(&ctx),
        _ => {}
    }
    1
}

/// Sends a message straight to the other end's socket where that is safe, else by TCP.
#[sk_msg]
fn mesh_redirect(ctx: SkMsgContext) -> u32 {
    redirect::message(&ctx);
    SK_PASS
}

/// Judges a connect over IPv4, after balancing: its place is behind `mesh_connect4`.
#[cgroup_sock_addr(connect4)]
fn mesh_judge4(ctx: SockAddrContext) -> i32 {
    policy::dials::<false>(&ctx)
}

/// Judges a connect over IPv6, or over IPv4 by an IPv6 socket, after balancing.
#[cgroup_sock_addr(connect6)]
fn mesh_judge6(ctx: SockAddrContext) -> i32 {
    policy::dials::<true>(&ctx)
}

/// Judges a datagram of an unconnected socket over IPv4, after balancing.
#[cgroup_sock_addr(sendmsg4)]
fn mesh_judge_msg4(ctx: SockAddrContext) -> i32 {
    policy::dials::<false>(&ctx)
}

/// Judges a datagram of an unconnected socket over IPv6, after balancing.
#[cgroup_sock_addr(sendmsg6)]
fn mesh_judge_msg6(ctx: SockAddrContext) -> i32 {
    policy::dials::<true>(&ctx)
}

/// Judges what comes to a workload's network namespace, before it finds its socket.
#[sk_lookup]
fn mesh_lookup(ctx: SkLookupContext) -> u32 {
    lookup::judged(&ctx)
}

/// Counts what a receive call returned, and tells the other end how far it has read.
#[btf_tracepoint(function = "sock_recv_length")]
fn mesh_recv(ctx: BtfTracePointContext) -> i32 {
    calls::received(&ctx);
    0
}

/// Counts what a send call took.
#[btf_tracepoint(function = "sock_send_length")]
fn mesh_send(ctx: BtfTracePointContext) -> i32 {
    calls::sent(&ctx);
    0
}

/// Ends a flow once its owner has closed the socket.
#[cgroup_sock(sock_release)]
fn mesh_sock_release(ctx: SockContext) -> i32 {
    teardown::released(&ctx);
    1
}

/// Leads an IPv4 `connect` to a service's backend.
#[cgroup_sock_addr(connect4)]
fn mesh_connect4(ctx: SockAddrContext) -> i32 {
    connect::connect::<false>(&ctx)
}

/// Leads an IPv4 datagram to a service's backend.
#[cgroup_sock_addr(sendmsg4)]
fn mesh_sendmsg4(ctx: SockAddrContext) -> i32 {
    datagram::send::<false>(&ctx)
}

/// Gives a received datagram the service's address.
#[cgroup_sock_addr(recvmsg4)]
fn mesh_recvmsg4(ctx: SockAddrContext) -> i32 {
    datagram::receive::<false>(&ctx);
    sockaddr::PASS
}

/// Gives the peer's name as the application knows it.
#[cgroup_sock_addr(getpeername4)]
fn mesh_getpeername4(ctx: SockAddrContext) -> i32 {
    names::peer::<false>(&ctx);
    sockaddr::PASS
}

/// Gives a captured socket's own name as it would be.
#[cgroup_sock_addr(getsockname4)]
fn mesh_getsockname4(ctx: SockAddrContext) -> i32 {
    names::own::<false>(&ctx);
    sockaddr::PASS
}

/// Leads an IPv6 `connect` to a service's backend.
#[cgroup_sock_addr(connect6)]
fn mesh_connect6(ctx: SockAddrContext) -> i32 {
    connect::connect::<true>(&ctx)
}

/// Leads an IPv6 datagram to a service's backend.
#[cgroup_sock_addr(sendmsg6)]
fn mesh_sendmsg6(ctx: SockAddrContext) -> i32 {
    datagram::send::<true>(&ctx)
}

/// Gives a received datagram the service's address.
#[cgroup_sock_addr(recvmsg6)]
fn mesh_recvmsg6(ctx: SockAddrContext) -> i32 {
    datagram::receive::<true>(&ctx);
    sockaddr::PASS
}

/// Gives the peer's name as the application knows it.
#[cgroup_sock_addr(getpeername6)]
fn mesh_getpeername6(ctx: SockAddrContext) -> i32 {
    names::peer::<true>(&ctx);
    sockaddr::PASS
}

/// Gives a captured socket's own name as it would be.
#[cgroup_sock_addr(getsockname6)]
fn mesh_getsockname6(ctx: SockAddrContext) -> i32 {
    names::own::<true>(&ctx);
    sockaddr::PASS
}

/// Records socket options that redirect does not honour. Never refuses one.
#[cgroup_sockopt(setsockopt)]
fn mesh_setsockopt(ctx: SockoptContext) -> i32 {
    observe::option_set(&ctx);
    1
}

/// Reports a live flow and brings the pair counters up to date.
#[unsafe(link_section = "iter/bpf_sk_storage_map")]
#[unsafe(no_mangle)]
fn mesh_flows(ctx: *mut iterator::StorageIter) -> i32 {
    // SAFETY: the kernel passes this iterator's context.
    record::live(unsafe { &*ctx });
    0
}

/// Counts off what is connected no more, and shows connected UDP sockets whose backend is gone.
#[unsafe(link_section = "iter/bpf_sk_storage_map")]
#[unsafe(no_mangle)]
fn mesh_dials(ctx: *mut iterator::StorageIter) -> i32 {
    // SAFETY: the kernel passes this iterator's context.
    drain::look(unsafe { &*ctx });
    0
}

/// Counts sockets that listened before they could be seen to.
#[unsafe(link_section = "iter/tcp")]
#[unsafe(no_mangle)]
fn mesh_listeners(ctx: *mut iterator::TcpIter) -> i32 {
    // SAFETY: the kernel passes this iterator's context.
    listener::found(unsafe { &*ctx });
    0
}

/// Wakes readers of what TCP brought behind redirected bytes.
#[unsafe(link_section = "iter/tcp")]
#[unsafe(no_mangle)]
fn mesh_wakes(ctx: *mut iterator::TcpIter) -> i32 {
    // SAFETY: the kernel passes this iterator's context.
    wake::look(unsafe { &*ctx });
    0
}

/// Observes the flags of `sendto(2)`.
#[tracepoint]
fn mesh_sendto(ctx: TracePointContext) -> u32 {
    observe::send_flags(&ctx, 3);
    0
}

/// Observes the flags of `sendmsg(2)`.
#[tracepoint]
fn mesh_sendmsg(ctx: TracePointContext) -> u32 {
    observe::send_flags(&ctx, 2);
    0
}

/// Observes the flags of `sendmmsg(2)`.
#[tracepoint]
fn mesh_sendmmsg(ctx: TracePointContext) -> u32 {
    observe::send_flags(&ctx, 3);
    0
}

/// Observes `splice(2)`.
#[tracepoint]
fn mesh_splice(ctx: TracePointContext) -> u32 {
    observe::splice(&ctx);
    0
}

/// Observes `ioctl(FIONREAD)`.
#[tracepoint]
fn mesh_ioctl(ctx: TracePointContext) -> u32 {
    observe::ioctl(&ctx);
    0
}

/// Observes `getsockopt(TCP_ZEROCOPY_RECEIVE)`.
#[tracepoint]
fn mesh_getsockopt(ctx: TracePointContext) -> u32 {
    observe::getsockopt(&ctx);
    0
}

/// Observes `io_uring_setup(2)`.
#[tracepoint]
fn mesh_io_uring(_ctx: TracePointContext) -> u32 {
    observe::io_uring();
    0
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // Never compiled in: no program has a path that panics, or the linker would keep this and the verifier refuse it.
    loop {}
}

/// Some helpers are for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
