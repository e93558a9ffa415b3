//! The agent's connection for a workload is judged as the workload's own.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd as _;

use harness::remote::protocol::Kind;
use mesh_agent::model::balanced::{Carries, PortId, Upstream};
use mesh_agent::model::service::{Protocol, ServiceName};
use mesh_common::close::CloseReason;
use socket2::Socket;

use super::ground::{Ground, PORTS, allow, labelled, network};
use crate::ground::socket;

/// Dials from the client's pod as the agent, which this process is; returns the error's number, if it failed.
fn dial(ground: &mut Ground, to: SocketAddr, marked: bool) -> Option<i32> {
    let socket = Socket::from(socket(&mut ground.remotes[0], Kind::Tcp, to.is_ipv6()));
    let id = PortId {
        service: ServiceName {
            namespace: "default".to_owned(),
            name: "web".to_owned(),
        },
        port: 80,
        protocol: Protocol::Tcp,
    };
    let upstream = Upstream {
        service: &id,
        dialled: to,
        backend: &id,
        address: to,
        carries: Carries::Requests,
    };
    if marked {
        let kernel = ground.kernel();
        kernel.mark_upstream(socket.as_fd(), &upstream).unwrap();
    }
    socket.connect(&to.into()).err()?.raw_os_error()
}

#[test]
fn the_agents_connections_for_a_workload_are_judged_as_its_own() {
    let Some(mut ground) = Ground::new() else {
        return;
    };
    let server = ground.pods[1].addresses();
    let outside = ground.pods[2].addresses();
    let at = |address: IpAddr, port| SocketAddr::new(address, port);
    let [open, shut] = PORTS;
    // The server lets the client in at one port, the client goes nowhere but to the server.
    let mut egress = network("egress", "client", Vec::new());
    egress.ingress = None;
    egress.egress = Some(vec![allow(labelled("server"), &[])]);
    let ingress = vec![allow(labelled("client"), &[open])];
    ground.set(vec![egress, network("ingress", "server", ingress)]);
    for family in 0..2 {
        let denied = Some(libc::EPERM);
        assert_eq!(dial(&mut ground, at(server[family], open), true), None);
        assert_eq!(dial(&mut ground, at(server[family], shut), true), denied);
        let record = ground.record(CloseReason::Denied);
        assert_eq!(record.source_id, ground.id(&ground.pods[0]));
        assert_eq!(record.destination_id, ground.id(&ground.pods[1]));
        assert_eq!(dial(&mut ground, at(outside[family], open), true), denied);
        assert_eq!(ground.record(CloseReason::Denied).destination_id, 0);
        // What the agent does for itself is not the workload's.
        assert_eq!(dial(&mut ground, at(outside[family], open), false), None);
    }
    ground.set(Vec::new());
    assert_eq!(dial(&mut ground, at(server[0], shut), true), None);
}
