//! What becomes of connections and datagrams to an endpoint that is removed (`underpass.dev/drain`).

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use harness::manifest::{self, Acceleration};
use harness::remote::protocol::{Call, Kind, Piece};
use harness::remote::{Socket, errno};
use harness::wait::PATIENCE;
use harness::{Remote, wait_for};

use crate::world::{MIXED, World, exchange};

/// The annotation's values, each with its service's address.
const SERVICES: [(&str, &str); 3] = [
    ("now", "10.96.0.31"),
    ("2s", "10.96.0.32"),
    ("keep", "10.96.0.33"),
];
/// What `2s` means.
const AFTER: Duration = Duration::from_secs(2);
const TCP: u16 = 8080;
const UDP: u16 = 8081;

/// A service with this annotation and one endpoint.
fn service((drain, address): (&str, &str), endpoint: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: drain-{drain}\n  namespace: default\n  annotations:\n    \
         underpass.dev/drain: \"{drain}\"\nspec:\n  clusterIP: {address}\n  ports:\n    \
         - {{name: tcp, port: 80, targetPort: {TCP}, protocol: TCP}}\n    \
         - {{name: udp, port: 80, targetPort: {UDP}, protocol: UDP}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: drain-{drain}\n  \
         namespace: default\n  labels:\n    kubernetes.io/service-name: drain-{drain}\naddressType: IPv4\n\
         endpoints:\n  - addresses: [\"{endpoint}\"]\n    conditions:\n      ready: true\nports:\n  \
         - {{name: tcp, port: {TCP}, protocol: TCP}}\n  - {{name: udp, port: {UDP}, protocol: UDP}}\n---\n"
    )
}

/// Has the endpoint answer for every service, and no other, from now on.
fn serve_by(world: &World, endpoint: &str) {
    let text: String = SERVICES.map(|each| service(each, endpoint)).concat();
    let draft = world.node.files().join("drain.draft");
    fs::write(&draft, text).unwrap();
    fs::rename(&draft, world.node.manifests().join("drain.yaml")).unwrap();
}

/// Whether an event comes to a socket within so many milliseconds.
fn sees(socket: &Socket, events: i16, timeout: i32) -> bool {
    let poll = socket.call(Call::Poll { events, timeout }).unwrap();
    poll.count & u64::from(events.cast_unsigned()) != 0
}

/// Waits for the socket's error, and returns it.
fn error(socket: &Socket) -> Option<i32> {
    assert!(sees(socket, libc::POLLERR, 20_000), "{}", socket.local);
    let receive = Call::Receive {
        length: 1,
        flags: libc::MSG_DONTWAIT,
    };
    errno(&socket.call(receive))
}

fn send(socket: &Socket, to: Option<SocketAddr>) -> Option<i32> {
    let bytes = vec![7];
    errno(&socket.call(Call::Send {
        bytes,
        flags: 0,
        to,
    }))
}

/// Takes a datagram that must be there.
fn take(socket: &Socket) {
    assert!(sees(socket, libc::POLLIN, 20_000), "{}", socket.local);
    let receive = Call::Receive {
        length: 10,
        flags: 0,
    };
    assert_eq!(socket.call(receive).unwrap().count, 1);
}

/// Returns what listens for TCP and for datagrams in a pod.
fn listen(remote: &Remote, address: Ipv4Addr) -> (Socket, Socket) {
    let tcp = remote.listen_on((address, TCP).into(), Kind::Tcp).unwrap();
    let udp = remote.bare(Kind::Udp, false).unwrap();
    udp.call(Call::Bind((address, UDP).into())).unwrap();
    (tcp, udp)
}

/// Waits until who dials a service reaches its listener. While it is none, nobody answers at all.
fn wait_for_service(world: &World, vip: SocketAddr, listener: &Socket) {
    wait_for("the service", PATIENCE, || {
        let socket = world.client.bare(Kind::Tcp, false).unwrap();
        socket.call(Call::Nonblocking(true)).unwrap();
        socket.call(Call::Connect(vip)).ok();
        let reached = sees(listener, libc::POLLIN, 200);
        if reached {
            listener.accept().unwrap().close().unwrap();
        }
        socket.close().unwrap();
        reached
    })
    .unwrap();
}

/// Connected UDP sockets, one of each service, are told, once, and may connect anew.
fn drained_as_said(datagrams: &[(Socket, Socket); 3], [first, second]: [&Socket; 2]) {
    for ((drain, vip), (connected, _)) in SERVICES.iter().zip(datagrams) {
        if *drain == "keep" {
            assert_eq!(send(connected, None), None);
            take(first);
        } else {
            assert_eq!(error(connected), Some(libc::ECONNABORTED), "{drain}");
            assert_eq!(send(connected, None), Some(libc::EDESTADDRREQ), "{drain}");
        }
        let vip = SocketAddr::new(vip.parse().unwrap(), 80);
        connected.call(Call::Connect(vip)).unwrap();
        assert_eq!(send(connected, None), None);
        take(second);
    }
}

#[test]
fn a_removed_endpoint_is_drained_as_its_service_says() {
    let Some(world) = World::new(Some(Acceleration::Off)) else {
        return;
    };
    let pod = world.node.pod("other").unwrap();
    manifest::write(&pod, Acceleration::Off).unwrap();
    let other = Remote::start(&pod).unwrap();
    let first = listen(&world.server, world.pods[1].v4());
    let second = listen(&other, pod.v4());
    serve_by(&world, &world.pods[1].v4().to_string());
    let vips = SERVICES.map(|(_, vip)| SocketAddr::new(vip.parse().unwrap(), 80));
    for vip in vips {
        wait_for_service(&world, vip, &first.0);
    }
    let pieces = (Piece::first(1, 1000), Piece::first(2, 1000));
    let streams = vips.map(|vip| {
        let client = world.client.connect(vip).unwrap();
        let server = first.0.accept().unwrap();
        for end in [&client, &server] {
            end.call(Call::Nonblocking(true)).unwrap();
        }
        exchange((&client, &server), pieces, MIXED);
        (client, server)
    });
    let datagrams = vips.map(|vip| {
        let connected = world.client.connect_from(None, vip, Kind::Udp).unwrap();
        let free = world.client.bare(Kind::Udp, false).unwrap();
        assert_eq!(send(&connected, None), None);
        take(&first.1);
        assert_eq!(send(&free, Some(vip)), None);
        take(&first.1);
        (connected, free)
    });
    let pod_itself = (world.pods[1].v4(), UDP).into();
    let direct = world
        .client
        .connect_from(None, pod_itself, Kind::Udp)
        .unwrap();
    let [now, after, keep] = &streams;
    let removed = Instant::now();
    serve_by(&world, &pod.v4().to_string());
    assert_eq!(error(&now.0), Some(libc::ECONNABORTED));
    let at_once = removed.elapsed();
    // The new endpoint has been written with the removal of the old one.
    for (vip, (_, free)) in vips.into_iter().zip(&datagrams) {
        let fresh = world.client.connect(vip).unwrap();
        second.0.accept().unwrap();
        fresh.close().unwrap();
        assert_eq!(send(free, Some(vip)), None);
        take(&second.1);
    }
    assert_eq!(error(&after.0), Some(libc::ECONNABORTED));
    let in_time = removed.elapsed();
    println!("`now` was reset after {at_once:?}, `2s` after {in_time:?}");
    assert!(in_time >= AFTER, "{in_time:?}");
    assert!(at_once < AFTER, "{at_once:?}");
    // The other end hears of it, too.
    for end in [&now.1, &after.1] {
        assert!(sees(end, libc::POLLIN, 20_000), "{}", end.local);
    }
    let next = (pieces.0.then(1000), pieces.1.then(1000));
    exchange((&keep.0, &keep.1), next, MIXED);
    drained_as_said(&datagrams, [&first.1, &second.1]);
    // One that dialled the endpoint itself is nobody's to close.
    assert_eq!(send(&direct, None), None);
    take(&first.1);
}
