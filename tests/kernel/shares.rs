//! Each backend gets its share, whatever the algorithm.

use std::net::SocketAddr;
use std::time::Duration;

use harness::remote::protocol::Kind;
use mesh_common::addr::Addr;
use mesh_common::balance::Algorithm;
use mesh_common::service::{AffinityKey, UDP};
use socket2::Socket;

use crate::ground::{Ground, netns};
use crate::services::{VIP, client, open, picked};
use crate::tables::{Served, Tables};

/// Connects that a share is taken over. They send nothing: a UDP socket connects without a packet.
const CONNECTS: u64 = 100_000;

/// Backends that nobody needs to be.
fn backends(weights: &[u32]) -> Vec<(SocketAddr, u32)> {
    let address = |port| SocketAddr::from(([10, 77, 0, 1], port));
    (1000..).map(address).zip(weights.iter().copied()).collect()
}

fn vip() -> SocketAddr {
    (VIP, 80).into()
}

fn served(tables: &mut Tables, algorithm: Algorithm, weights: &[u32]) -> Served {
    let served = tables.serve(algorithm, &backends(weights));
    tables.frontend(vip(), UDP, served.number);
    served
}

fn connect(socket: &Socket, times: u64) {
    let vip = vip().into();
    (0..times).for_each(|_| socket.connect(&vip).unwrap());
}

#[test]
fn shares_are_the_weights() {
    let Some(mut ground) = Ground::new() else {
        return;
    };
    let mut tables = Tables::new(&ground);
    let socket = client(&mut ground, Kind::Udp, false);
    for algorithm in [Algorithm::Random, Algorithm::RoundRobin] {
        for weights in [vec![1, 1, 1], vec![1, 2, 3, 4], vec![90, 10], vec![1; 100]] {
            let served = served(&mut tables, algorithm, &weights);
            connect(&socket, CONNECTS);
            let total: u32 = weights.iter().sum();
            let picks = picked(&ground, &served);
            assert_eq!(picks.iter().sum::<u64>(), CONNECTS);
            let turn = ground.maps.services.get(served.number).unwrap().turn;
            assert_eq!(turn, CONNECTS);
            for (pick, weight) in picks.iter().zip(&weights) {
                let off = share(*pick, CONNECTS) - f64::from(*weight) / f64::from(total);
                assert!(off.abs() < 0.01, "{algorithm:?} {weights:?}: {picks:?}");
            }
        }
    }
}

fn share(part: u64, whole: u64) -> f64 {
    f64::from(u32::try_from(part).unwrap()) / f64::from(u32::try_from(whole).unwrap())
}

#[test]
fn least_connections_fills_up_the_emptiest_for_its_weight() {
    let Some(mut ground) = Ground::new() else {
        return;
    };
    let mut tables = Tables::new(&ground);
    let served = served(&mut tables, Algorithm::LeastConnections, &[1, 1, 2]);
    let mut sockets: Vec<Socket> = (0..40)
        .map(|_| client(&mut ground, Kind::Udp, false))
        .collect();
    sockets.iter().for_each(|socket| connect(socket, 1));
    assert_eq!(open(&ground, &served), [10, 10, 20]);
    // Those of one backend close; the next ones all go there.
    let first = Addr::from(backends(&[1])[0].0.ip());
    let freed = |socket: &Socket| {
        let dial = ground.dial(socket).unwrap();
        assert_eq!(dial.backend, first);
        dial.backend_number == served.backends[0]
    };
    sockets.retain(|socket| !freed(socket));
    assert_eq!(open(&ground, &served), [0, 10, 20]);
    let next: Vec<Socket> = (0..9)
        .map(|_| client(&mut ground, Kind::Udp, false))
        .collect();
    next.iter().for_each(|socket| connect(socket, 1));
    assert_eq!(open(&ground, &served), [9, 10, 20]);
}

#[test]
fn maglev_gives_one_client_one_backend() {
    let Some(mut ground) = Ground::new() else {
        return;
    };
    let mut tables = Tables::new(&ground);
    let served = served(&mut tables, Algorithm::Maglev, &[1; 7]);
    let socket = client(&mut ground, Kind::Udp, false);
    connect(&socket, 1000);
    let picks = picked(&ground, &served);
    assert_eq!(
        picks.iter().filter(|picks| **picks == 1000).count(),
        1,
        "{picks:?}"
    );
}

#[test]
fn a_client_sticks_to_its_backend_until_it_has_been_away_too_long() {
    let Some(mut ground) = Ground::new() else {
        return;
    };
    let mut tables = Tables::new(&ground);
    let mut served = served(&mut tables, Algorithm::RoundRobin, &[1; 100]);
    served.entry.affinity_ns = u64::try_from(Duration::from_secs(3600).as_nanos()).unwrap();
    tables.set_service(&served);
    let sockets = [0, 1].map(|_| client(&mut ground, Kind::Udp, false));
    sockets.iter().for_each(|socket| connect(socket, 50));
    let used = |ground: &Ground, served: &Served| {
        let picks = picked(ground, served);
        let used = picks.iter().enumerate().filter(|(_, picks)| **picks > 0);
        used.map(|(index, picks)| (index, *picks))
            .collect::<Vec<_>>()
    };
    assert_eq!(used(&ground, &served), [(0, 100)]);
    // Its backend goes: it gets another, and sticks to that.
    let mut gone = ground.maps.backends.get(served.backends[0]).unwrap();
    gone.usable = 0;
    tables.set_backend(served.backends[0], &gone);
    tables.set_service(&served);
    // Round robin starts anew with the entry, at the one that is gone: the next one gets its turn.
    connect(&sockets[0], 20);
    assert_eq!(used(&ground, &served), [(0, 100), (1, 20)]);
    // Whoever was away for longer than this is balanced anew, each time.
    served.entry.affinity_ns = 1;
    tables.set_service(&served);
    connect(&sockets[0], 3);
    assert_eq!(used(&ground, &served), [(0, 100), (1, 22), (2, 1)]);
    let key = AffinityKey {
        client: netns(&ground.pods[0]),
        service: served.number,
        _pad: 0,
    };
    let stuck = ground.maps.affinities.get(&key).unwrap().unwrap();
    assert_eq!((stuck.backend, stuck.generation), (served.backends[2], 1));
}
