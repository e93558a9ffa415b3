//! Messages of a call of gRPC, counted as their bytes go by (`PROTOCOL-HTTP2.md`: each has its length in front of it).

/// Bytes in front of a message: whether it is compressed, and its length.
const PREFIX: u8 = 5;

/// Counts messages in one direction of a call. Takes constant time for each, however long it is and however it is cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Messages {
    begun: u64,
    /// Bytes that have come of what is in front of the next one.
    prefix: u8,
    /// As much of its length as has come.
    length: u32,
    /// Bytes of this one that are still to come.
    left: u32,
}

impl Messages {
    /// Returns how many have begun: of how many the length has come.
    pub(super) fn count(&self) -> u64 {
        self.begun
    }

    /// Takes the next bytes.
    pub(super) fn take(&mut self, mut bytes: &[u8]) {
        loop {
            let passed = u32::try_from(bytes.len()).map_or(self.left, |count| count.min(self.left));
            self.left -= passed;
            bytes = &bytes[passed as usize..];
            let Some((first, rest)) = bytes.split_first() else {
                return;
            };
            bytes = rest;
            if self.prefix > 0 {
                self.length = self.length << 8 | u32::from(*first);
            }
            self.prefix += 1;
            if self.prefix == PREFIX {
                *self = Self {
                    begun: self.begun + 1,
                    left: self.length,
                    ..Self::default()
                };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Returns these messages as they are sent.
    fn written(messages: &[Vec<u8>]) -> Vec<u8> {
        let mut all = Vec::new();
        for message in messages {
            all.push(u8::from(message.len() % 2 == 1));
            all.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
            all.extend(message);
        }
        all
    }

    /// Returns how many have begun in what has come so far.
    fn begun(mut bytes: &[u8]) -> u64 {
        let mut count = 0;
        while let Some((prefix, rest)) = bytes.split_first_chunk::<5>() {
            count += 1;
            let [_, length @ ..] = *prefix;
            let length = u32::from_be_bytes(length) as usize;
            bytes = rest.get(length..).unwrap_or_default();
        }
        count
    }

    proptest! {
        #[test]
        fn the_count_is_the_same_however_the_bytes_are_cut(
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..12),
            cuts in prop::collection::vec(1_usize..40, 1..200),
            lost in 0_usize..400,
        ) {
            let all = written(&messages);
            let all = &all[..all.len().saturating_sub(lost)];
            let mut counter = Messages::default();
            let (mut at, mut cuts) = (0, cuts.into_iter().cycle());
            while at < all.len() {
                let end = (at + cuts.next().unwrap()).min(all.len());
                counter.take(&all[at..end]);
                at = end;
                prop_assert_eq!(counter.count(), begun(&all[..at]));
            }
            let mut whole = Messages::default();
            whole.take(all);
            prop_assert_eq!(whole, counter);
        }
    }

    #[test]
    fn a_message_may_be_as_long_as_its_length_can_say() {
        let mut counter = Messages::default();
        counter.take(&[0, 0xff, 0xff, 0xff, 0xff]);
        let piece = vec![7; 1 << 24];
        for _ in 0..255 {
            counter.take(&piece);
        }
        counter.take(&piece[1..]);
        assert_eq!(counter.count(), 1);
        counter.take(&[0, 0, 0, 0, 0]);
        assert_eq!(counter.count(), 2);
    }
}
