//! Every limit on what may be registered, each with its reason.

use std::time::Duration;

/// Registered services: as many as a node of [`INSTANCES`] processes could want, and a hundredth of what the range of addresses holds.
pub const SERVICES: usize = 1024;

/// Instances of all services: one for each workload that a node may have, and each some 500 B here and in the state file.
pub const INSTANCES: usize = mesh_common::limits::WORKLOADS;

/// Ports of one instance; programs listen on one to three.
pub const PORTS: usize = 16;

/// Labels of one instance.
pub const LABELS: usize = 32;

/// Bytes of an instance's id: a UUID, a pod's name or a host name with a port fit.
pub const ID_BYTES: usize = 128;

/// Bytes of a label's key, as Kubernetes': a DNS name, `/` and 63 bytes.
pub const LABEL_KEY_BYTES: usize = 317;

/// Bytes of a label's value, a zone or a region, as Kubernetes'.
pub const LABEL_VALUE_BYTES: usize = 63;

/// Bytes of an HTTP check's path, or a gRPC check's service.
pub const CHECK_BYTES: usize = 1024;

/// Bytes of a registration: one with everything at its limit, as JSON.
pub const BODY_BYTES: usize = 32 * 1024;

/// Time that an instance lives without a sign of life, where it does not say: two or three heartbeats of ten seconds may be lost.
pub const TTL_SECONDS_DEFAULT: u32 = 30;

/// An hour: what a nightly job needs, and what a forgotten instance may cost at most, times [`REMOVED_AFTER`].
pub const TTL_SECONDS_MAX: u32 = 3600;

/// An instance whose time ran out is removed after this many of its TTLs: a host that reboots comes back within.
pub const REMOVED_AFTER: u32 = 10;

/// How long an address is not given to another service after its own is gone: programs keep what they looked up for longer than
/// any TTL of ours, most of them for less than an hour.
pub const REST: Duration = Duration::from_secs(3600);

/// Addresses that rest at once; beyond it new services wait. 100 B each.
pub const RESTING: usize = 16_384;

/// Addresses of one family that are given out, however large the range is: what hashing spreads 1,024 services and what rests
/// over with few collisions.
pub const ADDRESSES: u32 = 65_536;

/// Bytes of a state file that is read: everything above at its limit fits many times.
pub const STATE_BYTES: u64 = 256 * 1024 * 1024;
