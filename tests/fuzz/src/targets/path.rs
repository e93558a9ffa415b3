//! Normalisation of paths: one form, of which everything that follows is the same.

use std::borrow::Cow;

use mesh_agent::l7::message::Target as RequestTarget;
use mesh_agent::l7::route::path::{canonical, normalise};

use crate::Target;

/// A request's path and query.
pub const TARGET: Target = Target {
    name: "path",
    run,
    words: &[
        "/", "//", "/.", "/..", "/./", "/../", "%2e", "%2E", "%2f", "%5C", "%41", "%00", "%", "\\",
        "#", "?", "*", "\u{e4}", "%c3%a4",
    ],
    longest: 512,
};

fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let mut target = RequestTarget::new(text.to_owned());
    let (before, query) = (target.path().to_owned(), target.query().map(str::to_owned));
    let normal = normalise(&mut target);
    assert_eq!(normal, canonical(&before).map(drop));
    if normal.is_err() {
        assert_eq!(target.as_str(), text, "what is refused stays as it came");
        return;
    }
    assert_eq!(target.query().map(str::to_owned), query, "the query stays");
    let path = target.path();
    assert!(path == "*" || path.starts_with('/'), "{path:?}");
    let plain = path
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && !b"\\#?".contains(&byte));
    assert!(plain, "{path:?}");
    let dots = path.split('/').any(|segment| matches!(segment, "." | ".."));
    assert!(!dots, "{path:?}");
    let again = canonical(path);
    assert!(
        matches!(again, Ok(Cow::Borrowed(same)) if same == path),
        "{path:?}, then {again:?}"
    );
    // Who decodes once sees the same in both: no escape came to be, or was lost.
    assert_eq!(
        resolved(&before),
        resolved(path),
        "{before:?}, then {path:?}"
    );
}

/// Returns the segments, decoded but for `%2F`, with dots resolved: an obvious second way to say what a path is.
fn resolved(path: &str) -> Vec<Vec<u8>> {
    let mut kept: Vec<Vec<u8>> = Vec::new();
    let segments: Vec<Vec<u8>> = path.split('/').skip(1).map(decoded).collect();
    for (at, segment) in segments.iter().enumerate() {
        let is_last = at + 1 == segments.len();
        match segment.as_slice() {
            b".." => drop(kept.pop()),
            b"." => {}
            _ => kept.push(segment.clone()),
        }
        if is_last && matches!(segment.as_slice(), b"." | b"..") {
            kept.push(Vec::new());
        }
    }
    if kept.is_empty() {
        kept.push(Vec::new());
    }
    kept
}

/// Decodes escapes; one of a slash stays, in upper case, since it separates nothing.
fn decoded(segment: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = segment.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let escape = after.first_chunk::<2>().filter(|_| *first == b'%');
        let digits = escape.and_then(|two| std::str::from_utf8(two).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                match byte {
                    b'/' => bytes.extend_from_slice(b"%2F"),
                    byte => bytes.push(byte),
                }
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    bytes
}
