//! What is not to be, or is too much: policy, shedding; and families of addresses. Circuit breakers have their own file.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use http::StatusCode;
use rustix::io::Errno;
use tokio::net::TcpListener;

use super::scene::{GOT, OK, Plain, Scene, Setting, accept, port, rule, strict};
use crate::l7::cluster::Report;
use crate::l7::flag::Flag;
use crate::model::balanced::Upstream;
use crate::model::route::Retry;
use crate::proxy::exchange::Speaks;
use crate::proxy::socket::{Asked, Sockets};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// Sockets that the kernel refuses to connect to the broadcast address (`EACCES`), as it does all for a policy (`EPERM`).
struct Datagram;

impl Sockets for Datagram {
    fn stream(&self, _: u64, _: bool) -> Asked {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0));
        Asked::done(socket.map(Into::into))
    }

    fn mark(&self, socket: BorrowedFd<'_>, upstream: &Upstream<'_>) -> io::Result<()> {
        Plain.mark(socket, upstream)
    }
}

/// Sockets that the system is out of, or that the kernel does not take word of.
struct Lacking {
    socket: Option<Errno>,
    mark: Option<Errno>,
}

impl Sockets for Lacking {
    fn stream(&self, netns: u64, v6: bool) -> Asked {
        match self.socket {
            Some(errno) => Asked::done(Err(errno.into())),
            None => Plain.stream(netns, v6),
        }
    }

    fn mark(&self, socket: BorrowedFd<'_>, upstream: &Upstream<'_>) -> io::Result<()> {
        match self.mark {
            Some(errno) => Err(errno.into()),
            None => Plain.mark(socket, upstream),
        }
    }
}

pub(super) fn report(scene: &Scene) -> Report {
    let config = scene.room.config.load();
    let now = scene.room.now(tokio::time::Instant::now());
    config.destinations[&port("cart")].cluster.report(now)
}

#[tokio::test]
async fn what_policy_denies_is_forbidden_and_speaks_against_nobody() {
    let mut retried = rule("/", "cart");
    retried.retry = Some(Retry {
        codes: vec![StatusCode::SERVICE_UNAVAILABLE],
        attempts: 3,
        backoff: None,
    });
    let scene = Scene::new(Setting {
        endpoints: [0, 0],
        more: vec![(Ipv4Addr::BROADCAST, 9).into()],
        sockets: Arc::new(Datagram),
        rules: vec![retried],
        policy: strict(),
        ..Setting::default()
    })
    .await;
    let mut client = scene.client().await;
    client.send(GET).await;
    assert!(client.head().await.starts_with("HTTP/1.1 403 "));
    let record = scene.record().await;
    assert_eq!(
        (record.status, &record.flags[..], record.attempts),
        (Some(403), &[Flag::Denied][..], 1)
    );
    assert_eq!(report(&scene).ejections, 0);
    client
        .send("POST / HTTP/1.1\r\nHost: a\r\nContent-Type: application/grpc\r\nContent-Length: 0\r\n\r\n")
        .await;
    assert!(client.head().await.contains("\r\ngrpc-status: 7\r\n"));
}

#[tokio::test]
async fn what_the_node_lacks_speaks_against_no_endpoint() {
    let lacking = |socket, mark| Arc::new(Lacking { socket, mark });
    for (sockets, ejections) in [
        (lacking(Some(Errno::MFILE), None), 0),
        (lacking(Some(Errno::NOBUFS), None), 0),
        (lacking(None, Some(Errno::NOSPC)), 0),
        // Nobody listens: that does.
        (lacking(None, None), 1),
    ] {
        let mut scene = Scene::new(Setting {
            sockets,
            policy: strict(),
            ..Setting::default()
        })
        .await;
        scene.cart.clear();
        let mut client = scene.client().await;
        client.send(GET).await;
        assert!(client.head().await.starts_with("HTTP/1.1 503 "));
        let flags = scene.record().await.flags;
        assert_eq!(flags, [Flag::UpstreamConnectFailure]);
        assert_eq!(report(&scene).ejections, ejections);
    }
}

#[tokio::test]
async fn a_target_that_http2_does_not_have_is_the_clients_fault() {
    let scene = Scene::new(Setting {
        speaks: [Speaks::Http2, Speaks::Http1],
        policy: strict(),
        ..Setting::default()
    })
    .await;
    let mut client = scene.client().await;
    client.send("GET /a<b HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let serves = async {
        let mut upstream = h2::server::handshake(scene.upstream().await.0)
            .await
            .unwrap();
        upstream.accept().await
    };
    let answered = async {
        assert!(client.head().await.starts_with("HTTP/1.1 400 "));
    };
    tokio::select! {
        request = serves => panic!("{request:?}"),
        () = answered => {}
    }
    let record = scene.record().await;
    assert_eq!(
        (&record.flags[..], record.attempts),
        (&[Flag::DownstreamProtocol][..], 1)
    );
    assert_eq!(report(&scene).ejections, 0);
}

#[tokio::test]
async fn a_failure_to_connect_is_made_good_by_the_other_family() {
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let dead: SocketAddr = closed.local_addr().unwrap();
    drop(closed);
    let live = TcpListener::bind("[::1]:0").await.unwrap();
    let scene = Scene::new(Setting {
        endpoints: [0, 0],
        more: vec![dead, live.local_addr().unwrap()],
        ..Setting::default()
    })
    .await;
    let mut client = scene.client().await;
    client.send(GET).await;
    let mut upstream = accept(&live).await;
    let again = "GET / HTTP/1.1\r\nHost: a\r\nx-request-attempt: 1\r\n\r\n";
    upstream.expect(again).await;
    upstream.send(OK).await;
    client.expect(GOT).await;
    let record = scene.record().await;
    assert_eq!((record.status, record.attempts), (Some(200), 2));
}
