//! The size of every map, each with its reason. What they take is measured by `cargo xtask bench scale`: maps that are allocated as
//! used take 16 B for each entry that they could hold from the start, and the bytes given here for each that they do.

/// Workloads on one node. Kubernetes recommends at most 110 pods per node and clouds go up to 500; 4,096 leaves room for
/// handles that are still cooling down. 24 B each, and 16 B for their denials.
pub const WORKLOADS: usize = 4096;

/// Addresses of workloads: two families and a few extra for each workload. 144 B each, allocated as used.
pub const ADDRESSES: usize = 4 * WORKLOADS;

/// Ports that workloads are known to listen on, or to have listened on: 4 for each workload. 80 B each, allocated as used.
pub const LISTENERS: usize = 4 * WORKLOADS;

/// Sockets in the socket map: two for each redirected connection. 1.5 KB each all told, allocated as used.
pub const SOCKETS: usize = 65_536;

/// Connections whose two ends talk to each other: half the sockets. 128 B each, allocated at once (4 MB), and 144 B each for
/// the way to it, allocated as used.
pub const FLOWS: usize = SOCKETS / 2;

/// Rows of pair counters. At 480 B for each CPU, 8,192 rows are 4 MB a CPU, allocated as used.
pub const PAIRS: usize = 8192;

/// Pairs whose flows' lengths are remembered: as many as have counters. 88 B each, allocated at once (720 kB).
pub const HISTORIES: usize = PAIRS;

/// Bytes of the ring of flow records. At 264 B a record (8 of them the ring's own) it holds 3,900, while the agent drains it
/// four times a second and sooner when a quarter is full: 15,000 flows/s and more. The agent maps it twice in a row, as ring buffers
/// are, so twice this counts as its memory.
pub const RECORDS_BYTES: usize = 1024 * 1024;

/// Bytes of the ring of network namespaces in which a reader is to be woken: a page holds 256, of which one for each namespace is enough.
pub const WAKES_BYTES: usize = 4096;

/// Frontends: an address of each family and a node port for each of 10,000 services with two ports, and room. 88 B each,
/// allocated as used.
pub const FRONTENDS: usize = 65_536;

/// Service ports: each has up to two addresses and a node port as its frontends. 64 B each, allocated at once (2 MB).
pub const SERVICES: usize = 32_768;

/// Endpoints of all services: 100,000, and room for those that come while others still go. 64 B each, allocated at once (8 MB).
pub const BACKENDS: usize = 131_072;

/// Chunks of tables of backends: one for each of 131,072 backends, twice while a table is replaced, and 24 Maglev tables of the
/// largest size or 10,000 of the smallest. 16 B each, allocated at once (16 MB).
pub const CHUNKS: usize = 1_048_576;

/// Clients that stick to a backend. Least recently used make room: they are balanced anew. 112 B each, allocated at once (1.8 MB).
pub const AFFINITIES: usize = 16_384;

/// Namespaces whose clients' connections to a service port go to the agent: consumer routes of 1,000 service ports in 16
/// namespaces each. 80 B each, allocated as used.
pub const CAPTURES: usize = 16_384;

/// Connections of workloads that go through the agent at a time, and what is handed over of those that it has not accepted yet:
/// each takes two of the agent's descriptors and more. 152 B each until it is accepted, allocated as used.
pub const CAPTURED: usize = 65_536;

/// Those of them whose client's socket has no state of its own. 64 B each, half a megabyte together, a power of two; whoever finds no
/// place gets a state. Ones that are open for a hundredth of a second each, at 100,000 a second, take an eighth.
pub const BRIEFS: usize = 8_192;

/// Sockets between their `connect` and their SYN that are to have no state: a few for each CPU. 40 B each, a power of two; whoever finds
/// no place gets a state.
pub const BRIEF_DIALS: usize = 1_024;

/// Prefixes that lead to classes of peers, of two tables while one replaces the other: each has room for 60,000 pods that policies
/// of this node tell from everybody else, and 5,000 address blocks. 88 B each, allocated as used.
pub const PREFIXES: usize = 131_072;

/// Verdict lists: 110 workloads with 300 classes of peers, two directions and two protocols, of two tables while one replaces the
/// other. 96 B each, allocated as used.
pub const VERDICTS: usize = 262_144;

/// Port ranges of all verdict lists; equal lists share theirs. 8 B each, allocated at once (1 MB).
pub const RANGES: usize = 131_072;

/// Policy rules that decide on this node. 24 B each on each CPU, allocated at once.
pub const RULES: usize = 16_384;

/// Addresses of nodes, for node ports: 5,000 nodes, the most that Kubernetes supports, with two families and room. 80 B each,
/// allocated as used.
pub const NODE_ADDRESSES: usize = 16_384;

/// Addresses of this machine itself: two families on some hundred interfaces and bridges. 88 B each, allocated as used.
pub const HOST_ADDRESSES: usize = 4096;
