//! Every limit on what the configuration may be, each with its reason.
#![forbid(unsafe_code)]

use std::time::Duration;

/// Bytes of one file: four times what etcd and a ConfigMap take at most, and some 10,000 endpoints as an API server prints them.
pub const FILE_BYTES: usize = 4 * 1024 * 1024;

/// Files of one directory: one for each of 10,000 services, their slices, and 5,000 policies still fits.
pub const FILES: usize = 32_768;

/// Documents of one file. A document needs 80 bytes to say anything, so a file of 1 MiB holds 13,000.
pub const DOCUMENTS: usize = 10_000;

/// YAML nodes of one file, aliases expanded. A real pod has some 500, an endpoint some 30: this is 800 pods, or 13,000
/// endpoints, more than [`FILE_BYTES`] holds without aliases. It bounds memory to some 40 MB while a document is read, also for
/// an alias bomb.
pub const NODES: usize = 400_000;

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

/// Routes of each kind: 10,000 of one service are measured to be selected from in time, and room.
pub const ROUTES: usize = 16_384;

/// Rules of one route (Gateway API's limit).
pub const RULES_OF_ROUTE: usize = 16;

/// Matches of one rule (Gateway API's limit).
pub const MATCHES: usize = 64;

/// Weight of a backend reference (Gateway API's limit).
pub const BACKEND_WEIGHT: u32 = 1_000_000;

/// Objects that one policy names, or references that a route has to parents (Gateway API's limits are 16 and 32).
pub const REFERENCES: usize = 32;

/// Bytes of the certificates that one policy trusts: some hundred authorities.
pub const CERTIFICATES_BYTES: usize = 256 * 1024;

/// Workloads on one node: what the kernel's maps hold.
pub const WORKLOADS: usize = mesh_common::limits::WORKLOADS;

/// Containers of one pod whose IDs are kept: one that is there is enough.
pub const CONTAINERS: usize = 16;

/// Bytes of a container's ID: runtimes give 64.
pub const CONTAINER_ID_BYTES: usize = 128;

/// Weight of an endpoint: any ratio that a person would write, and sums of 131,072 of them stay far below 2^64.
pub const WEIGHT: u32 = 65_535;

/// Priority of an endpoint: as many as Envoy knows.
pub const PRIORITY: u32 = 127;

/// Time that an annotation may give: nobody waits for longer, and no sum of some of them overflows.
pub const DURATION: Duration = Duration::from_secs(24 * 60 * 60);

/// Time after which a session is over: four numbers of five digits, in hours, are all that Gateway API's durations can say.
pub const SESSION: Duration = Duration::from_secs(4 * 99_999 * 60 * 60);

/// Checks in a row that turn an endpoint's health.
pub const CHECKS: u32 = 100;

/// Problems reported from one load. Beyond it a reader gains nothing, and a bad file could fill the memory.
pub const PROBLEMS: usize = 1000;
