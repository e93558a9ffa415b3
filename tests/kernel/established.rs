//! What a connection is known as once it is established, and why it does not take part in redirect.

use std::net::{SocketAddr, SocketAddrV4, TcpListener, TcpStream};

use aya_obj::generated::bpf_map_type;
use harness::remote::Socket;
use harness::remote::protocol::{Call, Kind};
use harness::wait::PATIENCE;
use harness::wait_for;
use mesh_agent::kernel::map_dir;
use mesh_agent::model::observed::KernelView as _;
use mesh_agent::model::workload::Acceleration;
use mesh_common::addr::{Addr, PortBe};
use mesh_common::reason::Reason;
use mesh_common::redirect::tcp_read;
use mesh_common::sock::SockKey;
use mesh_common::workload::Control;

use crate::capture::Capture;
use crate::ground::{Ground, netns, state};
use crate::sys::{self, NewMap};

const IPPROTO_TCP: i32 = 6;
const MSG_FASTOPEN: i32 = 0x2000_0000;

fn v4(socket: &Socket) -> SocketAddrV4 {
    match socket.local {
        SocketAddr::V4(address) => address,
        SocketAddr::V6(address) => panic!("{address} is not IPv4"),
    }
}

/// Returns why the live flow from this client socket is not redirected.
pub(crate) fn reason(ground: &Ground, client: &Socket) -> Reason {
    let flow = ground.live(client.local).unwrap();
    Reason::from_number(flow.reason).unwrap()
}

#[test]
fn the_key_is_what_the_wire_and_the_sockets_say() {
    let Some(mut ground) = Ground::new() else {
        return;
    };
    let mut capture = Capture::new(&ground.pods[0]);
    let (client, server) = ground.join();
    let seen = capture.handshake(v4(&client), v4(&server));
    let expected = SockKey {
        netns: netns(&ground.pods[0]),
        local: Addr::from(client.local.ip()),
        remote: Addr::from(server.local.ip()),
        local_port: PortBe::new(client.local.port()),
        remote_port: PortBe::new(server.local.port()),
        iss: seen.syn,
        irs: seen.syn_ack,
        _pad: 0,
    };
    let mirrored = expected.mirrored(netns(&ground.pods[1]));

    let mut flows = Vec::new();
    ground
        .maps
        .flows
        .for_each(|flow, number| flows.push((*flow, number[0])))
        .unwrap();
    assert_eq!(flows.len(), 1, "{flows:#?}");
    assert_eq!(flows[0].0, expected);
    let cell = ground.maps.cells().unwrap().get(flows[0].1).unwrap();
    let (syn, syn_ack) = (seen.syn.wrapping_add(1), seen.syn_ack.wrapping_add(1));
    assert_eq!(cell.client.tcp_read, tcp_read(seen.syn, syn_ack));
    assert_eq!(cell.server.tcp_read, tcp_read(seen.syn_ack, syn));

    let (one, _fd) = state(&ground.maps, &mut ground.client, &client);
    let one = one.unwrap();
    assert_eq!((one.key, one.peer), (expected, mirrored));
    let (other, _fd) = state(&ground.maps, &mut ground.server, &server);
    let other = other.unwrap();
    assert_eq!((other.key, other.peer), (mirrored, expected));
    assert_eq!(one.self_id, ground.id(&ground.pods[0]));
    assert_eq!(one.peer_id, ground.id(&ground.pods[1]));
    assert_eq!((other.self_id, other.peer_id), (one.peer_id, one.self_id));
}

#[test]
fn an_address_that_is_not_the_workloads_own_stays_on_tcp() {
    let Some(ground) = Ground::new() else {
        return;
    };
    let address = Addr::from(ground.pods[0].addresses()[0]);
    ground.maps.addresses.remove(&address).unwrap();
    let (client, _server) = ground.join();
    // The other end, to which this address is a stranger's, reports too.
    let flows = ground.kernel.live_flows().unwrap();
    let mut own = flows.iter().filter(|flow| flow.from_source == 1);
    let flow = own.next().unwrap();
    assert_eq!(crate::ground::source(flow), client.local);
    assert_eq!(flow.reason, Reason::AddressNotOwned as u8);
    assert_eq!(ground.maps.flows.count().unwrap(), 0);
}

#[test]
fn a_peer_that_is_no_workload_here_stays_on_tcp() {
    let Some(ground) = Ground::new() else {
        return;
    };
    let [client, _] = &ground.pods;
    ground.apply(&[(client, "1", Acceleration::On)]);
    let (client, _server) = ground.join();
    assert_eq!(reason(&ground, &client), Reason::PeerElsewhere);
    let flow = ground.live(client.local).unwrap();
    assert_eq!((flow.destination_id, flow.from_source), (0, 1));

    // The other way round it is the destination that reports.
    let [_, server] = &ground.pods;
    ground.apply(&[(server, "2", Acceleration::On)]);
    let (client, _server) = ground.join();
    assert_eq!(reason(&ground, &client), Reason::PeerElsewhere);
    let flow = ground.live(client.local).unwrap();
    assert_eq!((flow.source_id, flow.from_source), (0, 0));
}

#[test]
fn a_mode_or_the_kill_switch_keeps_a_socket_out() {
    let Some(ground) = Ground::new() else {
        return;
    };
    for (mode, expected) in [
        (Acceleration::Off, Reason::ModeOff),
        (Acceleration::Observe, Reason::Observing),
    ] {
        ground.set_modes(mode);
        let (client, _server) = ground.join();
        assert_eq!(reason(&ground, &client), expected, "{mode:?}");
    }
    ground.set_modes(Acceleration::On);
    ground.kernel.set_redirect(false).unwrap();
    let (client, _server) = ground.join();
    assert_eq!(reason(&ground, &client), Reason::KillSwitch);
}

#[test]
fn a_full_socket_map_leaves_later_sockets_on_tcp_and_takes_no_cell() {
    let Some(ground) = Ground::with(|maps| {
        let kind = bpf_map_type::BPF_MAP_TYPE_SOCKHASH;
        let map = NewMap(kind, size_of::<SockKey>(), 4, 2, 0);
        sys::make_map(&maps.join("SOCKETS"), &map).unwrap();
    }) else {
        return;
    };
    let all = ground.free_cells();
    let first = ground.join();
    let second = ground.join();
    assert_eq!(reason(&ground, &first.0), Reason::Idle);
    assert_eq!(reason(&ground, &second.0), Reason::SocketMapFull);
    for socket in [first.0, first.1, second.0, second.1] {
        socket.close().unwrap();
    }
    cells_come_back(&ground, &all);
    // What was in the map has left it.
    let third = ground.join();
    wait_for("room in the map", PATIENCE, || {
        let (client, _server) = ground.join();
        reason(&ground, &client) == Reason::Idle || reason(&ground, &third.0) == Reason::Idle
    })
    .unwrap();
}

#[test]
fn multipath_tcp_is_refused_by_the_kernel_and_takes_no_cell() {
    let Some(ground) = Ground::new() else {
        return;
    };
    let all = ground.free_cells();
    let address = SocketAddr::new(ground.pods[1].v4().into(), 0);
    let listener = ground.server.listen_on(address, Kind::Mptcp);
    if harness::remote::errno(&listener) == Some(libc::EPROTONOSUPPORT) {
        eprintln!("SKIPPED: no multipath TCP on this kernel");
        return;
    }
    let listener = listener.unwrap();
    let client = ground
        .client
        .connect_from(None, listener.local, Kind::Mptcp)
        .unwrap();
    let server = listener.accept().unwrap();
    assert_eq!(reason(&ground, &client), Reason::NotSupported);
    client.close().unwrap();
    server.close().unwrap();
    cells_come_back(&ground, &all);
}

#[test]
fn fast_open_is_seen_by_the_end_that_sent_early() {
    const TCP_FASTOPEN: i32 = 23;
    let Some(mut ground) = Ground::new() else {
        return;
    };
    for pod in &ground.pods {
        // Client and server, without a cookie, on every listener.
        let path = "/proc/sys/net/ipv4/tcp_fastopen";
        pod.enter(|| std::fs::write(path, "1543")).unwrap().unwrap();
    }
    let all = ground.free_cells();
    let listener = ground.server.listen().unwrap();
    listener.set_option(IPPROTO_TCP, TCP_FASTOPEN, 16).unwrap();
    let mut client = ground.client.bare(Kind::Tcp, false).unwrap();
    let early = Call::Send {
        bytes: vec![7; 500],
        flags: MSG_FASTOPEN,
        to: Some(listener.local),
    };
    assert_eq!(client.call(early).unwrap().count, 500);
    let server = listener.accept().unwrap();
    let answer = Call::Receive {
        length: 500,
        flags: 0,
    };
    assert_eq!(server.call(answer).unwrap().count, 500);
    let flows = ground.kernel.live_flows().unwrap();
    assert_eq!(flows.len(), 1, "{flows:#?}");
    assert_eq!(flows[0].reason, Reason::FastOpen as u8);
    assert_eq!(flows[0].tx_bytes, 500);
    client.local = crate::ground::source(&flows[0]);
    // The other end's answer finds nobody to redirect to.
    let bytes = vec![8; 100];
    let call = Call::Send {
        bytes,
        flags: 0,
        to: None,
    };
    server.call(call).unwrap();
    let call = Call::Receive {
        length: 100,
        flags: 0,
    };
    assert_eq!(client.call(call).unwrap().count, 100);
    client.close().unwrap();
    server.close().unwrap();
    let flow = ground.ended(client.local);
    assert_eq!((flow.tx_bytes, flow.rx_bytes), (500, 100));
    assert_eq!((flow.redirect_tx_bytes, flow.redirect_rx_bytes), (0, 0));
    cells_come_back(&ground, &all);
}

#[test]
fn a_key_that_another_live_socket_holds_is_left_to_it() {
    const TCP_REPAIR: i32 = 19;
    const TCP_REPAIR_QUEUE: i32 = 20;
    const TCP_QUEUE_SEQ: i32 = 21;
    let Some(ground) = Ground::new() else {
        return;
    };
    let all = ground.free_cells();
    // A socket whose sequence numbers are set by hand would be refused for that alone.
    let control = ground.maps.control.get(&0).unwrap().unwrap();
    let lenient = Control {
        forbidden: 0,
        ..control
    };
    ground.maps.control.set(&0, &lenient).unwrap();
    // Takes the place of the one to come; it has nothing to do with any pod.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let holder = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let forged = ground.client.bare(Kind::Tcp, false).unwrap();
    let local = SocketAddr::new(ground.pods[0].v4().into(), 45_678);
    let remote = SocketAddr::new(ground.pods[1].v4().into(), 56_789);
    forged.set_option(IPPROTO_TCP, TCP_REPAIR, 1).unwrap();
    for (queue, number) in [(1, 1_000_002), (2, 2_000_001)] {
        forged
            .set_option(IPPROTO_TCP, TCP_REPAIR_QUEUE, queue)
            .unwrap();
        forged
            .set_option(IPPROTO_TCP, TCP_QUEUE_SEQ, number)
            .unwrap();
    }
    forged.call(Call::Bind(local)).unwrap();
    let key = SockKey {
        netns: netns(&ground.pods[0]),
        local: Addr::from(local.ip()),
        remote: Addr::from(remote.ip()),
        local_port: PortBe::new(local.port()),
        remote_port: PortBe::new(remote.port()),
        iss: 2_000_000,
        irs: 1_000_001,
        _pad: 0,
    };
    let path = map_dir(&ground.node.bpf_directory().unwrap());
    // A socket that connects in repair mode sends no SYN: the first byte's number is the one that was set.
    let path = path.join("SOCKETS");
    sys::put_socket(&path, bytemuck::bytes_of(&key), &holder).unwrap();
    forged.call(Call::Connect(remote)).unwrap();
    let flow = ground.live(local).unwrap();
    assert_eq!(flow.reason, Reason::KeyTaken as u8, "{flow:#?}");
    drop(holder);
    forged.close().unwrap();
    cells_come_back(&ground, &all);
}

#[test]
fn a_socket_that_dials_itself_is_one_flow() {
    let Some(mut ground) = Ground::new() else {
        return;
    };
    let all = ground.free_cells();
    // A socket that dials its own address is both ends at once.
    let address = SocketAddr::new(ground.pods[0].v4().into(), 45_678);
    let both = ground
        .client
        .connect_from(Some(address), address, Kind::Tcp)
        .unwrap();
    let call = |call| both.call(call).unwrap().count;
    let bytes = vec![7; 100];
    let sent = call(Call::Send {
        bytes,
        flags: 0,
        to: None,
    });
    assert_eq!(sent, 100);
    assert_eq!(
        call(Call::Receive {
            length: 100,
            flags: 0
        }),
        100
    );
    let id = ground.id(&ground.pods[0]);
    both.close().unwrap();
    let flow = ground.ended(address);
    assert_eq!((flow.source_id, flow.destination_id), (id, id));
    assert_eq!((flow.tx_bytes, flow.rx_bytes), (100, 100));
    cells_come_back(&ground, &all);
}

/// Returns once no flow has a cell and every cell is free, once.
pub(crate) fn cells_come_back(ground: &Ground, all: &[u32]) {
    wait_for("all flows to leave", PATIENCE, || {
        ground.maps.flows.count().unwrap() == 0
    })
    .unwrap();
    assert_eq!(ground.free_cells(), all);
}

/// Returns once no flow is live.
pub(crate) fn flows_end(ground: &Ground) {
    wait_for("all flows to end", PATIENCE, || {
        ground.kernel.live_flows().unwrap().is_empty()
    })
    .unwrap();
}
