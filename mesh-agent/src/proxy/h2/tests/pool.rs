//! A pool of connections to an upstream that allows few streams.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use super::super::{ClientLimits, Connection, Pool, connect};
use super::*;
use crate::proxy::exchange::{Outgoing, RequestSink, ResponseSource, UpstreamError};

/// An upstream with this many streams on a connection; counts its connections.
struct Endpoint {
    listener: TcpListener,
    made: AtomicUsize,
}

impl Endpoint {
    async fn new(streams: u32) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = Arc::new(Self {
            listener,
            made: AtomicUsize::new(0),
        });
        let serving = Arc::clone(&endpoint);
        tokio::spawn(async move {
            let (service, _seen) = echo();
            loop {
                let (io, _) = serving.listener.accept().await.unwrap();
                let limits = Limits {
                    streams,
                    ..Limits::default()
                };
                tokio::spawn(serve(io, Arc::clone(&service), limits));
            }
        });
        endpoint
    }

    async fn connect(&self) -> Result<Connection, UpstreamError> {
        self.made.fetch_add(1, SeqCst);
        let io = TcpStream::connect(self.listener.local_addr().unwrap())
            .await
            .unwrap();
        let connection = connect(Stream::Plain(io), &ClientLimits::default()).await?;
        // How many streams it allows is known with its settings.
        let stream = connection.stream().unwrap();
        stream.takes_websocket().await;
        Ok(connection)
    }
}

/// Admits whatever is asked for.
#[expect(clippy::unnecessary_wraps, reason = "as others do not")]
fn always(_is_first: bool) -> Option<()> {
    Some(())
}

#[tokio::test]
async fn a_connection_more_is_made_when_streams_are_used_up() {
    let endpoint = Endpoint::new(3).await;
    let pool: Pool<UpstreamError> = Pool::default();
    let room = AtomicUsize::new(2);
    let admit = |is_first| {
        assert_eq!(is_first, room.load(SeqCst) == 2);
        room.fetch_update(SeqCst, SeqCst, |it| it.checked_sub(1))
            .ok()
    };
    let connect = |_| endpoint.connect();
    let asked = (0..6).map(|_| pool.stream(admit, pending, connect));
    let mut streams = soon(futures_util::future::try_join_all(asked))
        .await
        .unwrap();
    assert_eq!((endpoint.made.load(SeqCst), pool.connections()), (2, 2));
    // All are used up: the seventh gets the first that is given back.
    let mut seventh = std::pin::pin!(pool.stream(admit, pending, connect));
    let early = tokio::time::timeout(Duration::from_millis(50), &mut seventh).await;
    assert!(early.is_err());
    drop(streams.pop());
    let mut stream = soon(seventh).await.unwrap();
    let (mut request, mut response) = stream.halves();
    request.head(&get("/"), BodySize::Empty).await.unwrap();
    let mut answer = ResponseHead::default();
    soon(response.head(&mut answer)).await.unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(endpoint.made.load(SeqCst), 2);
    pool.retire();
    assert_eq!(pool.connections(), 0);
}

#[tokio::test]
async fn a_failed_attempt_fails_for_all_who_waited() {
    let pool: Pool<&str> = Pool::default();
    let attempts = AtomicUsize::new(0);
    let connect = |()| async {
        attempts.fetch_add(1, SeqCst);
        tokio::task::yield_now().await;
        Err("refused")
    };
    let asked = (0..100).map(|_| pool.stream(always, pending, connect));
    let outcomes = soon(futures_util::future::join_all(asked)).await;
    assert!(outcomes.iter().all(|it| matches!(it, Err("refused"))));
    assert_eq!(attempts.load(SeqCst), 1);
    // The next one tries again.
    assert!(soon(pool.stream(always, pending, connect)).await.is_err());
    assert_eq!(attempts.load(SeqCst), 2);
}

#[tokio::test]
async fn an_attempt_that_is_given_up_is_taken_over() {
    let endpoint = Endpoint::new(3).await;
    let pool: Pool<UpstreamError> = Pool::default();
    let slow = pool.stream(always, pending, |()| {
        pending::<Result<Connection, UpstreamError>>()
    });
    let mut slow = Box::pin(slow);
    let none = tokio::time::timeout(Duration::from_millis(20), &mut slow).await;
    assert!(none.is_err());
    let connect = |()| endpoint.connect();
    let mut second = Box::pin(pool.stream(always, pending, connect));
    let none = tokio::time::timeout(Duration::from_millis(20), &mut second).await;
    assert!(none.is_err());
    drop(slow);
    soon(second).await.unwrap();
}
