//! One canonical form of a path, made once: routes, policies and upstreams see the same (Istio calls this mode `BASE`).
//!
//! Escapes of unreserved characters are decoded, all others get upper-case digits, bytes beyond ASCII are escaped, and dot
//! segments are removed (RFC 3986, sections 6.2.2 and 5.2.4). Two slashes in a row stay, and so do `%2F` and `%5C`: they are other
//! paths than those with one slash or a real one.

use std::borrow::Cow;

use crate::l7::message::Target;

/// A path that nobody should send: it would mean different things to different readers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadPath {
    /// It does not begin with a slash.
    #[error("the path does not begin with a slash")]
    Relative,
    /// It holds a control character, a space, `\` or `#`.
    #[error("the path holds a character that none may hold")]
    Character,
    /// A `%` is not followed by two hexadecimal digits, or stands for NUL.
    #[error("the path holds an escape that stands for nothing")]
    Escape,
}

/// Brings the path of a target into its canonical form, in place. To be called once, before anything looks at it.
///
/// # Errors
///
/// Where the request is to be refused with 400.
pub fn normalise(target: &mut Target) -> Result<(), BadPath> {
    let canonical = match canonical(target.path())? {
        Cow::Borrowed(_) => return Ok(()),
        Cow::Owned(path) => path,
    };
    target.set_path(&canonical);
    Ok(())
}

/// Returns the canonical form of a path; borrowed, where it is that already. `*` stays as it is.
///
/// # Errors
///
/// Where the request is to be refused with 400.
pub fn canonical(path: &str) -> Result<Cow<'_, str>, BadPath> {
    if path == "*" {
        return Ok(Cow::Borrowed(path));
    }
    if !path.starts_with('/') {
        return Err(BadPath::Relative);
    }
    let mut plain = true;
    let mut before = b'\0';
    for byte in path.bytes() {
        match byte {
            0..=b' ' | 0x7f | b'\\' | b'#' => return Err(BadPath::Character),
            b'%' | 0x80.. => plain = false,
            b'.' if before == b'/' => plain = false,
            _ => {}
        }
        before = byte;
    }
    if plain {
        return Ok(Cow::Borrowed(path));
    }
    let decoded = escapes(path)?;
    let canonical = without_dots(&decoded);
    Ok(if canonical == path {
        Cow::Borrowed(path)
    } else {
        Cow::Owned(canonical)
    })
}

fn escapes(path: &str) -> Result<String, BadPath> {
    let mut text = String::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            push(&mut text, byte, byte.is_ascii());
            continue;
        }
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        let (Some(high), Some(low)) = (digit(bytes.next()), digit(bytes.next())) else {
            return Err(BadPath::Escape);
        };
        let byte = u8::try_from(high * 16 + low).unwrap_or_default();
        if byte == 0 {
            return Err(BadPath::Escape);
        }
        push(&mut text, byte, is_unreserved(byte));
    }
    Ok(text)
}

/// Adds a byte as it is, or escaped.
fn push(text: &mut String, byte: u8, as_it_is: bool) {
    const DIGITS: [char; 16] = [
        '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F',
    ];
    if as_it_is {
        text.push(char::from(byte));
        return;
    }
    text.push('%');
    text.push(DIGITS[usize::from(byte >> 4)]);
    text.push(DIGITS[usize::from(byte & 15)]);
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Removes the segments `.` and `..`; what climbs above the root stays at it.
fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match segment {
            "." => {}
            ".." => drop(kept.pop()),
            _ => kept.push(segment),
        }
        if is_last && matches!(segment, "." | "..") {
            kept.push("");
        }
    }
    let mut text = String::with_capacity(path.len());
    for segment in kept {
        text.push('/');
        text.push_str(segment);
    }
    if text.is_empty() {
        text.push('/');
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_rule_of_base() {
        for (path, expected) in [
            ("/", "/"),
            ("*", "*"),
            ("/a/b", "/a/b"),
            ("/a//b", "/a//b"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/b/..", "/a/"),
            ("/a/.", "/a/"),
            ("/..", "/"),
            ("/../../x", "/x"),
            ("/a/...", "/a/..."),
            ("/.well-known/x", "/.well-known/x"),
            ("/%61%2Db%7e", "/a-b~"),
            ("/%2e%2E/x", "/x"),
            ("/a/%2e%2e%2fx", "/a/..%2Fx"),
            ("/%2f%5c", "/%2F%5C"),
            ("/%c3%a4", "/%C3%A4"),
            ("/\u{e4}", "/%C3%A4"),
            ("/a%20b", "/a%20b"),
            ("/%252e", "/%252e"),
            ("/a//../b", "/a/b"),
        ] {
            assert_eq!(canonical(path).as_deref(), Ok(expected), "{path}");
        }
        for (path, expected) in [
            ("", BadPath::Relative),
            ("a", BadPath::Relative),
            ("/a b", BadPath::Character),
            ("/a\\b", BadPath::Character),
            ("/a#b", BadPath::Character),
            ("/a\u{7f}", BadPath::Character),
            ("/a\n", BadPath::Character),
            ("/%", BadPath::Escape),
            ("/%4", BadPath::Escape),
            ("/%4g", BadPath::Escape),
            ("/%00", BadPath::Escape),
        ] {
            assert_eq!(canonical(path), Err(expected), "{path:?}");
        }
    }

    #[test]
    fn a_target_keeps_its_query() {
        let mut target = Target::new("/a/../b?x=/../y".to_owned());
        assert_eq!(normalise(&mut target), Ok(()));
        assert_eq!(target.as_str(), "/b?x=/../y");
    }

    proptest! {
        #[test]
        fn what_is_canonical_stays(path in "/[a-c./%0-9A-F\u{e4}~+]{0,24}") {
            if let Ok(once) = canonical(&path) {
                let once = once.into_owned();
                prop_assert!(once.starts_with('/') && once.is_ascii());
                let twice = canonical(&once);
                prop_assert!(matches!(&twice, Ok(Cow::Borrowed(same)) if *same == once), "{path} {once} {twice:?}");
            }
        }
    }
}
