//! Finds workloads on this machine: from what the configuration says of each to the cookie of its network namespace.
//!
//! [`registry::Registry`] follows all workloads as they come and go. What leads to a namespace is decided in `find`, without any
//! I/O of its own: it sees the machine through [`machine::Machine`], which [`linux::Linux`] is, and a small fake in tests.
//!
//! **Invariant:** nothing here keeps a descriptor of a namespace open, nor a thread inside of one for longer than a small thing
//! takes: either would keep the namespace alive after its workload is gone.

// Not `forbid`, for `netns_cookie` alone: a getter of one socket option that no safe crate has.
#![deny(unsafe_code)]

pub mod carried;
pub mod datagrams;
#[cfg(test)]
mod fake;
mod find;
pub mod inside;
mod kubepods;
pub mod linux;
pub mod machine;
mod netlink;
mod netns_cookie;
pub mod opened;
pub mod registry;
mod released;
pub mod reset;
mod visit;

use std::sync::Arc;

use crate::model::enrolment::Absent;
use crate::model::snapshot::Snapshot;
use crate::model::workload::Workload;

/// Looks for workloads once, for `node-agent check`. `node` is the name of this one.
///
/// # Errors
///
/// Those of [`linux::Linux::new`].
pub fn look_once(workloads: &[Arc<Workload>], node: &str) -> std::io::Result<Vec<Located>> {
    let mut registry = registry::Registry::new(linux::Linux::new(None)?, node);
    registry.refresh(&Snapshot {
        generation: 1,
        workloads: workloads.to_vec(),
        errors: Vec::new(),
        ..Snapshot::default()
    });
    Ok(registry.located().to_vec())
}

/// Returns the addresses of the agent's own network namespace, of every interface.
///
/// # Errors
///
/// Those of rtnetlink.
pub fn own_addresses() -> std::io::Result<Vec<std::net::IpAddr>> {
    netlink::addresses()
}

/// A workload, and whether it was found on this machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Located {
    /// The workload.
    pub workload: Arc<Workload>,
    /// Whether it was found.
    pub outcome: Outcome,
    /// What is odd about a workload that was found, in words: such as an address that its namespace does not have.
    pub note: Option<String>,
    /// The cgroup of one that was found, where the agent's programs do not see what goes on in it.
    pub outside: Option<std::path::PathBuf>,
}

/// Whether a workload was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It was, and no other workload has its network namespace.
    Found {
        /// Cookie of its network namespace (`SO_NETNS_COOKIE`): never used again while the machine is up.
        netns_cookie: u64,
        /// Inode number of its network namespace, as `ls -l /proc/PID/ns/net` shows it. May be used again.
        netns_inode: u64,
    },
    /// It was not, or what was found cannot be used.
    NotFound {
        /// Why.
        reason: Absent,
        /// In words.
        why: String,
    },
    /// It is on this node but not in the mesh, so it was not looked for.
    NotEnrolled,
}
