//! What opens and what does not, and what clients are told.

use proptest::prelude::*;

use super::*;
use crate::model::service::{Protocol, ServiceName};

const NOW: u32 = 1_800_000_000;

fn cookie() -> SessionPolicy {
    SessionPolicy {
        name: Some("cart".into()),
        carrier: Carrier::Cookie {
            lifetime: Lifetime::Session,
            path: Some("/shop".into()),
            same_site: SameSite::Lax,
        },
        absolute_timeout_s: None,
    }
}

fn sessions(policy: SessionPolicy, scope: &str) -> Sessions {
    Sessions::new(policy, scope.into(), SessionKey::new(&[7; 32]).unwrap())
}

fn session() -> Session {
    Session {
        address: "10.0.0.1:8080".parse().unwrap(),
        backend: 42,
    }
}

/// The `name=value` of a `set-cookie` line.
fn pair(header: (&str, String)) -> String {
    assert_eq!(header.0, "set-cookie");
    header.1.split(';').next().unwrap().to_owned()
}

#[test]
fn a_cookie_comes_back_as_the_session_that_it_was() {
    let sessions = sessions(cookie(), "shop/cart/0");
    for address in ["10.0.0.1:8080", "[fd00::1]:443"] {
        let session = Session {
            address: address.parse().unwrap(),
            ..session()
        };
        let pair = pair(
            sessions
                .header(session, &Found::default(), NOW, false)
                .unwrap(),
        );
        let line = format!("theme=dark; {pair}; x=y");
        assert_eq!(sessions.find([line.as_bytes()], NOW).session, Some(session));
        assert_eq!(
            sessions.find([&b"a=b"[..], line.as_bytes()], NOW).session,
            Some(session)
        );
    }
    assert_eq!(sessions.find([], NOW).session, None);
    assert_eq!(
        sessions.find([&b"cart=nonsense"[..]], NOW),
        Found::default()
    );
}

#[test]
fn the_value_tells_no_address() {
    let sessions = sessions(cookie(), "shop/cart/0");
    let pair = pair(
        sessions
            .header(session(), &Found::default(), NOW, false)
            .unwrap(),
    );
    let value = pair.strip_prefix("cart=").unwrap();
    let bytes: [u8; SEALED] = cookie::decode(value.as_bytes()).unwrap();
    assert!(!bytes.windows(4).any(|four| four == [10, 0, 0, 1]));
}

#[test]
fn neither_another_rule_nor_another_key_opens_it() {
    let one = sessions(cookie(), "shop/cart/0");
    let line = pair(
        one.header(session(), &Found::default(), NOW, false)
            .unwrap(),
    );
    let line = line.as_bytes();
    assert!(one.find([line], NOW).session.is_some());
    assert_eq!(
        sessions(cookie(), "shop/cart/1").find([line], NOW).session,
        None
    );
    let key = SessionKey::new(&[8; 32]).unwrap();
    assert_eq!(
        Sessions::new(cookie(), "shop/cart/0".into(), key)
            .find([line], NOW)
            .session,
        None
    );
    // The same key after a restart does.
    assert!(
        sessions(cookie(), "shop/cart/0")
            .find([line], NOW)
            .session
            .is_some()
    );
}

#[test]
fn attributes_are_as_the_policy_says() {
    let header = |policy, is_tls| {
        let sessions = sessions(policy, "shop/cart/0");
        let (_, line) = sessions
            .header(session(), &Found::default(), NOW, is_tls)
            .unwrap();
        line.split_once("; ").unwrap().1.to_owned()
    };
    assert_eq!(
        header(cookie(), false),
        "Path=/shop; HttpOnly; SameSite=Lax"
    );
    assert_eq!(
        header(cookie(), true),
        "Path=/shop; HttpOnly; Secure; SameSite=Lax"
    );
    let permanent = SessionPolicy {
        carrier: Carrier::Cookie {
            lifetime: Lifetime::Permanent,
            path: None,
            same_site: SameSite::Strict,
        },
        absolute_timeout_s: Some(3600),
        ..cookie()
    };
    let expected = "Path=/; HttpOnly; Secure; SameSite=Strict; Max-Age=3600";
    assert_eq!(header(permanent, true), expected);
    // A timeout alone makes no cookie outlive its browser.
    let timeout = SessionPolicy {
        absolute_timeout_s: Some(3600),
        ..cookie()
    };
    assert_eq!(header(timeout, false), "Path=/shop; HttpOnly; SameSite=Lax");
}

#[test]
fn a_session_is_over_after_its_absolute_timeout() {
    let policy = SessionPolicy {
        absolute_timeout_s: Some(60),
        ..cookie()
    };
    let sessions = sessions(policy, "shop/cart/0");
    let line = pair(
        sessions
            .header(session(), &Found::default(), NOW, false)
            .unwrap(),
    );
    let at = |now| sessions.find([line.as_bytes()], now).session.is_some();
    assert!(at(NOW) && at(NOW + 59) && at(NOW - 5));
    assert!(!at(NOW + 60));
}

#[test]
fn a_header_carries_the_value_alone() {
    let policy = SessionPolicy {
        name: Some("x-session".into()),
        carrier: Carrier::Header,
        absolute_timeout_s: None,
    };
    let sessions = sessions(policy, "shop/cart/0");
    let (name, value) = sessions
        .header(session(), &Found::default(), NOW, true)
        .unwrap();
    assert_eq!((name, value.len()), ("x-session", 63));
    let line = format!(" {value} ");
    assert_eq!(
        sessions.find([line.as_bytes()], NOW).session,
        Some(session())
    );
    assert_eq!(sessions.find([], NOW).session, None);
}

#[test]
fn without_a_name_each_rule_has_its_own() {
    let policy = SessionPolicy {
        name: None,
        ..cookie()
    };
    let one = sessions(policy.clone(), "shop/cart/0");
    let other = sessions(policy, "shop/cart/1");
    assert_ne!(one.name(), other.name());
    assert!(one.name().starts_with("session-"));
}

#[test]
fn of_many_values_only_some_are_tried() {
    let sessions = sessions(cookie(), "shop/cart/0");
    let good = pair(
        sessions
            .header(session(), &Found::default(), NOW, false)
            .unwrap(),
    );
    let bad = format!("cart={}", "A".repeat(63));
    let line = |bad_ones: usize| {
        let mut pairs = vec![bad.as_str(); bad_ones];
        pairs.push(&good);
        pairs.join("; ")
    };
    let find = |line: String| sessions.find([line.as_bytes()], NOW).session;
    assert!(find(line(TRIED_MAX - 1)).is_some());
    assert!(find(line(TRIED_MAX)).is_none());
}

#[test]
fn rules_with_one_name_leave_each_other_their_sessions() {
    let header = SessionPolicy {
        carrier: Carrier::Header,
        ..cookie()
    };
    for policy in [cookie(), header] {
        let rules: Vec<Sessions> = (0..5)
            .map(|rule| sessions(policy.clone(), &format!("shop/cart/{rule}")))
            .collect();
        // What the client has, and sends with each request to whatever rule.
        let mut kept = String::new();
        let at = |rule: usize| Session {
            backend: rule as u64,
            ..session()
        };
        let mut ask = |rule: usize, session: Session| {
            let found = rules[rule].find([kept.as_bytes()], NOW);
            if found.session != Some(session) {
                let told = rules[rule].header(session, &found, NOW, false).unwrap();
                kept = told.1.split(';').next().unwrap().to_owned();
            }
            assert!(kept.len() <= "cart=".len() + 4 * LETTERS + 3, "{kept}");
            found.session
        };
        for rule in 0..4 {
            assert_eq!(ask(rule, at(rule)), None, "{policy:?}");
        }
        for rule in 0..4 {
            assert_eq!(ask(rule, at(rule)), Some(at(rule)), "{policy:?}");
        }
        // The endpoint of one is gone, which is no concern of the others.
        assert_eq!(ask(2, at(7)), Some(at(2)));
        for (rule, has) in [(0, 0), (1, 1), (2, 7), (3, 3)] {
            assert_eq!(ask(rule, at(has)), Some(at(has)));
        }
        // There is room for four: a fifth is in the place of that which was told longest ago.
        assert_eq!(ask(4, at(4)), None);
        for (rule, has) in [(4, 4), (2, 7), (3, 3), (1, 1)] {
            assert_eq!(ask(rule, at(has)), Some(at(has)));
        }
        assert_eq!(ask(0, at(0)), None);
    }
}

#[test]
fn of_two_sessions_the_newer_one_counts_and_none_that_is_over_is_kept() {
    let policy = SessionPolicy {
        absolute_timeout_s: Some(60),
        ..cookie()
    };
    let sessions = sessions(policy, "shop/cart/0");
    let at = |since: u32, backend| {
        let session = Session {
            backend,
            ..session()
        };
        sessions.seal(session, since).unwrap()
    };
    let find = |line: String, now| sessions.find([line.as_bytes()], now);
    // A cookie of a longer path has an old one, and so is the first.
    let line = format!("cart={}.nonsense; cart={}", at(NOW, 1), at(NOW + 1, 2));
    let found = find(line.clone(), NOW + 2);
    assert_eq!(found.session.unwrap().backend, 2);
    assert_eq!(found.others.len(), 0);
    assert_eq!(find(line, NOW + 90), Found::default());
}

#[test]
fn backends_differ_by_every_part_of_their_port() {
    let id = |namespace: &str, name: &str, port| PortId {
        service: ServiceName {
            namespace: namespace.into(),
            name: name.into(),
        },
        port,
        protocol: Protocol::Tcp,
    };
    let one = backend(&id("shop", "cart", 80));
    assert_eq!(one, backend(&id("shop", "cart", 80)));
    for other in [
        id("shop", "cart", 81),
        id("shop", "pay", 80),
        id("cart", "shop", 80),
    ] {
        assert_ne!(one, backend(&other));
    }
}

proptest! {
    #[test]
    fn no_bit_may_change(at in 0..SEALED, bit in 0..8u8) {
        let sessions = sessions(cookie(), "shop/cart/0");
        let value = sessions.seal(session(), NOW).unwrap();
        let mut bytes: [u8; SEALED] = cookie::decode(value.as_bytes()).unwrap();
        prop_assert_eq!(sessions.open(value.as_bytes(), NOW).unwrap().session, Some(session()));
        bytes[at] ^= 1 << bit;
        prop_assert_eq!(sessions.open(cookie::encode(&bytes).as_bytes(), NOW), None);
    }
}
