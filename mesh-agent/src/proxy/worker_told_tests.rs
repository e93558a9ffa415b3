//! What is told of connections and requests, whoever ends them.

use super::*;
use crate::l7::flag::Flag;
use crate::proxy::record::RelayEnd;
use crate::proxy::tests::Seen;

#[tokio::test]
async fn what_is_passed_on_is_told_when_it_ends_whoever_ends_it() {
    let (workers, listens, upstream, notes) =
        started_and_noted(&Settings::default(), Speaks::Http1).await;
    let ended = || async {
        let wait = async {
            while notes.2.lock().unwrap().is_empty() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), wait)
            .await
            .unwrap();
        notes.2.lock().unwrap().remove(0)
    };
    let hello = b"\x00\x01nothing that is known";
    let mut client = tokio::net::TcpStream::connect(listens).await.unwrap();
    client.write_all(hello).await.unwrap();
    let (mut server, _) = upstream.accept().await.unwrap();
    expect(&mut server, hello).await;
    server.write_all(b"yes").await.unwrap();
    expect(&mut client, b"yes").await;
    drop((client, server));
    let sent = hello.len() as u64;
    assert_eq!(ended().await, (RelayEnd::Closed, sent, 3));
    let mut client = tokio::net::TcpStream::connect(listens).await.unwrap();
    client.write_all(hello).await.unwrap();
    let (mut server, _) = upstream.accept().await.unwrap();
    expect(&mut server, hello).await;
    server.set_zero_linger().unwrap();
    drop(server);
    assert_eq!(ended().await, (RelayEnd::UpstreamReset, sent, 0));
    let mut client = tokio::net::TcpStream::connect(listens).await.unwrap();
    client.write_all(hello).await.unwrap();
    let (mut server, _) = upstream.accept().await.unwrap();
    expect(&mut server, hello).await;
    workers.close(1);
    assert_eq!(ended().await, (RelayEnd::Agent, sent, 0));
}

const ASK: &[u8] = b"GET /ws HTTP/1.1\r\nHost: a\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
const YES: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nDate: x\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

/// Waits for the only record.
async fn record(notes: &Notes) -> Seen {
    let wait = async {
        while notes.0.lock().unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wait)
        .await
        .expect("a record");
    let mut all = notes.0.lock().unwrap();
    assert_eq!(all.len(), 1);
    all.remove(0)
}

/// A WebSocket that has carried a few bytes each way.
async fn tunnel(
    listens: SocketAddr,
    upstream: &tokio::net::TcpListener,
) -> (tokio::net::TcpStream, tokio::net::TcpStream) {
    let mut client = tokio::net::TcpStream::connect(listens).await.unwrap();
    client.write_all(ASK).await.unwrap();
    let (mut server, _) = upstream.accept().await.unwrap();
    expect(&mut server, ASK).await;
    server.write_all(YES).await.unwrap();
    expect(&mut client, YES).await;
    client.write_all(b"hello").await.unwrap();
    expect(&mut server, b"hello").await;
    server.write_all(b"good day").await.unwrap();
    expect(&mut client, b"good day").await;
    (client, server)
}

fn is_cut(seen: &Seen, status: Option<u16>, bytes: (u64, u64)) {
    assert_eq!(seen.flags, [Flag::LocalReset]);
    assert_eq!((seen.status, (seen.received, seen.sent)), (status, bytes));
}

#[tokio::test]
async fn a_websocket_is_told_though_its_workload_goes() {
    let (workers, listens, upstream, notes) =
        started_and_noted(&Settings::default(), Speaks::Http1).await;
    let _ends = tunnel(listens, &upstream).await;
    workers.close(1);
    is_cut(&record(&notes).await, Some(101), (5, 8));
}

#[tokio::test]
async fn what_outlasts_a_drain_is_told() {
    let settings = Settings::default();
    let (workers, listens, upstream, notes) = started_and_noted(&settings, Speaks::Http1).await;
    let mut client = tokio::net::TcpStream::connect(listens).await.unwrap();
    client.write_all(GET).await.unwrap();
    let (mut server, _) = upstream.accept().await.unwrap();
    expect(&mut server, GET).await;
    let moment = Duration::from_millis(50);
    tokio::task::spawn_blocking(move || workers.drain(moment, moment))
        .await
        .unwrap();
    // Before the drain returns: whoever writes logs ends after that.
    assert_eq!(notes.0.lock().unwrap().len(), 1);
    let seen = record(&notes).await;
    is_cut(&seen, None, (0, 0));
    assert!(seen.times.total_ns() > 0);
}

#[tokio::test]
async fn a_stream_of_http2_that_the_agent_cuts_is_not_the_client_s_doing() {
    for is_client in [false, true] {
        let (workers, listens, upstream, notes) =
            started_and_noted(&Settings::default(), Speaks::Http1).await;
        let stream = tokio::net::TcpStream::connect(listens).await.unwrap();
        let (client, connection) = ::h2::client::handshake(stream).await.unwrap();
        let driver = tokio::spawn(connection);
        let request = http::Request::get("http://a/").body(()).unwrap();
        let mut client = client.ready().await.unwrap();
        let (_response, _) = client.send_request(request, true).unwrap();
        let (mut server, _) = upstream.accept().await.unwrap();
        expect(&mut server, GET).await;
        match is_client {
            true => driver.abort(),
            false => workers.close(1),
        }
        let seen = record(&notes).await;
        match is_client {
            true => assert_eq!(seen.flags, [Flag::DownstreamClosed]),
            false => is_cut(&seen, None, (0, 0)),
        }
    }
}
