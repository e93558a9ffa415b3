//! Durations in annotations, in Gateway API's form (GEP-2257): `10s`, `1m30s`, `500ms`.
#![forbid(unsafe_code)]

use std::time::Duration;

/// Numbers of one duration.
const PARTS: usize = 4;
/// Digits of one number.
const DIGITS: usize = 5;

/// Returns the duration that `text` means, or `None` if it is none.
pub(crate) fn parse(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    let mut parts = 0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest.get(..digits)?.parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.bytes().take_while(u8::is_ascii_lowercase).count();
        let unit = match &rest[..letters] {
            "h" => Duration::from_secs(3600),
            "m" => Duration::from_secs(60),
            "s" => Duration::from_secs(1),
            "ms" => Duration::from_millis(1),
            _ => return None,
        };
        rest = &rest[letters..];
        parts += 1;
        if digits > DIGITS || parts > PARTS {
            return None;
        }
        total += unit * u32::try_from(number).ok()?;
    }
    (parts > 0).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::parse;
    use std::time::Duration;

    #[test]
    fn durations_are_those_of_gateway_api() {
        let millis = |text| parse(text).map(|duration: Duration| duration.as_millis());
        assert_eq!(millis("10s"), Some(10_000));
        assert_eq!(millis("1h1m1s1ms"), Some(3_661_001));
        assert_eq!(millis("0s"), Some(0));
        assert_eq!(millis("99999h"), Some(359_996_400_000));
        for bad in [
            "",
            "10",
            "s",
            "1d",
            "1.5s",
            "-1s",
            " 1s",
            "1s ",
            "100000s",
            "1S",
            "1s1s1s1s1s",
            "1é",
        ] {
            assert_eq!(millis(bad), None, "{bad}");
        }
    }
}
