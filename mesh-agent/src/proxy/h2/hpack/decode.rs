//! Reading lists of fields.

use super::{Line, OVERHEAD, TABLE_BYTES, fixed, huffman, integer, table::Table};
use crate::proxy::h2::fields::{self, Kind};

/// Why a block cannot be read. The table is not what the sender believes from then on, and so the connection is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Error {
    /// It is no HPACK.
    #[error("the block is malformed")]
    Malformed,
    /// It unpacks to far more than was agreed on.
    #[error("the list of fields is far too long")]
    TooMuch,
}

/// Whether all of a list was handed on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Size {
    /// It was.
    Whole,
    /// It was not, since it is larger than agreed on.
    TooLarge,
}

/// Times the size agreed on that a list is read on for, so that the table stays what the sender believes.
const PATIENCE: usize = 4;

/// Reads the blocks of a direction of a connection, all of them and in order.
#[derive(Debug)]
pub struct Decoder {
    table: Table,
    /// Bytes of a list, as RFC 9113, section 6.5.2 counts.
    limit: usize,
    /// Decoded text.
    name: Vec<u8>,
    value: Vec<u8>,
}

impl Decoder {
    /// Returns one whose lists may have so many bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            table: Table::new(TABLE_BYTES),
            limit,
            name: Vec::new(),
            value: Vec::new(),
        }
    }

    /// Reads a block, and hands each field on.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn decode(
        &mut self,
        mut block: &[u8],
        mut each: impl FnMut(Line<'_>),
    ) -> Result<Size, Error> {
        let mut size = 0;
        let limit = self.limit;
        let mut take = |line: Line<'_>| {
            size += line.name.len() + line.value.len() + OVERHEAD;
            if size <= limit {
                each(line);
            }
            match size > PATIENCE * limit {
                true => Err(Error::TooMuch),
                false => Ok(()),
            }
        };
        let mut may_resize = true;
        while let Some(first) = block.first() {
            // The leading one says what it is (section 6).
            match first.leading_zeros() {
                0 => {
                    let index = integer::read(&mut block, 7)?;
                    take(self.indexed(index)?)?;
                }
                1 => self.literal(&mut block, 6, Keep::Yes, &mut take)?,
                2 => {
                    let limit = integer::read(&mut block, 5)?;
                    if !may_resize || limit > TABLE_BYTES {
                        return Err(Error::Malformed);
                    }
                    self.table.resize(limit);
                    continue;
                }
                3 => self.literal(&mut block, 4, Keep::Never, &mut take)?,
                _ => self.literal(&mut block, 4, Keep::No, &mut take)?,
            }
            may_resize = false;
        }
        match size > limit {
            true => Ok(Size::TooLarge),
            false => Ok(Size::Whole),
        }
    }

    fn indexed(&self, index: usize) -> Result<Line<'_>, Error> {
        let line = match index {
            ..=fixed::COUNT => fixed::get(index),
            _ => self.table.get(index - fixed::COUNT - 1),
        };
        line.ok_or(Error::Malformed)
    }

    fn literal(
        &mut self,
        block: &mut &[u8],
        bits: u32,
        keep: Keep,
        take: &mut impl FnMut(Line<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let index = integer::read(block, bits)?;
        let (name, value) = (&mut self.name, &mut self.value);
        // A name of our own is copied, since what comes next may push it out of the table.
        let kind = match index {
            0 => {
                if let Some(text) = string(block, name)? {
                    name.clear();
                    name.extend_from_slice(text);
                }
                str::from_utf8(name).map_or(Kind::Malformed, Kind::of)
            }
            1..=fixed::COUNT => {
                let line = fixed::get(index).ok_or(Error::Malformed)?;
                name.clear();
                name.extend_from_slice(line.name.as_bytes());
                line.kind
            }
            _ => {
                let known = self.table.name(index - fixed::COUNT - 1);
                let (kind, text) = known.ok_or(Error::Malformed)?;
                name.clear();
                name.extend_from_slice(text);
                kind
            }
        };
        let value = string(block, value)?.unwrap_or(value);
        let is_valid = fields::is_value(value);
        take(Line {
            kind: match is_valid {
                true => kind,
                false => Kind::Malformed,
            },
            name: str::from_utf8(name).unwrap_or(""),
            value,
            secret: keep == Keep::Never,
        })?;
        if keep == Keep::Yes {
            self.table.insert(kind, is_valid, name, value);
        }
        Ok(())
    }
}

/// What the sender wants to be done with a literal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Keep {
    Yes,
    No,
    Never,
}

/// Reads a string (section 5.2). `None`: it is in `scratch`, decoded.
fn string<'b>(block: &mut &'b [u8], scratch: &mut Vec<u8>) -> Result<Option<&'b [u8]>, Error> {
    let is_coded = block.first().is_some_and(|first| first & 0x80 != 0);
    let length = integer::read(block, 7)?;
    let (text, rest) = block.split_at_checked(length).ok_or(Error::Malformed)?;
    *block = rest;
    if !is_coded {
        return Ok(Some(text));
    }
    scratch.clear();
    huffman::decode(text, scratch)?;
    Ok(None)
}
