//! Relays between real sockets.

use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::*;

const LONG: Duration = Duration::from_secs(20);

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap());
    let (near, far) = tokio::join!(near, listener.accept());
    (near.unwrap(), far.unwrap().0)
}

struct Relayed {
    client: TcpStream,
    upstream: TcpStream,
    counts: Arc<Counts>,
    spares: Arc<Spares>,
    end: JoinHandle<End>,
}

async fn relayed(way: Way, idle: Duration, start: &'static [u8]) -> Relayed {
    let ((client, near), (far, upstream)) = (pair().await, pair().await);
    let (counts, spares) = (Arc::new(Counts::default()), Arc::new(Spares::default()));
    let (counting, sparing) = (Arc::clone(&counts), Arc::clone(&spares));
    let end = tokio::spawn(async move {
        let options = Options {
            way,
            idle,
            spares: &sparing,
        };
        relay(near, far, start, &counting, options).await
    });
    Relayed {
        client,
        upstream,
        counts,
        spares,
        end,
    }
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, what)
        .await
        .expect("never happened")
}

#[tokio::test]
async fn both_directions_carry_all_and_close_by_themselves() {
    for way in [Way::Copy, Way::Splice] {
        let relayed = relayed(way, LONG, b"start").await;
        let (mut client, mut upstream) = (relayed.client, relayed.upstream);
        let bytes: Vec<u8> = (0..5_000_000u32).map(|it| it.to_le_bytes()[1]).collect();
        let (mut near, mut far) = (Vec::new(), Vec::new());
        {
            let (mut client_read, mut client_write) = client.split();
            let (mut upstream_read, mut upstream_write) = upstream.split();
            let asking = async {
                client_write.write_all(&bytes).await.unwrap();
                client_write.shutdown().await.unwrap();
                client_read.read_to_end(&mut near).await.unwrap();
            };
            let answering = async {
                // Answers while it is asked, and goes on after the client has closed its half.
                upstream_write.write_all(&bytes[..1_000_000]).await.unwrap();
                upstream_read.read_to_end(&mut far).await.unwrap();
                upstream_write.write_all(&bytes[1_000_000..]).await.unwrap();
                upstream_write.shutdown().await.unwrap();
            };
            soon(async { tokio::join!(asking, answering) }).await;
        }
        assert!(
            near == bytes && far == [&b"start"[..], &bytes].concat(),
            "{way:?}"
        );
        assert_eq!(soon(relayed.end).await.unwrap(), End::Closed);
        assert_eq!(relayed.counts.sent(), 5_000_005);
        assert_eq!(relayed.counts.received(), 5_000_000);
        let (buffers, pipes) = relayed.spares.kept();
        assert!(
            (1..=2).contains(&buffers.max(pipes)),
            "{buffers} buffers, {pipes} pipes"
        );
        assert_eq!(way == Way::Splice, pipes > 0);
    }
}

#[tokio::test]
async fn a_reset_is_one_for_both() {
    for way in [Way::Copy, Way::Splice] {
        for (side, by_client) in [(Side::Client, true), (Side::Upstream, false)] {
            let relayed = relayed(way, LONG, b"").await;
            let (who, mut other) = match by_client {
                true => (relayed.client, relayed.upstream),
                false => (relayed.upstream, relayed.client),
            };
            SockRef::from(&who)
                .set_linger(Some(Duration::ZERO))
                .unwrap();
            drop(who);
            assert_eq!(soon(relayed.end).await.unwrap(), End::Reset(side));
            let read = soon(other.read(&mut [0])).await;
            assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        }
    }
}

#[tokio::test]
async fn a_slow_reader_holds_back_the_sender() {
    for way in [Way::Copy, Way::Splice] {
        let mut relayed = relayed(way, LONG, b"").await;
        let piece = vec![1; 1 << 20];
        let mut sent = 0;
        let blocked = loop {
            let write = relayed.client.write(&piece);
            match tokio::time::timeout(Duration::from_millis(300), write).await {
                Ok(wrote) if sent < 200 << 20 => sent += wrote.unwrap(),
                Ok(_) => break false,
                Err(_) => break true,
            }
        };
        assert!(blocked, "{sent} bytes went nowhere");
        // And all of it comes once it is asked for.
        relayed.client.shutdown().await.unwrap();
        let mut all = Vec::new();
        soon(relayed.upstream.read_to_end(&mut all)).await.unwrap();
        assert_eq!(all.len(), sent);
    }
}

#[tokio::test]
async fn silence_ends_it_and_bytes_do_not_let_it() {
    let idle = Duration::from_millis(200);
    for way in [Way::Copy, Way::Splice] {
        let mut relayed = relayed(way, idle, b"").await;
        let began = Instant::now();
        while began.elapsed() < 2 * idle {
            relayed.upstream.write_all(b"x").await.unwrap();
            soon(relayed.client.read_u8()).await.unwrap();
            tokio::time::sleep(idle / 10).await;
        }
        assert!(!relayed.end.is_finished());
        assert_eq!(soon(relayed.end).await.unwrap(), End::Idle);
        assert!(relayed.client.read_u8().await.is_err());
    }
}
