//! Bodies as they come: by length, in chunks, to the end of the connection, or a tunnel's bytes.

use bytes::{Buf, Bytes, BytesMut};
use httparse::{EMPTY_HEADER, Status};

use crate::l7::message::Fields;
use crate::proxy::exchange::{BodyError, BodySize};
use crate::proxy::h1::limits::{MAX_FIELDS, READ_LEAST, READ_MOST};
use crate::proxy::h1::names;
use crate::proxy::h1::scan::{Scan, Scanner};

/// Bytes of the line before a chunk, extensions and all.
const CHUNK_LINE_MOST: usize = 1024;
/// Bytes that all the extensions of a body may have: nobody uses them but who means to be a burden.
const EXTENSIONS_MOST: usize = 16 * 1024;
/// Bytes of all trailers; as the list that HTTP/2 is offered.
const TRAILERS_MOST: usize = 16 * 1024;

/// What is left of a body.
#[derive(Clone, Debug)]
pub(super) enum Decoder {
    /// Nothing.
    Done,
    /// This many bytes, not 0.
    Length(u64),
    /// Chunks.
    Chunked(Chunked),
    /// All that comes. The end of the connection is its end.
    Rest,
}

/// What the bytes at hand give.
#[derive(PartialEq, Debug)]
pub(super) enum Decoded {
    Data(Bytes),
    Trailers(Fields),
    /// The body's end.
    End,
    /// Nothing: more has to be read.
    More,
}

/// Where in the chunks.
#[derive(Clone, Debug)]
pub(super) struct Chunked {
    state: State,
    extensions: usize,
    scanner: Scanner,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Before a chunk's size.
    Size,
    /// This much of a chunk is to come.
    Data(u64),
    /// Behind a chunk's bytes.
    Crlf,
    /// Behind the last chunk.
    Trailers,
}

impl Decoder {
    pub(super) fn new(size: BodySize) -> Self {
        match size {
            BodySize::Empty | BodySize::Exact(0) => Self::Done,
            BodySize::Exact(length) => Self::Length(length),
            BodySize::Unknown => Self::Chunked(Chunked {
                state: State::Size,
                extensions: 0,
                scanner: Scanner::default(),
            }),
        }
    }

    pub(super) fn is_done(&self) -> bool {
        matches!(self, Self::Done)
    }

    /// Returns how much room the next read is worth.
    pub(super) fn room(&self) -> usize {
        let left = match self {
            Self::Done => 0,
            Self::Length(left)
            | Self::Chunked(Chunked {
                state: State::Data(left),
                ..
            }) => *left,
            Self::Chunked(_) => 0,
            Self::Rest => READ_MOST as u64,
        };
        usize::try_from(left)
            .unwrap_or(READ_MOST)
            .clamp(READ_LEAST, READ_MOST)
    }

    /// Takes the next piece out of `buffer`.
    pub(super) fn decode(&mut self, buffer: &mut BytesMut) -> Result<Decoded, BodyError> {
        match self {
            Self::Done => Ok(Decoded::End),
            Self::Rest if buffer.is_empty() => Ok(Decoded::More),
            Self::Rest => Ok(Decoded::Data(buffer.split().freeze())),
            Self::Length(left) => {
                let Some(data) = take(buffer, left) else {
                    return Ok(Decoded::More);
                };
                if *left == 0 {
                    *self = Self::Done;
                }
                Ok(Decoded::Data(data))
            }
            Self::Chunked(chunked) => {
                let decoded = chunked.decode(buffer);
                if matches!(decoded, Ok(Decoded::End | Decoded::Trailers(_))) {
                    *self = Self::Done;
                }
                decoded
            }
        }
    }
}

/// Takes of `left` what is there.
fn take(buffer: &mut BytesMut, left: &mut u64) -> Option<Bytes> {
    let there = usize::try_from(*left)
        .unwrap_or(usize::MAX)
        .min(buffer.len());
    if there == 0 {
        return None;
    }
    *left -= there as u64;
    Some(buffer.split_to(there).freeze())
}

impl Chunked {
    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Decoded, BodyError> {
        loop {
            match &mut self.state {
                State::Size => match self.size(buffer)? {
                    None => return Ok(Decoded::More),
                    Some(0) => self.state = State::Trailers,
                    Some(size) => self.state = State::Data(size),
                },
                State::Data(left) => {
                    let data = take(buffer, left);
                    if *left == 0 {
                        self.state = State::Crlf;
                    }
                    return Ok(data.map_or(Decoded::More, Decoded::Data));
                }
                State::Crlf => match &buffer[..] {
                    [] | [b'\r'] => return Ok(Decoded::More),
                    [b'\r', b'\n', ..] => {
                        buffer.advance(2);
                        self.state = State::Size;
                    }
                    _ => return Err(BodyError::Protocol),
                },
                State::Trailers => return self.trailers(buffer),
            }
        }
    }

    /// Reads the line before a chunk: its size, and extensions that are passed over.
    fn size(&mut self, buffer: &mut BytesMut) -> Result<Option<u64>, BodyError> {
        let within = &buffer[..buffer.len().min(CHUNK_LINE_MOST)];
        let Some(end) = memchr::memchr(b'\n', within) else {
            return match within.len() {
                CHUNK_LINE_MOST => Err(BodyError::Protocol),
                _ => Ok(None),
            };
        };
        let line = match &buffer[..end] {
            [line @ .., b'\r'] => line,
            _ => return Err(BodyError::Protocol),
        };
        let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit());
        let digits = digits.count();
        // 15 digits are 2^60 bytes, so that nothing overflows.
        if digits == 0 || digits > 15 {
            return Err(BodyError::Protocol);
        }
        let (digits, extension) = line.split_at(digits);
        if !is_extension(extension) {
            return Err(BodyError::Protocol);
        }
        self.extensions += extension.len();
        if self.extensions > EXTENSIONS_MOST {
            return Err(BodyError::Protocol);
        }
        let size = digits.iter().fold(0, |size, digit| {
            size * 16 + u64::from(char::from(*digit).to_digit(16).unwrap_or(0))
        });
        buffer.advance(end + 1);
        Ok(Some(size))
    }

    fn trailers(&mut self, buffer: &mut BytesMut) -> Result<Decoded, BodyError> {
        let end = match self.scanner.look(buffer) {
            Scan::Whole(end) if end <= TRAILERS_MOST => end,
            Scan::More if buffer.len() <= TRAILERS_MOST => return Ok(Decoded::More),
            Scan::Whole(_) | Scan::More | Scan::BareLf => return Err(BodyError::Protocol),
        };
        if end == 2 {
            buffer.advance(2);
            return Ok(Decoded::End);
        }
        let mut lines = [EMPTY_HEADER; MAX_FIELDS];
        let Ok(Status::Complete((_, lines))) = httparse::parse_headers(&buffer[..end], &mut lines)
        else {
            return Err(BodyError::Protocol);
        };
        let mut fields = Fields::default();
        for line in lines.iter().filter(|line| names::may_trail(line.name)) {
            fields.append(line.name, line.value);
        }
        buffer.advance(end);
        if fields.is_empty() {
            return Ok(Decoded::End);
        }
        Ok(Decoded::Trailers(fields))
    }
}

/// Returns whether this may follow a chunk's size: nothing, or extensions without control characters.
fn is_extension(text: &[u8]) -> bool {
    let text = text.trim_ascii_start();
    let is_plain = |byte: &u8| matches!(byte, b'\t' | b' '..=b'~' | 0x80..);
    text.is_empty() || (text[0] == b';' && text.iter().all(is_plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decodes what comes in pieces of `step` bytes; returns data, trailers and what is left.
    fn decode(size: BodySize, text: &[u8], step: usize) -> Result<(Vec<u8>, Fields, Vec<u8>), ()> {
        let mut decoder = Decoder::new(size);
        let mut buffer = BytesMut::new();
        let mut pieces = text.chunks(step);
        let (mut data, mut trailers) = (Vec::new(), Fields::default());
        loop {
            match decoder.decode(&mut buffer).map_err(|_| ())? {
                Decoded::Data(piece) => data.extend_from_slice(&piece),
                Decoded::Trailers(fields) => trailers = fields,
                Decoded::End => break,
                Decoded::More => buffer.extend_from_slice(pieces.next().ok_or(())?),
            }
        }
        assert!(decoder.is_done());
        Ok((
            data,
            trailers,
            [&buffer[..], &pieces.flatten().copied().collect::<Vec<_>>()].concat(),
        ))
    }

    #[test]
    fn bodies_end_where_they_say() {
        let chunks =
            b"4;a=\"b\"\r\nabcd\r\n00a ; x\r\n0123456789\r\n0\r\nX-T: 1\r\nHost: evil\r\n\r\nnext";
        for step in 1..chunks.len() {
            let (data, trailers, rest) = decode(BodySize::Unknown, chunks, step).unwrap();
            assert_eq!(
                (&data[..], &rest[..]),
                (&b"abcd0123456789"[..], &b"next"[..])
            );
            assert_eq!(trailers, [("X-T", "1")].into_iter().collect());
            let by_length = decode(BodySize::Exact(4), b"abcdnext", step).unwrap();
            assert_eq!(
                (&by_length.0[..], &by_length.2[..]),
                (&b"abcd"[..], &b"next"[..])
            );
        }
        let (data, trailers, rest) = decode(BodySize::Unknown, b"0\r\n\r\nx", 9).unwrap();
        assert!(data.is_empty() && trailers.is_empty() && rest == b"x");
    }

    #[test]
    fn chunks_that_others_would_read_differently_are_refused() {
        for wrong in [
            &b"\r\n"[..],
            b"4\nabcd\r\n0\r\n\r\n",
            b"+4\r\nabcd\r\n0\r\n\r\n",
            b"0x4\r\nabcd\r\n0\r\n\r\n",
            b" 4\r\nabcd\r\n0\r\n\r\n",
            b"4 x\r\nabcd\r\n0\r\n\r\n",
            b"4;a\rb\r\nabcd\r\n0\r\n\r\n",
            b"4;a\nb\r\nabcd\r\n0\r\n\r\n",
            b"4;\0\r\nabcd\r\n0\r\n\r\n",
            b"4\r\nabcdX\r\n0\r\n\r\n",
            b"4\r\nabcd\n0\r\n\r\n",
            b"4\r\nabcd\r\r\n0\r\n\r\n",
            b"1000000000000000\r\n",
            b"0\r\nX: y\n\r\n",
            b"0\r\nX : y\r\n\r\n",
            b"0\r\nX: y\r\n z\r\n\r\n",
        ] {
            assert!(decode(BodySize::Unknown, wrong, 3).is_err(), "{wrong:?}");
        }
        let long = [b"4;", &[b'a'; CHUNK_LINE_MOST][..]].concat();
        let mut decoder = Decoder::new(BodySize::Unknown);
        let refused = decoder.decode(&mut BytesMut::from(&long[..]));
        assert_eq!(refused, Err(BodyError::Protocol));
        let ext = [b"1;", &[b'a'; 900][..], b"\r\nx\r\n"].concat().repeat(20);
        assert!(decode(BodySize::Unknown, &ext, 4096).is_err());
        let trailers = [
            b"0\r\n",
            &b"X: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n".repeat(1000)[..],
        ]
        .concat();
        assert!(decode(BodySize::Unknown, &trailers, 4096).is_err());
    }
}
