//! The clients against servers of a few lines, on loopback.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use harness::wait::pause;

use super::*;
use crate::l7::{MESSAGE, SMALL};

const BODY: usize = 3;

/// Answers HTTP/1.1 on every connection until its client closes; makes a pause before response number `stall` of a connection.
fn answer(stall: Option<(usize, Duration)>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || connection(&stream.unwrap(), stall));
        }
    });
    address
}

fn connection(mut stream: &TcpStream, stall: Option<(usize, Duration)>) {
    let mut lines = BufReader::new(stream).lines();
    let mut number = 0;
    let mut close = false;
    while let Some(Ok(line)) = lines.next() {
        close |= line == "Connection: close";
        if !line.is_empty() {
            continue;
        }
        number += 1;
        if let Some((_, length)) = stall.filter(|(at, _)| *at == number) {
            pause(length);
        }
        let sent = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc");
        if sent.is_err() || close {
            return;
        }
    }
}

fn load(address: SocketAddr, version: Version, mode: Mode) -> Load {
    Load {
        address,
        path: "/1kb".to_owned(),
        body: Some(match version {
            Version::One => BODY,
            Version::Two => SMALL,
            Version::Grpc => MESSAGE,
        }),
        version,
        fresh: false,
        connections: 2,
        mode,
        window_ms: 300,
        // Threads of this process come and go, and with them its sum.
        processes: Vec::new(),
    }
}

#[test]
fn closed_and_fresh_connections_are_measured() {
    let address = answer(None);
    for fresh in [false, true] {
        let load = Load {
            fresh,
            ..load(address, Version::One, Mode::Closed)
        };
        let outcome = one::drive(&load).unwrap();
        assert!(outcome.requests > 10.0, "{outcome:?}");
        assert!(outcome.seconds >= 0.3, "{outcome:?}");
    }
}

#[test]
fn a_stall_counts_for_every_request_that_it_held_up() {
    // At a thousand a second, 50 ms into the window; for two thirds of it nothing is answered.
    let address = answer(Some((200, Duration::from_millis(200))));
    let mode = Mode::Rate { per_second: 1000.0 };
    let load = Load {
        connections: 1,
        ..load(address, Version::One, mode)
    };
    let outcome = one::drive(&load).unwrap();
    assert!(outcome.p50_us > 20_000.0, "{outcome:?}");
    let mut parts = outcome.p99_us.iter();
    assert!(parts.any(|p99| *p99 > 150_000.0), "{outcome:?}");
}

#[test]
fn http2_and_grpc_keep_to_the_rate() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || serve::serve(listener));
    for version in [Version::Two, Version::Grpc] {
        let mode = Mode::Rate { per_second: 500.0 };
        let outcome = two::drive(&load(address, version, mode)).unwrap();
        // A busy machine may be late at the end, but sends nothing that is not due.
        assert!(outcome.requests > 10.0, "{outcome:?}");
        assert!(
            outcome.requests <= 500.0 * (outcome.seconds + 0.15) + 2.0,
            "{outcome:?}"
        );
        assert!(outcome.p50_us > 0.0 && outcome.p50_us <= outcome.p999_us);
    }
}

#[test]
fn what_a_server_says_is_told() {
    let address = answer(None);
    let outcome = one::drive(&load(address, Version::One, Mode::Once)).unwrap();
    assert!(outcome.fields.contains("content-length: 3"), "{outcome:?}");
}

#[test]
fn another_body_than_expected_is_an_error() {
    let load = Load {
        body: Some(BODY + 1),
        ..load(answer(None), Version::One, Mode::Closed)
    };
    assert!(one::drive(&load).is_err());
}

#[test]
fn a_message_has_its_length() {
    assert_eq!(message(8), [0, 0, 0, 0, 3, b'a', b'a', b'a']);
    assert_eq!(message(0), [0; 5]);
}
