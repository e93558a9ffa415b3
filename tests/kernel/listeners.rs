//! Backends whose listener has closed get no connections while another one is left.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use harness::remote::protocol::Kind;
use harness::wait::PATIENCE;
use harness::{Remote, wait_for};
use mesh_agent::balance::Balancing as _;
use mesh_agent::model::balanced::{Balanced, PortId, Target};
use mesh_agent::model::service::{Drain, Protocol, ServiceName};
use mesh_agent::model::workload::Acceleration;
use mesh_common::addr::PortBe;
use mesh_common::balance::Algorithm;
use mesh_common::listener::{ListenerKey, Listeners};
use mesh_common::service::TCP;
use rustix::net::sockopt::set_socket_reuseport;
use socket2::Socket;

use crate::ground::{Ground, netns, socket};
use crate::services::{VIP, VIP6, client, picked, receiver};
use crate::tables::{Served, Tables};

const ALGORITHMS: [Algorithm; 4] = [
    Algorithm::Random,
    Algorithm::RoundRobin,
    Algorithm::LeastConnections,
    Algorithm::Maglev,
];

/// Two listeners of the server's pod, in two processes, behind one service port for each algorithm.
struct Pair {
    ground: Ground,
    tables: Tables,
    /// The other server process.
    second: Remote,
    vip: IpAddr,
    served: Vec<Served>,
}

/// A listener of a process at this address; without a port, at any.
fn listen(remote: &mut Remote, at: SocketAddr) -> TcpListener {
    let socket = Socket::from(socket(remote, Kind::Tcp, at.is_ipv6()));
    set_socket_reuseport(&socket, true).unwrap();
    socket.bind(&at.into()).unwrap();
    socket.listen(4096).unwrap();
    socket.into()
}

impl Pair {
    fn new() -> Option<Self> {
        let ground = Ground::new()?;
        Some(Self {
            tables: Tables::new(&ground),
            second: Remote::start(&ground.pods[1]).unwrap(),
            ground,
            vip: VIP.into(),
            served: Vec::new(),
        })
    }

    fn serve(&mut self, backends: [SocketAddr; 2]) {
        for (port, algorithm) in (1..).zip(ALGORITHMS) {
            let served = self.tables.serve(algorithm, &backends.map(|it| (it, 1)));
            let vip = SocketAddr::new(self.vip, port);
            self.tables.frontend(vip, TCP, served.number);
            self.served.push(served);
        }
    }

    fn at(&self, port: u16) -> SocketAddr {
        let [v4, v6] = self.ground.pods[1].addresses();
        SocketAddr::new(if self.vip.is_ipv4() { v4 } else { v6 }, port)
    }

    /// Connects so often to each service port; returns how many were refused.
    fn connect(&mut self, times: u32) -> u32 {
        let mut refused = 0;
        for port in 1..=u16::try_from(ALGORITHMS.len()).unwrap() {
            for _ in 0..times {
                let socket = client(&mut self.ground, Kind::Tcp, self.vip.is_ipv6());
                match socket.connect(&SocketAddr::new(self.vip, port).into()) {
                    Ok(()) => {}
                    Err(error) if error.raw_os_error() == Some(libc::ECONNREFUSED) => refused += 1,
                    Err(error) => panic!("{error}"),
                }
            }
        }
        refused
    }

    /// Returns the picks of both backends by service port.
    fn picks(&self) -> Vec<Vec<u64>> {
        let picks = self.served.iter().map(|it| picked(&self.ground, it));
        picks.collect()
    }

    /// Returns how many sockets are known to listen on a port of the server's pod.
    fn known(&self, at: SocketAddr) -> Option<Listeners> {
        let key = ListenerKey {
            workload: self.ground.id(&self.ground.pods[1]),
            port: PortBe::new(at.port()),
            _pad: 0,
        };
        self.ground.maps.listeners.get(&key).unwrap()
    }

    fn open(&self, at: SocketAddr) -> Option<u64> {
        self.known(at).map(|known| known.open)
    }
}

fn only_the_first(vip: IpAddr) {
    const TIMES: u64 = 64;
    let Some(mut pair) = Pair::new() else { return };
    pair.vip = vip;
    let any = pair.at(0);
    let first = listen(&mut pair.ground.server, any);
    let second = listen(&mut pair.second, any);
    let (live, dead) = (first.local_addr().unwrap(), second.local_addr().unwrap());
    pair.serve([live, dead]);
    assert_eq!((pair.open(live), pair.open(dead)), (Some(1), Some(1)));
    assert_eq!(pair.connect(32), 0);
    let before = pair.picks();
    // All but Maglev, where one client has one backend, used both.
    assert!(
        before[..3].iter().flatten().all(|picks| *picks > 0),
        "{before:?}"
    );
    drop(second);
    wait_for("the listener to be gone", PATIENCE, || {
        pair.open(dead) == Some(0)
    })
    .unwrap();
    assert_eq!(pair.connect(u32::try_from(TIMES).unwrap()), 0);
    let after = pair.picks();
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(*after, [before[0] + TIMES, before[1]]);
    }
    // It comes back, on the same port.
    let again = listen(&mut pair.second, dead);
    assert_eq!(pair.open(dead), Some(1));
    assert_eq!(pair.connect(32), 0);
    let back = pair.picks();
    assert!(
        (0..3).all(|port| back[port][1] > after[port][1]),
        "{back:?}"
    );
    // Where nobody is left, one of them is asked, and refuses itself.
    drop((first, again));
    wait_for("all to be gone", PATIENCE, || {
        [live, dead].iter().all(|at| pair.open(*at) == Some(0))
    })
    .unwrap();
    assert_eq!(pair.connect(8), 32);
    let failed = |number: u32| pair.ground.maps.backends.get(number).unwrap().failed;
    let numbers = pair.served.iter().flat_map(|it| &it.backends);
    assert_eq!(numbers.map(|number| failed(*number)).sum::<u32>(), 32);
}

#[test]
fn a_closed_ipv4_listener_gets_no_connections_until_it_is_back() {
    only_the_first(VIP.into());
}

#[test]
fn a_closed_ipv6_listener_gets_no_connections_until_it_is_back() {
    only_the_first(VIP6.into());
}

#[test]
fn a_killed_listener_gets_no_connections() {
    let Some(mut pair) = Pair::new() else { return };
    let any = pair.at(0);
    let first = listen(&mut pair.ground.server, any);
    // A socket of the process alone, at every address: nobody here holds it.
    let wild = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
    let wild = pair.second.listen_on(wild, Kind::Tcp).unwrap();
    let dead = pair.at(wild.local.port());
    pair.serve([first.local_addr().unwrap(), dead]);
    assert_eq!(pair.connect(8), 0);
    assert!(pair.picks().iter().any(|picks| picks[1] > 0));
    let before: Vec<u64> = pair.picks().iter().map(|picks| picks[1]).collect();
    pair.second.running().kill().unwrap();
    wait_for("the listener to be gone", PATIENCE, || {
        pair.open(dead) == Some(0)
    })
    .unwrap();
    assert_eq!(pair.connect(64), 0);
    let after: Vec<u64> = pair.picks().iter().map(|picks| picks[1]).collect();
    assert_eq!(after, before);
}

#[test]
fn each_listener_is_counted_once_however_it_ends() {
    let Some(mut pair) = Pair::new() else { return };
    let any = pair.at(0);
    let first = listen(&mut pair.ground.server, any);
    let at = first.local_addr().unwrap();
    let second = listen(&mut pair.second, at);
    assert_eq!(pair.open(at), Some(2));
    // Sockets that it accepted are none of them, nor are those that wait to be accepted.
    pair.serve([at, at]);
    assert_eq!(pair.connect(8), 0);
    first.set_nonblocking(true).unwrap();
    while first.accept().is_ok() {}
    assert_eq!(pair.open(at), Some(2));
    // A copy of the descriptor is the same socket.
    drop(second.try_clone().unwrap());
    assert_eq!(pair.open(at), Some(2));
    // One of two that share a port goes: the other has it all.
    drop(first);
    wait_for("one to be gone", PATIENCE, || pair.open(at) == Some(1)).unwrap();
    assert_eq!(pair.connect(16), 0);
    // The same socket may stop and begin again: this one, which was bound to the very port.
    let socket = Socket::from(second);
    for _ in 0..3 {
        socket.shutdown(std::net::Shutdown::Both).unwrap();
        assert_eq!(pair.open(at), Some(0));
        socket.listen(1).unwrap();
        assert_eq!(pair.open(at), Some(1));
        // A longer queue is no further listener.
        socket.listen(2).unwrap();
        assert_eq!(pair.open(at), Some(1));
    }
    socket.shutdown(std::net::Shutdown::Both).unwrap();
    drop(socket);
    assert_eq!(pair.open(at), Some(0));
}

#[test]
fn affinity_does_not_hold_a_client_to_a_closed_listener() {
    let Some(mut pair) = Pair::new() else { return };
    let any = pair.at(0);
    let listeners = [
        listen(&mut pair.ground.server, any),
        listen(&mut pair.second, any),
    ];
    pair.serve(listeners.each_ref().map(|it| it.local_addr().unwrap()));
    for served in &mut pair.served {
        served.entry.affinity_ns = u64::MAX;
        pair.tables.set_service(served);
    }
    assert_eq!(pair.connect(8), 0);
    let before = pair.picks();
    let mut listeners = listeners.into_iter();
    for (closed, open) in [(0, 1), (1, 0)] {
        let listener = listeners.next().unwrap();
        let at = listener.local_addr().unwrap();
        drop(listener);
        wait_for("the listener to be gone", PATIENCE, || {
            pair.open(at) == Some(0)
        })
        .unwrap();
        let already = pair.picks();
        if closed == 0 {
            assert_eq!(already, before);
            assert_eq!(pair.connect(8), 0);
            let after = pair.picks();
            for (already, after) in already.iter().zip(&after) {
                assert_eq!(after[closed], already[closed]);
                assert_eq!(after[open], already[open] + 8);
            }
        } else {
            assert_eq!(pair.connect(1), 4);
        }
    }
}

#[test]
fn what_listened_before_is_unknown_and_a_new_owner_of_the_handle_starts_with_nothing() {
    let Some(mut pair) = Pair::new() else { return };
    let pod = pair.ground.pods[1].name().to_owned();
    assert_eq!(pod, "server");
    let any = pair.at(0);
    let known = listen(&mut pair.ground.server, any);
    let at = known.local_addr().unwrap();
    let entry = pair.known(at).unwrap();
    assert_eq!(entry.open, 1);
    // Without the workload nothing is counted.
    let [client, server] = &pair.ground.pods;
    pair.ground.apply(&[(client, "1", Acceleration::On)]);
    let remote = &mut pair.ground.server;
    let any = SocketAddr::new(server.v4().into(), 0);
    let unknown = listen(remote, any);
    pair.ground.apply(&[
        (client, "1", Acceleration::On),
        (server, "1", Acceleration::On),
    ]);
    let before = unknown.local_addr().unwrap();
    assert_eq!(pair.open(before), None);
    drop(unknown);
    pair.serve([before, before]);
    // Nobody knows that it closed: it is asked.
    assert_eq!(pair.connect(1), 4);
    // What was counted for an earlier owner of the handle does not count for this one.
    let again = listen(&mut pair.second, at);
    let now = pair.known(at).unwrap();
    drop(known);
    let left = if now.since_ns == entry.since_ns {
        1
    } else {
        now.open
    };
    wait_for("one to be gone", PATIENCE, || pair.open(at) == Some(left)).unwrap();
    drop(again);
}

#[test]
fn listeners_from_before_are_counted_once_and_seen_to_their_end() {
    let Some(mut pair) = Pair::new() else { return };
    let (client, server) = (0, 1);
    let apply = |pair: &Pair, pods: &[usize]| {
        let pods = pods.iter().map(|pod| &pair.ground.pods[*pod]);
        let wishes: Vec<_> = pods.map(|pod| (pod, "1", Acceleration::On)).collect();
        pair.ground.apply(&wishes);
    };
    let find = |pair: &Pair| {
        let [client, server] = &pair.ground.pods;
        let own = netns(server);
        let pod = |netns| if netns == own { server } else { client };
        let open = |netns| std::fs::File::open(pod(netns).netns_path());
        pair.ground.kernel.find_listeners(&open);
    };
    let free = pair.at(0);
    let known = listen(&mut pair.ground.server, free);
    let at = known.local_addr().unwrap();
    // While its pod is no workload, a second socket comes to listen on the same port, and one of a process that is killed.
    apply(&pair, &[client]);
    find(&pair);
    let hidden = listen(&mut pair.ground.server, at);
    let wild = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
    let wild = pair.second.listen_on(wild, Kind::Tcp).unwrap();
    let killed = pair.at(wild.local.port());
    let same_port = SocketAddr::new(pair.ground.pods[0].v4().into(), at.port());
    let elsewhere = listen(&mut pair.ground.client, same_port);
    apply(&pair, &[client, server]);
    assert_eq!(pair.open(killed), None);
    let seen = listen(&mut pair.ground.server, at);
    // Twice: each is counted once, whoever counted it.
    for _ in 0..2 {
        find(&pair);
        assert_eq!((pair.open(at), pair.open(killed)), (Some(3), Some(1)));
    }
    let other = listen(&mut pair.ground.server, free).local_addr().unwrap();
    pair.serve([at, at]);
    // The known ones close. The port is not closed: the other answers.
    drop((known, seen));
    wait_for("the known ones to be gone", PATIENCE, || {
        pair.open(at) == Some(1)
    })
    .unwrap();
    assert_eq!(pair.connect(8), 0);
    assert_eq!(pair.open(other), Some(0));
    drop(hidden);
    wait_for("the last to be gone", PATIENCE, || pair.open(at) == Some(0)).unwrap();
    pair.second.running().kill().unwrap();
    wait_for("the killed one to be gone", PATIENCE, || {
        pair.open(killed) == Some(0)
    })
    .unwrap();
    drop(elsewhere);
}

/// The backends of one version of a service port for datagrams.
fn version(number: u32, at: [SocketAddr; 2]) -> BTreeMap<PortId, Arc<Balanced>> {
    let id = PortId {
        service: ServiceName {
            namespace: "default".to_owned(),
            name: "flips".to_owned(),
        },
        port: 80,
        protocol: Protocol::Udp,
    };
    let balanced = Balanced {
        id: id.clone(),
        frontends: vec![(VIP, 80).into()],
        node_port: None,
        algorithm: ALGORITHMS[usize::try_from(number / 2 % 4).unwrap()],
        affinity: None,
        proxied: None,
        drops: false,
        drain: Drain::Keep,
        targets: vec![Target {
            address: at[usize::try_from(number % 2).unwrap()],
            workload: None,
            weight: 1,
        }],
        resting: Vec::new(),
        candidates: Vec::new(),
    };
    BTreeMap::from([(id, Arc::new(balanced))])
}

#[test]
fn a_connect_during_any_update_gets_a_backend_of_the_old_or_of_the_new_set() {
    const FLIPS: u32 = 10_000;
    const CONNECTS: u32 = 100_000;
    let Some(mut ground) = Ground::new() else {
        return;
    };
    Tables::new(&ground);
    let address = ground.pods[1].v4().into();
    let servers = [0, 1].map(|_| receiver(&mut ground.server, address));
    let at = servers.each_ref().map(|it| it.local_addr().unwrap());
    let set = |ground: &Ground, number| {
        assert_eq!(ground.kernel.balance(&version(number, at)).unwrap(), []);
    };
    set(&ground, 0);
    let socket = client(&mut ground, Kind::Udp, false);
    let over = AtomicBool::new(false);
    let connects = std::thread::scope(|scope| {
        let dialling = scope.spawn(|| {
            let mut connects = 0;
            while connects < CONNECTS || !over.load(Ordering::SeqCst) {
                socket.connect(&SocketAddr::from((VIP, 80)).into()).unwrap();
                connects += 1;
            }
            connects
        });
        for number in 1..=FLIPS {
            set(&ground, number);
            if number % 100 == 0 {
                ground.kernel.tick().unwrap();
            }
            if dialling.is_finished() {
                break;
            }
        }
        over.store(true, Ordering::SeqCst);
        dialling.join().unwrap()
    });
    assert!(connects >= CONNECTS);
}
