//! A backend counts a socket as open from its connect to its end, whichever end it comes to.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use harness::machine::workspace_program;
use harness::remote::PEER_VARIABLE;
use harness::remote::protocol::Kind;
use harness::wait::PATIENCE;
use harness::{Running, wait_for};
use mesh_common::service::{BackendEntry, TCP, UDP};
use socket2::{SockRef, Socket};

use crate::ground::Ground;
use crate::services::{VIP, client, listener, open, picked, receiver};
use crate::tables::{Served, Tables};

fn vip(port: u16) -> SocketAddr {
    (VIP, port).into()
}

fn entry(ground: &Ground, served: &Served) -> BackendEntry {
    ground.maps.backends.get(served.backends[0]).unwrap()
}

/// Starts the peer that connects and ends connections in every way.
fn churn(ground: &Ground, arguments: &[String]) -> Running {
    let pod = &ground.pods[0];
    let mut command = pod.command(workspace_program("peer", PEER_VARIABLE).unwrap());
    command.arg("churn").args(arguments);
    pod.start("churn", &mut command).unwrap()
}

#[test]
fn twenty_thousand_sockets_that_end_in_every_way_leave_none_open() {
    let Some(mut ground) = Ground::new() else {
        return;
    };
    let mut tables = Tables::new(&ground);
    let address = ground.pods[1].v4().into();
    let accepting = listener(&mut ground.server, address);
    let refusing = SocketAddr::from((ground.pods[1].v4(), 9));
    // Nobody has this address on the pods' network: no answer ever comes.
    let silent = SocketAddr::from(([10, 77, 99, 99], 80));
    let datagrams = receiver(&mut ground.server, address);
    let accepts = tables.serve_at(vip(1), TCP, accepting.local_addr().unwrap());
    let refuses = tables.serve_at(vip(2), TCP, refusing);
    let keeps_silent = tables.serve_at(vip(3), TCP, silent);
    let takes_datagrams = tables.serve_at(vip(4), UDP, datagrams.local_addr().unwrap());
    let all = [&accepts, &refuses, &keeps_silent, &takes_datagrams];
    // Every other connection is closed by the server with a reset, the others with a FIN.
    let serving = std::thread::spawn(move || {
        let mut reset = false;
        while let Ok((stream, from)) = accepting.accept() {
            if from.port() == END {
                break;
            }
            let linger = reset.then_some(Duration::ZERO);
            SockRef::from(&stream).set_linger(linger).unwrap();
            reset = !reset;
        }
    });
    let address = |served: &Served| vip(u16::try_from(served.number).unwrap()).to_string();
    let mut arguments: Vec<String> = all.iter().map(|served| address(served)).collect();
    arguments.push("4000".to_owned());
    // Twice to its end, and once until it is killed with sockets open.
    for _ in 0..2 {
        churn(&ground, &arguments).success(PATIENCE * 4).unwrap();
    }
    let mut killed = churn(
        &ground,
        &[arguments.as_slice(), &["--keep".to_owned()]].concat(),
    );
    killed.line("kept", PATIENCE).unwrap();
    let open_now: u64 = all.iter().map(|served| open(&ground, served)[0]).sum();
    assert!(open_now >= 100, "{open_now}");
    killed.kill().unwrap();
    wait_for("every backend to be left", PATIENCE, || {
        all.iter().all(|served| open(&ground, served) == [0])
    })
    .unwrap();
    let picks: Vec<u64> = all
        .iter()
        .map(|served| picked(&ground, served)[0])
        .collect();
    assert!(picks.iter().sum::<u64>() >= 20_000, "{picks:?}");
    assert_eq!(u64::from(entry(&ground, &refuses).failed), picks[1]);
    assert!(entry(&ground, &accepts).reset > 0);
    assert_eq!(entry(&ground, &accepts).failed, 0);
    // Given up before the first segment had to be sent again.
    assert_eq!(entry(&ground, &keeps_silent).failed, 0);

    let last = client(&mut ground, Kind::Tcp, false);
    last.bind(&SocketAddr::from((ground.pods[0].v4(), END)).into())
        .unwrap();
    last.connect(&vip(1).into()).unwrap();
    serving.join().unwrap();
    drop(last);
    wait_for("the last to be closed", PATIENCE, || {
        open(&ground, &accepts) == [0]
    })
    .unwrap();
}

/// The port that a client has whose connection ends the server.
const END: u16 = 999;

#[test]
fn a_connect_that_had_no_answer_counts_as_failed() {
    const TCP_USER_TIMEOUT: i32 = 18;
    let Some(mut ground) = Ground::new() else {
        return;
    };
    let mut tables = Tables::new(&ground);
    let served = tables.serve_at(vip(80), TCP, SocketAddr::from(([10, 77, 99, 99], 80)));
    let socket = client(&mut ground, Kind::Tcp, false);
    let timeout = 1500u32.to_ne_bytes();
    crate::sys::set_option(&socket, libc::IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout).unwrap();
    let error = socket.connect(&vip(80).into()).unwrap_err();
    println!("{error}");
    let now = entry(&ground, &served);
    // The owner still has the socket, but TCP is done with it.
    assert_eq!((now.picked, now.failed, now.open), (1, 1, 0));
    drop(socket);
    assert_eq!(entry(&ground, &served).open, 0);
}

#[test]
fn a_connection_that_the_backend_resets_is_closed_and_counted_at_once() {
    let Some(mut ground) = Ground::new() else {
        return;
    };
    let mut tables = Tables::new(&ground);
    let listener = listener(&mut ground.server, ground.pods[1].v4().into());
    let served = tables.serve_at(vip(80), TCP, listener.local_addr().unwrap());
    let socket: Socket = client(&mut ground, Kind::Tcp, false);
    socket.connect(&vip(80).into()).unwrap();
    let (stream, _): (TcpStream, _) = listener.accept().unwrap();
    assert_eq!(open(&ground, &served), [1]);
    SockRef::from(&stream)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(stream);
    wait_for("the reset", PATIENCE, || open(&ground, &served) == [0]).unwrap();
    // It is reported, and so counted, once its owner lets go.
    assert_eq!(entry(&ground, &served).reset, 0);
    drop(socket);
    assert_eq!(entry(&ground, &served).reset, 1);
}
