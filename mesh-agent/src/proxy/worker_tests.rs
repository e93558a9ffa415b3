//! Data threads from start to drain.

use std::net::Ipv4Addr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::l7::cluster::ClusterPolicy;
use crate::l7::route::Tables;
use crate::model::workload::WorkloadName;
use crate::proxy::exchange::{Destination, Speaks};
use crate::proxy::tests::{Notes, Plain, destination, port};

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 0\r\n\r\n";
const LAST: &[u8] = b"HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

struct Anyone;

impl Introduce for Anyone {
    fn netns(&self) -> u64 {
        1
    }

    fn client(&self, peer: SocketAddr) -> Option<Client> {
        Some(Client {
            workload: Arc::new(WorkloadName::default()),
            netns: 1,
            address: peer,
            port: Arc::new(port("cart")),
            dialled: peer,
        })
    }
}

async fn started(settings: &Settings) -> (Workers, SocketAddr, tokio::net::TcpListener) {
    started_with(settings, Speaks::Http1).await
}

async fn started_with(
    settings: &Settings,
    speaks: Speaks,
) -> (Workers, SocketAddr, tokio::net::TcpListener) {
    let upstream = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .unwrap();
    let address = upstream.local_addr().unwrap();
    let (id, known) = destination("cart", ClusterPolicy::default(), &[address]);
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
        observer: Arc::new(|| Arc::new(Notes::default())),
        sessions: None,
        epoch: Instant::now(),
    };
    let workers = Workers::start(settings, &outside).unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let listens = listener.local_addr().unwrap();
    workers.listen(0, listener, Arc::new(Anyone));
    (workers, listens, upstream)
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
