//! Data threads from start to drain.

use std::net::Ipv4Addr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::l7::cluster::ClusterPolicy;
use crate::l7::route::Tables;
use crate::proxy::exchange::{Destination, Speaks};
use crate::proxy::tests::{Anyone, Notes, Plain, destination};

#[path = "worker_told_tests.rs"]
mod told;

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 0\r\n\r\n";
const LAST: &[u8] = b"HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

async fn started(settings: &Settings) -> (Workers, SocketAddr, tokio::net::TcpListener) {
    started_with(settings, Speaks::Http1).await
}

async fn started_with(
    settings: &Settings,
    speaks: Speaks,
) -> (Workers, SocketAddr, tokio::net::TcpListener) {
    let (workers, listens, upstream, _) = started_and_noted(settings, speaks).await;
    (workers, listens, upstream)
}

async fn started_and_noted(
    settings: &Settings,
    speaks: Speaks,
) -> (Workers, SocketAddr, tokio::net::TcpListener, Arc<Notes>) {
    started_by(settings, speaks, ClusterPolicy::default()).await
}

async fn started_by(
    settings: &Settings,
    speaks: Speaks,
    policy: ClusterPolicy,
) -> (Workers, SocketAddr, tokio::net::TcpListener, Arc<Notes>) {
    let notes = Arc::new(Notes::default());
    let noted = notes.clone();
    let upstream = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .unwrap();
    let address = upstream.local_addr().unwrap();
    let (id, known) = destination("cart", policy, &[address]);
    let destination = Destination {
        speaks,
        ..Destination::clone(&known)
    };
    let config = Config {
        number: 1,
        tables: Arc::new(Tables::default()),
        destinations: [(id, Arc::new(destination))].into(),
        ..Config::default()
    };
    let outside = Outside {
        config: Arc::new(ArcSwap::from_pointee(config)),
        sockets: Arc::new(Plain),
        observer: Arc::new(move || noted.clone()),
        sessions: None,
        epoch: Instant::now(),
    };
    let workers = Workers::start(settings, &outside).unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let listens = listener.local_addr().unwrap();
    workers.listen(0, listener, Arc::new(Anyone));
    (workers, listens, upstream, notes)
}

async fn expect(stream: &mut tokio::net::TcpStream, expected: &[u8]) {
    let mut got = vec![0; expected.len()];
    let read = tokio::time::timeout(Duration::from_secs(10), stream.read_exact(&mut got));
    read.await.unwrap().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&got),
        String::from_utf8_lossy(expected)
    );
}

#[tokio::test]
async fn a_drain_lets_requests_end_and_idle_connections_have_one_more() {
    let mut settings = Settings::default();
    settings.threads.count = 2;
    let (workers, listens, upstream) = started(&settings).await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = tokio::net::TcpStream::connect(listens).await.unwrap();
        client.write_all(GET).await.unwrap();
        let (mut server, _) = upstream.accept().await.unwrap();
        expect(&mut server, GET).await;
        clients.push((client, server));
    }
    let (mut idle, mut server) = clients.pop().unwrap();
    server.write_all(OK).await.unwrap();
    expect(&mut idle, OK).await;
    let (mut racing, mut raced) = clients.pop().unwrap();
    raced.write_all(OK).await.unwrap();
    expect(&mut racing, OK).await;
    let (mut busy, mut server) = clients.pop().unwrap();
    let (grace, most) = (Duration::from_secs(3), Duration::from_secs(20));
    let drained = tokio::task::spawn_blocking(move || workers.drain(grace, most));
    let closed = async {
        while tokio::net::TcpStream::connect(listens).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(most, closed).await.unwrap();
    // A request that was on its way when the drain began is served, and is the last of its connection.
    racing.write_all(GET).await.unwrap();
    expect(&mut raced, GET).await;
    raced.write_all(OK).await.unwrap();
    expect(&mut racing, LAST).await;
    let mut byte = [0];
    assert_eq!(idle.read(&mut byte).await.unwrap(), 0);
    // The one in progress outlasts the grace.
    assert!(!drained.is_finished());
    server.write_all(OK).await.unwrap();
    expect(&mut busy, LAST).await;
    drained.await.unwrap();
}

#[tokio::test]
async fn connections_are_bounded_and_all_end_in_time() {
    let settings = Settings {
        threads: Threads {
            count: 1,
            connections: 1,
            ..Threads::default()
        },
        ..Settings::default()
    };
    let (workers, listens, upstream) = started(&settings).await;
    let mut first = tokio::net::TcpStream::connect(listens).await.unwrap();
    first.write_all(GET).await.unwrap();
    let (mut server, _) = upstream.accept().await.unwrap();
    expect(&mut server, GET).await;
    let mut second = tokio::net::TcpStream::connect(listens).await.unwrap();
    let mut byte = [0];
    assert_eq!(second.read(&mut byte).await.unwrap(), 0);
    // It never ends by itself.
    let moment = Duration::from_millis(50);
    tokio::task::spawn_blocking(move || workers.drain(moment, moment))
        .await
        .unwrap();
    assert_eq!(first.read(&mut byte).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn one_workload_leaves_room_for_others() {
    let settings = Settings {
        threads: Threads {
            count: 1,
            connections: 3,
            of_workload: 2,
        },
        ..Settings::default()
    };
    let (workers, _, upstream) = started(&settings).await;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let connect = |netns: u64| {
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (far, peer) = listener.accept().unwrap();
        let client = Client {
            netns,
            ..Anyone.client(peer).unwrap()
        };
        assert!(workers.give(far, client));
        near.set_nonblocking(true).unwrap();
        tokio::net::TcpStream::from_std(near).unwrap()
    };
    let mut byte = [0];
    let (mut one, _two) = (connect(1), connect(1));
    assert_eq!(connect(1).read(&mut byte).await.unwrap(), 0, "a third");
    let mut other = connect(2);
    assert_eq!(connect(3).read(&mut byte).await.unwrap(), 0, "a fourth");
    // Both workloads are served, and who has closed may come again.
    for client in [&mut one, &mut other] {
        client.write_all(GET).await.unwrap();
        let (mut server, _) = upstream.accept().await.unwrap();
        expect(&mut server, GET).await;
        server.write_all(OK).await.unwrap();
        expect(client, OK).await;
    }
    drop((one, other));
    let served = async {
        loop {
            let mut again = connect(1);
            again.write_all(GET).await.unwrap();
            tokio::select! {
                it = upstream.accept() => return (again, it.unwrap().0),
                // The end of the others was not heard yet.
                it = again.read(&mut byte) => assert_eq!(it.unwrap_or(0), 0),
            }
        }
    };
    let (_again, mut server) = tokio::time::timeout(Duration::from_secs(10), served)
        .await
        .unwrap();
    expect(&mut server, GET).await;
    let moment = Duration::from_millis(50);
    tokio::task::spawn_blocking(move || workers.drain(moment, moment))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_client_of_http2_is_served_by_an_upstream_of_http1() {
    let (workers, listens, upstream) = started(&Settings::default()).await;
    let stream = tokio::net::TcpStream::connect(listens).await.unwrap();
    let (client, connection) = ::h2::client::handshake(stream).await.unwrap();
    let driver = tokio::spawn(connection);
    let request = http::Request::get("http://a/").body(()).unwrap();
    let (response, _) = client
        .ready()
        .await
        .unwrap()
        .send_request(request, true)
        .unwrap();
    let (mut server, _) = upstream.accept().await.unwrap();
    expect(&mut server, GET).await;
    server
        .write_all(b"HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 2\r\n\r\nhi")
        .await
        .unwrap();
    let response = response.await.unwrap();
    assert_eq!(response.headers()["date"], "x");
    let body = response.into_body().data().await.unwrap().unwrap();
    assert_eq!(&body[..], b"hi");
    // The drain is said, and the connection ends.
    let most = Duration::from_secs(10);
    tokio::task::spawn_blocking(move || workers.drain(most, most))
        .await
        .unwrap();
    driver.await.unwrap().unwrap();
}

#[tokio::test]
async fn trailers_of_http1_are_those_of_http2_and_grpc_does_not_go_there() {
    let (workers, listens, upstream) = started(&Settings::default()).await;
    let stream = tokio::net::TcpStream::connect(listens).await.unwrap();
    let (client, connection) = ::h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let mut client = client.ready().await.unwrap();
    let request = http::Request::get("http://a/").header("te", "trailers");
    let (response, _) = client
        .send_request(request.body(()).unwrap(), true)
        .unwrap();
    let (mut server, _) = upstream.accept().await.unwrap();
    expect(&mut server, b"GET / HTTP/1.1\r\nHost: a\r\n").await;
    let answer = b"HTTP/1.1 200 OK\r\nDate: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-T: 1\r\nHost: b\r\n\r\n";
    server.write_all(answer).await.unwrap();
    let mut body = response.await.unwrap().into_body();
    let data = body.data().await.unwrap().unwrap();
    assert_eq!(&data[..], b"hi");
    let trailers = body.trailers().await.unwrap().unwrap();
    assert_eq!(
        (trailers.len(), &trailers["x-t"]),
        (1, &"1".parse().unwrap())
    );
    // A call would lose its trailers, or its streams.
    let call = http::Request::post("http://a/a.B/C").header("content-type", "application/grpc");
    let (response, _) = client.send_request(call.body(()).unwrap(), true).unwrap();
    let response = response.await.unwrap();
    assert_eq!(
        (
            response.status().as_u16(),
            &response.headers()["grpc-status"]
        ),
        (200, &"14".parse().unwrap())
    );
    let moment = Duration::from_millis(50);
    tokio::task::spawn_blocking(move || workers.drain(moment, moment))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_client_of_http1_is_served_by_an_upstream_of_http2() {
    let (workers, listens, upstream) = started_with(&Settings::default(), Speaks::Http2).await;
    let mut client = tokio::net::TcpStream::connect(listens).await.unwrap();
    client
        .write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi")
        .await
        .unwrap();
    let (server, _) = upstream.accept().await.unwrap();
    let mut server = ::h2::server::handshake(server).await.unwrap();
    let (request, mut respond) = server.accept().await.unwrap().unwrap();
    assert_eq!(request.uri().authority().unwrap(), "a");
    tokio::spawn(async move { while server.accept().await.is_some() {} });
    let body = request.into_body().data().await.unwrap().unwrap();
    assert_eq!(&body[..], b"hi");
    let response = http::Response::builder()
        .header("date", "x")
        .header("content-length", "0");
    respond
        .send_response(response.body(()).unwrap(), true)
        .unwrap();
    expect(&mut client, b"HTTP/1.1 200 OK\r\n").await;
    let moment = Duration::from_millis(50);
    tokio::task::spawn_blocking(move || workers.drain(moment, moment))
        .await
        .unwrap();
}

type Opened = (::h2::SendStream<bytes::Bytes>, ::h2::RecvStream);

/// Opens a WebSocket as a client of HTTP/2 (RFC 8441).
async fn websocket(listens: SocketAddr) -> Opened {
    let stream = tokio::net::TcpStream::connect(listens).await.unwrap();
    let (client, connection) = ::h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let mut client = client.ready().await.unwrap();
    while !client.is_extended_connect_protocol_enabled() {
        tokio::task::yield_now().await;
    }
    let request = http::Request::connect("http://a/ws")
        .extension(::h2::ext::Protocol::from_static("websocket"))
        .header("sec-websocket-version", "13");
    let sent = client.send_request(request.body(()).unwrap(), false);
    let (response, send) = sent.unwrap();
    // The upstream is to answer meanwhile.
    let (to, from) = tokio::sync::oneshot::channel();
    tokio::spawn(async move { to.send(response.await).map_err(|_| ()) });
    let response = from.await.unwrap().unwrap();
    assert_eq!(response.status(), 200);
    (send, response.into_body())
}

/// Takes one as an upstream of HTTP/2.
async fn accepted(upstream: &tokio::net::TcpListener) -> Opened {
    let (stream, _) = upstream.accept().await.unwrap();
    let mut builder = ::h2::server::Builder::new();
    builder.enable_connect_protocol();
    let mut server = builder.handshake(stream).await.unwrap();
    let (request, mut respond) = server.accept().await.unwrap().unwrap();
    tokio::spawn(async move { while server.accept().await.is_some() {} });
    assert_eq!(request.method(), http::Method::CONNECT);
    assert_eq!(request.uri(), "http://a/ws");
    let protocol = request.extensions().get::<::h2::ext::Protocol>().unwrap();
    assert_eq!(protocol.as_str(), "websocket");
    assert_eq!(request.headers()["sec-websocket-version"], "13");
    assert!(!request.headers().contains_key("sec-websocket-key"));
    let send = respond.send_response(http::Response::new(()), false);
    (send.unwrap(), request.into_body())
}

/// Sends bytes and gets them at the other end.
async fn carried(from: &mut ::h2::SendStream<bytes::Bytes>, to: &mut ::h2::RecvStream) {
    from.send_data("some bytes".into(), false).unwrap();
    let got = tokio::time::timeout(Duration::from_secs(10), to.data());
    assert_eq!(&got.await.unwrap().unwrap().unwrap()[..], b"some bytes");
}

/// Expects the end of a direction, which an empty frame may carry.
async fn ended(of: &mut ::h2::RecvStream) {
    let rest = async {
        while let Some(data) = of.data().await {
            assert!(data.unwrap().is_empty());
        }
    };
    tokio::time::timeout(Duration::from_secs(10), rest)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_websocket_goes_by_http2_on_both_sides_and_closes_each_direction_by_itself() {
    let (_workers, listens, upstream) = started_with(&Settings::default(), Speaks::Http2).await;
    let ((mut to, mut from), (mut back, mut asked)) =
        tokio::join!(websocket(listens), accepted(&upstream));
    for _ in 0..3 {
        carried(&mut to, &mut asked).await;
        carried(&mut back, &mut from).await;
    }
    to.send_data(bytes::Bytes::new(), true).unwrap();
    ended(&mut asked).await;
    carried(&mut back, &mut from).await;
    back.send_data(bytes::Bytes::new(), true).unwrap();
    ended(&mut from).await;
}

#[tokio::test]
async fn a_websocket_changes_from_http1_to_http2() {
    let (_workers, listens, upstream) = started_with(&Settings::default(), Speaks::Http2).await;
    let mut client = tokio::net::TcpStream::connect(listens).await.unwrap();
    client
        .write_all(b"GET /ws HTTP/1.1\r\nHost: a\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        .await
        .unwrap();
    let (mut back, mut asked) = accepted(&upstream).await;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    assert!(
        head.starts_with("http/1.1 101 ")
            && head.contains("\r\nsec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n"),
        "{head}"
    );
    client.write_all(b"some bytes").await.unwrap();
    assert_eq!(&asked.data().await.unwrap().unwrap()[..], b"some bytes");
    back.send_data("more".into(), true).unwrap();
    expect(&mut client, b"more").await;
    assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    client.shutdown().await.unwrap();
    ended(&mut asked).await;
}

#[tokio::test]
async fn a_websocket_changes_from_http2_to_http1() {
    let (_workers, listens, upstream) = started_with(&Settings::default(), Speaks::Http1).await;
    let serve = async {
        let (mut server, _) = upstream.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(server.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        assert!(head.starts_with("GET /ws HTTP/1.1\r\n"), "{head}");
        let mut lines = head.lines();
        let name = "sec-websocket-key: ";
        let is_key = |line: &&str| line.to_ascii_lowercase().starts_with(name);
        let key = &lines.find(is_key).unwrap()[name.len()..];
        let accept = h1::websocket_accept(key.as_bytes());
        server
            .write_all(format!("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n\r\n").as_bytes())
            .await
            .unwrap();
        server
    };
    let ((mut to, mut from), mut server) = tokio::join!(websocket(listens), serve);
    to.send_data("some bytes".into(), true).unwrap();
    expect(&mut server, b"some bytes").await;
    assert_eq!(server.read(&mut [0]).await.unwrap(), 0);
    server.write_all(b"more").await.unwrap();
    assert_eq!(&from.data().await.unwrap().unwrap()[..], b"more");
    drop(server);
    ended(&mut from).await;
}

#[tokio::test]
async fn at_a_services_limit_an_idle_connection_of_another_thread_makes_room() {
    let mut settings = Settings::default();
    settings.threads.count = 2;
    let mut policy = ClusterPolicy::default();
    policy.breaker.connections = 1;
    let (workers, _, upstream, _) = started_by(&settings, Speaks::Http1, policy).await;
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let listener = listener.await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut before: Option<tokio::net::TcpStream> = None;
    let mut clients = Vec::new();
    // Each goes to the thread with the fewest: the second to the other one.
    for _ in 0..2 {
        let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
        let (stream, peer) = listener.accept().await.unwrap();
        let introduced = Anyone.client(peer).unwrap();
        assert!(workers.give(stream.into_std().unwrap(), introduced));
        client.write_all(GET).await.unwrap();
        let (mut server, _) = upstream.accept().await.unwrap();
        if let Some(mut before) = before.take() {
            assert_eq!(before.read(&mut [0]).await.unwrap(), 0);
        }
        expect(&mut server, GET).await;
        server.write_all(OK).await.unwrap();
        expect(&mut client, OK).await;
        before = Some(server);
        clients.push(client);
    }
    let idle = async {
        while workers.connections() != (0, 1) {
            tokio::task::yield_now().await;
        }
    };
    let idle = tokio::time::timeout(Duration::from_secs(10), idle);
    idle.await.unwrap();
    let drained = move || workers.drain(Duration::ZERO, Duration::ZERO);
    tokio::task::spawn_blocking(drained).await.unwrap();
}

#[tokio::test]
async fn a_connection_ends_with_its_only_response() {
    let (_workers, listens, upstream) = started(&Settings::default()).await;
    let mut kept = None;
    // The second sends more than its request, which nobody reads and which must not turn the response into a reset.
    for rest in [&b""[..], b"and more"] {
        let mut client = tokio::net::TcpStream::connect(listens).await.unwrap();
        let request = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        client.write_all(&[request, rest].concat()).await.unwrap();
        if kept.is_none() {
            kept = Some(upstream.accept().await.unwrap().0);
        }
        let server = kept.as_mut().unwrap();
        expect(server, GET).await;
        server.write_all(OK).await.unwrap();
        let mut got = Vec::new();
        client.read_to_end(&mut got).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(LAST));
    }
}

#[tokio::test]
async fn a_client_that_goes_at_once_is_missed() {
    let (_workers, listens, upstream) = started(&Settings::default()).await;
    let mut client = tokio::net::TcpStream::connect(listens).await.unwrap();
    client.write_all(GET).await.unwrap();
    let (mut server, _) = upstream.accept().await.unwrap();
    expect(&mut server, GET).await;
    drop(client);
    let mut byte = [0];
    let end = tokio::time::timeout(Duration::from_secs(10), server.read(&mut byte));
    assert_eq!(end.await.unwrap().unwrap_or(0), 0);
}
