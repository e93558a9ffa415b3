//! Numbers and texts for a person: short, and of known width.

#![forbid(unsafe_code)]

use std::net::{IpAddr, SocketAddr};

use crate::admin::types::FlowEnd;

/// Returns a number of bytes in decimal units: `12 B`, `1.2 kB`, `345 MB`. At most 7 columns up to exabytes.
pub(super) fn bytes(bytes: f64) -> String {
    scaled(bytes, &[" B", " kB", " MB", " GB", " TB", " PB", " EB"])
}

/// Returns a number in short: `12`, `1.2k`, `345M`. At most 5 columns.
pub(super) fn short(number: f64) -> String {
    scaled(number, &["", "k", "M", "G", "T", "P", "E"])
}

fn scaled(mut number: f64, units: &[&str]) -> String {
    let mut units = units.iter();
    let mut unit = units.next().copied().unwrap_or_default();
    let whole = number < 999.5;
    // 999.5 would be printed as 1000.
    while number >= 999.5 {
        let Some(next) = units.next() else { break };
        number /= 1000.0;
        unit = next;
    }
    // 99.95 would be printed as 100.0.
    if whole && (number.fract() == 0.0 || number >= 9.95) || number >= 99.95 {
        format!("{number:.0}{unit}")
    } else {
        format!("{number:.1}{unit}")
    }
}

/// Returns a number with commas: `65,536`.
pub(super) fn exact(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Returns a duration given in microseconds: `45us`, `1.5ms`, `2.3s`, `3m12s`, `3h12m`, `2d4h`. At most 6 columns.
pub(super) fn duration_us(us: f64) -> String {
    if us < 999.5 {
        return format!("{us:.0}us");
    }
    if us < 999_500.0 {
        let ms = us / 1e3;
        return if ms < 99.95 {
            format!("{ms:.1}ms")
        } else {
            format!("{ms:.0}ms")
        };
    }
    if us < 59_950_000.0 {
        return format!("{:.1}s", us / 1e6);
    }
    // Up to half a million years; beyond that it saturates.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "casts from f64 saturate, and the sign was checked above"
    )]
    let seconds = (us / 1e6).round() as u64;
    seconds_in_words(seconds)
}

/// Returns a whole number of seconds: `59s`, `3m12s`, `3h12m`, `2d4h`.
pub(super) fn seconds_in_words(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{}s", seconds % 60),
        (0, ..) => format!("{hours}h{}m", minutes % 60),
        _ => format!("{days}d{}h", hours % 24),
    }
}

/// Returns one part of a whole in percent; nothing of nothing is `None`.
#[expect(clippy::cast_precision_loss, reason = "a percentage")]
pub(super) fn percent(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 * 100.0 / whole as f64)
}

/// Returns one end of a flow: `shop/cart:8080`, or its address where it is not a workload of this node.
pub(super) fn end(end: &FlowEnd) -> String {
    match &end.workload {
        Some(workload) => clean(&format!("{workload}:{}", end.port)),
        None => SocketAddr::new(canonical(end.address), end.port).to_string(),
    }
}

/// Returns who is at one end of a flow: a workload's name, or an address where it is not one of this node.
pub(super) fn who(end: &FlowEnd) -> String {
    match &end.workload {
        Some(workload) => clean(&workload.to_string()),
        None => canonical(end.address).to_string(),
    }
}

/// Returns an IPv4 address for what is one in IPv6 clothes.
pub(super) fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// Replaces control characters: text from outside must not steer the terminal.
pub(super) fn clean(text: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().map(plain).collect()
}

/// Returns the columns that a text takes. Names are ASCII; wider characters may misalign a row, no more.
pub(super) fn width(text: &str) -> usize {
    text.chars().count()
}

/// Cuts a text to `columns`, with `…` in its last column where something is missing.
pub(super) fn cut(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(columns.saturating_sub(1)).collect();
    short.push('…');
    short
}

/// Cuts a name to `columns`, with `…` in its middle: the tail tells pods apart, and holds the port.
pub(super) fn cut_name(text: &str, columns: usize) -> String {
    let all = width(text);
    if all <= columns {
        return text.to_owned();
    }
    let tail = columns / 2;
    let mut short: String = text
        .chars()
        .take(columns.saturating_sub(tail + 1))
        .collect();
    short.push('…');
    short.extend(text.chars().skip(all - tail));
    short
}

/// Breaks a text between words into lines of at most `columns`; a longer word is cut.
pub(super) fn wrap(text: &str, columns: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in clean(text).split_whitespace() {
        if !line.is_empty() && width(&line) + 1 + width(word) > columns {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(&cut(word, columns));
    }
    if !line.is_empty() {
        lines.push(line);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short_and_never_round_up_to_four_digits() {
        for (number, text) in [
            (0.0, "0 B"),
            (999.0, "999 B"),
            (999.6, "1.0 kB"),
            (1_234.0, "1.2 kB"),
            (99_949.0, "99.9 kB"),
            (99_960.0, "100 kB"),
            (999_499.0, "999 kB"),
            (999_500.0, "1.0 MB"),
            (18e18, "18.0 EB"),
        ] {
            assert_eq!(bytes(number), text);
        }
        assert_eq!([short(0.3), short(9.96), short(42.4)], ["0.3", "10", "42"]);
        assert_eq!(exact(65_536), "65,536");
        assert_eq!(
            [exact(0), exact(999), exact(1_000_000)],
            ["0", "999", "1,000,000"]
        );
    }

    #[test]
    fn durations_are_short() {
        for (us, text) in [
            (0.4, "0us"),
            (999.0, "999us"),
            (999.9, "1.0ms"),
            (99_960.0, "100ms"),
            (999_600.0, "1.0s"),
            (59_960_000.0, "1m0s"),
            (192e6, "3m12s"),
            (11_520e6, "3h12m"),
            (187_200e6, "2d4h"),
        ] {
            assert_eq!(duration_us(us), text);
        }
    }

    #[test]
    fn texts_are_cut_wrapped_and_cleaned() {
        assert_eq!(cut("abcdef", 6), "abcdef");
        assert_eq!(cut("abcdef", 4), "abc…");
        assert_eq!(cut_name("shop/cart-7d9f8c-x2v4q:80", 14), "shop/c…2v4q:80");
        assert_eq!(
            [cut_name("abcdef", 6), cut_name("abcdef", 1)],
            ["abcdef", "…"]
        );
        assert_eq!(
            wrap("one two  three\nfour", 9),
            ["one two", "three", "four"]
        );
        assert_eq!(wrap("", 9), Vec::<String>::new());
        assert_eq!(clean("a\x1b[31mb\r\n"), "a [31mb  ");
    }
}
