//! First bytes: what is decided is never taken back, and names of servers are names.

use mesh_agent::proxy::detect::{Guess, Protocol, guess};

use crate::Target;

/// What a connection begins with.
pub const TARGET: Target = Target {
    name: "detect",
    run,
    words: &[
        "GET ",
        "OPTIONS * ",
        "CONNECT ",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "http://",
        " HTTP/1.1\r\n",
        "\x16\x03\x01",
        "\x01\0\0",
        "\0\0\0",
        "h2",
        "a.example",
        "\0\x10",
    ],
    longest: 2048,
};

fn run(data: &[u8]) {
    let mut decided: Option<Protocol> = None;
    // Every beginning, as pieces may come: of long inputs the first bytes and then some.
    let ends = (0..=data.len()).filter(|end| *end < 256 || end % 61 == 0 || *end == data.len());
    for end in ends {
        match (guess(&data[..end]), &decided) {
            (Guess::Is(now), None) => decided = Some(now),
            (Guess::Is(now), Some(before)) => {
                assert_eq!(&now, before, "after {end} bytes it is something else");
            }
            (Guess::Hello | Guess::Undecided, None) => {}
            (other, Some(before)) => panic!("{before:?} was decided, {other:?} after {end} bytes"),
        }
    }
    if let Some(Protocol::Tls(hello)) = decided {
        let name = hello.server_name.as_deref().unwrap_or("a");
        let plain = name.bytes().all(|byte| byte.is_ascii_graphic());
        assert!(
            plain && name == name.to_ascii_lowercase(),
            "server name {name:?}"
        );
    }
}
