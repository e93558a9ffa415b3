//! The table of fields that both ends of a direction know (RFC 7541, section 2.3.2).

use std::collections::VecDeque;

use super::{Line, OVERHEAD};
use crate::proxy::h2::fields::Kind;

/// The table. Text lies one entry after the other in one piece of memory, which is moved together where it would grow beyond twice
/// of what entries can have.
#[derive(Debug)]
pub(super) struct Table {
    text: Vec<u8>,
    /// The newest first.
    entries: VecDeque<Entry>,
    /// As section 4.1 counts.
    size: usize,
    limit: usize,
    inserted: u32,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    start: usize,
    name: usize,
    value: usize,
    kind: Kind,
    is_valid: bool,
}

impl Table {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            text: Vec::new(),
            entries: VecDeque::new(),
            size: 0,
            limit,
            inserted: 0,
        }
    }

    /// Returns the number of entries.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// Returns how many were ever inserted, which numbers the newest.
    pub(super) fn inserted(&self) -> u32 {
        self.inserted
    }

    /// Returns an entry: 0 is the newest.
    pub(super) fn get(&self, index: usize) -> Option<Line<'_>> {
        let entry = *self.entries.get(index)?;
        let (name, value) =
            self.text[entry.start..entry.start + entry.name + entry.value].split_at(entry.name);
        Some(Line {
            kind: match entry.is_valid {
                true => entry.kind,
                false => Kind::Malformed,
            },
            name: str::from_utf8(name).unwrap_or(""),
            value,
            secret: false,
        })
    }

    /// Returns what an entry's name means, whatever its value is.
    pub(super) fn name(&self, index: usize) -> Option<(Kind, &[u8])> {
        let entry = *self.entries.get(index)?;
        Some((
            entry.kind,
            &self.text[entry.start..entry.start + entry.name],
        ))
    }

    /// Adds an entry; one that is larger than the table leaves it empty (section 4.4).
    pub(super) fn insert(&mut self, kind: Kind, is_valid: bool, name: &[u8], value: &[u8]) {
        self.inserted = self.inserted.wrapping_add(1);
        let needed = name.len() + value.len() + OVERHEAD;
        self.evict(self.limit.saturating_sub(needed));
        if needed > self.limit {
            return;
        }
        if self.text.len() + needed > 2 * self.limit {
            self.compact();
        }
        let start = self.text.len();
        self.text.extend_from_slice(name);
        self.text.extend_from_slice(value);
        self.entries.push_front(Entry {
            start,
            name: name.len(),
            value: value.len(),
            kind,
            is_valid,
        });
        self.size += needed;
    }

    /// Sets how much there may be.
    pub(super) fn resize(&mut self, limit: usize) {
        self.limit = limit;
        self.evict(limit);
    }

    fn evict(&mut self, most: usize) {
        while self.size > most
            && let Some(oldest) = self.entries.pop_back()
        {
            self.size -= oldest.name + oldest.value + OVERHEAD;
        }
        if self.entries.is_empty() {
            self.text.clear();
        }
    }

    fn compact(&mut self) {
        let gone = self.entries.back().map_or(self.text.len(), |it| it.start);
        self.text.drain(..gone);
        for entry in &mut self.entries {
            entry.start -= gone;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(table: &Table) -> Vec<&[u8]> {
        (0..table.len())
            .map(|at| table.get(at).unwrap().value)
            .collect()
    }

    #[test]
    fn the_oldest_go_first() {
        let mut table = Table::new(100);
        for value in [&b"one"[..], b"two", b"three"] {
            table.insert(Kind::Plain, true, b"name", value);
        }
        assert_eq!(values(&table), [&b"three"[..], b"two"]);
        table.resize(50);
        assert_eq!(values(&table), [b"three"]);
        table.insert(Kind::Plain, true, b"name", &[b'x'; 100]);
        assert_eq!((table.len(), table.inserted()), (0, 4));
    }

    #[test]
    fn memory_is_bounded_and_text_stays() {
        let mut table = Table::new(200);
        for number in 0..1000_usize {
            table.insert(Kind::Plain, true, b"n", number.to_string().as_bytes());
            assert_eq!(table.get(0).unwrap().value, number.to_string().as_bytes());
            if number >= 4 {
                let old = (number - 4).to_string();
                assert_eq!(table.get(4).unwrap().value, old.as_bytes());
            }
            assert!(table.text.len() <= 400);
        }
    }
}
