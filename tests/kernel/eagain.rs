//! Blocking receive calls: they are seen, since any wake-up without data ends them with an `EAGAIN` in the socket map; and so is
//! that.

use std::os::fd::OwnedFd;

use harness::remote::Socket;
use harness::remote::errno;
use harness::remote::protocol::{Call, Piece};
use harness::wait::PATIENCE;
use harness::wait_for;
use mesh_agent::model::observed::KernelView as _;
use mesh_agent::model::workload::Acceleration;
use mesh_common::behaviour::{BLOCKING_RECEIVE, SPURIOUS_EAGAIN};

use crate::ground::{Ground, taken};
use crate::sys;

/// One receive call.
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

/// Does one receive call in this mode, blocking or not and with these flags, where ten bytes wait, the connection has ended, or
/// nothing comes within 20 ms; returns what was seen.
fn receive(
    ground: &mut Ground,
    mode: Acceleration,
    wait: Waits,
    (blocking, flags): (bool, i32),
) -> u64 {
    ground.maps.admissions.clear(ground.id(&ground.pods[0]));
    ground.set_modes(Acceleration::Off);
    ground.set_modes(mode);
    let (client, server) = join_blocking(ground);
    match wait {
        Waits::Bytes => {
            server.write(Piece::first(1, 10), (10, 10)).unwrap();
        }
        Waits::End => server.close().unwrap(),
        Waits::Nothing => {
            let descriptor = taken(&mut ground.client, &client);
            set_patience(&descriptor);
        }
    }
    if wait != Waits::Nothing {
        let readable = Call::Poll {
            events: libc::POLLIN,
            timeout: 5000,
        };
        assert_ne!(client.call(readable).unwrap().count, 0);
    }
    client.call(Call::Nonblocking(!blocking)).unwrap();
    let length = 10;
    let received = client.call(Call::Receive { length, flags });
    assert!(received.is_ok() || errno(&received).is_some());
    seen(ground)
}

/// What a receive call finds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Waits {
    Bytes,
    End,
    Nothing,
}

/// Lets receive calls wait for 20 ms only.
fn set_patience(descriptor: &OwnedFd) {
    let patience: [i64; 2] = [0, 20_000];
    let patience: Vec<u8> = patience.iter().flat_map(|n| n.to_ne_bytes()).collect();
    sys::set_option(descriptor, libc::SOL_SOCKET, libc::SO_RCVTIMEO, &patience).unwrap();
}

#[test]
fn a_receive_call_that_is_ready_to_wait_is_seen_whatever_it_returns() {
    let Some(mut ground) = Ground::new() else {
        return;
    };
    for mode in [Acceleration::On, Acceleration::Observe] {
        for wait in [Waits::Bytes, Waits::End, Waits::Nothing] {
            for flags in [0, libc::MSG_PEEK, libc::MSG_NOSIGNAL] {
                let seen = receive(&mut ground, mode, wait, (true, flags));
                assert_eq!(seen, BLOCKING_RECEIVE, "{mode:?} {wait:?} {flags:#x}");
            }
        }
    }
}

#[test]
fn one_that_never_waits_is_not() {
    let Some(mut ground) = Ground::new() else {
        return;
    };
    for mode in [Acceleration::On, Acceleration::Observe] {
        for wait in [Waits::Bytes, Waits::End, Waits::Nothing] {
            for (blocking, flags) in [
                (false, 0),
                (false, libc::MSG_PEEK),
                (true, libc::MSG_DONTWAIT),
                (true, libc::MSG_ERRQUEUE),
                (true, libc::MSG_OOB),
            ] {
                let seen = receive(&mut ground, mode, wait, (blocking, flags));
                assert_eq!(seen, 0, "{mode:?} {wait:?} {blocking} {flags:#x}");
            }
        }
    }
    // Nor is one of a workload that is neither in the socket map nor observed.
    let off = receive(&mut ground, Acceleration::Off, Waits::Bytes, (true, 0));
    assert_eq!(off, 0);
}

#[test]
fn an_eagain_that_tcp_would_not_have_given_is_counted_and_no_other_is() {
    let Some(mut ground) = Ground::new() else {
        return;
    };
    let forbidden = ground.maps.control.get(&0).unwrap().unwrap().forbidden;
    if forbidden & BLOCKING_RECEIVE == 0 {
        eprintln!("this kernel gives no such EAGAIN");
        return;
    }
    let counted = |ground: &Ground| ground.kernel.counters().unwrap().spurious_eagain;
    // Out of patience, as it was told to be; in non-blocking mode; and no errors in the queue of those.
    let (client, _server) = join_blocking(&ground);
    let descriptor = taken(&mut ground.client, &client);
    set_patience(&descriptor);
    assert_eq!(errno(&client.call(RECEIVE)), Some(libc::EAGAIN));
    let (client, _server) = ground.join();
    assert_eq!(errno(&client.call(RECEIVE)), Some(libc::EAGAIN));
    client.call(Call::Nonblocking(false)).unwrap();
    let errors = Call::Receive {
        length: 10,
        flags: libc::MSG_ERRQUEUE,
    };
    assert_eq!(errno(&client.call(errors)), Some(libc::EAGAIN));
    assert_eq!((counted(&ground), seen(&ground)), (0, BLOCKING_RECEIVE));
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
    assert_eq!(
        (counted(&ground), seen(&ground)),
        (1, BLOCKING_RECEIVE | SPURIOUS_EAGAIN)
    );
    // The next agent goes on counting.
    ground.restart();
    assert_eq!(counted(&ground), 1);
}

/// Not a promise: a fault of the kernel that no program here can foresee, and that mode `on` leaves to the operator.
#[test]
fn a_program_that_is_stopped_and_continued_is_given_one_and_that_is_counted() {
    let Some(mut ground) = Ground::new() else {
        return;
    };
    let forbidden = ground.maps.control.get(&0).unwrap().unwrap().forbidden;
    if forbidden & BLOCKING_RECEIVE == 0 {
        eprintln!("this kernel gives no such EAGAIN");
        return;
    }
    let (client, _server) = join_blocking(&ground);
    let receive = client.start(RECEIVE).unwrap();
    wait_for("the call to end", PATIENCE, || {
        // The first may come before the call sleeps.
        ground.client.stop_and_continue().unwrap();
        !receive.runs().unwrap()
    })
    .unwrap();
    assert_eq!(errno(&receive.wait(PATIENCE)), Some(libc::EAGAIN));
    let counted = ground.kernel.counters().unwrap().spurious_eagain;
    assert_eq!(
        (counted, seen(&ground)),
        (1, BLOCKING_RECEIVE | SPURIOUS_EAGAIN)
    );
}
