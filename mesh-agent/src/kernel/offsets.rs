//! Where the kernel's structures have the fields that the programs read, from the running kernel's BTF.

use crate::kernel::btf::Btf;

/// Each field: the global in the kernel object, the structure, the field.
const FIELDS: &[(&str, &str, &str)] = &[
    ("TCP_SOCK_WRITE_SEQ", "tcp_sock", "write_seq"),
    ("TCP_SOCK_COPIED_SEQ", "tcp_sock", "copied_seq"),
    ("TCP_SOCK_SRTT_US", "tcp_sock", "srtt_us"),
    ("TCP_SOCK_TOTAL_RETRANS", "tcp_sock", "total_retrans"),
    ("TCP_SOCK_BYTES_SENT", "tcp_sock", "bytes_sent"),
    ("TCP_SOCK_BYTES_RETRANS", "tcp_sock", "bytes_retrans"),
    ("TCP_SOCK_BYTES_RECEIVED", "tcp_sock", "bytes_received"),
    ("SOCK_SK_ERR", "sock", "sk_err"),
    ("SOCK_SK_SOCKET", "sock", "sk_socket"),
    ("SOCK_SK_RCVTIMEO", "sock", "sk_rcvtimeo"),
    ("SOCK_COMMON_SKC_STATE", "sock_common", "skc_state"),
    (
        "SOCK_COMMON_SKC_BOUND_DEV_IF",
        "sock_common",
        "skc_bound_dev_if",
    ),
    ("SOCK_COMMON_SKC_NET", "sock_common", "skc_net"),
    ("SOCK_COMMON_SKC_NUM", "sock_common", "skc_num"),
    ("SOCK_COMMON_SKC_RCV_SADDR", "sock_common", "skc_rcv_saddr"),
    (
        "SOCK_COMMON_SKC_V6_RCV_SADDR",
        "sock_common",
        "skc_v6_rcv_saddr",
    ),
    ("SOCK_SK_PROTOCOL", "sock", "sk_protocol"),
    ("SOCKET_SK", "socket", "sk"),
    ("TASK_STRUCT_NSPROXY", "task_struct", "nsproxy"),
    ("TASK_STRUCT_FILES", "task_struct", "files"),
    ("NSPROXY_NET_NS", "nsproxy", "net_ns"),
    ("NET_NET_COOKIE", "net", "net_cookie"),
    ("FILES_STRUCT_FDT", "files_struct", "fdt"),
    ("FDTABLE_FD", "fdtable", "fd"),
    ("FDTABLE_MAX_FDS", "fdtable", "max_fds"),
    ("FILE_F_INODE", "file", "f_inode"),
    ("FILE_PRIVATE_DATA", "file", "private_data"),
    ("INODE_I_MODE", "inode", "i_mode"),
];

/// Offsets of fields, by the name of the global that takes each.
pub(crate) type Offsets = Vec<(&'static str, u32)>;

/// Why the offsets could not be found.
#[derive(Debug, thiserror::Error)]
pub enum OffsetError {
    /// The kernel has no BTF, or it cannot be read.
    #[error("failed to read the kernel's type information (CONFIG_DEBUG_INFO_BTF) at {path}")]
    Btf {
        /// Where it should be.
        path: &'static str,
        /// Why; a file that is not understood is invalid data.
        source: std::io::Error,
    },
    /// A structure has no such field on this kernel.
    #[error("this kernel's `struct {structure}` has no field `{field}`")]
    NoField {
        /// Structure name.
        structure: &'static str,
        /// Field name.
        field: &'static str,
    },
}

const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// Returns the offset of every field in bytes.
///
/// # Errors
///
/// Without BTF, or where a field is missing: then nothing can be loaded.
pub(crate) fn from_kernel() -> Result<Offsets, OffsetError> {
    let failed = |source| OffsetError::Btf {
        path: VMLINUX,
        source,
    };
    let bytes = std::fs::read(VMLINUX).map_err(failed)?;
    let btf = Btf::parse(&bytes).ok_or_else(|| failed(std::io::ErrorKind::InvalidData.into()))?;
    let find = |(global, structure, field): &(&'static str, &'static str, &'static str)| {
        let offset = btf.field_offset(structure, field);
        let offset = offset.ok_or(OffsetError::NoField { structure, field })?;
        Ok((*global, offset))
    };
    FIELDS.iter().map(find).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_found_on_this_kernel() {
        if !std::path::Path::new(VMLINUX).exists() {
            eprintln!("SKIPPED: this kernel has no BTF");
            return;
        }
        let offsets = from_kernel().expect("all fields");
        assert_eq!(offsets.len(), FIELDS.len());
        let copied = offsets
            .iter()
            .find(|(name, _)| *name == "TCP_SOCK_COPIED_SEQ")
            .expect("listed")
            .1;
        assert!(copied > 0 && copied < 4096);
    }
}
