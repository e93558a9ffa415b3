//! A socket forged with `TCP_REPAIR`, which copies another connection's addresses, ports and sequence numbers: it gets
//! nothing of what the real ends say to each other, and takes nothing from them.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use harness::remote::protocol::{Call, Kind, Piece};
use harness::remote::{Socket, errno};
use harness::{Node, Pod, Remote};
use mesh_agent::model::observed::KernelView as _;
use mesh_agent::model::workload::Acceleration;
use mesh_common::addr::{Addr, PortBe};
use mesh_common::behaviour;
use mesh_common::reason::Reason;
use mesh_common::sock::SockKey;

use crate::ground::{Ground, netns, state};

const IPPROTO_TCP: i32 = libc::IPPROTO_TCP;
const TCP_REPAIR: i32 = libc::TCP_REPAIR;
const ON: i32 = 1;
/// `TCP_REPAIR_OFF_NO_WP`: a window probe would tell the real ends.
const OFF_WITHOUT_PROBE: i32 = -1;
const TCP_REPAIR_QUEUE: i32 = libc::TCP_REPAIR_QUEUE;
const TCP_QUEUE_SEQ: i32 = libc::TCP_QUEUE_SEQ;
/// `TCP_RECV_QUEUE` and `TCP_SEND_QUEUE`, include/uapi/linux/tcp.h.
const QUEUES: [i32; 2] = [1, 2];
const CUT: (usize, usize) = (1, 4000);

/// Makes a socket that is established by its own word, as the end that `key` describes.
fn forge(thief: &Remote, key: &SockKey) -> Socket {
    let socket = thief.bare(Kind::Tcp, false).unwrap();
    repair(&socket, ON);
    for (queue, number) in QUEUES.into_iter().zip([key.irs, key.iss]) {
        let next = number.wrapping_add(1).cast_signed();
        for (name, value) in [(TCP_REPAIR_QUEUE, queue), (TCP_QUEUE_SEQ, next)] {
            socket.set_option(IPPROTO_TCP, name, value).unwrap();
        }
    }
    let local = SocketAddr::new(key.local.into(), key.local_port.number());
    let remote = SocketAddr::new(key.remote.into(), key.remote_port.number());
    socket.call(Call::Bind(local)).unwrap();
    socket.call(Call::Connect(remote)).unwrap();
    // Or it could not read.
    repair(&socket, OFF_WITHOUT_PROBE);
    socket.call(Call::Nonblocking(true)).unwrap();
    socket
}

fn repair(socket: &Socket, value: i32) {
    socket.set_option(IPPROTO_TCP, TCP_REPAIR, value).unwrap();
}

fn exchange((client, server): (&Socket, &Socket), up: Piece, down: Piece) {
    client.write(up, CUT).unwrap();
    assert_eq!(server.read(up, CUT).unwrap(), up.length);
    server.write(down, CUT).unwrap();
    assert_eq!(client.read(down, CUT).unwrap(), down.length);
}

/// Returns why each live flow in `netns` is not redirected.
fn reasons(ground: &Ground, netns: u64) -> Vec<Reason> {
    let flows = ground.kernel.live_flows().unwrap();
    let own = flows.iter().filter(|flow| flow.netns == netns);
    own.map(|flow| Reason::from_number(flow.reason).unwrap())
        .collect()
}

/// Forges both ends of a live connection between the ground's pods, each with one of `thieves`, and sees what comes of it.
/// Returns why the forged sockets' flows are not redirected, as far as they are followed.
fn steal(ground: &mut Ground, thieves: [(&Pod, &Remote); 2]) -> Vec<Reason> {
    let mut seen = Vec::new();
    for before in [0, 5000] {
        let (client, server) = ground.join();
        let (up, down) = (Piece::first(1, before), Piece::first(2, before));
        exchange((&client, &server), up, down);
        let (known, descriptor) = state(&ground.maps, &mut ground.client, &client);
        drop(descriptor);
        let known = known.unwrap();
        let keys = [known.key, known.peer].into_iter().zip(thieves);
        let forged: Vec<Socket> = keys.map(|(key, (_, thief))| forge(thief, &key)).collect();
        exchange((&client, &server), up.then(50_000), down.then(50_000));
        let own = netns(&ground.pods[0]);
        let flows = ground.kernel.live_flows().unwrap();
        // The forged one has the same addresses.
        let flow = flows.iter().find(|flow| flow.netns == own).unwrap();
        assert_eq!(flow.redirect_tx_bytes, 50_000 + before, "{flow:#?}");
        assert_eq!(flow.redirect_rx_bytes, 50_000 + before, "{flow:#?}");
        let netns: BTreeSet<u64> = thieves.map(|(pod, _)| netns(pod)).into();
        seen.extend(netns.into_iter().flat_map(|netns| reasons(ground, netns)));
        for socket in forged {
            let (length, flags) = (100_000, 0);
            let stolen = socket.call(Call::Receive { length, flags });
            assert_eq!(errno(&stolen), Some(libc::EAGAIN), "{stolen:?}");
            // And closes without a word to anybody.
            repair(&socket, ON);
            socket.close().unwrap();
        }
        for socket in [client, server] {
            socket.close().unwrap();
        }
        crate::established::flows_end(ground);
    }
    seen
}

#[test]
fn a_stranger_with_the_same_addresses_gets_nothing() {
    let Some(mut ground) = Ground::new() else {
        return;
    };
    // Under the same hooks, in a network of its own, and no workload.
    let twin = Node::within(&ground.node).unwrap();
    let pods = [twin.pod("client").unwrap(), twin.pod("server").unwrap()];
    let thieves = [0, 1].map(|number| Remote::start(&pods[number]).unwrap());
    assert_eq!(pods[0].v4(), ground.pods[0].v4());
    let followed = steal(
        &mut ground,
        [(&pods[0], &thieves[0]), (&pods[1], &thieves[1])],
    );
    assert_eq!(followed, []);
}

#[test]
fn a_workload_that_takes_the_addresses_gets_nothing() {
    let Some(mut ground) = Ground::new() else {
        return;
    };
    let pod = ground.node.pod("thief").unwrap();
    let [client, server] = ground.pods.clone();
    let on = Acceleration::On;
    ground.apply(&[(&client, "1", on), (&server, "1", on), (&pod, "1", on)]);
    for address in [client.v4(), server.v4()] {
        let line = format!("addr add {address}/32 dev lo");
        let output = pod.command("ip").args(line.split(' ')).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    let thief = Remote::start(&pod).unwrap();
    let followed = steal(&mut ground, [(&pod, &thief), (&pod, &thief)]);
    assert_eq!(followed, [Reason::AddressNotOwned; 4]);
}

#[test]
fn a_repaired_socket_stays_on_tcp_also_with_its_owners_own_address() {
    let Some(ground) = Ground::new() else {
        return;
    };
    let [client, server] = &ground.pods;
    let key = SockKey {
        local: Addr::from(client.addresses()[0]),
        remote: Addr::from(server.addresses()[0]),
        local_port: PortBe::new(4000),
        remote_port: PortBe::new(4001),
        iss: 1,
        irs: 2,
        ..SockKey::default()
    };
    let forged = forge(&ground.client, &key);
    assert_eq!(reasons(&ground, netns(client)), [Reason::SocketOption]);
    assert_eq!(ground.maps.flows.count().unwrap(), 0);
    let admission = ground.maps.admissions.get(ground.id(client)).unwrap();
    assert_eq!(admission.behaviours, behaviour::REPAIR);
    repair(&forged, ON);
    forged.close().unwrap();
}
