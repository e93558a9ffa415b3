//! The capabilities that the agent needs (capabilities(7)).

use anyhow::{Context as _, ensure};
use rustix::thread::{CapabilitySet, capabilities};

use crate::model::observed::{Level, Missing};

/// What is lost without a capability, and how far redirect can then be trusted.
const NEEDS: &[(CapabilitySet, &str, &str, Level)] = &[
    (
        CapabilitySet::NET_ADMIN,
        "CAP_NET_ADMIN",
        "the kernel's redirect cannot be probed: no redirect",
        Level::Off,
    ),
    (
        CapabilitySet::SYS_PTRACE,
        "CAP_SYS_PTRACE",
        "workloads that are found by their processes are not found where these run as other users",
        Level::Applications,
    ),
];

/// Returns what is lost for want of capabilities, each with the level that is left.
///
/// # Errors
///
/// Where nothing can be done at all.
pub(super) fn check() -> anyhow::Result<Vec<(Missing, Level)>> {
    let own = capabilities(None).context("failed to read the agent's own capabilities")?;
    let own = own.effective;
    // Kernels let CAP_SYS_ADMIN stand for CAP_BPF and CAP_PERFMON (5.8).
    ensure!(
        own.contains(CapabilitySet::SYS_ADMIN),
        "the agent lacks CAP_SYS_ADMIN, without which it can neither enter the workloads' namespaces nor attach anything; \
         run it as root, or as the unit file in deploy/systemd does"
    );
    let lacking = NEEDS.iter().filter(|(one, ..)| !own.contains(*one));
    let missing = lacking.map(|(_, name, lost, level)| {
        let missing = Missing {
            feature: (*name).to_owned(),
            lost: (*lost).to_owned(),
        };
        (missing, *level)
    });
    Ok(missing.collect())
}
