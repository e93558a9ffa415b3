//! What the kernel objects keep clear of, so that no list of kernel versions has to: the parts of socket maps with a history
//! of memory errors. A test of the built objects, which need not be loaded for it.

use aya_obj::generated::{bpf_func_id, bpf_insn};
use aya_obj::{Object, ProgramSection};

use crate::kernel::{loader, probe};

/// `BPF_JMP | BPF_CALL`, include/uapi/linux/bpf.h.
const CALL: u8 = 0x85;

/// Use after free with more than one thread, up to Linux 6.18.44 (CVE-2026-74589) and 6.18.41 (CVE-2026-68284).
const AVOIDED: [bpf_func_id; 2] = [
    bpf_func_id::BPF_FUNC_msg_apply_bytes,
    bpf_func_id::BPF_FUNC_msg_cork_bytes,
];

fn objects() -> [(&'static str, Object); 2] {
    let parse = |bytes| Object::parse(bytes).unwrap();
    [
        ("mesh-ebpf", parse(loader::OBJECT)),
        ("mesh-probe", parse(probe::OBJECT)),
    ]
}

/// Returns the helpers that the object's programs and their functions call.
fn helpers(object: &Object) -> Vec<u32> {
    let code = object.functions.values();
    let code = code.flat_map(|function| &function.instructions);
    // With another source register it is a call of a function or of a kernel's one.
    let calls = code.filter(|insn: &&bpf_insn| insn.code == CALL && insn.src_reg() == 0);
    calls.map(|insn| insn.imm.cast_unsigned()).collect()
}

#[test]
fn no_program_applies_verdicts_to_later_bytes_or_holds_bytes_back() {
    for (name, object) in objects() {
        let called = helpers(&object);
        let redirects = [
            bpf_func_id::BPF_FUNC_msg_redirect_hash,
            bpf_func_id::BPF_FUNC_msg_redirect_map,
        ];
        // Both redirect, so calls are found at all.
        assert!(
            redirects.iter().any(|id| called.contains(&(*id as u32))),
            "{name}: {called:?}"
        );
        for avoided in AVOIDED {
            assert!(!called.contains(&(avoided as u32)), "{name}: {avoided:?}");
        }
    }
}

#[test]
fn no_program_gives_verdicts_on_received_bytes() {
    for (name, object) in objects() {
        assert!(!object.programs.is_empty(), "{name}");
        for (program, parsed) in &object.programs {
            assert!(
                !matches!(parsed.section, ProgramSection::SkSkbStream { .. }),
                "{name}: {program}"
            );
        }
    }
}
