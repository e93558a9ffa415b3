//! Each line of what may and may not be a request's head.

use super::*;

fn parse(text: &str) -> Result<(RequestHead, Framing), u16> {
    let mut head = RequestHead::default();
    let framing = super::parse(text.as_bytes(), &mut head, &Limits::default());
    framing
        .map(|framing| (head, framing))
        .map_err(|refusal| refusal.status.as_u16())
}

fn with(fields: &str) -> Result<(RequestHead, Framing), u16> {
    parse(&format!("POST /p HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n"))
}

fn line(line: &str) -> Result<(RequestHead, Framing), u16> {
    parse(&format!("{line}\r\nHost: a\r\n\r\n"))
}

#[test]
fn there_is_one_host() {
    let host = |fields: &str| {
        parse(&format!("GET / HTTP/1.1\r\n{fields}\r\n")).map(|(head, _)| head.authority)
    };
    assert_eq!(host("Host: A.b:80\r\n"), Ok("a.b:80".to_owned()));
    assert_eq!(
        host("host:  under_score \r\n"),
        Ok("under_score".to_owned())
    );
    assert_eq!(host("Host: [::1]:8080\r\n"), Ok("[::1]:8080".to_owned()));
    assert_eq!(host("Host: a:\r\n"), Ok("a".to_owned()));
    for wrong in [
        "",
        "Host: a\r\nHost: a\r\n",
        "Host: a\r\nhost: b\r\n",
        "Host:\r\n",
        "Host: a b\r\n",
        "Host: user@a\r\n",
        "Host: a/b\r\n",
        "Host: a,b:1:2\r\n",
        "Host: a:65536\r\n",
        "Host: a:+1\r\n",
        "Host: [::1\r\n",
        "Host: [a]\r\n",
        "Host: [::1]x\r\n",
        "Host: \u{fc}\r\n",
    ] {
        assert_eq!(host(wrong), Err(400), "{wrong:?}");
    }
    let old = parse("GET / HTTP/1.0\r\n\r\n").map(|(head, _)| head.authority);
    assert_eq!(old, Ok(String::new()));
}

#[test]
fn targets_have_their_form() {
    let target = |text: &str| {
        line(text).map(|(head, _)| format!("{} {}", head.authority, head.target.as_str()))
    };
    let ok = |text: &str| Ok(text.to_owned());
    assert_eq!(target("GET /a?b HTTP/1.1"), ok("a /a?b"));
    assert_eq!(
        target("GET http://Other:81/a?b HTTP/1.1"),
        ok("other:81 /a?b")
    );
    assert_eq!(target("GET HTTP://other HTTP/1.1"), ok("other /"));
    assert_eq!(target("GET http://other?q HTTP/1.1"), ok("other /?q"));
    assert_eq!(target("OPTIONS * HTTP/1.1"), ok("a *"));
    assert_eq!(target("OPTIONS http://other HTTP/1.1"), ok("other *"));
    for wrong in [
        "GET * HTTP/1.1",
        "GET a HTTP/1.1",
        "GET https://other/ HTTP/1.1",
        "GET http://user@other/ HTTP/1.1",
        "GET http:/// HTTP/1.1",
        "GET /a#b HTTP/1.1",
        "GET /a\\b HTTP/1.1",
        "GET /a\u{fc} HTTP/1.1",
        "GET /a b HTTP/1.1",
        "GET  /a HTTP/1.1",
        "GET /a\tHTTP/1.1",
        "G(T / HTTP/1.1",
        "GET /",
        "GET / HTTP",
        "GET / http/1.1",
        "GET / HTTP/1.1 ",
        " GET / HTTP/1.1",
    ] {
        assert_eq!(target(wrong), Err(400), "{wrong:?}");
    }
    assert_eq!(target("CONNECT a:80 HTTP/1.1"), Err(405));
    assert_eq!(target("GET / HTTP/2.0"), Err(505));
    assert_eq!(target("GET / HTTP/1.2"), Err(505));
    let long = format!("GET /{} HTTP/1.1", "a".repeat(8192));
    assert_eq!(target(&long), Err(414));
}

#[test]
fn length_is_said_once_and_in_digits() {
    let body = |fields: &str| with(fields).map(|(_, framing)| framing.body);
    assert_eq!(body("X: y"), Ok(BodySize::Empty));
    assert_eq!(body("Content-Length: 0"), Ok(BodySize::Exact(0)));
    assert_eq!(
        body("content-length:  18446744073709551615"),
        Ok(BodySize::Exact(u64::MAX))
    );
    for wrong in [
        "Content-Length: +4",
        "Content-Length: -4",
        "Content-Length: 4, 4",
        "Content-Length: 0x4",
        "Content-Length: 4 4",
        "Content-Length:",
        "Content-Length: 18446744073709551616",
        "Content-Length: 4\r\nContent-Length: 4",
        "Content-Length: 4\r\ncontent-length: 5",
        "Content-Length: 4\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 4",
    ] {
        assert_eq!(body(wrong), Err(400), "{wrong:?}");
    }
}

#[test]
fn transfer_encoding_is_chunked_or_nothing() {
    let body = |fields: &str| with(fields).map(|(_, framing)| framing.body);
    assert_eq!(body("Transfer-Encoding: chunked"), Ok(BodySize::Unknown));
    assert_eq!(body("transfer-encoding: Chunked"), Ok(BodySize::Unknown));
    assert_eq!(body("Transfer-Encoding: gzip, chunked"), Err(501));
    assert_eq!(
        body("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked"),
        Err(501)
    );
    for wrong in [
        "xchunked",
        "chunked, chunked",
        "chunked, gzip",
        "gzip",
        "identity",
        "",
        "chunked;q=1",
        "\u{b}chunked",
    ] {
        assert_eq!(
            body(&format!("Transfer-Encoding: {wrong}")),
            Err(400),
            "{wrong:?}"
        );
    }
    let old = parse("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert_eq!(old.map(|_| ()), Err(400));
}

#[test]
fn fields_are_lines_of_a_name_and_a_value() {
    for wrong in [
        "X : y",
        "X\t: y",
        " X: y",
        ": y",
        "X",
        "X: a\u{0}b",
        "X: a\u{7f}b",
        "X: a\r\n b",
        "X: a\r\n\tb",
        "X: a\rb",
        "X y: z",
        "(X): y",
    ] {
        assert_eq!(with(wrong).map(|_| ()), Err(400), "{wrong:?}");
    }
    let (head, _) = with("X-Empty:\r\nX-Tab:\ta\tb \r\nX-High: \u{e9}").unwrap();
    let all: Vec<_> = head.fields.iter().map(|it| (it.name, it.value)).collect();
    let expected = [
        ("X-Empty", &b""[..]),
        ("X-Tab", b"a\tb"),
        ("X-High", "\u{e9}".as_bytes()),
    ];
    assert_eq!(all, expected);
    let many = "X: y\r\n".repeat(100);
    assert_eq!(with(many.trim_end()).map(|_| ()), Err(431));
    let fit = "X: y\r\n".repeat(99);
    assert!(with(fit.trim_end()).is_ok());
}

#[test]
fn the_fields_of_a_connection_stay_on_it() {
    let (head, framing) = with(
        "Keep-Alive: 5\r\nProxy-Connection: x\r\nProxy-Authorization: x\r\nProxy-Authenticate: x\r\nHTTP2-Settings: AAA\r\n\
         Upgrade: h2c\r\nTE: gzip, trailers\r\nX-One: 1\r\nConnection: close, x-one, Cookie, Upgrade, HTTP2-Settings\r\n\
         Cookie: c\r\nTrailer: x-t\r\nx-ONE: 2",
    )
    .unwrap();
    let all: Vec<_> = head.fields.iter().map(|it| (it.name, it.value)).collect();
    let expected = [
        ("Cookie", &b"c"[..]),
        ("Trailer", b"x-t"),
        ("te", b"trailers"),
    ];
    assert_eq!(all, expected);
    assert_eq!(head.protocol, None);
    assert!(framing.trailers && !framing.keep_alive);
    for name in ["host", "Content-Length", "transfer-encoding", ":path"] {
        let refused = with(&format!("Connection: {name}")).map(|_| ());
        assert_eq!(refused, Err(400), "{name}");
    }
}

#[test]
fn only_websocket_is_an_upgrade() {
    let protocol = |method: &str, fields: &str| {
        let text = format!("{method} / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n");
        parse(&text).map(|(head, _)| head.protocol)
    };
    let yes = Ok(Some("websocket".to_owned()));
    assert_eq!(
        protocol(
            "GET",
            "Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket"
        ),
        yes
    );
    assert_eq!(
        protocol("POST", "Connection: Upgrade\r\nUpgrade: websocket"),
        Ok(None)
    );
    assert_eq!(
        protocol("GET", "Connection: Upgrade\r\nUpgrade: h2c"),
        Ok(None)
    );
    assert_eq!(protocol("GET", "Upgrade: websocket"), Ok(None));
}

#[test]
fn connections_are_kept_as_the_version_says() {
    let keeps = |version: &str, value: &str| {
        let text = format!("GET / HTTP/{version}\r\nHost: a\r\nConnection: {value}\r\n\r\n");
        parse(&text).map(|(_, framing)| framing.keep_alive)
    };
    assert_eq!(keeps("1.1", ""), Ok(true));
    assert_eq!(keeps("1.1", "x, Close"), Ok(false));
    assert_eq!(keeps("1.0", ""), Ok(false));
    assert_eq!(keeps("1.0", "Keep-Alive"), Ok(true));
}

#[test]
fn only_a_body_can_be_held_back() {
    let expects = |fields: &str| with(fields).map(|(_, framing)| framing.expects);
    assert_eq!(
        expects("Expect: 100-Continue\r\nContent-Length: 4"),
        Ok(true)
    );
    assert_eq!(expects("X: y"), Ok(false));
    assert_eq!(expects("Expect: more"), Err(417));
}
