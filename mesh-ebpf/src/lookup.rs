//! What comes to a workload's network namespace, before a socket is found for it. Fails closed.
//!
//! TCP is refused by a reset, UDP by ICMP's "port unreachable". Packets of established and of connected sockets never come here.

use aya_ebpf::bindings::sk_action::{SK_DROP, SK_PASS};
use aya_ebpf::programs::SkLookupContext;
use mesh_common::addr::{Addr, PortBe};
use mesh_common::service::{TCP, UDP};

use crate::kernel::addr6;
use crate::policy::{self, Arrival};
use crate::sockaddr::Place;

const AF_INET: u32 = 2;

/// Returns the hook's action.
#[inline(always)]
pub(crate) fn judged(ctx: &SkLookupContext) -> u32 {
    // SAFETY: a field of the context.
    let protocol = unsafe { (*ctx.lookup).protocol };
    if protocol != u32::from(TCP) && protocol != u32::from(UDP) {
        return SK_PASS;
    }
    if policy::admits(&arrival(ctx, protocol as u8)) {
        SK_PASS
    } else {
        SK_DROP
    }
}

#[inline(always)]
fn arrival(ctx: &SkLookupContext, protocol: u8) -> Arrival {
    // SAFETY: a field of the context.
    let family = unsafe { (*ctx.lookup).family };
    let (source, destination) = if family == AF_INET {
        // SAFETY: a field of the context.
        let remote = unsafe { (*ctx.lookup).remote_ip4 };
        // SAFETY: a field of the context.
        let local = unsafe { (*ctx.lookup).local_ip4 };
        (
            Addr::v4(remote.to_ne_bytes()),
            Addr::v4(local.to_ne_bytes()),
        )
    } else {
        // SAFETY: a field of the context.
        let remote = unsafe { &raw const (*ctx.lookup).remote_ip6 };
        // SAFETY: a field of the context.
        let local = unsafe { &raw const (*ctx.lookup).local_ip6 };
        (addr6(remote), addr6(local))
    };
    // SAFETY: a field of the context.
    let source_port = unsafe { (*ctx.lookup).remote_port };
    // SAFETY: a field of the context; in host order.
    let port = unsafe { (*ctx.lookup).local_port };
    Arrival {
        source: Place {
            address: source,
            port: PortBe(source_port),
        },
        destination: Place {
            address: destination,
            port: PortBe::new(port as u16),
        },
        protocol,
    }
}
