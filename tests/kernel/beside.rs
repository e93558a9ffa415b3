//! Another tool's program on the same hook and the same cgroup goes on working, and ours with it.

use std::fs::File;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};

use aya_obj::generated::bpf_attach_type::BPF_CGROUP_INET4_CONNECT;
use harness::remote::protocol::Kind;
use mesh_common::service::TCP;

use crate::ground::Ground;
use crate::services::{VIP, client, listener, peer};
use crate::sys;
use crate::tables::Tables;

/// The port that the other program denies.
const DENIED: u16 = 7777;

/// Offset of `user_port` in `struct bpf_sock_addr`.
const USER_PORT: i16 = 24;

/// Loads a program that denies connects to [`DENIED`] and lets others pass.
fn other_program() -> OwnedFd {
    // Opcodes of include/uapi/linux/bpf.h: load a word, move, compare, exit.
    let insn = |opcode: u8, registers: u8, offset: i16, number: i32| {
        let mut bytes = [opcode, registers, 0, 0, 0, 0, 0, 0];
        bytes[2..4].copy_from_slice(&offset.to_ne_bytes());
        bytes[4..8].copy_from_slice(&number.to_ne_bytes());
        bytes
    };
    let code = [
        insn(0x61, 0x12, USER_PORT, 0),
        insn(0xb7, 0x00, 0, 1),
        insn(0x55, 0x02, 1, i32::from(DENIED.to_be())),
        insn(0xb7, 0x00, 0, 0),
        insn(0x95, 0x00, 0, 0),
    ];
    sys::load_connect4(&code.concat()).unwrap()
}

#[test]
fn another_program_on_the_same_hook_works_on_before_and_after_ours() {
    let Some(mut ground) = Ground::new() else {
        return;
    };
    let mut tables = Tables::new(&ground);
    let listener = listener(&mut ground.server, ground.pods[1].v4().into());
    tables.serve_at((VIP, 80).into(), TCP, listener.local_addr().unwrap());
    tables.serve_at((VIP, DENIED).into(), TCP, listener.local_addr().unwrap());
    let reached = |ground: &mut Ground, port: u16| {
        let socket = client(ground, Kind::Tcp, false);
        let to = SocketAddr::from((VIP, port));
        let outcome = socket.connect(&to.into()).map(|()| peer(&socket));
        outcome.map_err(|error| error.raw_os_error().unwrap())
    };
    let vip = |port| Ok(SocketAddr::from((VIP, port)));
    assert_eq!(reached(&mut ground, DENIED), vip(DENIED));
    let program = other_program();
    // On the client's own cgroup, below ours: it runs first, and sees what was dialled.
    let cgroup = File::open(ground.pods[0].cgroup()).unwrap();
    let link = sys::attach(program.as_fd(), cgroup.as_fd(), BPF_CGROUP_INET4_CONNECT).unwrap();
    assert_eq!(reached(&mut ground, DENIED), Err(libc::EPERM));
    assert_eq!(reached(&mut ground, 80), vip(80));
    drop(link);
    assert_eq!(reached(&mut ground, DENIED), vip(DENIED));
    // On the very same cgroup, after ours: it sees the backend's port.
    let cgroup = File::open(ground.node.cgroup().unwrap()).unwrap();
    let _link = sys::attach(program.as_fd(), cgroup.as_fd(), BPF_CGROUP_INET4_CONNECT).unwrap();
    assert_eq!(reached(&mut ground, DENIED), vip(DENIED));
    let backend = SocketAddr::from((ground.pods[1].v4(), DENIED));
    tables.serve_at((VIP, 81).into(), TCP, backend);
    assert_eq!(reached(&mut ground, 81), Err(libc::EPERM));
    // Ours is replaced in place by another agent's, and all stays as it is.
    ground.restart();
    tables.control(&ground, |control| control.agent_tgid = 0);
    assert_eq!(reached(&mut ground, 80), vip(80));
    assert_eq!(reached(&mut ground, 81), Err(libc::EPERM));
}
