//! Every limit of the name server, each with its reason.

use std::time::Duration;

/// Seconds that an answer may be kept: endpoints come and go, and asking again costs microseconds here.
pub(super) const TTL_SECONDS: u32 = 5;

/// Addresses, SRV or PTR records of one answer. A client uses one or a few; this many fit into one datagram but for SRV.
pub(super) const RECORDS: usize = 64;

/// Aliases (`ExternalName`) that are followed within the domain; more are a ring.
pub(super) const ALIASES: usize = 8;

/// Bytes of an answer by UDP, also if a client would take more: what fits every link without fragments (DNS flag day 2020).
pub(super) const UDP_BYTES: u16 = 1232;

/// Bytes of an answer to a client that says nothing of what it takes (RFC 1035).
pub(super) const UDP_BYTES_PLAIN: u16 = 512;

/// Bytes of a query: a name of 255, a client's options, and a key of some kind. Longer ones are no honest ones.
pub(super) const QUERY_BYTES: usize = 4096;

/// Queries per second of one client (a network namespace): more than a busy program asks that looks every request's host up.
/// All of them cost a tenth of a core, on a thread that does nothing else.
pub(super) const QUERIES_PER_SECOND: u32 = 2000;

/// Queries of one client at once, after a pause: a second's worth.
pub(super) const QUERIES_BURST: u32 = 2000;

/// Queries of one client that wait for an upstream name server. Each takes a descriptor and 6 kB for as long.
pub(super) const FORWARDS_PER_CLIENT: usize = 64;

/// The same of all clients together.
pub(super) const FORWARDS: usize = 256;

/// TCP connections of one client: each answers one query after the other.
pub(super) const CONNECTIONS_PER_CLIENT: usize = 16;

/// The same of all clients together.
pub(super) const CONNECTIONS: usize = 512;

/// Queries on one TCP connection, so that nobody keeps one for ever.
pub(super) const QUERIES_PER_CONNECTION: usize = 1000;

/// Time for the next query on a TCP connection (RFC 7766 says a few seconds).
pub(super) const IDLE: Duration = Duration::from_secs(10);

/// Time for the rest of a query that has begun, and for an answer to be taken.
pub(super) const TRANSFER: Duration = Duration::from_secs(5);

/// Time for one upstream name server to answer.
pub(super) const TRY: Duration = Duration::from_secs(2);

/// Time for all tries together: the C library's clients ask again, or give up, after as long.
pub(super) const PATIENCE: Duration = Duration::from_millis(4500);

/// Rounds over the upstream name servers.
pub(super) const ROUNDS: usize = 2;

/// Bytes of an upstream's answer by TCP, the most that its length can say.
pub(super) const ANSWER_BYTES: usize = 65_535;

/// Pause after a failed `accept` or `recv`, which mostly means that descriptors or memory ran out.
pub(super) const BACKOFF: Duration = Duration::from_millis(100);

/// Time between two looks at /etc/resolv.conf: what a DHCP client writes is to count soon.
pub(super) const REREAD: Duration = Duration::from_secs(5);

/// Bytes of /etc/resolv.conf that are read; its own format knows three servers and six domains.
pub(super) const RESOLV_BYTES: u64 = 64 * 1024;
