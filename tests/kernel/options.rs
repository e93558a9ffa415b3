//! Socket options that redirect does not honour: seen, remembered, and otherwise left alone.

use harness::remote::protocol::{Call, Kind};
use harness::wait::{PATIENCE, wait_for};
use mesh_agent::model::workload::Acceleration;
use mesh_common::behaviour;
use mesh_common::reason::Reason;

use crate::established::reason;
use crate::ground::{Ground, state, taken};
use crate::sys;

const SOL_SOCKET: i32 = libc::SOL_SOCKET;
const IPPROTO_TCP: i32 = libc::IPPROTO_TCP;

/// Options with a value that takes effect, and what each shows.
const OPTIONS: [(i32, i32, i32, u64); 6] = [
    (SOL_SOCKET, libc::SO_RCVLOWAT, 10, behaviour::RCVLOWAT),
    (SOL_SOCKET, libc::SO_PEEK_OFF, 0, behaviour::PEEK_OFF),
    (SOL_SOCKET, libc::SO_ZEROCOPY, 1, behaviour::ZEROCOPY_SEND),
    (IPPROTO_TCP, libc::TCP_REPAIR, 1, behaviour::REPAIR),
    (IPPROTO_TCP, libc::TCP_INQ, 1, behaviour::INQ),
    (IPPROTO_TCP, libc::TCP_NODELAY, 1, 0),
];

/// The same with a value that changes nothing.
const HARMLESS: [(i32, i32, i32); 5] = [
    (SOL_SOCKET, libc::SO_RCVLOWAT, 1),
    (SOL_SOCKET, libc::SO_PEEK_OFF, -1),
    (SOL_SOCKET, libc::SO_ZEROCOPY, 0),
    (IPPROTO_TCP, libc::TCP_REPAIR, 0),
    (IPPROTO_TCP, libc::TCP_INQ, 0),
];

fn behaviours(ground: &Ground) -> u64 {
    let id = ground.id(&ground.pods[0]);
    ground.maps.admissions.get(id).unwrap().behaviours
}

#[test]
fn each_is_remembered_of_its_socket_and_its_workload() {
    let Some(mut ground) = Ground::new() else {
        return;
    };
    let mut all = 0;
    for (level, name, value) in HARMLESS {
        let socket = ground.client.bare(Kind::Tcp, false).unwrap();
        socket.set_option(level, name, value).unwrap();
        assert_eq!(behaviours(&ground), 0, "{level} {name}");
    }
    for (level, name, value, shows) in OPTIONS {
        let (client, _server) = ground.join();
        let descriptor = taken(&mut ground.client, &client);
        // From outside the pod: it is the socket that counts, not who sets the option.
        sys::set_option(&descriptor, level, name, &value.to_ne_bytes()).unwrap();
        drop(descriptor);
        client.set_option(level, name, value).unwrap();
        all |= shows;
        assert_eq!(behaviours(&ground), all, "{level} {name}");
        let (known, _descriptor) = state(&ground.maps, &mut ground.client, &client);
        assert_eq!(known.unwrap().behaviours, shows, "{level} {name}");
        if shows == behaviour::REPAIR {
            client.set_option(level, name, 0).unwrap();
        }
    }
}

#[test]
fn a_socket_with_one_stays_on_tcp_also_in_mode_on() {
    let Some(ground) = Ground::new() else {
        return;
    };
    let listener = ground.server.listen().unwrap();
    for (option, expected) in [(10, Reason::SocketOption), (1, Reason::Idle)] {
        let client = ground.client.bare(Kind::Tcp, false).unwrap();
        client
            .set_option(SOL_SOCKET, libc::SO_RCVLOWAT, option)
            .unwrap();
        client.call(Call::Connect(listener.local)).unwrap();
        let server = listener.accept().unwrap();
        let flows = mesh_agent::model::observed::KernelView::live_flows(&*ground.kernel).unwrap();
        assert_eq!(flows.len(), 1);
        assert_eq!(flows[0].reason, expected as u8, "{option}");
        for socket in [client, server] {
            socket.close().unwrap();
        }
        crate::established::flows_end(&ground);
    }
}

#[test]
fn an_accepted_socket_has_its_listeners_options() {
    let Some(mut ground) = Ground::new() else {
        return;
    };
    let listener = ground.server.listen().unwrap();
    listener
        .set_option(SOL_SOCKET, libc::SO_RCVLOWAT, 10)
        .unwrap();
    let (_client, server) = ground.client.join(&listener).unwrap();
    // `accept` may return while the handshake's end is still being dealt with on another core.
    wait_for("the reason", PATIENCE, || {
        let (known, _descriptor) = state(&ground.maps, &mut ground.server, &server);
        let known = known.unwrap();
        assert_eq!(known.behaviours, behaviour::RCVLOWAT);
        known.reason == Reason::SocketOption as u32
    })
    .unwrap();
}

#[test]
fn an_option_of_another_protocol_says_nothing_about_tcp() {
    let Some(ground) = Ground::new() else {
        return;
    };
    ground.set_modes(Acceleration::Observe);
    // The peers make stream sockets only; a shell's are of every kind.
    let script = "import socket\n\
                  for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):\n    \
                      socket.socket(socket.AF_UNIX, kind).setsockopt(1, 42, 0)\n\
                  socket.socket(socket.AF_INET, socket.SOCK_DGRAM).setsockopt(1, 18, 10)\n\
                  socket.socket(socket.AF_INET, socket.SOCK_DGRAM).setsockopt(1, 60, 1)\n";
    let pod = &ground.pods[0];
    let mut command = pod.command("python3");
    let mut running = pod.start("options", command.args(["-c", script])).unwrap();
    running.success(PATIENCE).unwrap();
    assert_eq!(behaviours(&ground), 0);
}

#[test]
fn a_value_longer_than_a_page_reaches_the_kernel_whole() {
    const TCP_MD5SIG: i32 = 14;
    let Some(mut ground) = Ground::new() else {
        return;
    };
    let (client, _server) = ground.join();
    let descriptor = taken(&mut ground.client, &client);
    for length in [4, 4096, 4097, 20_000] {
        // The kernel reads an `int` of it and ignores the rest.
        let mut value = vec![0; length];
        value[..4].copy_from_slice(&1i32.to_ne_bytes());
        sys::set_option(&descriptor, IPPROTO_TCP, libc::TCP_NODELAY, &value).unwrap();
        let answer = client.call(Call::Option {
            level: IPPROTO_TCP,
            name: libc::TCP_NODELAY,
        });
        assert_eq!(answer.unwrap().count, 1, "{length}");
        value[..4].copy_from_slice(&0i32.to_ne_bytes());
        sys::set_option(&descriptor, IPPROTO_TCP, libc::TCP_NODELAY, &value).unwrap();
        let answer = client.call(Call::Option {
            level: IPPROTO_TCP,
            name: libc::TCP_NODELAY,
        });
        assert_eq!(answer.unwrap().count, 0, "{length}");
    }
    // And an error is the kernel's own.
    let refused = sys::set_option(&descriptor, IPPROTO_TCP, TCP_MD5SIG, &[0; 8]).unwrap_err();
    assert_ne!(refused.raw_os_error(), Some(libc::EPERM));
    assert_eq!(reason(&ground, &client), Reason::Idle);
}
