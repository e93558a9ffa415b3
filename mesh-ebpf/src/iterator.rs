//! What the kernel hands to programs that pass over sockets.

use core::ffi::c_void;

use aya_ebpf::bindings::seq_file;

/// The context of an `iter/bpf_sk_storage_map` program (`struct bpf_iter__bpf_sk_storage_map`).
#[repr(C)]
pub(crate) struct StorageIter {
    meta: *const IterMeta,
    _map: *mut c_void,
    sk: *mut c_void,
    _value: *mut c_void,
}

impl StorageIter {
    /// Returns the socket; null when the iterator is through.
    #[inline(always)]
    pub(crate) fn socket(&self) -> *mut c_void {
        self.sk
    }

    /// Returns where the program's output goes.
    #[inline(always)]
    pub(crate) fn sequence(&self) -> *mut seq_file {
        sequence(self.meta)
    }
}

/// `struct bpf_iter_meta`.
#[repr(C)]
struct IterMeta {
    seq: *mut seq_file,
}

#[inline(always)]
fn sequence(meta: *const IterMeta) -> *mut seq_file {
    // SAFETY: of an iterator's own context.
    unsafe { (*meta).seq }
}

/// The context of an `iter/tcp` program (`struct bpf_iter__tcp`).
#[repr(C)]
pub(crate) struct TcpIter {
    meta: *const IterMeta,
    sk: *mut c_void,
}

impl TcpIter {
    /// Returns the socket, whose lock the kernel holds; null when the iterator is through.
    #[inline(always)]
    pub(crate) fn socket(&self) -> *mut c_void {
        self.sk
    }

    /// Returns where the program's output goes.
    #[inline(always)]
    pub(crate) fn sequence(&self) -> *mut seq_file {
        sequence(self.meta)
    }
}
