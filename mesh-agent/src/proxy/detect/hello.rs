//! The `ClientHello` of TLS, read as far as routing by name needs it (RFC 8446, section 4.1.2; RFC 6066, section 3).

/// The first byte of a record with a handshake message.
pub(super) const HANDSHAKE: u8 = 22;

/// The bytes that no other protocol begins with by chance: record's type, version, length and message's type.
pub(super) const CERTAIN: usize = 6;

/// Bytes of a `ClientHello`, at most. With post-quantum keys it has 2 kB, with many tickets and certificate names some more.
pub const MAX_HELLO: usize = 16 << 10;

/// Bytes in a record, at most (RFC 8446, section 5.1).
const MAX_RECORD: usize = 16 << 10;

/// Records that one `ClientHello` may come in: who sends it byte by byte means no good.
const MAX_RECORDS: usize = 64;

/// What a `ClientHello` says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Hello {
    /// The server's name, in lower case.
    pub server_name: Option<String>,
    /// Protocols that the client offers above TLS, the preferred one first.
    pub protocols: Vec<Vec<u8>>,
}

/// This is no `ClientHello`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a ClientHello of TLS")]
pub struct NoHello;

/// Reads a `ClientHello` from the start of a connection, however it is cut into records; `None` as long as it is not all there.
///
/// # Errors
/// Fails as soon as it cannot become one.
pub fn client_hello(start: &[u8]) -> Result<Option<Hello>, NoHello> {
    let mut message = Vec::new();
    let mut rest = start;
    for _ in 0..MAX_RECORDS {
        let Some(record) = record(&mut rest)? else {
            return Ok(None);
        };
        message.extend_from_slice(record.bytes);
        if let Some(body) = whole(&message)? {
            return body_of(&mut Reader(body)).map(Some).ok_or(NoHello);
        }
        if !record.complete {
            return Ok(None);
        }
    }
    Err(NoHello)
}

struct Record<'b> {
    bytes: &'b [u8],
    complete: bool,
}

/// Takes a record off; `None` if not even its header is there.
fn record<'b>(rest: &mut &'b [u8]) -> Result<Option<Record<'b>>, NoHello> {
    let valid = match rest {
        [] => true,
        [kind] => *kind == HANDSHAKE,
        [kind, major, ..] => *kind == HANDSHAKE && *major == 3,
    };
    let Some((header, after)) = rest.split_at_checked(5) else {
        return if valid { Ok(None) } else { Err(NoHello) };
    };
    let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
    // An empty record of a handshake is forbidden.
    if !valid || length == 0 || length > MAX_RECORD {
        return Err(NoHello);
    }
    let have = length.min(after.len());
    let (bytes, behind) = after.split_at(have);
    *rest = behind;
    let complete = have == length;
    Ok(Some(Record { bytes, complete }))
}

/// Returns the message's body once it is all there.
fn whole(message: &[u8]) -> Result<Option<&[u8]>, NoHello> {
    const CLIENT_HELLO: u8 = 1;
    if message.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
        return Err(NoHello);
    }
    let Some((header, after)) = message.split_at_checked(4) else {
        return Ok(None);
    };
    let length = u32::from_be_bytes([0, header[1], header[2], header[3]]) as usize;
    if length > MAX_HELLO {
        return Err(NoHello);
    }
    Ok(after.get(..length))
}

fn body_of(body: &mut Reader<'_>) -> Option<Hello> {
    body.take(2 + 32)?;
    body.sized8()?;
    let suites = body.sized16()?;
    let compressions = body.sized8()?;
    if suites.0.is_empty() || suites.0.len() % 2 != 0 || compressions.0.is_empty() {
        return None;
    }
    let mut hello = Hello::default();
    // Before TLS 1.2 there may be no extensions.
    if body.0.is_empty() {
        return Some(hello);
    }
    let mut extensions = body.sized16()?;
    while !extensions.0.is_empty() {
        let kind = extensions.number()?;
        let mut content = extensions.sized16()?;
        match kind {
            0 => hello.server_name = server_name(&mut content)?,
            16 => hello.protocols = protocols(&mut content)?,
            _ => {}
        }
    }
    body.0.is_empty().then_some(hello)
}

/// Returns the name, if it is one of a host; `None` if the extension is malformed.
fn server_name(content: &mut Reader<'_>) -> Option<Option<String>> {
    const HOST_NAME: u8 = 0;
    let mut list = content.sized16()?;
    while !list.0.is_empty() {
        let kind = *list.take(1)?.first()?;
        let name = list.sized16()?;
        if kind == HOST_NAME {
            let valid = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._".contains(byte);
            let is_name = (1..=255).contains(&name.0.len()) && name.0.iter().all(valid);
            let name = std::str::from_utf8(name.0).ok()?;
            let name = name.strip_suffix('.').unwrap_or(name);
            return Some(is_name.then(|| name.to_ascii_lowercase()));
        }
    }
    Some(None)
}

fn protocols(content: &mut Reader<'_>) -> Option<Vec<Vec<u8>>> {
    let mut list = content.sized16()?;
    let mut protocols = Vec::new();
    while !list.0.is_empty() {
        protocols.push(list.sized8()?.0.to_vec());
    }
    Some(protocols)
}

/// What is left to read.
struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    fn take(&mut self, length: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<u16> {
        let bytes = self.take(2)?;
        Some(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn sized8(&mut self) -> Option<Reader<'b>> {
        let length = usize::from(*self.take(1)?.first()?);
        self.take(length).map(Reader)
    }

    fn sized16(&mut self) -> Option<Reader<'b>> {
        let length = usize::from(self.number()?);
        self.take(length).map(Reader)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use rustls::crypto::aws_lc_rs;
    use rustls::{ClientConfig, ClientConnection, RootCertStore};

    use super::*;

    /// What a client of rustls sends first: with a post-quantum key.
    fn rustls_hello(name: &str, protocols: &[&[u8]]) -> Vec<u8> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|it| it.to_vec()).collect();
        let name = name.to_owned().try_into().unwrap();
        let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut sent = Vec::new();
        client.write_tls(&mut sent).unwrap();
        sent
    }

    /// Puts the message of one record into records of this size.
    fn cut(hello: &[u8], size: usize) -> Vec<u8> {
        let records = hello[5..].chunks(size).map(|it| {
            let length = u16::try_from(it.len()).unwrap().to_be_bytes();
            [&[HANDSHAKE, 3, 1][..], &length, it].concat()
        });
        records.collect::<Vec<_>>().concat()
    }

    #[test]
    fn name_and_protocols_come_out_whatever_the_records() {
        let hello = rustls_hello("Shop.Example", &[b"h2", b"http/1.1"]);
        assert!(
            hello.len() > 1300,
            "no post-quantum key: {} bytes",
            hello.len()
        );
        let expected = Hello {
            server_name: Some("shop.example".to_owned()),
            protocols: vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        };
        for size in [40, 100, 1000, 16_000] {
            let records = cut(&hello, size);
            assert_eq!(client_hello(&records), Ok(Some(expected.clone())), "{size}");
            // However much of it has come: never an error, and nothing before its last byte.
            for end in 0..records.len() {
                assert_eq!(client_hello(&records[..end]), Ok(None), "{size}: {end}");
            }
            // What follows is not looked at.
            let more = [&records[..], b"\x17garbage"].concat();
            assert_eq!(client_hello(&more), Ok(Some(expected.clone())));
        }
        assert_eq!(client_hello(&cut(&hello, 5)), Err(NoHello));
    }

    #[test]
    fn a_hello_may_name_nobody() {
        let hello = rustls_hello("192.0.2.1", &[]);
        assert_eq!(client_hello(&hello), Ok(Some(Hello::default())));
    }

    #[test]
    fn what_is_none_is_refused_at_once() {
        for bytes in [
            &b"\x17"[..],
            b"\x16\x02",
            b"\x16\x03\x01\x00\x00",
            b"\x16\x03\x01\x40\x01",
            b"\x16\x03\x01\x00\x04\x02",
            b"\x16\x03\x01\x00\x04\x01\x00\x40\x01",
            b"\x16\x03\x01\x00\x04\x01\x00\x00\x00",
        ] {
            assert_eq!(client_hello(bytes), Err(NoHello), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn anything_may_come(bytes in proptest::collection::vec(any::<u8>(), 0..300), at in 0..400usize, byte in any::<u8>()) {
            client_hello(&bytes).ok();
            client_hello(&[b"\x16\x03\x01\x01\x00\x01\x00\x00\xf0", &bytes[..]].concat()).ok();
            let mut changed = rustls_hello("a.example", &[b"h2"]);
            changed[at] = byte;
            client_hello(&changed).ok();
        }

        #[test]
        fn what_is_refused_stays_refused(bytes in proptest::collection::vec(any::<u8>(), 9..200)) {
            let all = [b"\x16\x03\x01\x00\x60\x01\x00\x00\x40", &bytes[..]].concat();
            let outcomes: Vec<_> = (0..all.len()).map(|end| client_hello(&all[..end])).collect();
            let decided = outcomes.iter().position(|it| *it != Ok(None)).unwrap_or(outcomes.len());
            prop_assert!(outcomes[decided..].iter().all(|it| *it == outcomes[decided]));
        }
    }
}
