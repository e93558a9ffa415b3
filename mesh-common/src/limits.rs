//! The size of every map, each with its reason.

/// Workloads on one node. Kubernetes recommends at most 110 pods per node and clouds go up to 500; 4,096 leaves room for
/// handles that are still cooling down. 24 B each.
pub const WORKLOADS: usize = 4096;

/// Addresses of workloads: two families and a few extra for each workload. 144 B each, allocated as used.
pub const ADDRESSES: usize = 4 * WORKLOADS;

/// Sockets in the socket map: two for each redirected connection. 1.5 KB each all told, allocated as used.
pub const SOCKETS: usize = 65_536;

/// Connections whose two ends talk to each other: half the sockets. 128 B each, allocated at once (4 MB), and 144 B each for
/// the way to it, allocated as used.
pub const FLOWS: usize = SOCKETS / 2;

/// Rows of pair counters. At 480 B for each CPU, 8,192 rows are 4 MB a CPU, allocated as used.
pub const PAIRS: usize = 8192;

/// Bytes of the ring of flow records. At 264 B a record (8 of them the ring's own) it holds 3,900, while the agent drains it
/// four times a second and sooner when a quarter is full: 15,000 flows/s and more. The agent maps it twice in a row, as ring buffers
/// are, so twice this counts as its memory.
pub const RECORDS_BYTES: usize = 1024 * 1024;
