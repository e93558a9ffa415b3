//! Every limit on what the configuration may be, each with its reason.
#![forbid(unsafe_code)]

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

/// Workloads on one node: what the kernel's maps hold.
pub const WORKLOADS: usize = mesh_common::limits::WORKLOADS;

/// Problems reported from one load. Beyond it a reader gains nothing, and a bad file could fill the memory.
pub const PROBLEMS: usize = 1000;
