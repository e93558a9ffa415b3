//! Sessions that clients bring: only what was sealed opens, and only for the rule that sealed it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::LazyLock;

use mesh_agent::l7::session::{
    Carrier, Found, Lifetime, SameSite, Session, SessionKey, SessionPolicy, Sessions,
};

use crate::Target;

/// Lines of `Cookie`.
pub const TARGET: Target = Target {
    name: "session",
    run,
    words: &[
        "s=", "; ", ";", "=", "\"", "s", "S=", " ", ",", "\n", "@", ".",
    ],
    longest: 1024,
};

/// A moment, in seconds since 1970.
const NOW: u32 = 1_800_000_000;

static SESSIONS: LazyLock<Sessions> = LazyLock::new(|| {
    let key = SessionKey::new(&[7; 32]).expect("the key has its length");
    let policy = SessionPolicy {
        name: Some("s".to_owned()),
        carrier: Carrier::Cookie {
            lifetime: Lifetime::Session,
            path: None,
            same_site: SameSite::Lax,
        },
        absolute_timeout_s: None,
    };
    Sessions::new(policy, "rule".to_owned(), key)
});

/// `@` in an input stands for the one value that opens.
fn run(data: &[u8]) {
    let session = Session {
        address: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 80),
        backend: 1,
    };
    let (_, cookie) = SESSIONS
        .header(session, &Found::default(), NOW, false)
        .expect("the library seals");
    let value = cookie.split(['=', ';']).nth(1).unwrap_or_default();
    let mut text = Vec::new();
    for byte in data {
        match byte {
            b'@' => text.extend_from_slice(value.as_bytes()),
            byte => text.push(*byte),
        }
    }
    let lines = text.split(|byte| *byte == b'\n');
    let found = SESSIONS.find(lines, NOW);
    let others = found.clone();
    let found = found.session;
    assert!(
        found.is_none_or(|found| found == session),
        "{found:?} was never sealed"
    );
    let holds = text
        .windows(value.len().max(1))
        .any(|part| part == value.as_bytes());
    assert!(found.is_none() || holds, "{found:?} out of nothing");
    // Whatever is carried along hides nothing, and says nothing else than it did.
    let told = SESSIONS.header(session, &others, NOW, false);
    let (_, told) = told.expect("the library seals");
    let line = told.split(';').next().unwrap_or_default().as_bytes();
    let again = SESSIONS.find([line], NOW);
    let mut expected = others;
    expected.session = Some(session);
    assert_eq!(again, expected);
}
