//! A socket that is used again is a new flow.

use harness::remote::protocol::{Call, Kind, Piece};
use mesh_common::close::CloseReason;
use mesh_common::reason::Reason;

use crate::established::cells_come_back;
use crate::ground::{Ground, state, taken};
use crate::sys;

const MSG_FASTOPEN: i32 = 0x2000_0000;

#[test]
fn a_failed_attempt_leaves_nothing_to_the_next() {
    let Some(mut ground) = Ground::new() else {
        return;
    };
    for pod in &ground.pods {
        let path = "/proc/sys/net/ipv4/tcp_fastopen";
        pod.enter(|| std::fs::write(path, "1543")).unwrap().unwrap();
    }
    let gone = ground.server.listen().unwrap();
    gone.close().unwrap();
    let mut socket = ground.client.bare(Kind::Tcp, false).unwrap();
    socket.call(Call::Nonblocking(true)).unwrap();
    // The first attempt takes bytes, which start a request, and fails.
    let early = Call::Send {
        bytes: vec![7; 500],
        flags: MSG_FASTOPEN,
        to: Some(gone.local),
    };
    let sent = socket.call(early);
    assert!(sent.is_ok() || harness::remote::errno(&sent).is_some());
    let error = |socket: &harness::remote::Socket| {
        let call = Call::Option {
            level: libc::SOL_SOCKET,
            name: libc::SO_ERROR,
        };
        socket.call(call).unwrap().count
    };
    harness::wait_for("the refusal", harness::wait::PATIENCE, || {
        error(&socket) == u64::try_from(libc::ECONNREFUSED).unwrap()
    })
    .unwrap();
    socket.call(Call::Nonblocking(false)).unwrap();
    let listener = ground.server.listen().unwrap();
    // The first call takes note of the failure, the next one dials.
    socket.call(Call::Connect(listener.local)).unwrap_err();
    socket.call(Call::Connect(listener.local)).unwrap();
    let server = listener.accept().unwrap();
    let flows = mesh_agent::model::observed::KernelView::live_flows(&*ground.kernel).unwrap();
    assert_eq!(flows.len(), 1);
    assert_eq!((flows[0].tx_bytes, flows[0].tx_messages), (0, 0));
    socket.local = crate::ground::source(&flows[0]);
    let (known, descriptor) = state(&ground.maps, &mut ground.client, &socket);
    assert_eq!(known.unwrap().turn_start_ns, 0);
    drop(descriptor);
    let piece = Piece::first(1, 1000);
    socket.write(piece, (100, 100)).unwrap();
    assert_eq!(server.read(piece, (100, 100)).unwrap(), 1000);
    socket.close().unwrap();
    server.close().unwrap();
    let flow = ground.ended(socket.local);
    assert_eq!((flow.tx_bytes, flow.tx_messages), (1000, 10));
}

#[test]
fn a_socket_that_is_dissolved_and_dials_again_is_two_flows() {
    let Some(mut ground) = Ground::new() else {
        return;
    };
    let all = ground.free_cells();
    let listener = ground.server.listen().unwrap();
    let (mut client, first_end) = ground.client.join(&listener).unwrap();
    let first = client.local;
    let piece = Piece::first(1, 1000);
    client.write(piece, (100, 100)).unwrap();
    assert_eq!(first_end.read(piece, (100, 100)).unwrap(), 1000);
    let descriptor = taken(&mut ground.client, &client);
    sys::disconnect(&descriptor).unwrap();
    drop(descriptor);
    client.call(Call::Nonblocking(false)).unwrap();
    client.call(Call::Connect(listener.local)).unwrap();
    let second_end = listener.accept().unwrap();
    let piece = Piece::first(2, 500);
    client.write(piece, (100, 100)).unwrap();
    assert_eq!(second_end.read(piece, (100, 100)).unwrap(), 500);

    let flow = ground.ended(first);
    assert_eq!((flow.tx_bytes, flow.tx_messages), (1000, 10));
    assert_eq!(flow.redirect_tx_bytes, 1000);
    assert_eq!(flow.close, CloseReason::SourceReset as u8);
    let flows = mesh_agent::model::observed::KernelView::live_flows(&*ground.kernel).unwrap();
    assert_eq!(flows.len(), 1, "{flows:#?}");
    assert_eq!(flows[0].tx_bytes, 500);
    // While the kernel still takes down what it was in the map for the first time, it refuses it a second time.
    let refused = flows[0].reason == Reason::InsertFailed as u8;
    assert!(refused || flows[0].redirect_tx_bytes == 500, "{flows:#?}");
    client.local = crate::ground::source(&flows[0]);
    for socket in [&client, &first_end, &second_end] {
        socket.close().unwrap();
    }
    let flow = ground.ended(client.local);
    assert_eq!((flow.tx_bytes, flow.tx_messages), (500, 5));
    cells_come_back(&ground, &all);
}
