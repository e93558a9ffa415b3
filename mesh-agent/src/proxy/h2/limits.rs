//! What a connection may take, and how long it may be silent. How long a request may take is the exchange's business.

use std::time::Duration;

use super::session::Bounds;

/// Without a stream, until memory is given back.
pub(super) const TRIM: Duration = Duration::from_secs(5);

/// The shortest time between two looks at the clock.
pub(super) const TICK: Duration = Duration::from_millis(10);

/// Limits of a client's connection.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Streams at the same time. As many as any client library opens by itself; what is above waits at the client.
    pub streams: u32,
    /// Bytes of a body that a client may send ahead on one stream.
    pub stream_window: u32,
    /// The same on all streams together: so four streams that nobody reads hold back the others.
    pub connection_window: u32,
    /// Bytes of a list of fields, 32 for each line included: 32 KiB is twice what browsers and proxies send at most.
    pub header_list: u32,
    /// Lines of it.
    pub header_lines: usize,
    /// Bytes of path and query.
    pub target: usize,
    /// Bytes of a response that wait in a stream for the socket: a few of the pieces that upstreams send.
    pub send_buffer: usize,
    /// Until the preface is there, and until our settings are followed.
    pub handshake: Duration,
    /// Without any stream, until the connection closes. More than the 60 s that upstreams keep theirs.
    pub idle: Duration,
    /// Between two PINGs while streams are open.
    pub keep_alive: Duration,
    /// Until a PING's answer, and until a client that was told to go and has no stream left is gone.
    pub answer: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            streams: 200,
            stream_window: 256 << 10,
            connection_window: 1 << 20,
            header_list: 32 << 10,
            header_lines: 100,
            target: 16 << 10,
            send_buffer: 64 << 10,
            handshake: Duration::from_secs(10),
            idle: Duration::from_secs(75),
            keep_alive: Duration::from_secs(30),
            answer: Duration::from_secs(10),
        }
    }
}

impl Limits {
    pub(super) fn bounds(&self) -> Bounds {
        Bounds {
            streams: self.streams as usize,
            stream_window: self.stream_window,
            connection_window: self.connection_window,
            header_list: self.header_list,
            header_lines: self.header_lines,
            target: self.target,
            send_buffer: self.send_buffer,
        }
    }
}

impl ClientLimits {
    pub(super) fn bounds(&self) -> Bounds {
        Bounds {
            streams: 0,
            stream_window: self.stream_window,
            connection_window: self.connection_window,
            header_list: self.header_list,
            header_lines: 0,
            target: 0,
            send_buffer: self.send_buffer,
        }
    }
}

/// Limits of a connection to an upstream.
#[derive(Clone, Debug)]
pub struct ClientLimits {
    /// Streams at the same time, if the upstream allows as many: what one connection is worth sharing by.
    pub streams: usize,
    /// Bytes of a body that the upstream may send ahead on one stream.
    pub stream_window: u32,
    /// The same on all streams together.
    pub connection_window: u32,
    /// Bytes of a list of fields, 32 for each line included.
    pub header_list: u32,
    /// Bytes of a request that wait in a stream for the socket.
    pub send_buffer: usize,
    /// Until the preface is written.
    pub handshake: Duration,
    /// Without any stream, until the connection closes: before the upstream's own time, which is 60 s or more anywhere.
    pub idle: Duration,
    /// Until no new stream is opened on it.
    pub age: Duration,
    /// Between two PINGs while streams are open.
    pub keep_alive: Duration,
    /// Until a PING's answer.
    pub answer: Duration,
}

impl Default for ClientLimits {
    fn default() -> Self {
        Self {
            streams: 250,
            stream_window: 256 << 10,
            connection_window: 1 << 20,
            header_list: 32 << 10,
            send_buffer: 64 << 10,
            handshake: Duration::from_secs(10),
            idle: Duration::from_secs(50),
            age: Duration::from_secs(3600),
            keep_alive: Duration::from_secs(30),
            answer: Duration::from_secs(10),
        }
    }
}
