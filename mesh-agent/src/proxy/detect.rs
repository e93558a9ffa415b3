//! Which protocol a connection speaks, told from its first bytes.

mod hello;

use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::time::{Instant, timeout_at};

pub use hello::{Hello, MAX_HELLO, client_hello};

/// How long a client may be silent before it is taken for one that waits for the server's first word. Clients of HTTP and TLS on
/// the same node send in the same millisecond; who waits pays this once in a connection.
pub const SILENCE: Duration = Duration::from_millis(100);

/// How long the rest of a `ClientHello` may take, once it has begun.
pub const HELLO: Duration = Duration::from_secs(5);

/// What every client of HTTP/2 sends first (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes of a method, at most: the longest registered one has 17.
const MAX_METHOD: usize = 20;

/// Room for the first read: most heads of requests, any usual `ClientHello`.
const FIRST_READ: usize = 4 << 10;

/// What a connection speaks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Protocol {
    /// HTTP/1.0 or 1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// TLS, with what its `ClientHello` says.
    Tls(Hello),
    /// Something else, or a protocol in which the server speaks first.
    Opaque,
}

/// What the first bytes say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Guess {
    /// This.
    Is(Protocol),
    /// TLS for sure; the rest of its `ClientHello` is to come.
    Hello,
    /// Too few bytes.
    Undecided,
}

/// Guesses from what a connection began with. Pure; more bytes never change what was decided.
pub fn guess(start: &[u8]) -> Guess {
    if start.starts_with(PREFACE) {
        return Guess::Is(Protocol::Http2);
    }
    // No method of HTTP/1 is `PRI` (RFC 9113, section 11.6).
    if PREFACE.starts_with(start) {
        return Guess::Undecided;
    }
    if start.first() == Some(&hello::HANDSHAKE) {
        return match client_hello(start) {
            Ok(Some(hello)) => Guess::Is(Protocol::Tls(hello)),
            Ok(None) if start.len() >= hello::CERTAIN => Guess::Hello,
            Ok(None) => Guess::Undecided,
            Err(_) => Guess::Is(Protocol::Opaque),
        };
    }
    request_line(start)
}

/// Tells the versions of HTTP apart on a connection that is known to speak it; `None`: too few bytes.
pub fn version(start: &[u8]) -> Option<Protocol> {
    // No method of HTTP/1 is `PRI` (RFC 9113, section 11.6).
    let (method, _) = PREFACE.split_at(4);
    match start.starts_with(method) {
        true => Some(Protocol::Http2),
        false if method.starts_with(start) => None,
        false => Some(Protocol::Http1),
    }
}

/// Takes for HTTP/1 what begins with a method in capitals, a space, and a target in one of its forms. Lines of Redis
/// (`PING\r\n`), SMTP (`HELO host`) or memcached do not.
fn request_line(start: &[u8]) -> Guess {
    let is_method = |byte: &u8| byte.is_ascii_uppercase() || *byte == b'-';
    let method = start.iter().take_while(|byte| is_method(byte)).count();
    if method > MAX_METHOD || method == 0 {
        return Guess::Is(Protocol::Opaque);
    }
    let Some((method, rest)) = start.split_at_checked(method + 1) else {
        return Guess::Undecided;
    };
    // A connection to anywhere is for HTTP to refuse.
    let is_connect = method == b"CONNECT ";
    if !method.ends_with(b" ") {
        return Guess::Is(Protocol::Opaque);
    }
    if rest.starts_with(b"/") || (is_connect && !rest.is_empty()) {
        return Guess::Is(Protocol::Http1);
    }
    let forms = [&b"* http/"[..], b"http:", b"https:"];
    let begins = |whole: &[u8], part: &[u8]| {
        let start = whole.get(..part.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(part))
    };
    if forms.iter().any(|form| begins(rest, form)) {
        return Guess::Is(Protocol::Http1);
    }
    if forms.iter().any(|form| begins(form, rest)) {
        return Guess::Undecided;
    }
    Guess::Is(Protocol::Opaque)
}

/// Reads from a connection into `start` until it is known what it speaks. What was read is part of the connection's bytes: whoever
/// serves it begins with them. A client that ends before anything is decided speaks nothing we know.
///
/// # Errors
/// Returns what reading did.
pub async fn detect<R: AsyncRead + Unpin>(
    io: &mut R,
    start: &mut BytesMut,
    silence: Duration,
    hello: Duration,
) -> std::io::Result<Protocol> {
    let began = Instant::now();
    start.reserve(FIRST_READ);
    loop {
        let until = match guess(start) {
            Guess::Is(protocol) => return Ok(protocol),
            Guess::Hello => began + hello,
            Guess::Undecided => began + silence,
        };
        match timeout_at(until, io.read_buf(start)).await {
            Ok(Ok(0)) | Err(_) => return Ok(Protocol::Opaque),
            Ok(Ok(_)) => {}
            Ok(Err(why)) => return Err(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    #[test]
    fn first_bytes_tell_protocols_apart() {
        use Protocol::{Http1, Http2, Opaque};
        for (start, expected) in [
            (&b"GET / HTTP/1.1\r\n"[..], Http1),
            (b"OPTIONS * HTTP/1.1\r\n", Http1),
            (b"POST http://shop/ HTTP/1.0\r\n", Http1),
            (b"CONNECT shop:443 HTTP/1.1\r\n", Http1),
            (b"VERSION-CONTROL /", Http1),
            (b"PROPFIND /", Http1),
            (PREFACE, Http2),
            (b"PRI * HTTP/1.1\r\n\r\n", Http1),
            (b"PRINT /", Http1),
            (b"PING\r\n", Opaque),
            (b"*1\r\n$4\r\nPING\r\n", Opaque),
            (b"EHLO me\r\n", Opaque),
            (b"HELO host\r\n", Opaque),
            (b"LIST * x", Opaque),
            (b"get key\r\n", Opaque),
            (b"SSH-2.0-x\r\n", Opaque),
            (b"\x00\x00\x00\x08", Opaque),
            (b"AAAAAAAAAAAAAAAAAAAAAAAAA", Opaque),
            (b" /", Opaque),
            (b"\x16\x03\x01\x00\x05\x02\x00\x00\x01\x00", Opaque),
            (b"\x17\x03\x01", Opaque),
        ] {
            let text = String::from_utf8_lossy(start);
            assert_eq!(guess(start), Guess::Is(expected), "{text}");
        }
        for start in [
            &b""[..],
            b"G",
            b"PRI * HT",
            b"GET",
            b"GET ",
            b"GET htt",
            b"OPTIONS *",
            b"\x16",
            b"\x16\x03\x01\x02",
        ] {
            assert_eq!(guess(start), Guess::Undecided, "{start:?}");
        }
        assert_eq!(guess(b"\x16\x03\x01\x02\x00\x01\x00"), Guess::Hello);
    }

    #[test]
    fn four_bytes_tell_the_versions_of_http_apart() {
        for (start, expected) in [
            (&b""[..], None),
            (b"P", None),
            (b"PRI", None),
            (b"PRI ", Some(Protocol::Http2)),
            (PREFACE, Some(Protocol::Http2)),
            (b"PO", Some(Protocol::Http1)),
            (b"PRIX", Some(Protocol::Http1)),
            (b"\r", Some(Protocol::Http1)),
        ] {
            assert_eq!(version(start), expected, "{start:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_decided_stays(start in proptest::collection::vec(any::<u8>(), 0..64), kind in 0..4usize) {
            let begin = [&b""[..], b"GET h", b"PRI * H", b"\x16\x03\x01\x00\x20\x01"][kind];
            let all = [begin, &start].concat();
            let mut decided = None;
            for end in 0..=all.len() {
                match (guess(&all[..end]), &decided) {
                    (Guess::Is(now), Some(before)) => prop_assert_eq!(&now, before),
                    (Guess::Is(now), None) => decided = Some(now),
                    (other, Some(before)) => prop_assert!(false, "{:?} after {:?}", other, before),
                    (_, None) => {}
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_the_server_is_not_kept_waiting() {
        for sent in [&b""[..], b"G", b"\x16\x03"] {
            let (mut near, mut far) = tokio::io::duplex(64);
            near.write_all(sent).await.unwrap();
            let mut start = BytesMut::new();
            let began = Instant::now();
            let protocol = detect(&mut far, &mut start, SILENCE, HELLO).await.unwrap();
            assert_eq!((protocol, &start[..]), (Protocol::Opaque, sent));
            assert_eq!(began.elapsed().as_millis(), 100);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn pieces_are_put_together() {
        let (mut near, mut far) = tokio::io::duplex(64);
        let sending = async {
            for byte in b"GET / HTTP/1.1" {
                tokio::time::sleep(Duration::from_millis(10)).await;
                near.write_all(&[*byte]).await.unwrap();
            }
        };
        let mut start = BytesMut::new();
        let detecting = detect(&mut far, &mut start, SILENCE, HELLO);
        let ((), protocol) = tokio::join!(sending, detecting);
        assert_eq!(protocol.unwrap(), Protocol::Http1);
        assert_eq!(&start[..], b"GET /");
        // A client that goes without a word.
        drop(near);
        let mut start = BytesMut::new();
        let mut empty = &b""[..];
        let protocol = detect(&mut empty, &mut start, SILENCE, HELLO).await;
        assert_eq!(protocol.unwrap(), Protocol::Opaque);
    }
}
