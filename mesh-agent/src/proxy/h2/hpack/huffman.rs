//! The Huffman code of HPACK (RFC 7541, appendix B).
//!
//! The code is canonical: within a length codes ascend with their symbols, and shorter ones come first. So lengths say all, and the
//! tables are made of them while compiling. Nearly all text is codes of up to nine bits, which one look at a table decodes.

use super::Error;

/// Bits of the code of each byte, and at last of the end of the string.
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, //
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28, //
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, //
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, //
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, //
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, //
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, //
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, //
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, //
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, //
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, //
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, //
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, //
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, //
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, //
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, //
    30,
];

/// The longest code.
const LONGEST: usize = 30;
/// Bits that the first look takes.
const LOOK: u32 = 9;

/// Codes of one length.
#[derive(Clone, Copy)]
struct Group {
    /// The first of them, and how many there are.
    first: u32,
    count: u32,
    /// Where their symbols begin in [`SORTED`].
    at: usize,
}

const GROUPS: [Group; LONGEST + 1] = groups();
const SORTED: [u16; 257] = sorted();
const CODES: [u32; 257] = codes();
/// Symbol and length by the next nine bits; length 0 where the code is longer.
static SHORT: [(u8, u8); 1 << LOOK] = short();

const fn groups() -> [Group; LONGEST + 1] {
    let none = Group {
        first: 0,
        count: 0,
        at: 0,
    };
    let mut groups = [none; LONGEST + 1];
    let mut symbol = 0;
    while symbol < LENGTHS.len() {
        groups[LENGTHS[symbol] as usize].count += 1;
        symbol += 1;
    }
    let mut length = 1;
    while length <= LONGEST {
        let before = groups[length - 1];
        groups[length].first = (before.first + before.count) << 1;
        groups[length].at = before.at + before.count as usize;
        length += 1;
    }
    groups
}

const fn codes() -> [u32; 257] {
    let mut codes = [0; 257];
    let mut next = groups();
    let mut symbol = 0;
    while symbol < LENGTHS.len() {
        let group = &mut next[LENGTHS[symbol] as usize];
        codes[symbol] = group.first;
        group.first += 1;
        symbol += 1;
    }
    codes
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "there are 257 symbols, and `try_from` is not const"
)]
const fn sorted() -> [u16; 257] {
    let mut sorted = [0; 257];
    let mut next = groups();
    let mut symbol = 0;
    while symbol < LENGTHS.len() {
        let group = &mut next[LENGTHS[symbol] as usize];
        sorted[group.at] = symbol as u16;
        group.at += 1;
        symbol += 1;
    }
    sorted
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "only bytes have short codes, and `try_from` is not const"
)]
const fn short() -> [(u8, u8); 1 << LOOK] {
    let mut table = [(0, 0); 1 << LOOK];
    let mut symbol = 0;
    while symbol < 256 {
        let length = LENGTHS[symbol] as u32;
        if length <= LOOK {
            let spare = LOOK - length;
            let first = (CODES[symbol] << spare) as usize;
            let mut at = first;
            while at < first + (1 << spare) {
                table[at] = (symbol as u8, length as u8);
                at += 1;
            }
        }
        symbol += 1;
    }
    table
}

/// Appends the bytes that `text` is the code of.
pub(super) fn decode(text: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    let mut text = text.iter();
    // The next bits, from the highest down, and how many there are; zeros follow.
    let (mut bits, mut count) = (0_u64, 0_u32);
    loop {
        while count <= 56
            && let Some(byte) = text.next()
        {
            bits |= u64::from(*byte) << (56 - count);
            count += 8;
        }
        if count == 0 {
            return Ok(());
        }
        let (symbol, length) = match SHORT[top(bits, LOOK)] {
            (_, 0) => long(bits)?,
            found => found,
        };
        let length = u32::from(length);
        if length > count {
            return padding(bits, count);
        }
        out.push(symbol);
        bits <<= length;
        count -= length;
    }
}

fn top(bits: u64, count: u32) -> usize {
    // At most 30 bits.
    usize::try_from(bits >> (64 - count)).unwrap_or(0)
}

/// Decodes a code of more than nine bits. None of what may stand in an ordinary field has one of more than 15.
fn long(bits: u64) -> Result<(u8, u8), Error> {
    for length in LOOK + 1..=30 {
        let code = top(bits, length);
        let group = GROUPS[length as usize];
        let number = code.wrapping_sub(group.first as usize);
        if number < group.count as usize {
            // The end of the string is no byte, and may not be there (section 5.2).
            let symbol = u8::try_from(SORTED[group.at + number]);
            let length = u8::try_from(length);
            return Ok((
                symbol.map_err(|_| Error::Malformed)?,
                length.map_err(|_| Error::Malformed)?,
            ));
        }
    }
    Err(Error::Malformed)
}

/// What is left may be the first bits of the end of the string, less than a byte of it.
fn padding(bits: u64, count: u32) -> Result<(), Error> {
    match count < 8 && top(bits, count) == (1 << count) - 1 {
        true => Ok(()),
        false => Err(Error::Malformed),
    }
}

/// Returns how many bytes the code of `text` has.
pub(super) fn length(text: &[u8]) -> usize {
    let bits: usize = text
        .iter()
        .map(|byte| usize::from(LENGTHS[usize::from(*byte)]))
        .sum();
    bits.div_ceil(8)
}

/// Appends the code of `text`.
pub(super) fn encode(text: &[u8], out: &mut Vec<u8>) {
    let (mut bits, mut count) = (0_u64, 0_u32);
    for byte in text {
        let symbol = usize::from(*byte);
        let length = u32::from(LENGTHS[symbol]);
        bits = bits << length | u64::from(CODES[symbol]);
        count += length;
        while count >= 8 {
            count -= 8;
            out.push((bits >> count).to_le_bytes()[0]);
        }
    }
    if count > 0 {
        let padded = bits << (8 - count) | 0xff >> count;
        out.push(padded.to_le_bytes()[0]);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decoded(text: &[u8]) -> Result<Vec<u8>, Error> {
        let mut out = Vec::new();
        decode(text, &mut out).map(|()| out)
    }

    #[test]
    fn codes_are_those_of_the_standard() {
        for (symbol, code) in [
            (0, 0x1ff8),
            (10, 0x3fff_fffc),
            (32, 0x14),
            (48, 0),
            (97, 3),
            (255, 0x3ff_ffee),
            (256, 0x3fff_ffff),
        ] {
            assert_eq!(CODES[symbol], code, "{symbol}");
        }
    }

    #[test]
    fn padding_is_ones_and_less_than_a_byte() {
        // `a` is 00011.
        assert_eq!(decoded(&[0b0001_1111]), Ok(b"a".to_vec()));
        assert_eq!(decoded(&[0b0001_1110]), Err(Error::Malformed));
        assert_eq!(decoded(&[0b0001_1111, 0xff]), Err(Error::Malformed));
        assert_eq!(decoded(&[0xff]), Err(Error::Malformed));
        assert_eq!(decoded(&[0xff; 4]), Err(Error::Malformed));
        assert_eq!(decoded(&[0xff; 8]), Err(Error::Malformed));
        assert_eq!(decoded(&[]), Ok(Vec::new()));
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(text in proptest::collection::vec(any::<u8>(), 0..100)) {
            let mut coded = Vec::new();
            encode(&text, &mut coded);
            prop_assert_eq!(coded.len(), length(&text));
            prop_assert_eq!(decoded(&coded), Ok(text));
        }

        #[test]
        fn what_is_decoded_was_encoded(coded in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(text) = decoded(&coded) {
                let mut again = Vec::new();
                encode(&text, &mut again);
                prop_assert_eq!(again, coded);
            }
        }
    }
}
