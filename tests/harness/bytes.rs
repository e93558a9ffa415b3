//! Bytes that both ends can tell by their place: whatever is lost, doubled, swapped or somebody else's shows.

/// Stream of bytes without end, the same for the same seed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Stream(
    /// The seed.
    pub u64,
);

/// A byte that is not what it should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wrong {
    /// Its place in the stream.
    pub offset: u64,
    /// What it should be.
    pub wanted: u8,
    /// What it is.
    pub got: u8,
}

impl Stream {
    /// Fills `buffer` with the bytes from `offset` on.
    pub fn fill(self, offset: u64, buffer: &mut [u8]) {
        let mut place = offset;
        let mut rest = buffer;
        while !rest.is_empty() {
            let word = self.word(place / 8);
            let skip = usize::from(word_offset(place));
            let count = rest.len().min(8 - skip);
            let (now, later) = rest.split_at_mut(count);
            now.copy_from_slice(&word[skip..skip + count]);
            place += count as u64;
            rest = later;
        }
    }

    /// Returns the first byte of `buffer` that is not the one of the stream from `offset` on.
    pub fn first_wrong(self, offset: u64, buffer: &[u8]) -> Option<Wrong> {
        let mut wanted = vec![0; buffer.len()];
        self.fill(offset, &mut wanted);
        let index = buffer
            .iter()
            .zip(&wanted)
            .position(|(got, wanted)| got != wanted)?;
        Some(Wrong {
            offset: offset + index as u64,
            wanted: wanted[index],
            got: buffer[index],
        })
    }

    /// Returns a number between `low` and `high`, both included, for the `index`th use.
    pub fn number(self, index: u64, low: usize, high: usize) -> usize {
        let span = high.saturating_sub(low) as u64 + 1;
        let drawn = u64::from_le_bytes(self.word(index ^ (1 << 63))) % span;
        low + usize::try_from(drawn).unwrap_or(0)
    }

    /// SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators), which can be asked for any place.
    fn word(self, index: u64) -> [u8; 8] {
        let mut z = self
            .0
            .wrapping_add(index.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)).to_le_bytes()
    }
}

fn word_offset(place: u64) -> u8 {
    // Below 8, whatever the place.
    u8::try_from(place % 8).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_make_the_whole_and_a_wrong_byte_shows() {
        let stream = Stream(7);
        let mut whole = [0; 1000];
        stream.fill(0, &mut whole);
        let mut pieces = Vec::new();
        for length in [0, 1, 7, 8, 9, 100, 875] {
            let mut piece = vec![0; length];
            stream.fill(pieces.len() as u64, &mut piece);
            pieces.extend(piece);
        }
        assert_eq!(pieces, whole);
        assert_eq!(stream.first_wrong(3, &whole[3..]), None);
        pieces[500] ^= 1;
        assert_eq!(stream.first_wrong(400, &pieces[400..]).unwrap().offset, 500);
        let mut other = [0; 1000];
        Stream(8).fill(0, &mut other);
        assert!(stream.first_wrong(0, &other).is_some());
    }

    #[test]
    fn numbers_stay_in_their_range() {
        let all: Vec<_> = (0..100)
            .map(|index| Stream(1).number(index, 3, 5))
            .collect();
        assert!(all.iter().all(|number| (3..=5).contains(number)));
        assert!((3..=5).all(|number| all.contains(&number)));
    }
}
