//! The start-up probe's program: one direction of one socket pair, redirected or passed as the agent says.
//!
//! Apart from the mesh's own programs, so that probing touches none of their maps.

#![no_std]
#![no_main]

use aya_ebpf::bindings::{BPF_F_INGRESS, sk_action::SK_PASS};
use aya_ebpf::btf_maps::{Array, SockMap};
use aya_ebpf::helpers::generated::bpf_msg_redirect_map;
use aya_ebpf::macros::{btf_map, sk_msg};
use aya_ebpf::programs::SkMsgContext;

/// Slot 0: the sender; slot 1: the receiver. Filled by the agent.
#[btf_map]
static PROBE_SOCKETS: SockMap<2> = SockMap::new();

/// 1 when messages are redirected.
#[btf_map]
static PROBE_REDIRECT: Array<u32, 1> = Array::new();

const RECEIVER: u32 = 1;

/// Sends a message of the sender straight to the receiver, or by TCP.
#[sk_msg]
fn probe_message(ctx: SkMsgContext) -> u32 {
    if PROBE_REDIRECT.get(0).is_some_and(|redirect| *redirect == 1) {
        let map = core::ptr::from_ref(&PROBE_SOCKETS).cast_mut().cast();
        // SAFETY: the context and the socket map.
        let _ = unsafe { bpf_msg_redirect_map(ctx.msg, map, RECEIVER, u64::from(BPF_F_INGRESS)) };
    }
    SK_PASS
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
