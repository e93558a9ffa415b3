//! Connections that are passed on, and what is around those that are not.

use std::collections::BTreeSet;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::scene::{PATIENCE, destination, tables_of};
use super::{Anyone, Notes, Plain};
use crate::l7::cluster::ClusterPolicy;
use crate::model::traffic::{Algorithm, Balancing, Traffic};
use crate::proxy::exchange::{Config, Destination, Speaks, Wrapped};
use crate::proxy::pool::Wrap;
use crate::proxy::stream::Stream;
use crate::proxy::worker::{Outside, Settings, Workers};

/// Notes that it was around a connection.
#[derive(Debug)]
struct Noted(&'static str, Arc<Mutex<Vec<&'static str>>>);

impl Wrap for Noted {
    fn id(&self) -> u64 {
        self.0.len() as u64
    }

    fn wrap(
        &self,
        stream: TcpStream,
    ) -> Pin<Box<dyn Future<Output = io::Result<Stream>> + Send + '_>> {
        self.1.lock().unwrap().push(self.0);
        Box::pin(async { Ok(Stream::Plain(stream)) })
    }
}

struct Started {
    workers: Workers,
    listens: SocketAddr,
    upstreams: Vec<tokio::net::TcpListener>,
    wrapped: Arc<Mutex<Vec<&'static str>>>,
}

/// Starts the data path for a service that says that it speaks this, with TLS to its endpoints or without.
async fn started(speaks: &str, policy: ClusterPolicy, endpoints: usize, tls: bool) -> Started {
    let mut upstreams = Vec::new();
    for _ in 0..endpoints {
        let bound = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        upstreams.push(bound.unwrap());
    }
    let addresses: Vec<_> = upstreams
        .iter()
        .map(|it| it.local_addr().unwrap())
        .collect();
    let (id, known) = destination("cart", policy, &addresses);
    let wrapped = Arc::new(Mutex::new(Vec::new()));
    let noted = |word| Ok(Arc::new(Noted(word, wrapped.clone())) as Arc<dyn Wrap>);
    let destination = Destination {
        speaks: Speaks::AsClient,
        wrap: tls.then(|| Wrapped {
            http1: noted("1"),
            http2: noted("h2"),
        }),
        ..Destination::clone(&known)
    };
    let config = Config {
        number: 1,
        tables: Arc::new(tables_of(speaks, Vec::new(), Traffic::default())),
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
    let mut settings = Settings::default();
    settings.threads.count = 1;
    let workers = Workers::start(&settings, &outside).unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let listens = listener.local_addr().unwrap();
    workers.listen(0, listener, Arc::new(Anyone));
    Started {
        workers,
        listens,
        upstreams,
        wrapped,
    }
}

impl Started {
    async fn end(self) {
        let moment = Duration::from_millis(50);
        let drained = tokio::task::spawn_blocking(move || self.workers.drain(moment, moment));
        drained.await.unwrap();
    }
}

async fn accepted(listener: &tokio::net::TcpListener) -> TcpStream {
    let accepted = tokio::time::timeout(PATIENCE, listener.accept()).await;
    accepted.expect("a connection").unwrap().0
}

#[tokio::test]
async fn what_is_passed_on_goes_by_its_source_where_a_hash_decides() {
    for algorithm in [
        Algorithm::Maglev,
        Algorithm::RingHash,
        Algorithm::Rendezvous,
    ] {
        let policy = ClusterPolicy::of(Some(&Traffic {
            balancing: Some(Balancing {
                algorithm,
                hash: None,
            }),
            ..Traffic::default()
        }));
        let started = started("tcp", policy, 2, false).await;
        let mut seen = BTreeSet::new();
        for _ in 0..16 {
            let client = TcpStream::connect(started.listens).await.unwrap();
            let [one, other] = &started.upstreams[..] else {
                panic!("two of them");
            };
            tokio::select! {
                _ = accepted(one) => seen.insert(0),
                _ = accepted(other) => seen.insert(1),
            };
            drop(client);
        }
        assert_eq!(seen.len(), 1, "{algorithm:?}: all come from one address");
        started.end().await;
    }
}

/// The least that is a `ClientHello`: no name, one suite, no extension.
fn hello() -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 1, 1, 0, 0, 0]);
    let length = u8::try_from(body.len()).unwrap();
    let mut hello = vec![22, 3, 1, 0, length + 4, 1, 0, 0, length];
    hello.extend(body);
    hello
}

#[tokio::test]
async fn who_speaks_tls_needs_nobody_to_speak_it() {
    for speaks in ["https", "tcp", "something"] {
        let started = started(speaks, ClusterPolicy::default(), 1, true).await;
        let mut client = TcpStream::connect(started.listens).await.unwrap();
        client.write_all(&hello()).await.unwrap();
        let mut server = accepted(&started.upstreams[0]).await;
        let mut got = vec![0; hello().len()];
        server.read_exact(&mut got).await.unwrap();
        assert_eq!(got, hello(), "{speaks}");
        server.write_all(b"and back").await.unwrap();
        let mut back = [0; 8];
        client.read_exact(&mut back).await.unwrap();
        // What is neither that nor HTTP never goes there in plain text.
        let mut plain = TcpStream::connect(started.listens).await.unwrap();
        plain.write_all(b"PING\r\n").await.unwrap();
        let read = tokio::time::timeout(PATIENCE, plain.read(&mut back)).await;
        let ended = read.expect("an end").unwrap_err().kind();
        assert_eq!(ended, io::ErrorKind::ConnectionReset, "{speaks}");
        assert!(started.wrapped.lock().unwrap().is_empty());
        started.end().await;
    }
}

#[tokio::test]
async fn tls_is_that_of_the_version_that_is_spoken_inside() {
    let started = started("something", ClusterPolicy::default(), 1, true).await;
    let mut client = TcpStream::connect(started.listens).await.unwrap();
    client
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    let mut server = accepted(&started.upstreams[0]).await;
    let mut got = [0; 14];
    server.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"GET / HTTP/1.1");
    let stream = TcpStream::connect(started.listens).await.unwrap();
    let (client, connection) = ::h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::get("http://a/").body(()).unwrap();
    let mut client = client.ready().await.unwrap();
    let (_response, _) = client.send_request(request, true).unwrap();
    let server = accepted(&started.upstreams[0]).await;
    let mut server = ::h2::server::handshake(server).await.unwrap();
    assert!(server.accept().await.unwrap().is_ok());
    assert_eq!(*started.wrapped.lock().unwrap(), ["1", "h2"]);
    started.end().await;
}
