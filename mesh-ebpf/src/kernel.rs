//! Fields of the kernel's own structures.
//!
//! Their places differ between kernels, and the compiler cannot write CO-RE relocations from Rust; so the agent reads them
//! from the kernel's BTF and sets them as read-only globals before loading. The verifier checks each access against BTF.

use core::ffi::c_void;

use aya_ebpf::Global;
use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::helpers::bpf_probe_read_kernel;
use aya_ebpf::helpers::generated::{bpf_sk_storage_get, bpf_skc_to_tcp_sock};
use mesh_common::addr::Addr;
use mesh_common::sock::SockState;

use crate::maps::SOCK_STATES;

macro_rules! offsets {
    ($($(#[$doc:meta])* $name:ident;)*) => {
        $($(#[$doc])* #[unsafe(no_mangle)] pub(crate) static $name: Global<u32> = Global::new(0);)*
    };
}

offsets! {
    /// `tcp_sock.write_seq`: one past the last byte that was ever given to TCP.
    TCP_SOCK_WRITE_SEQ;
    /// `tcp_sock.copied_seq`: the first byte that the owner has not yet read from TCP.
    TCP_SOCK_COPIED_SEQ;
    /// `tcp_sock.srtt_us`: smoothed round-trip time, in eighths of a microsecond.
    TCP_SOCK_SRTT_US;
    /// `tcp_sock.total_retrans`.
    TCP_SOCK_TOTAL_RETRANS;
    /// `tcp_sock.bytes_sent`: payload, also that sent again.
    TCP_SOCK_BYTES_SENT;
    /// `tcp_sock.bytes_retrans`: payload sent again.
    TCP_SOCK_BYTES_RETRANS;
    /// `tcp_sock.bytes_received`: payload received in order.
    TCP_SOCK_BYTES_RECEIVED;
    /// `sock.sk_err`.
    SOCK_SK_ERR;
    /// `sock.sk_socket`: null once no descriptor is left, or before `accept`.
    SOCK_SK_SOCKET;
    /// `sock.sk_rcvtimeo`: `SO_RCVTIMEO` in jiffies.
    SOCK_SK_RCVTIMEO;
    /// `sock_common.skc_state`, which a `sock` begins with.
    SOCK_COMMON_SKC_STATE;
    /// `sock_common.skc_bound_dev_if`.
    SOCK_COMMON_SKC_BOUND_DEV_IF;
    /// `sock_common.skc_net`.
    SOCK_COMMON_SKC_NET;
    /// `sock_common.skc_num`: the own port, in the machine's order.
    SOCK_COMMON_SKC_NUM;
    /// `sock_common.skc_rcv_saddr`: the own IPv4 address.
    SOCK_COMMON_SKC_RCV_SADDR;
    /// `sock_common.skc_v6_rcv_saddr`: the own IPv6 address.
    SOCK_COMMON_SKC_V6_RCV_SADDR;
    /// `sock.sk_protocol`.
    SOCK_SK_PROTOCOL;
    /// `socket.sk`.
    SOCKET_SK;
    /// `task_struct.nsproxy`.
    TASK_STRUCT_NSPROXY;
    /// `task_struct.files`.
    TASK_STRUCT_FILES;
    /// `nsproxy.net_ns`.
    NSPROXY_NET_NS;
    /// `net.net_cookie`.
    NET_NET_COOKIE;
    /// `files_struct.fdt`.
    FILES_STRUCT_FDT;
    /// `fdtable.fd`.
    FDTABLE_FD;
    /// `fdtable.max_fds`.
    FDTABLE_MAX_FDS;
    /// `file.f_inode`.
    FILE_F_INODE;
    /// `file.private_data`.
    FILE_PRIVATE_DATA;
    /// `inode.i_mode`.
    INODE_I_MODE;
}

// `enum tcp_state`, include/net/tcp_states.h.
const TCP_ESTABLISHED: u8 = 1;
const TCP_CLOSE_WAIT: u8 = 8;

/// A `tcp_sock` that the verifier trusts.
#[derive(Clone, Copy)]
pub(crate) struct TcpSock(*const u8);

impl TcpSock {
    /// Returns the TCP socket behind `sk` (a `bpf_sock` or `sock` pointer of the context), or `None` for other protocols.
    #[inline(always)]
    pub(crate) fn of(sk: *mut c_void) -> Option<Self> {
        // SAFETY: the helper takes any socket pointer that the verifier knows; it returns null for other protocols.
        let tcp = unsafe { bpf_skc_to_tcp_sock(sk) };
        if tcp.is_null() {
            None
        } else {
            Some(Self(tcp.cast_const().cast()))
        }
    }

    #[inline(always)]
    fn word(self, offset: &Global<u32>) -> u32 {
        // SAFETY: the offset is that of a 32-bit field in this kernel's BTF, which the verifier checks again.
        let field = unsafe { self.0.add(offset.load() as usize) };
        // SAFETY: as above; a fault is turned into zero by the kernel.
        unsafe { field.cast::<u32>().read_volatile() }
    }

    #[inline(always)]
    fn long(self, offset: &Global<u32>) -> u64 {
        // SAFETY: the offset is that of a 64-bit field in this kernel's BTF, which the verifier checks again.
        let field = unsafe { self.0.add(offset.load() as usize) };
        // SAFETY: as above; a fault is turned into zero by the kernel.
        unsafe { field.cast::<u64>().read_volatile() }
    }

    /// Payload sent, each byte once.
    #[inline(always)]
    pub(crate) fn bytes_sent(self) -> u64 {
        self.long(&TCP_SOCK_BYTES_SENT) - self.long(&TCP_SOCK_BYTES_RETRANS)
    }

    /// Payload received, each byte once.
    #[inline(always)]
    pub(crate) fn bytes_received(self) -> u64 {
        self.long(&TCP_SOCK_BYTES_RECEIVED)
    }

    /// One past the last byte that was ever given to TCP.
    #[inline(always)]
    pub(crate) fn write_seq(self) -> u32 {
        self.word(&TCP_SOCK_WRITE_SEQ)
    }

    /// The first byte that the owner has not yet read from TCP.
    #[inline(always)]
    pub(crate) fn copied_seq(self) -> u32 {
        self.word(&TCP_SOCK_COPIED_SEQ)
    }

    /// Smoothed round-trip time.
    #[inline(always)]
    pub(crate) fn srtt_us(self) -> u32 {
        self.word(&TCP_SOCK_SRTT_US) >> 3
    }

    /// Segments sent again.
    #[inline(always)]
    pub(crate) fn retransmits(self) -> u32 {
        self.word(&TCP_SOCK_TOTAL_RETRANS)
    }

    /// The socket's pending error number; 0 for none.
    #[inline(always)]
    pub(crate) fn error(self) -> u32 {
        self.word(&SOCK_SK_ERR)
    }

    /// Returns whether a blocking receive call waits without end: `SO_RCVTIMEO` is not set.
    #[inline(always)]
    pub(crate) fn waits_for_ever(self) -> bool {
        // `MAX_SCHEDULE_TIMEOUT`.
        self.long(&SOCK_SK_RCVTIMEO) == i64::MAX as u64
    }

    /// Returns whether the owner has not closed its sending direction.
    #[inline(always)]
    pub(crate) fn may_send(self) -> bool {
        // SAFETY: the offset is that of an 8-bit field in this kernel's BTF, which the verifier checks again.
        let field = unsafe { self.0.add(SOCK_COMMON_SKC_STATE.load() as usize) };
        // SAFETY: as above.
        let state = unsafe { field.read_volatile() };
        matches!(state, TCP_ESTABLISHED | TCP_CLOSE_WAIT)
    }

    /// Returns whether a descriptor still refers to the socket.
    #[inline(always)]
    pub(crate) fn has_owner(self) -> bool {
        // SAFETY: the offset is that of a pointer field in this kernel's BTF, which the verifier checks again.
        let field = unsafe { self.0.add(SOCK_SK_SOCKET.load() as usize) };
        // SAFETY: as above; only compared with null.
        let socket = unsafe { field.cast::<*const c_void>().read_volatile() };
        !socket.is_null()
    }
}

/// Returns the state of the socket `sk`, or `None` when it is not followed.
#[inline(always)]
pub(crate) fn state(sk: *mut c_void) -> Option<&'static mut SockState> {
    storage(sk, 0)
}

/// Returns the state of the socket `sk`, made of zeros if it had none; `None` when memory is short.
#[inline(always)]
pub(crate) fn state_or_new(sk: *mut c_void) -> Option<&'static mut SockState> {
    storage(
        sk,
        u64::from(aya_ebpf::bindings::BPF_SK_STORAGE_GET_F_CREATE),
    )
}

#[inline(always)]
fn storage(sk: *mut c_void, flags: u64) -> Option<&'static mut SockState> {
    let map = core::ptr::from_ref(&SOCK_STATES).cast_mut().cast();
    // SAFETY: `sk` comes from the context; a null initial value means zeros.
    let state = unsafe { bpf_sk_storage_get(map, sk, core::ptr::null_mut(), flags) };
    // SAFETY: not null, so it is this socket's value, which lives as long as the program runs. Other programs may write
    // its counters at the same time, only by atomic addition.
    unsafe { state.cast::<SockState>().as_mut() }
}

/// Reads a field of a kernel structure that the verifier does not know as such; `None` when it is not readable.
#[inline(always)]
pub(crate) fn field<T>(base: *const c_void, offset: &Global<u32>) -> Option<T> {
    if base.is_null() {
        return None;
    }
    let at = base
        .cast::<u8>()
        .wrapping_add(offset.load() as usize)
        .cast::<T>();
    // SAFETY: the helper checks the address and fails instead of faulting.
    unsafe { bpf_probe_read_kernel(at) }.ok()
}

/// Returns the context's socket, or `None` when there is none.
#[inline(always)]
pub(crate) fn full(sk: *mut bpf_sock) -> Option<*mut c_void> {
    if sk.is_null() { None } else { Some(sk.cast()) }
}

/// Reads an IPv6 address from the context, word by word: "invalid bpf_context access off=.. size=8" otherwise.
#[inline(always)]
pub(crate) fn addr6(words: *const [u32; 4]) -> Addr {
    let mut copy = [0; 4];
    let mut i = 0;
    while i < 4 {
        // SAFETY: inside the context's array.
        let word = unsafe { words.cast::<u32>().add(i) };
        // SAFETY: as above.
        copy[i] = unsafe { word.read_volatile() };
        i += 1;
    }
    // SAFETY: any bytes are an address.
    Addr(unsafe { core::mem::transmute::<[u32; 4], [u8; 16]>(copy) })
}
