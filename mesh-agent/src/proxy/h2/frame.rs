//! Frames of HTTP/2 (RFC 9113, sections 4 and 6): how they look, and which are none.

mod read;
#[cfg(test)]
mod tests;
mod write;

pub(super) use read::{
    Settings, check_ping, check_priority, goaway, headers, rst_stream, unpadded, window_update,
};
pub(super) use write::{
    begin_headers, data_head, end_headers, goaway as write_goaway, ping, rst_stream as write_reset,
    settings, settings_ack, window_update as write_window,
};

/// Bytes before a frame's payload.
pub(super) const HEAD: usize = 9;
/// Bytes of a payload: what everybody takes, and more than which we do not.
pub(super) const MAX_PAYLOAD: usize = 16_384;
/// What a window may not grow beyond.
pub(super) const MAX_WINDOW: i64 = (1 << 31) - 1;
/// Bytes of each window at the beginning.
pub(super) const FIRST_WINDOW: u32 = 65_535;
/// The highest number of a stream.
pub(super) const MAX_STREAM: u32 = (1 << 31) - 1;

/// Types of frames.
pub(super) mod kind {
    pub(in crate::proxy::h2) const DATA: u8 = 0;
    pub(in crate::proxy::h2) const HEADERS: u8 = 1;
    pub(in crate::proxy::h2) const PRIORITY: u8 = 2;
    pub(in crate::proxy::h2) const RST_STREAM: u8 = 3;
    pub(in crate::proxy::h2) const SETTINGS: u8 = 4;
    pub(in crate::proxy::h2) const PUSH_PROMISE: u8 = 5;
    pub(in crate::proxy::h2) const PING: u8 = 6;
    pub(in crate::proxy::h2) const GOAWAY: u8 = 7;
    pub(in crate::proxy::h2) const WINDOW_UPDATE: u8 = 8;
    pub(in crate::proxy::h2) const CONTINUATION: u8 = 9;
}

/// Flags of frames.
pub(super) mod flag {
    pub(in crate::proxy::h2) const END_STREAM: u8 = 0x1;
    pub(in crate::proxy::h2) const ACK: u8 = 0x1;
    pub(in crate::proxy::h2) const END_HEADERS: u8 = 0x4;
    pub(in crate::proxy::h2) const PADDED: u8 = 0x8;
    pub(in crate::proxy::h2) const PRIORITY: u8 = 0x20;
}

/// Settings (section 6.5.2).
pub(super) mod setting {
    pub(in crate::proxy::h2) const HEADER_TABLE_SIZE: u16 = 1;
    pub(in crate::proxy::h2) const ENABLE_PUSH: u16 = 2;
    pub(in crate::proxy::h2) const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub(in crate::proxy::h2) const INITIAL_WINDOW_SIZE: u16 = 4;
    pub(in crate::proxy::h2) const MAX_FRAME_SIZE: u16 = 5;
    pub(in crate::proxy::h2) const MAX_HEADER_LIST_SIZE: u16 = 6;
    pub(in crate::proxy::h2) const ENABLE_CONNECT_PROTOCOL: u16 = 8;
}

/// Why a stream or a connection ends (section 7).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Code(pub(super) u32);

impl Code {
    pub(super) const NO_ERROR: Self = Self(0);
    pub(super) const PROTOCOL_ERROR: Self = Self(1);
    pub(super) const INTERNAL_ERROR: Self = Self(2);
    pub(super) const FLOW_CONTROL_ERROR: Self = Self(3);
    pub(super) const SETTINGS_TIMEOUT: Self = Self(4);
    pub(super) const STREAM_CLOSED: Self = Self(5);
    pub(super) const FRAME_SIZE_ERROR: Self = Self(6);
    pub(super) const REFUSED_STREAM: Self = Self(7);
    pub(super) const CANCEL: Self = Self(8);
    pub(super) const COMPRESSION_ERROR: Self = Self(9);
    pub(super) const ENHANCE_YOUR_CALM: Self = Self(11);
}

/// What is wrong with a frame, and what that ends (section 5.4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    /// The connection.
    Connection(Code),
    /// This stream.
    Stream(u32, Code),
}

/// What stands before a frame's payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Head {
    /// Bytes of the payload.
    pub(super) length: usize,
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
}

impl Head {
    /// Reads one; `None`: it is not all there.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let ([a, b, c, kind, flags, stream @ ..], _) = bytes.split_first_chunk::<HEAD>()?;
        Some(Self {
            length: usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c),
            kind: *kind,
            flags: *flags,
            // The first bit is reserved.
            stream: u32::from_be_bytes(*stream) & MAX_STREAM,
        })
    }

    /// Returns whether a flag is set.
    pub(super) fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}
