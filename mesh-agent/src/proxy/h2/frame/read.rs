//! Payloads, each checked as far as it can be without knowing the connection.

use std::ops::Range;

use super::{Code, Fault, Head, MAX_WINDOW, flag, setting};

const WRONG_SIZE: Fault = Fault::Connection(Code::FRAME_SIZE_ERROR);
const WRONG: Fault = Fault::Connection(Code::PROTOCOL_ERROR);

/// Returns where the content of a DATA frame is (section 6.1).
pub(in crate::proxy::h2) fn unpadded(head: Head, payload: &[u8]) -> Result<Range<usize>, Fault> {
    if head.stream == 0 {
        return Err(WRONG);
    }
    if !head.has(flag::PADDED) {
        return Ok(0..payload.len());
    }
    let padding = usize::from(*payload.first().ok_or(WRONG_SIZE)?);
    let end = payload.len().checked_sub(padding).filter(|end| *end > 0);
    Ok(1..end.ok_or(WRONG)?)
}

/// Returns the block of a HEADERS frame (section 6.2). What it says of priority is out of use (section 5.3.2).
pub(in crate::proxy::h2) fn headers(head: Head, payload: &[u8]) -> Result<Range<usize>, Fault> {
    let mut block = unpadded(head, payload)?;
    if head.has(flag::PRIORITY) {
        block.start += 5;
        if block.start > block.end {
            return Err(WRONG_SIZE);
        }
    }
    Ok(block)
}

/// Checks a PRIORITY frame, which says nothing to us (section 6.3).
pub(in crate::proxy::h2) fn check_priority(head: Head) -> Result<(), Fault> {
    match (head.stream, head.length) {
        (0, _) => Err(WRONG),
        (_, 5) => Ok(()),
        (stream, _) => Err(Fault::Stream(stream, Code::FRAME_SIZE_ERROR)),
    }
}

/// Returns why a stream is reset (section 6.4).
pub(in crate::proxy::h2) fn rst_stream(head: Head, payload: &[u8]) -> Result<Code, Fault> {
    if head.stream == 0 {
        return Err(WRONG);
    }
    let code = payload.try_into().map_err(|_| WRONG_SIZE)?;
    Ok(Code(u32::from_be_bytes(code)))
}

/// Checks a PING frame (section 6.7).
pub(in crate::proxy::h2) fn check_ping(head: Head, payload: &[u8]) -> Result<[u8; 8], Fault> {
    if head.stream != 0 {
        return Err(WRONG);
    }
    payload.try_into().map_err(|_| WRONG_SIZE)
}

/// Returns the last stream that is handled, and why there will be none after it (section 6.8).
pub(in crate::proxy::h2) fn goaway(head: Head, payload: &[u8]) -> Result<(u32, Code), Fault> {
    if head.stream != 0 {
        return Err(WRONG);
    }
    let (last, rest) = payload.split_first_chunk().ok_or(WRONG_SIZE)?;
    let (code, _) = rest.split_first_chunk().ok_or(WRONG_SIZE)?;
    let last = u32::from_be_bytes(*last) & super::MAX_STREAM;
    Ok((last, Code(u32::from_be_bytes(*code))))
}

/// Returns by how much a window grows (section 6.9).
pub(in crate::proxy::h2) fn window_update(head: Head, payload: &[u8]) -> Result<i64, Fault> {
    let by: [u8; 4] = payload.try_into().map_err(|_| WRONG_SIZE)?;
    match (u32::from_be_bytes(by) & super::MAX_STREAM, head.stream) {
        (0, 0) => Err(WRONG),
        (0, stream) => Err(Fault::Stream(stream, Code::PROTOCOL_ERROR)),
        (by, _) => Ok(i64::from(by)),
    }
}

/// What a SETTINGS frame says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(in crate::proxy::h2) struct Settings {
    pub(in crate::proxy::h2) table_bytes: Option<u32>,
    pub(in crate::proxy::h2) push: Option<bool>,
    pub(in crate::proxy::h2) streams: Option<u32>,
    pub(in crate::proxy::h2) window: Option<i64>,
    pub(in crate::proxy::h2) payload: Option<usize>,
    pub(in crate::proxy::h2) connect: Option<bool>,
}

impl Settings {
    /// Reads them (section 6.5); `None`: it acknowledges ours.
    pub(in crate::proxy::h2) fn read(head: Head, payload: &[u8]) -> Result<Option<Self>, Fault> {
        if head.stream != 0 {
            return Err(WRONG);
        }
        if head.has(flag::ACK) {
            return match payload {
                [] => Ok(None),
                _ => Err(WRONG_SIZE),
            };
        }
        let (entries, rest) = payload.as_chunks::<6>();
        if !rest.is_empty() {
            return Err(WRONG_SIZE);
        }
        let mut settings = Self::default();
        for [id, name, value @ ..] in entries {
            let id = u16::from_be_bytes([*id, *name]);
            settings.set(id, u32::from_be_bytes(*value))?;
        }
        Ok(Some(settings))
    }

    fn set(&mut self, id: u16, value: u32) -> Result<(), Fault> {
        match id {
            setting::HEADER_TABLE_SIZE => self.table_bytes = Some(value),
            setting::ENABLE_PUSH => self.push = Some(switch(value)?),
            setting::MAX_CONCURRENT_STREAMS => self.streams = Some(value),
            setting::INITIAL_WINDOW_SIZE if i64::from(value) > MAX_WINDOW => {
                return Err(Fault::Connection(Code::FLOW_CONTROL_ERROR));
            }
            setting::INITIAL_WINDOW_SIZE => self.window = Some(i64::from(value)),
            setting::MAX_FRAME_SIZE => match value {
                0x4000..=0xff_ffff => self.payload = usize::try_from(value).ok(),
                _ => return Err(WRONG),
            },
            setting::ENABLE_CONNECT_PROTOCOL => self.connect = Some(switch(value)?),
            // What is unknown is ignored; the size of a list is advice, and the other end's business.
            _ => {}
        }
        Ok(())
    }
}

fn switch(value: u32) -> Result<bool, Fault> {
    match value {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(WRONG),
    }
}
