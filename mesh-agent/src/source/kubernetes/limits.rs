//! Every limit and time of talking to an API server, each with its reason.
#![forbid(unsafe_code)]

use std::time::Duration;

/// Bytes of one event. etcd takes no object beyond 1.5 MiB by default, and JSON of it is a few times as large at most.
pub(super) const EVENT_BYTES: usize = 8 * 1024 * 1024;

/// Objects of one page, where lists cannot be streamed: what kubectl and client-go ask for.
pub(super) const PAGE: usize = 500;

/// Bytes of one page, or of the list of all kinds: 500 pods of 20 kB, and room.
pub(super) const PAGE_BYTES: usize = 64 * 1024 * 1024;

/// Bytes of an error's body that are read: a `Status` is a few hundred.
pub(super) const ERROR_BYTES: usize = 16 * 1024;

/// Time for a connection to be made.
pub(super) const CONNECT: Duration = Duration::from_secs(10);

/// Time for an answer to begin. A server that is asked for more than it can do lets requests wait for up to a minute.
pub(super) const ANSWER: Duration = Duration::from_secs(90);

/// Time for the answer to a write. The one that is waited for longest is the lease's, which has to be renewed within ten seconds.
pub(super) const WRITTEN: Duration = Duration::from_secs(5);

/// A watch of which nothing is heard for this long is opened anew. Bookmarks come every minute or two.
pub(super) const SILENCE: Duration = Duration::from_secs(300);

/// A streamed list that pauses for this long before its end was said is none: the server does not know how, and watches only.
pub(super) const LIST_SILENCE: Duration = Duration::from_secs(15);

/// A watch is asked to end after this long, and up to twice that: so that the ends of a thousand agents' watches do not fall
/// together, and agents spread over the servers again that were added. As long as the server itself would choose.
pub(super) const WATCH: Duration = Duration::from_secs(30 * 60);

/// First pause after a failure; each further one is twice as long. All are random, from half to the whole.
pub(super) const PAUSE: Duration = Duration::from_millis(500);

/// Longest pause. A thousand agents with fifteen watches each then send 700 requests a second to a server that refuses all.
pub(super) const PAUSE_AT_MOST: Duration = Duration::from_secs(30);

/// Longest pause that a server may ask for.
pub(super) const RETRY_AFTER_AT_MOST: Duration = Duration::from_secs(120);

/// A watch that lasted this long was none that failed at once: pauses begin anew.
pub(super) const LASTED: Duration = Duration::from_secs(10);

/// Lists of the whole cluster begin at a random moment of this time after the start. Pods of this node are asked for at once.
pub(super) const SPREAD: Duration = Duration::from_secs(1);

/// The same where the agent runs from what it kept on disk, and has no hurry.
pub(super) const SPREAD_AT_EASE: Duration = Duration::from_secs(5);

/// Kinds that the agent may not list hold up the first configuration for this long, unless they are essential: a server that
/// has just started refuses for a while what it allows later.
pub(super) const FORBIDDEN: Duration = Duration::from_secs(30);

/// Time between two looks at which kinds there are, where the agent may not watch their definitions. Unchanged, it costs an
/// answer without body.
pub(super) const DISCOVERY: Duration = Duration::from_secs(60);

/// The same where definitions are watched: for what no definition tells.
pub(super) const DISCOVERY_WATCHED: Duration = Duration::from_secs(15 * 60);

/// A kind is gone if two looks at least this far apart do not find it: a server that starts does not know of all at once.
pub(super) const DISCOVERY_AGAIN: Duration = Duration::from_secs(10);

/// After a definition changed, kinds are looked for this often, each time after twice the pause before, from half a second on.
pub(super) const DISCOVERY_TRIES: u32 = 6;

/// Config maps that are watched because policies name them. Each is a stream of one connection, of which servers allow a hundred or more;
/// clusters have an authority or two.
pub(super) const REFERENCES: usize = 64;

/// How long a configuration waits for config maps that it names and that were never asked for: an answer takes milliseconds, and
/// without them its backends would get nothing meanwhile.
pub(super) const REFERENCE: Duration = Duration::from_secs(1);

/// Events that wait to be taken in. Beyond it streams are read no further, which holds up the server and not the memory.
pub(super) const WAITING: usize = 1024;

/// Events taken in together at most, so that a list of 10,000 pods does not keep others waiting.
pub(super) const TOGETHER: usize = 4096;

/// Time between two configurations made from a stream of changes without end. A single change is taken in at once.
pub(super) const GATHER: Duration = Duration::from_millis(50);

/// Time between two changes that are logged: a cluster has some each second. What is wrong is always logged.
pub(super) const LOG: Duration = Duration::from_secs(60);

/// Time between two writes to disk: of 10,000 pods these are 8 MB.
pub(super) const SAVE: Duration = Duration::from_secs(60);

/// Bytes of the file on disk: 100,000 objects of 2.5 kB.
pub(super) const FILE_BYTES: u64 = 256 * 1024 * 1024;

/// What could not be read is told of this many events.
pub(super) const UNREADABLE: usize = 20;
