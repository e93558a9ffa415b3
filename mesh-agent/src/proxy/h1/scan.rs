//! Where a head ends.

use memchr::memchr;

/// What was found so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Scan {
    /// A head of this many bytes, its empty line included.
    Whole(usize),
    /// Not all of it is there. The next look begins where this one ended.
    More,
    /// A line ends in LF without CR: other parsers would see other lines.
    BareLf,
}

/// Looks for the end of a head, and remembers how far it has looked, so that one that comes byte by byte is looked at once.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Scanner {
    looked: usize,
    /// Where the line begins that the look is in.
    line: usize,
}

impl Scanner {
    /// Looks on in `bytes`, which begin as they did at the call before.
    pub(super) fn look(&mut self, bytes: &[u8]) -> Scan {
        while let Some(at) = memchr(b'\n', &bytes[self.looked..]) {
            let end = self.looked + at;
            if end == 0 || bytes[end - 1] != b'\r' {
                return Scan::BareLf;
            }
            let is_empty = end - 1 == self.line;
            self.looked = end + 1;
            self.line = end + 1;
            if is_empty {
                return Scan::Whole(end + 1);
            }
        }
        self.looked = bytes.len();
        Scan::More
    }

    /// Returns whether the look has not left the first line.
    pub(super) fn in_first_line(&self) -> bool {
        self.line == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_found_however_it_comes() {
        let head = b"GET / HTTP/1.1\r\nhost: a\r\n\r\nbody";
        for step in 1..head.len() {
            let mut scanner = Scanner::default();
            let mut there = 0;
            let found = loop {
                there = (there + step).min(head.len());
                match scanner.look(&head[..there]) {
                    Scan::More => {}
                    found @ (Scan::Whole(_) | Scan::BareLf) => break found,
                }
            };
            assert_eq!(found, Scan::Whole(head.len() - 4), "{step}");
        }
    }

    #[test]
    fn lines_end_in_both_characters() {
        for head in [&b"\n"[..], b"GET / HTTP/1.1\n", b"a\r\nb\n\n", b"a\r\n\n"] {
            assert_eq!(Scanner::default().look(head), Scan::BareLf, "{head:?}");
        }
        assert_eq!(Scanner::default().look(b"\r\n"), Scan::Whole(2));
    }
}
