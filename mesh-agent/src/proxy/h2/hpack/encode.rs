//! Writing lists of fields.
//!
//! A field goes to the table when it comes for the second time: what repeats is a byte from then on, and what never does (times,
//! numbers of requests) pushes nothing out of the table. Where the decoder of the other end would have to search, we look once.

use super::table::Table;
use super::{TABLE_BYTES, fixed, huffman, integer};
use crate::proxy::h2::fields::Kind;

/// Fields that are remembered, seen once or in the table: twice what the table has room for.
const SLOTS: usize = 128;

/// Names and values longer than this together are not kept: a few of them would push out all others.
const LONGEST: usize = TABLE_BYTES / 8;

/// Cookies shorter than this can be guessed byte by byte by who sees how well they are compressed (RFC 7541, section 7.1.3).
const GUESSED: usize = 20;

/// Literal with incremental indexing, without, and never indexed (section 6.2): pattern, and bits of the name's number.
const KEPT: (u8, u32) = (0x40, 6);
const PLAIN: (u8, u32) = (0, 4);
const NEVER: (u8, u32) = (0x10, 4);

/// Writes the blocks of a direction of a connection.
#[derive(Debug)]
pub struct Encoder {
    table: Table,
    /// By hash, two to a place. Empty until the first field.
    slots: Vec<Slot>,
    /// The smallest size that the table was to have since the last block (section 4.2), which the other end is to be told.
    resized: Option<usize>,
    /// A name in lower case.
    lower: String,
}

#[derive(Clone, Copy, Default, Debug)]
struct Slot {
    hash: u32,
    /// The number of its insertion; 0: it was only seen.
    number: u32,
}

impl Default for Encoder {
    fn default() -> Self {
        Self {
            table: Table::new(TABLE_BYTES),
            slots: Vec::new(),
            resized: None,
            lower: String::new(),
        }
    }
}

impl Encoder {
    /// Takes what the other end allows the table to have.
    pub fn set_limit(&mut self, limit: usize) {
        let limit = limit.min(TABLE_BYTES);
        if limit != self.table.limit() || self.resized.is_some() {
            let least = self.resized.unwrap_or(limit).min(limit);
            self.resized = Some(least);
            self.table.resize(limit);
        }
    }

    /// Begins a block.
    pub fn begin(&mut self, out: &mut Vec<u8>) {
        let Some(least) = self.resized.take() else {
            return;
        };
        let limit = self.table.limit();
        if least < limit {
            integer::write(out, 0x20, 5, least);
        }
        integer::write(out, 0x20, 5, limit);
    }

    /// Writes one that is entry `number` of the table that never changes, name and value.
    pub fn fixed(&mut self, out: &mut Vec<u8>, number: u8) {
        out.push(0x80 | number);
    }

    /// Writes a field. `name` may be in any case; `secret`: it was in nobody's table so far, and stays so.
    pub fn field(&mut self, out: &mut Vec<u8>, name: &str, value: &[u8], secret: bool) {
        if !name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return self.lower(out, name, value, secret);
        }
        let mut lower = std::mem::take(&mut self.lower);
        lower.clear();
        lower.push_str(name);
        lower.make_ascii_lowercase();
        self.lower(out, &lower, value, secret);
        self.lower = lower;
    }

    fn lower(&mut self, out: &mut Vec<u8>, name: &str, value: &[u8], secret: bool) {
        if secret || is_secret(name, value) {
            return literal(out, NEVER, name, value);
        }
        if name.len() + value.len() > LONGEST {
            return literal(out, PLAIN, name, value);
        }
        let hash = hash(name.as_bytes(), value);
        match self.find(hash, name, value) {
            Found::Entry(index) => integer::write(out, 0x80, 7, index),
            Found::Seen(at) => {
                literal(out, KEPT, name, value);
                self.table.insert(Kind::Plain, true, name.as_bytes(), value);
                let number = self.table.inserted();
                self.slots[at] = Slot { hash, number };
            }
            Found::New(at) => {
                literal(out, PLAIN, name, value);
                self.slots[at] = Slot { hash, number: 0 };
            }
        }
    }

    fn find(&mut self, hash: u32, name: &str, value: &[u8]) -> Found {
        if self.slots.is_empty() {
            self.slots = vec![Slot::default(); SLOTS];
        }
        let first = (hash as usize % (SLOTS / 2)) * 2;
        for at in [first, first + 1] {
            if self.slots[at].hash != hash {
                continue;
            }
            let Some(index) = self.index(self.slots[at]) else {
                return Found::Seen(at);
            };
            let entry = self.table.get(index);
            let is_same = entry.is_some_and(|it| it.name == name && it.value == value);
            if is_same {
                return Found::Entry(fixed::COUNT + 1 + index);
            }
        }
        // Rather what is in no table.
        match self.index(self.slots[first]) {
            Some(_) if self.index(self.slots[first + 1]).is_none() => Found::New(first + 1),
            Some(_) | None => Found::New(first),
        }
    }

    /// Returns where in the table the field of a slot is, if it still is.
    fn index(&self, slot: Slot) -> Option<usize> {
        if slot.number == 0 {
            return None;
        }
        let index = self.table.inserted().wrapping_sub(slot.number) as usize;
        (index < self.table.len()).then_some(index)
    }
}

/// What is known of a field, and its slot.
enum Found {
    /// It is in the table, with this number.
    Entry(usize),
    Seen(usize),
    New(usize),
}

fn is_secret(name: &str, value: &[u8]) -> bool {
    match name {
        "authorization" | "proxy-authorization" => true,
        "cookie" | "set-cookie" => value.len() < GUESSED,
        _ => false,
    }
}

fn literal(out: &mut Vec<u8>, (pattern, bits): (u8, u32), name: &str, value: &[u8]) {
    match fixed::of_name(name) {
        Some(number) => integer::write(out, pattern, bits, number),
        None => {
            out.push(pattern);
            string(out, name.as_bytes(), pattern == KEPT.0);
        }
    }
    string(out, value, pattern == KEPT.0);
}

/// Writes a string; as code where that is shorter, and worth the time since it is not written again.
fn string(out: &mut Vec<u8>, text: &[u8], is_kept: bool) {
    if is_kept {
        let length = huffman::length(text);
        if length < text.len() {
            integer::write(out, 0x80, 7, length);
            return huffman::encode(text, out);
        }
    }
    integer::write(out, 0, 7, text.len());
    out.extend_from_slice(text);
}

/// Mixes name and value, eight bytes at a time. Who finds collisions gets his own fields compressed less.
fn hash(name: &[u8], value: &[u8]) -> u32 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut hash = name.len() as u64;
    let mut mix = |word: u64| hash = (hash.rotate_left(23) ^ word).wrapping_mul(FACTOR);
    for part in [name, value] {
        let (words, rest) = part.as_chunks::<8>();
        for word in words {
            mix(u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        mix(u64::from_le_bytes(last));
    }
    let [.., a, b, c, d] = hash.to_le_bytes();
    // 0 is that of nothing.
    u32::from_le_bytes([a, b, c, d]).max(1)
}
