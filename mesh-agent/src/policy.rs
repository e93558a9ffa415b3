//! L4 policy, compiled: from policies, pods and namespaces to the tables that the kernel judges connections by. Pure.
//!
//! What the words of a policy mean:
//!
//! - A policy applies to the pods of its own namespace that its `subject` selects, in each direction that it has rules for, an
//!   empty list included. A pod that a `NetworkPolicy` applies to is isolated in that direction: only what some rule of some
//!   `NetworkPolicy` allows may pass. Rules add up; nothing depends on their order.
//! - A connection needs both its source's egress and its destination's ingress to allow it. Answers are part of it. What applies to
//!   nobody in a direction allows everything in that direction.
//! - `AuthorizationPolicy` is another such layer: what any `Deny` rule matches is denied; and where `Allow` policies of that kind
//!   apply, one of their rules has to match. Both kinds have to be content.
//! - A rule matches if any of its peers does and any of its ports does. A rule without `peers` matches everybody, also outside
//!   the mesh; one without `ports` every port. An empty list of either matches nothing.
//! - A block matches by the address that a connection bears, whoever has it: also a pod's, each of its addresses by itself. An
//!   IPv6 block never matches IPv4, unless it lies in `::ffff:0:0/96`, where it is the IPv4 block that it maps.
//! - A named port is the container port of that name and protocol of the pod that is **dialled**: for ingress the subject's, for
//!   egress the peer's. A pod that has none, or an address that is no pod's, is not matched.
//! - A pod may always talk to itself: by loopback, and by any of its own addresses.
//! - Ingress from the machine that the pod runs on is always allowed (kubelet's probes, processes of the host): that is, from any
//!   address which the machine itself has outside the pods. Whatever the node masquerades is therefore allowed, too. Egress
//!   *to* the machine is judged as to any other address.
//! - TCP and UDP are judged. ICMP, SCTP and raw sockets are not.
//! - A policy in dry-run mode decides nothing. What all policies together would deny if the dry-run ones counted, and the others
//!   allow, is marked with the rule that would deny it; a dry-run `Allow` policy which no rule would match has a rule
//!   `default` for that.
//!
//! Where it is judged: the client's egress, and the ingress of a server on the same node, at `connect` (or each datagram that an
//! unconnected socket sends); the ingress of a server again where its network namespace looks up a socket for a packet, whoever
//! sent it. A change reaches flows that live, since each is judged anew by the same tables.
//!
//! What cannot be represented (see `mesh_common::limits`) is denied, never allowed, and named in [`PolicyTables::errors`]. Only
//! where nothing but dry-run policies applies is it not judged instead.

#![forbid(unsafe_code)]

mod answer;
mod blocks;
mod book;
mod classes;
mod compile;
#[cfg(test)]
mod obvious;
mod peers;
mod ranges;
mod rules;
mod select;
mod tables;
#[cfg(test)]
mod tests;

pub use answer::{Judgement, Party, PolicyAnswer, UnknownParty};
pub use compile::{Compiler, Subject};
pub use select::{directions, enforced};
pub use tables::{ClassRows, Connection, PolicyTables, SubjectTable};
