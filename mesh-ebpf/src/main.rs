#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
mod atomic;
use aya_ebpf::{
    btf_maps::Array,
    macros::{btf_map, sock_ops},
    programs::SockOpsContext,
};
#[btf_map]
static A: Array<u64, 4> = Array::new();
#[sock_ops]
pub(crate) fn mesh_sock_ops(_ctx: SockOpsContext) -> u32 {
    if let Some(p) = A.get_ptr_mut(0) {
        unsafe {
            atomic::add(p, 1);
            atomic::or(p, 8);
            atomic::compare_exchange(p, 0, 5);
        }
    }
    0
}
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
