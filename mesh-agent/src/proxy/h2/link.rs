//! A connection's socket: frames are read from one buffer and handed to the session, and what the session has to send is written.

use std::io;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};

use super::frame::{self, Code, Fault, HEAD, Head, MAX_PAYLOAD, flag, kind};
use super::hpack::Decoder;
use super::session::{Role, Session};
use crate::proxy::stream::Stream;

/// What a client sends first (RFC 9113, section 3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Content up to this is copied out of the read buffer; beyond, it stays where it is, and the buffer with it.
const COPY_MOST: usize = 1024;

/// Room for a read: what small messages fill seldom.
const READ_FIRST: usize = 16 * 1024;
/// Room for a read where one has filled that.
const READ_MOST: usize = 64 * 1024;

/// Reads between two writes, at most: more would keep what is answered waiting.
const READS: u32 = 4;

/// Bytes of answers to PING, SETTINGS and faults that wait, beyond which it is read no further: a thousand of them.
const REPLIES_MOST: usize = 16 * 1024;

/// CONTINUATION frames of one head. With the largest frames half of them hold a list of the size that we read at all; as nghttp2.
const CONTINUATIONS: u32 = 8;

/// Why no more is read.
#[derive(Debug)]
pub(super) enum Wrong {
    /// It does not begin as it has to.
    Preface,
    /// What came ends the connection.
    Fault(Code),
    /// The other end has closed it.
    Closed,
    /// The socket failed.
    Failed,
}

impl From<Code> for Wrong {
    fn from(code: Code) -> Self {
        Self::Fault(code)
    }
}

/// What is to come first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Preface,
    Settings,
    Frames,
}

/// A head that is not all there.
#[derive(Debug)]
struct Block {
    stream: u32,
    ended: bool,
    text: Vec<u8>,
    frames: u32,
}

/// A connection's socket.
pub(super) struct Link {
    stream: Stream,
    buffer: BytesMut,
    /// Bytes that the next read has room for.
    room: usize,
    decoder: Decoder,
    block: Option<Block>,
    /// Bytes that a block may have.
    most_block: usize,
    stage: Stage,
}

impl Link {
    /// Begins with what was read already.
    pub(super) fn new(stream: Stream, start: BytesMut, role: Role, header_list: u32) -> Self {
        let header_list = header_list as usize;
        Self {
            stream,
            buffer: start,
            room: READ_FIRST,
            decoder: Decoder::new(header_list),
            block: None,
            // Huffman's code makes nothing longer that anybody would send by it.
            most_block: 4 * header_list,
            stage: match role {
                Role::Server => Stage::Preface,
                Role::Client => Stage::Settings,
            },
        }
    }

    /// Returns whether the preface was read.
    pub(super) fn has_begun(&self) -> bool {
        self.stage != Stage::Preface
    }

    /// Reads what is there, as long as the other end takes what it is sent: no further while more than `unsent_most` bytes wait for it.
    pub(super) fn read(
        &mut self,
        cx: &mut Context<'_>,
        session: &mut Session,
        unsent_most: usize,
    ) -> Result<(), Wrong> {
        for _ in 0..READS {
            if session.out.len() > unsent_most || session.out.replies() > REPLIES_MOST {
                match self.poll_write(cx, session) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(_)) => return Err(Wrong::Failed),
                    // The socket wakes us once it has taken more.
                    Poll::Pending => return Ok(()),
                }
            }
            match self.poll_read(cx, session) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(wrong)) => return Err(wrong),
                Poll::Pending => {
                    if session.streams.used() == 0 {
                        self.trim();
                    }
                    return Ok(());
                }
            }
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    /// Reads once, and takes the frames that are whole. Ready after each read.
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        session: &mut Session,
    ) -> Poll<Result<(), Wrong>> {
        match ready!(self.poll_fill(cx)) {
            Ok(0) => Poll::Ready(Err(Wrong::Closed)),
            Ok(1..) => Poll::Ready(self.parse(session)),
            Err(_) => Poll::Ready(Err(Wrong::Failed)),
        }
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let (mut reader, _) = self.stream.split();
        if self.buffer.capacity() == 0 {
            // No memory for who is silent.
            ready!(reader.poll_readable(cx))?;
        }
        let missing = Head::read(&self.buffer).map_or(HEAD, |head| HEAD + head.length);
        let missing = missing.saturating_sub(self.buffer.len());
        if self.buffer.is_empty() || self.buffer.capacity() - self.buffer.len() < missing {
            self.buffer.reserve(self.room.max(missing));
        }
        let room = self.buffer.capacity() - self.buffer.len();
        let read = ready!(reader.poll_recv(cx, &mut self.buffer))?;
        self.room = if read == room { READ_MOST } else { READ_FIRST };
        Poll::Ready(Ok(read))
    }

    /// Reads what nobody looks at; ready at the end, or when `left` was read.
    pub(super) fn poll_discard(&mut self, cx: &mut Context<'_>, left: &mut usize) -> Poll<()> {
        while *left > 0 {
            self.buffer.clear();
            match ready!(self.poll_fill(cx)) {
                Ok(0) | Err(_) => return Poll::Ready(()),
                Ok(read) => *left = left.saturating_sub(read),
            }
        }
        Poll::Ready(())
    }

    /// Gives the read buffer back if there is nothing in it.
    fn trim(&mut self) {
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
    }

    /// Sends what waits, until nothing does or the socket is full.
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        session: &mut Session,
    ) -> Poll<io::Result<()>> {
        let (_, mut writer) = self.stream.split();
        loop {
            session.fill();
            if session.out.is_empty() {
                return Poll::Ready(Ok(()));
            }
            ready!(session.out.poll_send(cx, &mut writer))?;
            ready!(writer.poll_flush(cx))?;
        }
    }

    /// Closes our direction.
    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (_, mut writer) = self.stream.split();
        writer.poll_shutdown(cx)
    }

    /// Takes the frames that are whole.
    pub(super) fn parse(&mut self, session: &mut Session) -> Result<(), Wrong> {
        if self.stage == Stage::Preface {
            let length = PREFACE.len().min(self.buffer.len());
            if self.buffer[..length] != PREFACE[..length] {
                return Err(Wrong::Preface);
            }
            if length < PREFACE.len() {
                return Ok(());
            }
            self.buffer.advance(length);
            self.stage = Stage::Settings;
        }
        while let Some(head) = Head::read(&self.buffer) {
            if head.length > MAX_PAYLOAD {
                return Err(Code::FRAME_SIZE_ERROR.into());
            }
            if self.buffer.len() < HEAD + head.length {
                break;
            }
            if self.stage == Stage::Settings {
                if head.kind != kind::SETTINGS || head.has(flag::ACK) {
                    return Err(Code::PROTOCOL_ERROR.into());
                }
                self.stage = Stage::Frames;
            }
            match self.one(head, session) {
                Ok(()) => {}
                Err(Fault::Stream(stream, code)) => session.fault(stream, code)?,
                Err(Fault::Connection(code)) => return Err(code.into()),
            }
        }
        Ok(())
    }

    /// Takes a frame that is whole.
    fn one(&mut self, head: Head, session: &mut Session) -> Result<(), Fault> {
        let whole = HEAD + head.length;
        let taken = match head.kind {
            kind::CONTINUATION => self.continuation(head, session),
            // Nothing may come between the frames of a head (section 6.2).
            _ if self.block.is_some() => return Err(Fault::Connection(Code::PROTOCOL_ERROR)),
            kind::DATA => return self.data(head, session),
            kind::HEADERS => self.headers(head, session),
            _ => session.frame(head, &self.buffer[HEAD..whole]),
        };
        self.buffer.advance(whole);
        taken
    }

    fn data(&mut self, head: Head, session: &mut Session) -> Result<(), Fault> {
        let whole = HEAD + head.length;
        let content = frame::unpadded(head, &self.buffer[HEAD..whole])?;
        let (start, end) = (HEAD + content.start, HEAD + content.end);
        let data = if content.len() > COPY_MOST {
            self.buffer.split_to(whole).freeze().slice(start..end)
        } else {
            let data = Bytes::copy_from_slice(&self.buffer[start..end]);
            self.buffer.advance(whole);
            data
        };
        session.content(head.stream, head.length, data, head.has(flag::END_STREAM))
    }

    fn headers(&mut self, head: Head, session: &mut Session) -> Result<(), Fault> {
        let payload = &self.buffer[HEAD..HEAD + head.length];
        let block = &payload[frame::headers(head, payload)?];
        let ended = head.has(flag::END_STREAM);
        if head.has(flag::END_HEADERS) {
            return session.head(&mut self.decoder, head.stream, ended, block);
        }
        self.block = Some(Block {
            stream: head.stream,
            ended,
            text: block.to_vec(),
            frames: 0,
        });
        Ok(())
    }

    fn continuation(&mut self, head: Head, session: &mut Session) -> Result<(), Fault> {
        let mut block = self
            .block
            .take()
            .filter(|it| it.stream == head.stream)
            .ok_or(Fault::Connection(Code::PROTOCOL_ERROR))?;
        block.frames += 1;
        let text = &self.buffer[HEAD..HEAD + head.length];
        if block.frames > CONTINUATIONS || block.text.len() + text.len() > self.most_block {
            return Err(Fault::Connection(Code::ENHANCE_YOUR_CALM));
        }
        block.text.extend_from_slice(text);
        if head.has(flag::END_HEADERS) {
            return session.head(&mut self.decoder, block.stream, block.ended, &block.text);
        }
        self.block = Some(block);
        Ok(())
    }
}
