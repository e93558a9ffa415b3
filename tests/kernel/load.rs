//! Every program is taken by this kernel; and only one of them can be run by `BPF_PROG_TEST_RUN`, so the other tests here drive
//! them by real sockets.

use std::os::fd::AsFd as _;

use harness::Node;
use mesh_agent::kernel::loader::{Loaded, load};
use mesh_agent::kernel::map_dir;

use crate::sys;

/// Every program.
const PROGRAMS: [&str; 32] = [
    "mesh_connect4",
    "mesh_connect6",
    "mesh_dials",
    "mesh_flows",
    "mesh_getpeername4",
    "mesh_getpeername6",
    "mesh_getsockname4",
    "mesh_getsockname6",
    "mesh_getsockopt",
    "mesh_io_uring",
    "mesh_ioctl",
    "mesh_judge4",
    "mesh_judge6",
    "mesh_judge_msg4",
    "mesh_judge_msg6",
    "mesh_listeners",
    "mesh_lookup",
    "mesh_recv",
    "mesh_recvmsg4",
    "mesh_recvmsg6",
    "mesh_redirect",
    "mesh_send",
    "mesh_sendmmsg",
    "mesh_sendmsg",
    "mesh_sendmsg4",
    "mesh_sendmsg6",
    "mesh_sendto",
    "mesh_setsockopt",
    "mesh_sock_ops",
    "mesh_sock_release",
    "mesh_splice",
    "mesh_wakes",
];

/// `MAX_BPF_STACK`, include/linux/filter.h.
const STACK_MAX: i32 = 512;

/// What the verifier may walk through for one program: a fifth of what it gives up at (`BPF_COMPLEXITY_LIMIT_INSNS`), so
/// that another kernel's verifier, which walks otherwise, takes it too.
const WALK_MAX: u32 = 200_000;

fn loaded() -> Option<(Loaded, Node)> {
    if !harness::require_root() {
        return None;
    }
    let node = Node::new().unwrap();
    let maps = map_dir(&node.bpf_directory().unwrap());
    std::fs::create_dir_all(&maps).unwrap();
    Some((load(&maps).unwrap(), node))
}

#[test]
fn every_program_is_taken_by_the_verifier() {
    let Some((loaded, _node)) = loaded() else {
        return;
    };
    assert!(loaded.failed.is_empty(), "{:#?}", loaded.failed);
    let mut names: Vec<&str> = loaded.ebpf.programs().map(|(name, _)| name).collect();
    names.sort_unstable();
    assert_eq!(names, PROGRAMS);
    println!("program              walked  instructions  largest frame (bytes)");
    for (name, program) in loaded.ebpf.programs() {
        let walked = program
            .info()
            .unwrap()
            .verified_instruction_count()
            .unwrap();
        let code = sys::instructions(program.fd().unwrap().as_fd()).unwrap();
        let frame = largest_frame(&code);
        println!("{name:18} {walked:8} {:13} {frame:22}", code.len() / 8);
        assert!(walked < WALK_MAX, "{name}: {walked}");
        assert!(
            (1..=STACK_MAX).contains(&frame) || frame == 0,
            "{name}: {frame}"
        );
    }
}

#[test]
fn no_program_but_the_look_up_can_be_run_by_the_kernels_test_call() {
    /// `ENOTSUPP`, include/linux/errno.h: the type has no such call.
    const ENOTSUPP: i32 = 524;
    let Some((loaded, _node)) = loaded() else {
        return;
    };
    let others = loaded.ebpf.programs();
    for (name, program) in others.filter(|(name, _)| *name != "mesh_lookup") {
        let refusal = sys::test_run(program.fd().unwrap().as_fd(), &[0; 64]).unwrap_err();
        let number = refusal.raw_os_error().unwrap();
        println!("{name:18} {:?} {number}", program.prog_type());
        let expected = match name {
            // BPF_PROG_TYPE_TRACING has the call, for fentry, fexit and modify_return alone
            // (`bpf_prog_test_run_tracing`, net/bpf/test_run.c).
            "mesh_recv" | "mesh_send" | "mesh_flows" | "mesh_dials" | "mesh_listeners"
            | "mesh_wakes" => libc::EFAULT,
            _ => ENOTSUPP,
        };
        assert_eq!(number, expected, "{name}");
    }
}

/// Returns how far below the frame pointer the code reaches: by an access through it, or by arithmetic on a copy of it.
fn largest_frame(code: &[u8]) -> i32 {
    const FRAME: u8 = 10;
    const LOAD_STORE: [u8; 3] = [0x01, 0x02, 0x03];
    const ADD: u8 = 0x07;
    let mut deepest = 0;
    let mut copies = [false; 16];
    for insn in code.chunks_exact(8) {
        let (class, to, from) = (insn[0] & 0x07, insn[1] & 0x0f, insn[1] >> 4);
        let offset = i32::from(i16::from_ne_bytes([insn[2], insn[3]]));
        let number = i32::from_ne_bytes([insn[4], insn[5], insn[6], insn[7]]);
        let base = if class == 0x01 { from } else { to };
        if LOAD_STORE.contains(&class) && base == FRAME {
            deepest = deepest.min(offset);
        }
        // BPF_MOV64_REG
        if insn[0] == 0xbf {
            copies[usize::from(to)] = from == FRAME;
        } else if insn[0] == ADD && copies[usize::from(to)] {
            deepest = deepest.min(number);
            copies[usize::from(to)] = false;
        }
    }
    -deepest
}
