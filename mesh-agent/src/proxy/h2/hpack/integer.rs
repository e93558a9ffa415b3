//! Integers that begin within a byte (RFC 7541, section 5.1).

use super::Error;

/// Reads one whose first byte has `bits` of it. None of HPACK's is anywhere near 28 bits.
pub(super) fn read(block: &mut &[u8], bits: u32) -> Result<usize, Error> {
    let most = (1 << bits) - 1;
    let value = usize::from(byte(block)?) & most;
    if value < most {
        return Ok(value);
    }
    let mut value = value;
    for shift in [0, 7, 14, 21] {
        let next = byte(block)?;
        value += usize::from(next & 127) << shift;
        if next & 128 == 0 {
            return Ok(value);
        }
    }
    Err(Error::Malformed)
}

fn byte(block: &mut &[u8]) -> Result<u8, Error> {
    let (first, rest) = block.split_first().ok_or(Error::Malformed)?;
    *block = rest;
    Ok(*first)
}

/// Writes one, with `pattern` in the bits of the first byte that are not its own.
pub(super) fn write(out: &mut Vec<u8>, pattern: u8, bits: u32, value: usize) {
    let most = (1 << bits) - 1;
    if value < most {
        out.push(pattern | low(value));
        return;
    }
    out.push(pattern | low(most));
    let mut rest = value - most;
    while rest > 127 {
        out.push(128 | low(rest & 127));
        rest >>= 7;
    }
    out.push(low(rest));
}

fn low(value: usize) -> u8 {
    value.to_le_bytes()[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_of_the_standard() {
        for (bits, value, expected) in [
            (5, 10, &[10][..]),
            (5, 1337, &[31, 154, 10]),
            (8, 42, &[42]),
        ] {
            let mut out = Vec::new();
            write(&mut out, 0, bits, value);
            assert_eq!(out, expected);
            assert_eq!(read(&mut &out[..], bits), Ok(value));
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for bits in 4..8 {
            for value in (0..300).chain([16_383, 16_384, 1 << 21, 1 << 27]) {
                let mut out = Vec::new();
                write(&mut out, 0, bits, value);
                let mut rest = &out[..];
                assert_eq!(read(&mut rest, bits), Ok(value));
                assert!(rest.is_empty());
            }
        }
    }

    #[test]
    fn one_without_end_is_none() {
        let endless = [&[0xff][..], &[0x80; 4], &[0]].concat();
        assert_eq!(read(&mut &endless[..], 7), Err(Error::Malformed));
        assert_eq!(read(&mut &[0xff, 0x80][..], 7), Err(Error::Malformed));
        assert_eq!(read(&mut &[][..], 7), Err(Error::Malformed));
    }
}
