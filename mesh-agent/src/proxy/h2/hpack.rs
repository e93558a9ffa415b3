//! HPACK (RFC 7541): lists of fields as HTTP/2 compresses them, read straight into heads and written straight from them.
//!
//! A field is classified and looked over once, when it comes as text: what the table keeps has that with it, so a field that is
//! only named costs neither.

mod decode;
mod encode;
mod fixed;
mod huffman;
mod integer;
mod table;
#[cfg(test)]
mod tests;

pub use decode::{Decoder, Error, Size};
pub use encode::Encoder;

use super::fields::Kind;

/// One field of a list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Line<'l> {
    /// What its name means, or that name or value are none.
    pub kind: Kind,
    /// Its name, empty if it is no text.
    pub name: &'l str,
    /// Its value.
    pub value: &'l [u8],
    /// Whether the sender wants it in nobody's table (section 7.1.3).
    pub secret: bool,
}

/// Bytes that a table has unless somebody says otherwise (RFC 9113, section 6.5.2), which nobody here does.
const TABLE_BYTES: usize = 4096;

/// Bytes that an entry or a field counts besides its text (section 4.1).
const OVERHEAD: usize = 32;
