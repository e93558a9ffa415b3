//! Reads just enough of BTF to find a field's place in a structure (Documentation/bpf/btf.rst, version 1).

use std::collections::HashMap;

/// Bytes of the header that are read: magic, version, flags, length, and the places of types and strings.
const HEADER_BYTES: usize = 24;
const MAGIC: u16 = 0xeb9f;

const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_TYPEDEF: u32 = 8;
const KIND_CONST: u32 = 10;
const KIND_VOLATILE: u32 = 9;

/// A parsed type section: where each type begins, and the structures by name.
pub(crate) struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Offset of each type in `types`, by its id less one.
    offsets: Vec<usize>,
    structures: HashMap<&'a [u8], usize>,
}

/// One type's fixed part.
struct Header {
    name: usize,
    kind: u32,
    /// Number of members, parameters and so on.
    count: usize,
    /// Member offsets carry a bit-field size in their upper byte.
    bitfields: bool,
    /// Size, or the id of the type referred to.
    size_or_type: u32,
}

impl<'a> Btf<'a> {
    /// Parses `bytes`; `None` where they are not BTF of a kind that is known.
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Self> {
        if u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?) != MAGIC {
            return None;
        }
        let header = |at: usize| word(bytes, at).map(|word| word as usize);
        let start = header(4)?;
        if start < HEADER_BYTES {
            return None;
        }
        let section =
            |offset: usize, length: usize| bytes.get(start + offset..start + offset + length);
        let types = section(header(8)?, header(12)?)?;
        let strings = section(header(16)?, header(20)?)?;
        let mut btf = Self {
            types,
            strings,
            offsets: Vec::new(),
            structures: HashMap::new(),
        };
        let mut at = 0;
        while at < types.len() {
            let found = btf.header(at)?;
            if found.kind == KIND_STRUCT {
                btf.structures.insert(btf.string(found.name)?, at);
            }
            btf.offsets.push(at);
            at += 12 + trailing_bytes(&found)?;
        }
        Some(btf)
    }

    /// Returns the offset in bytes of `field` in `structure`, looking into anonymous structures and unions.
    pub(crate) fn field_offset(&self, structure: &str, field: &str) -> Option<u32> {
        let at = *self.structures.get(structure.as_bytes())?;
        self.member_bits(at, field.as_bytes()).map(|bits| bits / 8)
    }

    fn member_bits(&self, at: usize, field: &[u8]) -> Option<u32> {
        let found = self.header(at)?;
        (0..found.count).find_map(|index| {
            let member = at + 12 + 12 * index;
            let name = self.string(word(self.types, member)? as usize)?;
            let offset = word(self.types, member + 8)?;
            let bits = if found.bitfields {
                offset & 0x00ff_ffff
            } else {
                offset
            };
            if name == field {
                return Some(bits);
            }
            if !name.is_empty() {
                return None;
            }
            let inner = self.behind(word(self.types, member + 4)?)?;
            matches!(self.header(inner)?.kind, KIND_STRUCT | KIND_UNION)
                .then(|| self.member_bits(inner, field))?
                .map(|within| bits + within)
        })
    }

    /// Returns where the type begins that `id` stands for, behind qualifiers and typedefs.
    fn behind(&self, mut id: u32) -> Option<usize> {
        // A chain of qualifiers is short; a longer one is a circle.
        for _ in 0..16 {
            let at = *self.offsets.get((id as usize).checked_sub(1)?)?;
            let found = self.header(at)?;
            match found.kind {
                KIND_TYPEDEF | KIND_CONST | KIND_VOLATILE => id = found.size_or_type,
                _ => return Some(at),
            }
        }
        None
    }

    fn header(&self, at: usize) -> Option<Header> {
        let info = word(self.types, at + 4)?;
        Some(Header {
            name: word(self.types, at)? as usize,
            kind: (info >> 24) & 0x1f,
            count: (info & 0xffff) as usize,
            bitfields: info >> 31 == 1,
            size_or_type: word(self.types, at + 8)?,
        })
    }

    fn string(&self, at: usize) -> Option<&'a [u8]> {
        let rest = self.strings.get(at..)?;
        rest.split(|byte| *byte == 0).next()
    }
}

/// Returns the bytes that follow a type's fixed part; `None` for a kind that is not known, behind which nothing can be found.
fn trailing_bytes(found: &Header) -> Option<usize> {
    Some(match found.kind {
        // Integers, variables and declaration tags have one word more.
        1 | 14 | 17 => 4,
        KIND_ARRAY => 12,
        KIND_STRUCT | KIND_UNION => 12 * found.count,
        // Enumerators and parameters; variables of a section; 64-bit enumerators.
        6 | 13 => 8 * found.count,
        15 | 19 => 12 * found.count,
        // Pointers, forward declarations, typedefs, qualifiers, functions, floats and type tags have nothing.
        2 | 7..=12 | 16 | 18 => 0,
        _ => return None,
    })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..at + 4)?
        .try_into()
        .ok()
        .map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn section(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    /// `struct s { int a; union { int b; int c:3; }; }` with the union behind a `const`.
    fn sample() -> Vec<u8> {
        let strings = b"\0int\0s\0a\0b\0c\0";
        let types = section(&[
            1,
            1 << 24,
            4,
            32, // 1: int
            0,
            (5 << 24) | 2 | 1 << 31,
            4,
            9,
            1,
            0,
            11,
            1,
            (3 << 24) | 8, // 2: the union
            0,
            10 << 24,
            2, // 3: const union
            5,
            (4 << 24) | 2,
            8,
            7,
            1,
            0,
            0,
            3,
            32, // 4: s
        ]);
        let mut bytes = section(&[u32::from(MAGIC) | 1 << 16, 24, 0]);
        bytes.extend(section(&[u32::try_from(types.len()).expect("small")]));
        bytes.extend(section(&[
            u32::try_from(types.len()).expect("small"),
            u32::try_from(strings.len()).expect("small"),
        ]));
        bytes.extend(types);
        bytes.extend(strings);
        bytes
    }

    #[test]
    fn fields_are_found_also_in_anonymous_members() {
        let bytes = sample();
        let btf = Btf::parse(&bytes).expect("well-formed");
        assert_eq!(btf.field_offset("s", "a"), Some(0));
        assert_eq!(btf.field_offset("s", "b"), Some(4));
        assert_eq!(btf.field_offset("s", "c"), Some(5));
        assert_eq!(btf.field_offset("s", "d"), None);
        assert_eq!(btf.field_offset("t", "a"), None);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(cut in 0..100usize, at in 0..150usize, byte in any::<u8>()) {
            let mut bytes = sample();
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
            bytes.truncate(bytes.len() - cut.min(bytes.len()));
            if let Some(btf) = Btf::parse(&bytes) {
                let _ = btf.field_offset("s", "c");
            }
        }
    }
}
