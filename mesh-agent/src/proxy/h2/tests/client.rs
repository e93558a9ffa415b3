//! A connection to an upstream: our own server, the `h2` crate's, and one that does what it should not.

use h2::{Reason, server};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::super::{ClientLimits, Connection, Response, Upstream, connect};
use super::*;
use crate::proxy::exchange::{BodyError, Outgoing, RequestSink, ResponseSource, UpstreamError};

async fn ours() -> (
    Connection,
    mpsc::UnboundedReceiver<String>,
    JoinHandle<Ended>,
) {
    let (io, served, seen) = echoing(Limits::default()).await;
    let connection = connect(Stream::Plain(io), &ClientLimits::default())
        .await
        .unwrap();
    (connection, seen, served)
}

type Server = server::Connection<TcpStream, Bytes>;

/// Returns a connection to what `behave` makes of the other end.
async fn to<F, B>(limits: ClientLimits, behave: B) -> Connection
where
    B: FnOnce(Server) -> F + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let (near, far) = connected().await;
    tokio::spawn(async move { behave(server::handshake(far).await.unwrap()).await });
    connect(Stream::Plain(near), &limits).await.unwrap()
}

/// Returns the next head.
async fn head(response: &mut Response<'_>) -> Result<ResponseHead, UpstreamError> {
    let mut head = ResponseHead::default();
    response.head(&mut head).await.map(|()| head)
}

async fn ask(stream: &mut Upstream, asked: &RequestHead) -> Result<ResponseHead, UpstreamError> {
    let (mut request, mut response) = stream.halves();
    let (sent, answer) =
        soon(async { tokio::join!(request.head(asked, BodySize::Empty), head(&mut response)) })
            .await;
    if answer.is_ok() {
        sent.unwrap();
    }
    answer
}

#[tokio::test]
async fn a_request_goes_there_and_back() {
    let (connection, ..) = ours().await;
    let mut stream = connection.stream().unwrap();
    assert_eq!(connection.active(), 1);
    let (mut request, mut response) = stream.halves();
    let mut asked = get("/echo");
    asked.method = Method::POST;
    asked.fields = fields(&[("Connection", "x"), ("TE", "trailers")]);
    let body: Vec<u8> = (0..3_000_000u32).map(|it| it.to_le_bytes()[1]).collect();
    let sending = async {
        request.head(&asked, BodySize::Unknown).await.unwrap();
        for piece in body.chunks(100_000) {
            let piece = Bytes::copy_from_slice(piece);
            request.data(piece).await.unwrap();
        }
        let trailers = fields(&[("x-checksum", "1"), ("Content-Length", "9")]);
        request.finish(Some(&trailers)).await.unwrap();
    };
    let receiving = async {
        let early = head(&mut response).await.unwrap();
        assert_eq!(early.status, 103);
        let answer = head(&mut response).await.unwrap();
        assert_eq!(answer.status, 200);
        assert_eq!(answer.fields.get("x-authority"), Some(&b"shop:80"[..]));
        assert_eq!(response.size(), BodySize::Unknown);
        read(&mut response).await.unwrap()
    };
    let ((), (received, trailers)) = soon(async { tokio::join!(sending, receiving) }).await;
    assert!(received == body);
    assert_eq!(trailers, Some(fields(&[("x-checksum", "1")])));
    drop(stream);
    assert_eq!(connection.active(), 0);
}

#[tokio::test]
async fn a_stream_that_is_dropped_is_cancelled() {
    let (connection, mut seen, _served) = ours().await;
    let mut stream = connection.stream().unwrap();
    let (mut request, _response) = stream.halves();
    soon(request.head(&get("/hang"), BodySize::Empty))
        .await
        .unwrap();
    told(&mut seen, "GET /hang").await;
    drop(stream);
    told(&mut seen, "gone /hang").await;
}

#[tokio::test]
async fn a_body_that_breaks_off_is_no_end() {
    let (connection, ..) = ours().await;
    let mut stream = connection.stream().unwrap();
    let (mut request, mut response) = stream.halves();
    request
        .head(&get("/break"), BodySize::Unknown)
        .await
        .unwrap();
    assert_eq!(soon(head(&mut response)).await.unwrap().status, 200);
    let first = soon(response.next()).await.unwrap();
    assert_eq!(first, Some(Piece::Data(Bytes::from_static(b"half"))));
    request.data(Bytes::from_static(b"go on")).await.unwrap();
    request.flush().await.unwrap();
    assert_eq!(soon(response.next()).await, Err(BodyError::Reset));
}

#[tokio::test]
async fn what_was_not_handled_for_sure_may_be_sent_again() {
    let refusing = to(ClientLimits::default(), |mut server| async move {
        while let Some(Ok((_, mut respond))) = server.accept().await {
            respond.send_reset(Reason::REFUSED_STREAM);
        }
    })
    .await;
    let answer = ask(&mut refusing.stream().unwrap(), &get("/")).await;
    assert_eq!(answer, Err(UpstreamError::Unsent));

    let resetting = to(ClientLimits::default(), |mut server| async move {
        while let Some(Ok((_, mut respond))) = server.accept().await {
            respond.send_reset(Reason::INTERNAL_ERROR);
        }
    })
    .await;
    let answer = ask(&mut resetting.stream().unwrap(), &get("/")).await;
    assert_eq!(answer, Err(UpstreamError::Reset));
}

#[tokio::test]
async fn goaway_is_followed() {
    // By hand, so that the last stream is below one that was sent.
    let (near, mut far) = connected().await;
    let connection = connect(Stream::Plain(near), &ClientLimits::default())
        .await
        .unwrap();
    let (mut first, mut second) = (connection.stream().unwrap(), connection.stream().unwrap());
    let mut third = connection.stream().unwrap();
    let far = tokio::spawn(async move {
        far.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
        // Until both heads are there.
        let mut got = Vec::new();
        let heads = |got: &[u8]| {
            got.windows(9)
                .filter(|it| it[3] == 1 && it[5..8] == [0; 3] && it[8] % 2 == 1)
                .count()
        };
        while heads(&got) < 2 {
            assert_ne!(far.read_buf(&mut got).await.unwrap(), 0);
        }
        // GOAWAY, last stream 1; then stream 1 is answered with 200.
        let goaway = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0];
        far.write_all(&goaway).await.unwrap();
        far.write_all(&[0, 0, 1, 1, 5, 0, 0, 0, 1, 0x88])
            .await
            .unwrap();
        far
    });
    let (one, two) = (get("/1"), get("/2"));
    let (one, two) = tokio::join!(ask(&mut first, &one), ask(&mut second, &two));
    assert_eq!(one.unwrap().status, 200);
    assert_eq!(two, Err(UpstreamError::Left));
    assert!(!connection.is_open() && connection.stream().is_none());
    // What was on its way to a stream is unsent, too.
    let late = ask(&mut third, &get("/3")).await;
    assert_eq!(late, Err(UpstreamError::Left));
    drop((first, second, third));
    let mut far = soon(far).await.unwrap();
    let mut rest = Vec::new();
    soon(far.read_to_end(&mut rest)).await.unwrap();
}

#[tokio::test]
async fn a_body_on_its_way_does_not_hide_that_it_was_refused() {
    let refusing = to(ClientLimits::default(), |mut server| async move {
        let (_, mut respond) = server.accept().await.unwrap().unwrap();
        respond.send_reset(Reason::REFUSED_STREAM);
        while server.accept().await.is_some() {}
    })
    .await;
    let (near, mut far) = connected().await;
    let limits = ClientLimits::default();
    let leaving = connect(Stream::Plain(near), &limits).await.unwrap();
    let far = tokio::spawn(async move {
        far.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
        // The client's preface, and all that its window lets it send.
        let mut got = vec![0; 24 + 65_535];
        far.read_exact(&mut got).await.unwrap();
        // GOAWAY, and no stream was looked at.
        let goaway = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        far.write_all(&goaway).await.unwrap();
        far
    });
    for connection in [refusing, leaving] {
        let mut stream = connection.stream().unwrap();
        let (mut request, mut response) = stream.halves();
        request.head(&get("/"), BodySize::Unknown).await.unwrap();
        // More than the window takes: it waits, and hears of it first.
        let piece = Bytes::from(vec![0; 1 << 20]);
        let sent = soon(request.data(piece)).await;
        assert_eq!(sent, Err(UpstreamError::Unsent));
        let answer = soon(head(&mut response)).await;
        assert_eq!(answer, Err(UpstreamError::Unsent));
    }
    soon(far).await.unwrap();
}

#[tokio::test]
async fn a_kept_connection_that_was_closed_is_told_from_a_new_one() {
    let closing = |answers: usize| {
        to(ClientLimits::default(), move |mut server| async move {
            for _ in 0..answers {
                let (_, mut respond) = server.accept().await.unwrap().unwrap();
                let response = http::Response::new(());
                respond.send_response(response, true).unwrap();
            }
            // Drops the connection with the next request unanswered.
            server.accept().await.unwrap().unwrap();
        })
    };
    let fresh = closing(0).await;
    let answer = ask(&mut fresh.stream().unwrap(), &get("/")).await;
    assert_eq!(answer, Err(UpstreamError::Reset));
    let kept = closing(1).await;
    let answer = ask(&mut kept.stream().unwrap(), &get("/")).await;
    assert_eq!(answer.unwrap().status, 200);
    let answer = ask(&mut kept.stream().unwrap(), &get("/")).await;
    assert_eq!(answer, Err(UpstreamError::Stale));
    assert!(kept.stream().is_none());
}

#[tokio::test]
async fn an_early_answer_survives_the_reset_behind_it() {
    let early = to(ClientLimits::default(), |mut server| async move {
        while let Some(Ok((request, mut respond))) = server.accept().await {
            let response = http::Response::builder().status(413).body(()).unwrap();
            let mut body = respond.send_response(response, false).unwrap();
            body.send_data(Bytes::from_static(b"too big"), true)
                .unwrap();
            // RST_STREAM with NO_ERROR follows.
            drop(request);
        }
    })
    .await;
    let mut stream = early.stream().unwrap();
    let (mut request, mut response) = stream.halves();
    request.head(&get("/"), BodySize::Unknown).await.unwrap();
    assert_eq!(soon(head(&mut response)).await.unwrap().status, 413);
    let piece = Bytes::from(vec![0; 1 << 20]);
    assert_eq!(soon(request.data(piece)).await, Err(UpstreamError::Reset));
    assert_eq!(read(&mut response).await, Ok((b"too big".to_vec(), None)));
}

#[tokio::test]
async fn websocket_of_one_version_reaches_the_other() {
    let (connection, ..) = ours().await;
    let mut stream = connection.stream().unwrap();
    assert!(soon(stream.takes_websocket()).await);
    let mut asked = get("/chat");
    asked.protocol = Some("websocket".to_owned());
    asked.fields = fields(&[
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("Sec-WebSocket-Version", "13"),
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
    ]);
    let (mut request, mut response) = stream.halves();
    request.head(&asked, BodySize::Unknown).await.unwrap();
    let answer = soon(head(&mut response)).await.unwrap();
    assert_eq!(answer.status, 101);
    request.data(Bytes::from_static(b"ping")).await.unwrap();
    request.flush().await.unwrap();
    let piece = soon(response.next()).await.unwrap();
    assert_eq!(piece, Some(Piece::Data(Bytes::from_static(b"ping"))));
    request.finish(None).await.unwrap();
    assert_eq!(soon(response.next()).await, Ok(None));

    let plain = to(ClientLimits::default(), |mut server| async move {
        while server.accept().await.is_some() {}
    })
    .await;
    let stream = plain.stream().unwrap();
    assert!(!soon(stream.takes_websocket()).await);
}

#[tokio::test]
async fn connections_end_by_themselves() {
    let short = Duration::from_millis(50);
    // Idle.
    let limits = ClientLimits {
        idle: short,
        answer: short,
        ..ClientLimits::default()
    };
    let (ended, end) = tokio::sync::oneshot::channel();
    let idle = to(limits, |mut server| async move {
        while server.accept().await.is_some() {}
        ended.send(()).unwrap();
    })
    .await;
    soon(end).await.unwrap();
    assert!(!idle.is_open());
    // Silent: settings come, and nothing after that.
    let limits = ClientLimits {
        answer: short,
        keep_alive: short,
        ..ClientLimits::default()
    };
    let (near, mut far) = connected().await;
    let silent = connect(Stream::Plain(near), &limits).await.unwrap();
    let mut stream = silent.stream().unwrap();
    assert_eq!(ask(&mut stream, &get("/")).await, Err(UpstreamError::Reset));
    let mut rest = Vec::new();
    soon(far.read_to_end(&mut rest)).await.unwrap();
}
