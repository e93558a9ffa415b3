//! Whether a workload may dial.

use mesh_common::addr::{Addr, PortBe};
use mesh_common::workload::NetnsEntry;

/// Returns whether the workload `_client` may dial this address (the backend's, where it is a service's), port and protocol.
#[inline(always)]
pub(crate) fn allowed(_client: &NetnsEntry, _address: Addr, _port: PortBe, _protocol: u8) -> bool {
    true
}
