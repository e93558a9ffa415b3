//! A client's connection, seen by the `h2` crate's client.

use bytes::Bytes;
use h2::client::{self, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, StatusCode};

use super::*;

async fn client(io: TcpStream) -> SendRequest<Bytes> {
    let (send, connection) = client::handshake(io).await.unwrap();
    tokio::spawn(async move { connection.await.unwrap_or(()) });
    soon(send.ready()).await.unwrap()
}

fn post(path: &str) -> Request<()> {
    let uri = format!("http://Shop:80{path}");
    Request::post(uri).body(()).unwrap()
}

async fn body(mut stream: RecvStream) -> (Vec<u8>, Option<HeaderMap>) {
    let mut all = Vec::new();
    while let Some(data) = soon(stream.data()).await {
        let data = data.unwrap();
        stream.flow_control().release_capacity(data.len()).unwrap();
        all.extend_from_slice(&data);
    }
    (all, soon(stream.trailers()).await.unwrap())
}

async fn send(stream: &mut SendStream<Bytes>, data: Vec<u8>) {
    let mut data = Bytes::from(data);
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        let room = soon(std::future::poll_fn(|cx| stream.poll_capacity(cx))).await;
        let room = room.unwrap().unwrap().min(data.len());
        stream.send_data(data.split_to(room), false).unwrap();
    }
}

#[tokio::test]
async fn bodies_trailers_and_interim_responses_pass_both_ways() {
    let (io, _served, _seen) = echoing(Limits::default()).await;
    let mut client = client(io).await;
    let (mut response, mut stream) = client.send_request(post("/echo"), false).unwrap();
    let early = std::future::poll_fn(|cx| response.poll_informational(cx));
    let early = soon(early).await.unwrap().unwrap();
    assert_eq!(early.status(), 103);
    assert_eq!(early.headers()["link"], "</a>");
    let response = soon(response).await.unwrap();
    assert_eq!(response.headers()["x-authority"], "shop:80");
    let sent: Vec<u8> = (0..3_000_000u32).map(|it| it.to_le_bytes()[1]).collect();
    let reading = tokio::spawn(body(response.into_body()));
    send(&mut stream, sent.clone()).await;
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    trailers.insert("content-type", "evil".parse().unwrap());
    stream.send_trailers(trailers).unwrap();
    let (received, trailers) = soon(reading).await.unwrap();
    assert!(received == sent);
    let trailers = trailers.unwrap();
    assert_eq!(
        (trailers.len(), &trailers["grpc-status"]),
        (1, &"0".parse().unwrap())
    );
}

#[tokio::test]
async fn host_and_authority_are_one() {
    let (io, _served, _seen) = echoing(Limits::default()).await;
    let mut client = client(io).await;
    for (host, status) in [("shop:80", 200), ("evil", 400)] {
        let mut request = post("/");
        request.headers_mut().insert("host", host.parse().unwrap());
        let (response, _) = client.send_request(request, true).unwrap();
        assert_eq!(soon(response).await.unwrap().status(), status, "{host}");
    }
}

#[tokio::test]
async fn big_heads_are_refused() {
    let (io, _served, mut seen) = echoing(Limits::default()).await;
    let mut client = client(io).await;
    let mut big = post("/");
    for name in ["a", "b", "c", "d"] {
        let value = "v".repeat(9000).parse().unwrap();
        big.headers_mut().insert(name, value);
    }
    let mut many = post("/");
    for _ in 0..101 {
        many.headers_mut().append("x", "1".parse().unwrap());
    }
    for request in [big, many] {
        let (response, _) = client.send_request(request, true).unwrap();
        assert_eq!(soon(response).await.unwrap().status(), 431);
    }
    for _ in 0..2 {
        let refused = "refused 431 Request Header Fields Too Large";
        assert_eq!(seen.try_recv().unwrap(), refused);
    }
    assert!(seen.try_recv().is_err(), "a request was handled");
}

#[tokio::test]
async fn only_websocket_may_connect() {
    let (io, _served, _seen) = echoing(Limits::default()).await;
    let mut client = client(io).await;
    let plain = Request::connect("shop:80").body(()).unwrap();
    let (response, _) = client.send_request(plain, false).unwrap();
    assert_eq!(
        soon(response).await.unwrap().status(),
        StatusCode::METHOD_NOT_ALLOWED
    );
    assert!(client.is_extended_connect_protocol_enabled());
    let mut tunnel = Request::connect("http://shop:80/chat").body(()).unwrap();
    tunnel
        .extensions_mut()
        .insert(h2::ext::Protocol::from("websocket"));
    let (response, mut stream) = client.send_request(tunnel, false).unwrap();
    let response = soon(response).await.unwrap();
    // 101 is not of HTTP/2.
    assert_eq!(response.status(), 200);
    send(&mut stream, b"ping".to_vec()).await;
    stream.send_data(Bytes::new(), true).unwrap();
    assert_eq!(body(response.into_body()).await.0, b"ping");
}

#[tokio::test]
async fn who_breaks_off_is_told_apart() {
    let (io, _served, mut seen) = echoing(Limits::default()).await;
    let mut client = client(io).await;
    // The client: the handler hears of it.
    let (response, mut stream) = client.send_request(post("/hang"), false).unwrap();
    told(&mut seen, "POST /hang").await;
    stream.send_reset(Reason::CANCEL);
    told(&mut seen, "gone /hang").await;
    drop(response);
    // We, within the body and before it.
    let (response, mut stream) = client.send_request(post("/break"), false).unwrap();
    let mut answer = soon(response).await.unwrap().into_body();
    assert_eq!(soon(answer.data()).await.unwrap().unwrap(), "half");
    send(&mut stream, b"go on".to_vec()).await;
    let why = soon(answer.data()).await.unwrap().unwrap_err();
    assert_eq!(why.reason(), Some(Reason::INTERNAL_ERROR));
    let (response, _stream) = client.send_request(post("/drop"), false).unwrap();
    let why = soon(response).await.unwrap_err();
    assert_eq!(why.reason(), Some(Reason::INTERNAL_ERROR));
    // The connection.
    let (_response, _stream) = client.send_request(post("/hang"), false).unwrap();
    told(&mut seen, "POST /hang").await;
}

#[tokio::test]
async fn a_connection_that_is_gone_ends_its_requests() {
    let (io, served, mut seen) = echoing(Limits::default()).await;
    let (mut send, connection) = client::handshake(io).await.unwrap();
    let connection = tokio::spawn(connection);
    let (_response, _stream) = send.send_request(post("/hang"), false).unwrap();
    told(&mut seen, "POST /hang").await;
    connection.abort();
    told(&mut seen, "gone /hang").await;
    assert_ne!(soon(served).await.unwrap(), Ended::Idle);
}

#[tokio::test]
async fn an_answer_before_the_end_of_the_request_is_clean() {
    let (io, _served, _seen) = echoing(Limits::default()).await;
    let mut client = client(io).await;
    let (response, mut stream) = client.send_request(post("/early"), false).unwrap();
    assert_eq!(soon(response).await.unwrap().status(), 413);
    let reset = std::future::poll_fn(|cx| stream.poll_reset(cx));
    assert_eq!(soon(reset).await.unwrap(), Reason::NO_ERROR);
}

#[tokio::test]
async fn an_answer_to_head_has_a_length_and_no_body() {
    let (io, _served, _seen) = echoing(Limits::default()).await;
    let mut client = client(io).await;
    for (method, expected) in [(Method::GET, &b"four"[..]), (Method::HEAD, b"")] {
        let mut request = post("/sized");
        *request.method_mut() = method;
        let (response, _) = client.send_request(request, true).unwrap();
        let response = soon(response).await.unwrap();
        assert_eq!(response.headers()["content-length"], "4");
        assert_eq!(body(response.into_body()).await.0, expected);
    }
}

#[tokio::test]
async fn a_slow_reader_holds_back_the_sender() {
    let limits = Limits::default();
    let most = limits.send_buffer + 64 * 1024;
    let (io, _served, mut seen) = echoing(limits).await;
    let (mut send, connection) = client::Builder::new()
        .initial_window_size(10_000)
        .handshake::<_, Bytes>(io)
        .await
        .unwrap();
    let driver = tokio::spawn(connection);
    let (response, stream) = send.send_request(post("/endless"), true).unwrap();
    let answer = soon(response).await.unwrap();
    // Nothing is read, so in the end nothing more is taken.
    let mut last = String::new();
    while let Ok(Some(line)) = tokio::time::timeout(Duration::from_millis(300), seen.recv()).await {
        last = line;
    }
    let taken: usize = last.split(' ').nth(1).unwrap().parse().unwrap();
    assert!(taken <= most, "{taken} bytes were taken");
    drop((answer, stream));
    told(&mut seen, "gone /endless").await;
    driver.abort();
}

#[tokio::test]
async fn a_thousand_streams_are_served_at_the_same_time() {
    let mut clients = Vec::new();
    for _ in 0..5 {
        let (io, served, seen) = echoing(Limits::default()).await;
        clients.push((client(io).await, served, seen));
    }
    let mut open = Vec::new();
    for (client, ..) in &mut clients {
        for _ in 0..200 {
            let mut ready = soon(client.clone().ready()).await.unwrap();
            let (response, stream) = ready.send_request(post("/echo"), false).unwrap();
            open.push((soon(response).await.unwrap(), stream));
        }
    }
    assert_eq!(open.len(), 1000);
    for (response, mut stream) in open {
        stream.send_data(Bytes::from_static(b"x"), true).unwrap();
        assert_eq!(body(response.into_body()).await.0, b"x");
    }
}

#[tokio::test]
async fn draining_lets_streams_end_and_opens_none() {
    let (near, far) = connected().await;
    let (drain, drained) = tokio::sync::oneshot::channel::<()>();
    let served = tokio::spawn(async move {
        let (service, _seen) = echo();
        let drained = async { drained.await.unwrap_or(()) };
        let (limits, life) = (Limits::default(), life());
        let (io, start) = (Stream::Plain(far), BytesMut::new());
        super::super::serve(io, start, &service, &limits, &life, drained).await
    });
    let mut client = client(near).await;
    let (response, mut stream) = client.send_request(post("/echo"), false).unwrap();
    let response = soon(response).await.unwrap();
    drain.send(()).unwrap();
    // Told to go: the client's side opens no more streams.
    soon(async {
        while client.clone().ready().await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    send(&mut stream, b"still".to_vec()).await;
    stream.send_data(Bytes::new(), true).unwrap();
    assert_eq!(body(response.into_body()).await.0, b"still");
    assert_eq!(soon(served).await.unwrap(), Ended::Closed);
}

#[tokio::test]
async fn silence_ends_a_connection() {
    let short = Duration::from_millis(50);
    let limits = Limits {
        handshake: short,
        ..Limits::default()
    };
    let (_io, served, _seen) = echoing(limits).await;
    assert_eq!(soon(served).await.unwrap(), Ended::Handshake);

    let limits = Limits {
        idle: short,
        answer: short,
        ..Limits::default()
    };
    let (io, served, _seen) = echoing(limits.clone()).await;
    let _client = client(io).await;
    assert_eq!(soon(served).await.unwrap(), Ended::Idle);

    // One that does not even answer.
    let (io, served, _seen) = echoing(limits).await;
    let (_send, _connection) = client::handshake(io).await.unwrap();
    assert_eq!(soon(served).await.unwrap(), Ended::Idle);
}
