//! Blocking receive calls of sockets in the socket map: which are in danger of an `EAGAIN`, and which got one.

use harness::remote::Socket;
use harness::remote::errno;
use harness::remote::protocol::{Call, Piece};
use harness::wait::PATIENCE;
use harness::wait_for;
use mesh_agent::model::observed::KernelView as _;
use mesh_agent::model::workload::Acceleration;
use mesh_common::behaviour::{
    BLOCKING_THREADS, LONG_SEND_BLOCKING, LONG_SEND_BYTES, SPURIOUS_EAGAIN,
};
use rustix::process::{Pid, Signal, kill_process};

use crate::ground::{Ground, taken};
use crate::sys;

/// One receive call; the connection's other end has just sent something, unless `length` is of no interest.
const RECEIVE: Call = Call::Receive {
    length: 10,
    flags: 0,
};

fn seen(ground: &Ground) -> u64 {
    let id = ground.id(&ground.pods[0]);
    ground.maps.admissions.get(id).unwrap().behaviours
}

/// Returns a connection whose client's end is in blocking mode.
fn join_blocking(ground: &Ground) -> (Socket, Socket) {
    let (client, server) = ground.join();
    client.call(Call::Nonblocking(false)).unwrap();
    (client, server)
}

/// Sends so many bytes in small messages, which the other end reads, and receives ten; blocking or not.
fn send_and_receive(ground: &Ground, bytes: u64, blocking: bool) {
    let (client, server) = join_blocking(ground);
    let piece = Piece::first(1, bytes);
    client.write(piece, (1000, 1000)).unwrap();
    assert_eq!(server.read(piece, (1, 5000)).unwrap(), bytes);
    server.write(Piece::first(2, 20), (20, 20)).unwrap();
    client.call(Call::Nonblocking(!blocking)).unwrap();
    assert_eq!(client.call(RECEIVE).unwrap().count, 10);
    // What came before the last call does not matter to this one.
    client.call(Call::Nonblocking(false)).unwrap();
    assert_eq!(client.call(RECEIVE).unwrap().count, 10);
}

#[test]
fn a_blocking_receive_after_a_long_send_is_seen() {
    let Some(ground) = Ground::new() else {
        return;
    };
    for _ in 0..5 {
        send_and_receive(&ground, LONG_SEND_BYTES, true);
        send_and_receive(&ground, LONG_SEND_BYTES + 1000, false);
    }
    assert_eq!(seen(&ground), 0);
    // Whoever is neither in the socket map nor observed.
    ground.set_modes(Acceleration::Off);
    send_and_receive(&ground, LONG_SEND_BYTES + 1, true);
    assert_eq!(seen(&ground), 0);
    for mode in [Acceleration::On, Acceleration::Observe] {
        ground.set_modes(mode);
        send_and_receive(&ground, LONG_SEND_BYTES + 1, true);
        // The peers use a thread for each call, which is seen of whoever is observed.
        assert_eq!(
            seen(&ground) & !BLOCKING_THREADS,
            LONG_SEND_BLOCKING,
            "{mode:?}"
        );
        ground.set_modes(Acceleration::Off);
        ground.maps.admissions.clear(ground.id(&ground.pods[0]));
    }
}

#[test]
fn one_that_ends_with_the_connection_or_only_looks_is_seen_too() {
    const MSG_PEEK: i32 = 2;
    let Some(ground) = Ground::new() else {
        return;
    };
    for peeks in [false, true] {
        let (client, server) = join_blocking(&ground);
        let piece = Piece::first(1, LONG_SEND_BYTES + 1);
        client.write(piece, (1000, 1000)).unwrap();
        assert_eq!(server.read(piece, (1, 5000)).unwrap(), piece.length);
        if peeks {
            server.write(Piece::first(2, 20), (20, 20)).unwrap();
        } else {
            server.finish().unwrap();
        }
        let flags = if peeks { MSG_PEEK } else { 0 };
        let answer = client.call(Call::Receive { length: 10, flags }).unwrap();
        assert_eq!(answer.count, if peeks { 10 } else { 0 });
        assert_eq!(seen(&ground), LONG_SEND_BLOCKING, "{peeks}");
        ground.maps.admissions.clear(ground.id(&ground.pods[0]));
        ground.set_modes(Acceleration::Off);
        ground.set_modes(Acceleration::On);
    }
}

#[test]
fn an_eagain_that_tcp_would_not_have_given_is_counted_and_no_other_is() {
    let Some(mut ground) = Ground::new() else {
        return;
    };
    let forbidden = ground.maps.control.get(&0).unwrap().unwrap().forbidden;
    if forbidden & LONG_SEND_BLOCKING == 0 {
        eprintln!("this kernel gives no such EAGAIN");
        return;
    }
    let counted = |ground: &Ground| ground.kernel.counters().unwrap().spurious_eagain;
    // Out of patience, as it was told to be; in non-blocking mode; and no errors in the queue of those.
    let (client, _server) = join_blocking(&ground);
    let descriptor = taken(&mut ground.client, &client);
    let patience: [i64; 2] = [0, 20_000];
    let patience: Vec<u8> = patience.iter().flat_map(|n| n.to_ne_bytes()).collect();
    sys::set_option(&descriptor, libc::SOL_SOCKET, libc::SO_RCVTIMEO, &patience).unwrap();
    assert_eq!(errno(&client.call(RECEIVE)), Some(libc::EAGAIN));
    let (client, _server) = ground.join();
    assert_eq!(errno(&client.call(RECEIVE)), Some(libc::EAGAIN));
    client.call(Call::Nonblocking(false)).unwrap();
    let errors = Call::Receive {
        length: 10,
        flags: libc::MSG_ERRQUEUE,
    };
    assert_eq!(errno(&client.call(errors)), Some(libc::EAGAIN));
    assert_eq!((counted(&ground), seen(&ground)), (0, 0));
    // By TCP, the same wake-up gives nothing.
    ground.set_modes(Acceleration::Off);
    let (client, server) = join_blocking(&ground);
    assert!(!client.wakes_in_vain(&server).unwrap());
    ground.set_modes(Acceleration::On);
    let mut given = false;
    for _ in 0..50 {
        let (client, server) = join_blocking(&ground);
        given |= client.wakes_in_vain(&server).unwrap();
        if given {
            break;
        }
    }
    assert!(given, "no call was asleep in time");
    assert_eq!((counted(&ground), seen(&ground)), (1, SPURIOUS_EAGAIN));
    // The next agent goes on counting.
    ground.restart();
    assert_eq!(counted(&ground), 1);
}

/// Not a promise: a fault of the kernel that no program here can foresee, and that is counted when it comes.
#[test]
fn a_program_that_is_stopped_and_continued_is_given_one_and_that_is_counted() {
    let Some(mut ground) = Ground::new() else {
        return;
    };
    let forbidden = ground.maps.control.get(&0).unwrap().unwrap().forbidden;
    if forbidden & LONG_SEND_BLOCKING == 0 {
        eprintln!("this kernel gives no such EAGAIN");
        return;
    }
    let (client, _server) = join_blocking(&ground);
    let program = ground.client.running().pid();
    let program = Pid::from_raw(i32::try_from(program).unwrap()).unwrap();
    let receive = client.start(RECEIVE).unwrap();
    wait_for("the call to end", PATIENCE, || {
        // The first may come before the call sleeps.
        kill_process(program, Signal::STOP).unwrap();
        kill_process(program, Signal::CONT).unwrap();
        !receive.runs().unwrap()
    })
    .unwrap();
    assert_eq!(errno(&receive.wait(PATIENCE)), Some(libc::EAGAIN));
    let counted = ground.kernel.counters().unwrap().spurious_eagain;
    assert_eq!((counted, seen(&ground)), (1, SPURIOUS_EAGAIN));
}
