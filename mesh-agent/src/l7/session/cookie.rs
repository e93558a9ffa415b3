//! Cookies as text (RFC 6265): values out of a request's header line, a response's line, and bytes as letters.

use std::fmt;

use super::SameSite;

/// Returns the values of this name in a `cookie` line, in their order.
pub fn values<'a>(line: &'a [u8], name: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    line.split(|byte| *byte == b';').filter_map(move |pair| {
        let at = pair.iter().position(|byte| *byte == b'=')?;
        let (found, value) = pair.split_at(at);
        if found.trim_ascii() != name {
            return None;
        }
        let value = value[1..].trim_ascii();
        let quoted = value
            .strip_prefix(b"\"")
            .and_then(|it| it.strip_suffix(b"\""));
        Some(quoted.unwrap_or(value))
    })
}

/// A `set-cookie` line's value.
pub(super) struct Cookie<'a> {
    pub(super) name: &'a str,
    pub(super) value: &'a str,
    pub(super) path: &'a str,
    pub(super) max_age_s: Option<u32>,
    pub(super) same_site: SameSite,
    pub(super) is_secure: bool,
}

impl fmt::Display for Cookie<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name, value, path, ..
        } = self;
        write!(f, "{name}={value}; Path={path}; HttpOnly")?;
        if self.is_secure {
            f.write_str("; Secure")?;
        }
        f.write_str(match self.same_site {
            SameSite::Lax => "; SameSite=Lax",
            SameSite::Strict => "; SameSite=Strict",
        })?;
        match self.max_age_s {
            Some(seconds) => write!(f, "; Max-Age={seconds}"),
            None => Ok(()),
        }
    }
}

/// Six bits each, of RFC 4648's alphabet for URLs: safe in cookies and headers.
const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Returns bytes as letters (base64url without padding).
pub(super) fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let byte = |at: usize| u32::from(three.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..=three.len() {
            let six = bits >> (18 - 6 * at) & 63;
            text.push(char::from(LETTERS[six as usize]));
        }
    }
    text
}

/// Returns the bytes of exactly so many letters; `None` where anything else is among them, or bits are left that say nothing.
pub(super) fn decode<const LENGTH: usize>(text: &[u8]) -> Option<[u8; LENGTH]> {
    if text.len() != (LENGTH * 4).div_ceil(3) {
        return None;
    }
    let mut bytes = [0; LENGTH];
    let (mut bits, mut count, mut at) = (0u32, 0, 0);
    for letter in text {
        bits = bits << 6 | u32::from(six(*letter)?);
        count += 6;
        if count >= 8 {
            count -= 8;
            *bytes.get_mut(at)? = u8::try_from(bits >> count).ok()?;
            bits &= (1 << count) - 1;
            at += 1;
        }
    }
    (bits == 0).then_some(bytes)
}

fn six(letter: u8) -> Option<u8> {
    match letter {
        b'A'..=b'Z' => Some(letter - b'A'),
        b'a'..=b'z' => Some(letter - b'a' + 26),
        b'0'..=b'9' => Some(letter - b'0' + 52),
        b'-' => Some(62),
        b'_' => Some(63),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn found<'a>(line: &'a str, name: &'a str) -> Vec<&'a str> {
        let values = values(line.as_bytes(), name.as_bytes());
        values.map(|it| std::str::from_utf8(it).unwrap()).collect()
    }

    #[test]
    fn values_are_found_among_other_cookies() {
        assert_eq!(found("a=1; b=2;c=3; a=4", "a"), ["1", "4"]);
        assert_eq!(found("a=1; b=2;c=3", "c"), ["3"]);
        assert_eq!(found(" b = \"2\" ", "b"), ["2"]);
        assert_eq!(found("b=x=y", "b"), ["x=y"]);
        assert!(found("aa=1; a; A=2; ba=3", "a").is_empty());
        assert!(found("", "a").is_empty());
        assert_eq!(found("a=", "a"), [""]);
        assert_eq!(found("a=\"", "a"), ["\""]);
    }

    #[test]
    fn letters_are_those_of_the_standard() {
        assert_eq!(encode(b"f"), "Zg");
        assert_eq!(encode(b"foobar"), "Zm9vYmFy");
        assert_eq!(encode(&[0xfb, 0xff]), "-_8");
        assert_eq!(decode(b"-_8"), Some([0xfb, 0xff]));
        assert_eq!(decode::<2>(b"-_9"), None, "bits that say nothing");
        assert_eq!(decode::<2>(b"+/8"), None);
        assert_eq!(decode::<2>(b"-_8="), None);
        assert_eq!(decode::<3>(b"-_8"), None);
    }

    proptest! {
        #[test]
        fn bytes_survive_as_letters(bytes in any::<[u8; 47]>()) {
            prop_assert_eq!(decode(encode(&bytes).as_bytes()), Some(bytes));
        }

        #[test]
        fn no_line_makes_it_panic(line in prop::collection::vec(any::<u8>(), 0..100)) {
            for value in values(&line, b"a") {
                prop_assert!(decode::<47>(value).is_none() || value.len() == 63);
            }
        }
    }
}
