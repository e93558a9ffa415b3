//! What is lost where a program could not be attached.

use crate::kernel::observer::Observer;
use crate::kernel::probe::Findings;
use crate::kernel::{own, probe};
use crate::model::observed::{Hook, Level, Missing};

/// What is lost without a program, and the level that is left of redirect.
const NEEDS: &[(&str, &str, Level)] = &[
    (
        "mesh_recv",
        "receive calls are not counted, so nothing bounds what is in flight: no redirect",
        Level::Off,
    ),
    (
        "mesh_send",
        "send calls are not counted: bytes and messages of flows are missing",
        Level::Applications,
    ),
    ("mesh_redirect", "no redirect", Level::Off),
    ("mesh_sock_ops", "no redirect, no flows", Level::Off),
    (
        "mesh_sock_release",
        "flows are not reported when they end, and backends count them as open",
        Level::Applications,
    ),
    (
        "mesh_connect4",
        "connections to services' IPv4 addresses are not balanced",
        Level::Applications,
    ),
    (
        "mesh_connect6",
        "connections to services' IPv6 addresses, and of IPv6 sockets to IPv4 ones, are not balanced",
        Level::Applications,
    ),
    (
        "mesh_sendmsg4",
        "datagrams of unconnected sockets to services' IPv4 addresses are not balanced",
        Level::Applications,
    ),
    (
        "mesh_sendmsg6",
        "datagrams of unconnected sockets to services' IPv6 addresses are not balanced",
        Level::Applications,
    ),
    (
        "mesh_recvmsg4",
        "answers of services to IPv4 datagrams bear the backend's address",
        Level::Applications,
    ),
    (
        "mesh_recvmsg6",
        "answers of services to datagrams of IPv6 sockets bear the backend's address",
        Level::Applications,
    ),
    (
        "mesh_getpeername4",
        "applications see the backend's IPv4 address as their peer's, instead of the service's",
        Level::Applications,
    ),
    (
        "mesh_getpeername6",
        "applications see the backend's IPv6 address as their peer's, instead of the service's",
        Level::Applications,
    ),
    (
        "mesh_getsockname4",
        "applications whose connections go through the agent see a loopback IPv4 address as their own",
        Level::Applications,
    ),
    (
        "mesh_getsockname6",
        "applications whose connections go through the agent see a loopback IPv6 address as their own",
        Level::Applications,
    ),
    (
        "mesh_setsockopt",
        "socket options cannot be observed: no workload in mode `auto` is accelerated",
        Level::OwnSockets,
    ),
    (
        "mesh_judge4",
        "what workloads connect to over IPv4 is not judged by policy",
        Level::Applications,
    ),
    (
        "mesh_judge6",
        "what workloads connect to over IPv6 is not judged by policy",
        Level::Applications,
    ),
    (
        "mesh_judge_msg4",
        "what unconnected sockets send over IPv4 is not judged by policy",
        Level::Applications,
    ),
    (
        "mesh_judge_msg6",
        "what unconnected sockets send over IPv6 is not judged by policy",
        Level::Applications,
    ),
];

/// Tells the verdict what could not be attached.
pub(super) fn judge_hooks(findings: &mut Findings, hooks: &[Hook], observer: &Observer) {
    for hook in hooks.iter().filter(|hook| hook.attached == Some(false)) {
        let Some((_, lost, level)) = NEEDS.iter().find(|(program, ..)| *program == hook.program)
        else {
            continue;
        };
        let missing = Missing {
            feature: hook.hook.clone(),
            lost: (*lost).to_owned(),
        };
        probe::without(findings, missing, *level);
    }
    if own::tgid().is_none() {
        let missing = Missing {
            feature: "the agent's process number outside its PID namespace".to_owned(),
            lost: "connections that the agent makes in a workload's network namespace are balanced as that workload's"
                .to_owned(),
        };
        probe::without(findings, missing, Level::Applications);
    }
    if let Some(error) = observer.unavailable() {
        let missing = Missing {
            feature: format!("syscall tracepoints ({error})"),
            lost: "workloads cannot be observed: none in mode `auto` is accelerated".to_owned(),
        };
        probe::without(findings, missing, Level::OwnSockets);
    }
}
