//! Every limit on what the configuration may be, each with its reason.
#![forbid(unsafe_code)]

use std::time::Duration;

/// Bytes of one file: what etcd and a ConfigMap take at most, and some 130 pods as an API server prints them.
pub const FILE_BYTES: usize = 1024 * 1024;

/// Files of one directory. With [`FILE_BYTES`] it bounds one load; one file for each workload still fits.
pub const FILES: usize = 4096;

/// Documents of one file. A document needs 80 bytes to say anything, so a file of [`FILE_BYTES`] holds 13,000.
pub const DOCUMENTS: usize = 10_000;

/// YAML nodes of one file, aliases expanded. A real pod has some 500, so this is 400 pods: more than [`FILE_BYTES`] holds
/// without aliases. It bounds memory to some 20 MB while a file is read, also for an alias bomb.
pub const NODES: usize = 200_000;

/// Nesting of one document. `managedFields` of a real pod nest 14 deep.
pub const DEPTH: usize = 48;

/// Bytes of a label or annotation value that the agent reads, as `/proc` and file systems take paths (`PATH_MAX`).
pub const PATH_BYTES: usize = 4095;

/// Addresses of one workload: a fourth of what the kernel's address map has for each workload on average, so that the map
/// can never be too small for a valid configuration.
pub const ADDRESSES: usize = mesh_common::limits::ADDRESSES / mesh_common::limits::WORKLOADS;

/// Pods of the mesh: the endpoints that the kernel's maps hold, on any node.
pub const PODS: usize = mesh_common::limits::BACKENDS;

/// Namespaces: as many as Kubernetes is tested with (10,000), and room.
pub const NAMESPACES: usize = 16_384;

/// Nodes of the mesh: Kubernetes supports 5,000.
pub const NODES_OF_MESH: usize = 8_192;

/// Services: half of the service ports that the kernel's maps hold, since most have a port or two. Kubernetes is tested with 10,000.
pub const SERVICES: usize = mesh_common::limits::SERVICES / 2;

/// Slices: one or two families for each service, and more for those with many endpoints.
pub const ENDPOINT_SLICES: usize = 4 * SERVICES;

/// Policies of each kind: as many as there are rules on a node, for 5,000 of which it is made, and room.
pub const POLICIES: usize = mesh_common::limits::RULES;

/// Workloads on one node: what the kernel's maps hold.
pub const WORKLOADS: usize = mesh_common::limits::WORKLOADS;

/// Weight of an endpoint: any ratio that a person would write, and sums of 131,072 of them stay far below 2^64.
pub const WEIGHT: u32 = 65_535;

/// Priority of an endpoint: as many as Envoy knows.
pub const PRIORITY: u32 = 127;

/// Time that an annotation may give: nobody waits for longer, and no sum of some of them overflows.
pub const DURATION: Duration = Duration::from_secs(24 * 60 * 60);

/// Checks in a row that turn an endpoint's health.
pub const CHECKS: u32 = 100;

/// Problems reported from one load. Beyond it a reader gains nothing, and a bad file could fill the memory.
pub const PROBLEMS: usize = 1000;
