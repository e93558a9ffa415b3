//! The deadline of a call of gRPC (`PROTOCOL-HTTP2.md`), which is in a field.

use std::time::Duration;

use crate::l7::message::Fields;

/// The field with the time that a client gives to a call.
pub const TIMEOUT: &str = "grpc-timeout";

/// Returns the time that a call has, or `None` if that is not said or not understood.
pub fn timeout(fields: &Fields) -> Option<Duration> {
    parsed(fields.get(TIMEOUT)?)
}

/// Returns the time of a `grpc-timeout`: at most eight digits and a unit.
fn parsed(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    match unit {
        b'H' => Some(Duration::from_secs(number * 3600)),
        b'M' => Some(Duration::from_secs(number * 60)),
        b'S' => Some(Duration::from_secs(number)),
        b'm' => Some(Duration::from_millis(number)),
        b'u' => Some(Duration::from_micros(number)),
        b'n' => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

/// Writes how much of a call's time is left, rounded down: an upstream never believes to have more time than there is.
pub fn set_timeout(fields: &mut Fields, left: Duration) {
    fields.set(TIMEOUT, written(left).as_bytes());
}

/// Returns a time in the finest unit that has room for it.
fn written(left: Duration) -> String {
    const MOST: u128 = 99_999_999;
    let nanoseconds = left.as_nanos();
    let units = [
        (1, 'n'),
        (1_000, 'u'),
        (1_000_000, 'm'),
        (1_000_000_000, 'S'),
        (60_000_000_000, 'M'),
    ];
    let fits = units
        .iter()
        .find(|(length, _)| nanoseconds / length <= MOST);
    match fits {
        Some((length, unit)) => format!("{}{unit}", nanoseconds / length),
        None => format!("{}H", (nanoseconds / 3_600_000_000_000).min(MOST)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_are_those_of_the_standard() {
        for (text, expected) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("250m", Some(Duration::from_millis(250))),
            ("7u", Some(Duration::from_micros(7))),
            ("0n", Some(Duration::ZERO)),
            ("", None),
            ("S", None),
            ("5", None),
            ("5s", None),
            ("+5S", None),
            (" 5S", None),
            ("123456789S", None),
        ] {
            assert_eq!(parsed(text.as_bytes()), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_understood_and_never_more(nanoseconds in any::<u64>()) {
            let left = Duration::from_nanos(nanoseconds);
            let back = parsed(written(left).as_bytes()).unwrap();
            prop_assert!(back <= left);
            // The coarser unit is used from 100,000 of it on.
            prop_assert!(left - back <= left / 100_000);
        }

        #[test]
        fn anything_may_be_asked(value in proptest::collection::vec(any::<u8>(), 0..12)) {
            parsed(&value);
        }
    }
}
