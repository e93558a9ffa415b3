//! What a valid head is, and that heads come back as they went.

use http::{Method, StatusCode};
use proptest::prelude::*;

use super::*;
use crate::l7::message::{Fields, RequestHead, ResponseHead, Target};
use crate::proxy::exchange::BodySize;
use crate::proxy::h2::hpack::{Decoder, Encoder};

/// Returns a block with these lines.
fn block(lines: &[(&str, &str)]) -> Vec<u8> {
    let mut encoder = Encoder::default();
    let mut out = Vec::new();
    for (name, value) in lines {
        encoder.field(&mut out, name, value.as_bytes(), false);
    }
    out
}

fn request(block: &[u8], ended: bool) -> Result<(RequestHead, Asked), Bad> {
    let mut head = RequestHead::default();
    let mut reader = RequestReader::new(&mut head, 100, 16 << 10);
    Decoder::new(1 << 20)
        .decode(block, |line| reader.line(line))
        .unwrap();
    let asked = reader.end(ended)?;
    Ok((head, asked))
}

fn asked(lines: &[(&str, &str)]) -> Result<RequestHead, Option<u16>> {
    match request(&block(lines), false) {
        Ok((head, _)) => Ok(head),
        Err(Bad::Malformed) => Err(None),
        Err(Bad::Refused(refusal)) => Err(Some(refusal.status.as_u16())),
    }
}

const GET: (&str, &str) = (":method", "GET");
const HTTP: (&str, &str) = (":scheme", "http");
const PATH: (&str, &str) = (":path", "/a?b=c");
const SHOP: (&str, &str) = (":authority", "Shop.Mesh:8080");

fn get(more: &[(&str, &str)]) -> Result<RequestHead, Option<u16>> {
    asked(&[&[GET, HTTP, PATH, SHOP], more].concat())
}

#[test]
fn authority_is_needed_and_is_what_host_says() {
    let head = get(&[("host", "shop.mesh:8080")]).unwrap();
    assert_eq!(head.authority, "shop.mesh:8080");
    assert_eq!(
        (head.target.path(), head.target.query()),
        ("/a", Some("b=c"))
    );
    assert!(!head.fields.contains("host"));
    for host in ["evil", "shop.mesh", "shop.mesh:80"] {
        assert_eq!(get(&[("host", host)]), Err(Some(400)), "{host}");
    }
    let twice = ("host", "shop.mesh:8080");
    assert_eq!(get(&[twice, twice]), Err(Some(400)));
    assert_eq!(asked(&[GET, HTTP, PATH]), Err(Some(400)));
    assert_eq!(asked(&[GET, HTTP, PATH, ("host", "a")]), Err(Some(400)));
    for authority in [
        "",
        "user@shop",
        "shop:",
        "shop:99999",
        "shop:x",
        ":80",
        "a b",
        "a/b",
        "[::1",
        "[x]:1",
        "a\u{e4}",
        "a:1:2",
    ] {
        let got = asked(&[GET, HTTP, PATH, (":authority", authority)]);
        assert_eq!(got, Err(Some(400)), "{authority}");
    }
    for authority in [
        "a",
        "a:0",
        "a_b.c-d:65535",
        "10.0.0.1",
        "[::1]",
        "[fe80::1]:80",
        "%41",
    ] {
        let got = asked(&[GET, HTTP, PATH, (":authority", authority)]);
        assert_eq!(got.unwrap().authority, authority.to_ascii_lowercase());
    }
}

#[test]
fn what_begins_a_list_is_there_once_and_first() {
    for lines in [
        &[HTTP, PATH, SHOP][..],
        &[GET, PATH, SHOP],
        &[GET, HTTP, SHOP],
        &[GET, GET, HTTP, PATH, SHOP],
        &[GET, HTTP, HTTP, PATH, SHOP],
        &[GET, HTTP, PATH, PATH, SHOP],
        &[GET, HTTP, PATH, SHOP, SHOP],
        &[GET, HTTP, PATH, ("x", "1"), SHOP],
        &[GET, HTTP, PATH, SHOP, (":status", "200")],
        &[GET, HTTP, PATH, SHOP, (":new", "1")],
        &[GET, HTTP, PATH, SHOP, (":protocol", "websocket")],
        &[GET, HTTP, (":path", ""), SHOP],
        &[(":method", "G T"), HTTP, PATH, SHOP],
    ] {
        assert_eq!(asked(lines), Err(None), "{lines:?}");
    }
    let ftp = [GET, (":scheme", "ftp"), PATH, SHOP];
    assert_eq!(asked(&ftp), Err(Some(400)));
    for path in ["a", "*", "/a b", "/a#b", "/\u{e4}", "/a\\b"] {
        let got = asked(&[GET, HTTP, (":path", path), SHOP]);
        assert_eq!(got, Err(Some(400)), "{path}");
    }
    let all = [(":method", "OPTIONS"), HTTP, (":path", "*"), SHOP];
    assert_eq!(asked(&all).unwrap().target.as_str(), "*");
}

#[test]
fn fields_about_a_connection_are_malformed() {
    for line in [
        ("connection", "close"),
        ("keep-alive", "1"),
        ("proxy-connection", "x"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "websocket"),
        ("te", "gzip"),
        ("te", "trailers, gzip"),
        ("content-length", "x"),
        ("content-length", "+1"),
        ("a b", "1"),
        ("a", "\u{7f}"),
        ("a", " b"),
    ] {
        assert_eq!(get(&[line]), Err(None), "{line:?}");
    }
    let two = [("content-length", "1"), ("content-length", "2")];
    assert_eq!(get(&two), Err(None));
    let kept = get(&[
        ("te", "trailers"),
        ("proxy-authorization", "x"),
        ("http2-settings", "x"),
        ("x", "1"),
    ]);
    let expected: Fields = [("te", "trailers"), ("x", "1")].into_iter().collect();
    assert_eq!(kept.unwrap().fields, expected);
}

#[test]
fn crumbs_become_one_cookie() {
    let head = get(&[
        ("cookie", "a=1"),
        ("content-length", "5"),
        ("cookie", "b=2; c=3"),
        ("x", "1"),
        ("cookie", "d=4"),
    ]);
    let cookie = ("cookie", "a=1; b=2; c=3; d=4");
    let expected: Fields = [cookie, ("x", "1")].into_iter().collect();
    assert_eq!(head.unwrap().fields, expected);
}

#[test]
fn size_is_bounded() {
    let long = format!("/{}", "a".repeat(16 << 10));
    assert_eq!(asked(&[GET, HTTP, (":path", &long), SHOP]), Err(Some(414)));
    let many = vec![("x", "1"); 101];
    assert_eq!(get(&many), Err(Some(431)));
    assert!(get(&many[1..]).is_ok());
}

#[test]
fn connect_is_for_websocket_alone() {
    let connect = (":method", "CONNECT");
    assert_eq!(asked(&[connect, SHOP]), Err(Some(405)));
    for (protocol, expected) in [("websocket", None), ("connect-udp", Some(501))] {
        let got = asked(&[connect, HTTP, PATH, SHOP, (":protocol", protocol)]);
        assert_eq!(got.as_ref().err(), expected.map(Some).as_ref());
        if let Ok(head) = got {
            assert_eq!(head.method, Method::GET);
            assert_eq!(head.protocol.as_deref(), Some("websocket"));
        }
    }
}

#[test]
fn a_length_is_kept_to() {
    let lines = [
        (":method", "POST"),
        HTTP,
        PATH,
        SHOP,
        ("content-length", "9"),
    ];
    let (head, asked) = request(&block(&lines), false).unwrap();
    assert!(!head.fields.contains("content-length"));
    assert_eq!((asked.size, asked.length), (BodySize::Exact(9), Some(9)));
    assert_eq!(request(&block(&lines), true).err(), Some(Bad::Malformed));
    let (_, asked) = request(&block(&lines[..4]), true).unwrap();
    assert_eq!((asked.size, asked.length), (BodySize::Empty, None));
}

fn sent(head: &RequestHead, body: BodySize) -> Vec<u8> {
    let mut out = Vec::new();
    write_request(&mut Encoder::default(), &mut out, head, body);
    out
}

fn lines(block: &[u8]) -> Vec<(String, String)> {
    let mut lines = Vec::new();
    let each = |line: crate::proxy::h2::hpack::Line<'_>| {
        let value = String::from_utf8_lossy(line.value).into_owned();
        lines.push((line.name.to_owned(), value));
    };
    Decoder::new(1 << 20).decode(block, each).unwrap();
    lines
}

#[test]
fn a_head_comes_back_as_it_went() {
    let mut head = get(&[("te", "trailers"), ("x", "1")]).unwrap();
    let back = request(&sent(&head, BodySize::Empty), true).unwrap().0;
    assert_eq!(back, head);
    head.method = Method::OPTIONS;
    head.target = Target::new("*".to_owned());
    let back = request(&sent(&head, BodySize::Empty), true).unwrap().0;
    assert_eq!(back, head);
    head.protocol = Some("websocket".to_owned());
    head.method = Method::GET;
    head.target = Target::new("/chat".to_owned());
    let back = request(&sent(&head, BodySize::Unknown), false).unwrap().0;
    assert_eq!(back, head);
}

#[test]
fn what_is_about_a_connection_is_not_sent() {
    let given: Fields = [
        ("Connection", "x"),
        ("Host", "a"),
        ("Keep-Alive", "1"),
        ("proxy-connection", "x"),
        ("Transfer-Encoding", "chunked"),
        ("Upgrade", "h2c"),
        ("HTTP2-Settings", "AAA"),
        ("TE", "gzip, Trailers;q=1"),
        ("X-One", "1"),
        ("x-one", "2"),
    ]
    .into_iter()
    .collect();
    let mut head = get(&[]).unwrap();
    head.fields = given;
    let got = lines(&sent(&head, BodySize::Exact(7)));
    let fields = got[4..]
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()));
    let expected = [
        ("te", "trailers"),
        ("x-one", "1"),
        ("x-one", "2"),
        ("content-length", "7"),
    ];
    assert_eq!(fields.collect::<Vec<_>>(), expected);
    head.fields = [("te", "gzip")].into_iter().collect();
    assert_eq!(lines(&sent(&head, BodySize::Unknown)).len(), 4);
}

fn answered(
    lines: &[(&str, &str)],
    to_head: bool,
    ended: bool,
) -> Result<(ResponseHead, BodySize), Malformed> {
    let mut head = ResponseHead::default();
    let mut reader = ResponseReader::new(&mut head);
    Decoder::new(1 << 20)
        .decode(&block(lines), |line| reader.line(line))
        .unwrap();
    let answer = reader.end(to_head, ended)?;
    Ok((head, answer.size))
}

#[test]
fn a_status_is_there_once_and_is_one() {
    for lines in [
        &[][..],
        &[("x", "1")],
        &[(":status", "200"), (":status", "200")],
        &[("x", "1"), (":status", "200")],
        &[(":status", "200"), (":path", "/")],
        &[(":status", "20")],
        &[(":status", "099")],
        &[(":status", "600")],
        &[(":status", "101")],
        &[(":status", "200"), ("connection", "close")],
    ] {
        assert_eq!(answered(lines, false, false), Err(Malformed), "{lines:?}");
    }
    // An interim response is never the last one.
    assert!(answered(&[(":status", "103")], false, false).is_ok());
    assert_eq!(answered(&[(":status", "103")], false, true), Err(Malformed));
}

#[test]
fn a_length_is_said_where_nothing_follows() {
    let length = ("content-length", "9");
    for (status, to_head, kept) in [
        ("200", true, true),
        ("304", false, true),
        ("204", false, false),
    ] {
        let (head, size) = answered(&[(":status", status), length], to_head, true).unwrap();
        assert_eq!(
            (size, head.fields.contains("content-length")),
            (BodySize::Empty, kept)
        );
        let mut out = Vec::new();
        write_response(
            &mut Encoder::default(),
            &mut out,
            &head,
            BodySize::Empty,
            false,
        );
        let said = lines(&out)
            .iter()
            .any(|(name, value)| name == length.0 && value == "9");
        assert_eq!(said, kept, "{status}");
    }
    let lines = [(":status", "200"), length];
    assert_eq!(answered(&lines, false, true), Err(Malformed));
    assert_eq!(
        answered(&lines, false, false).unwrap().1,
        BodySize::Exact(9)
    );
}

#[test]
fn a_tunnel_is_accepted_without_a_handshake() {
    let mut head = ResponseHead {
        status: StatusCode::SWITCHING_PROTOCOLS,
        ..ResponseHead::default()
    };
    head.fields = [("Sec-WebSocket-Accept", "x"), ("a", "1")]
        .into_iter()
        .collect();
    let mut out = Vec::new();
    write_response(
        &mut Encoder::default(),
        &mut out,
        &head,
        BodySize::Unknown,
        true,
    );
    let expected = [(":status", "200"), ("a", "1")];
    let got = lines(&out);
    let got = got
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()));
    assert_eq!(got.collect::<Vec<_>>(), expected);
}

fn trailers(block: &[u8]) -> Result<Fields, Malformed> {
    let mut reader = TrailersReader::default();
    Decoder::new(1 << 20)
        .decode(block, |line| reader.line(line))
        .unwrap();
    reader.end()
}

#[test]
fn trailers_cannot_change_the_head() {
    let given = [
        ("grpc-status", "0"),
        ("content-length", "9"),
        ("host", "evil"),
        ("authorization", "x"),
        ("x-checksum", "1"),
    ];
    let expected: Fields = [given[0], given[4]].into_iter().collect();
    assert_eq!(trailers(&block(&given)), Ok(expected.clone()));
    assert_eq!(trailers(&block(&[(":status", "200")])), Err(Malformed));
    assert_eq!(
        trailers(&block(&[("transfer-encoding", "chunked")])),
        Err(Malformed)
    );
    let mut out = Vec::new();
    write_trailers(
        &mut Encoder::default(),
        &mut out,
        &given.into_iter().collect(),
    );
    assert_eq!(trailers(&out), Ok(expected));
}

proptest! {
    #[test]
    fn other_fields_come_back_as_they_went(given in proptest::collection::vec(("x-[a-z0-9-]{1,9}", "[!-~]([ -~]{0,20}[!-~])?"), 0..20)) {
        let mut head = get(&[]).unwrap();
        head.fields = given.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let back = request(&sent(&head, BodySize::Empty), true).unwrap().0;
        prop_assert_eq!(back, head);
    }

    #[test]
    fn anything_may_be_a_list(given in proptest::collection::vec((":?[a-zA-Z -]{0,12}", "[ -~]{0,12}"), 0..20), ended in any::<bool>()) {
        let given: Vec<_> = given.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let block = block(&given);
        request(&block, ended).ok();
        answered(&given, ended, ended).ok();
        trailers(&block).ok();
    }
}
