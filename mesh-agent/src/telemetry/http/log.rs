//! The access log: a line for each request, written by a thread of its own.
//!
//! Data threads hand requests to a bounded queue and never wait: what finds no room is counted as dropped. The thread makes lines
//! and writes them; whether the disk or the reader of standard output is slow matters to nobody else.

#![forbid(unsafe_code)]

mod file;
mod line;

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvError, RecvTimeoutError, SyncSender, TryRecvError};
use std::time::Duration;

use crate::telemetry::http::log::file::File;
use crate::telemetry::http::relay::Relay;
use crate::telemetry::http::request::Request;

/// Requests that wait to be written: a tenth of a second at 80,000 a second, and 8 MB where each is as long as can be.
const QUEUE: usize = 8192;

/// Bytes that are written at a time.
const BUFFER: usize = 64 * 1024;

/// How long the thread sleeps while requests come. It is not woken by each, which would cost the data threads a system call.
const PAUSE: Duration = Duration::from_millis(20);

/// How long nothing has to come until the thread waits to be woken.
const QUIET: Duration = Duration::from_secs(1);

/// Where lines go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LogTarget {
    /// Standard output.
    Stdout,
    /// This file: made where there is none, appended to, and opened anew when it was renamed or removed.
    File(PathBuf),
}

/// Form of a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LogFormat {
    /// One JSON object.
    #[default]
    Json,
    /// Text for a person.
    Text,
}

/// What became of requests that were to be logged.
#[derive(Debug, Default)]
pub(super) struct LogCounters {
    pub(super) written: AtomicU64,
    pub(super) dropped: AtomicU64,
}

/// What a line is made from.
#[derive(Debug)]
pub(super) enum Line {
    Request(Arc<Request>),
    Relay(Box<Relay>),
}

/// The data threads' end.
#[derive(Debug)]
pub(super) struct AccessLog {
    queue: Option<SyncSender<Line>>,
    pub(super) counters: Arc<LogCounters>,
    /// Wakes the thread by its end.
    stop: Option<mpsc::Sender<()>>,
    /// Says that the thread has ended.
    ended: std::sync::Mutex<Receiver<()>>,
}

/// How long the agent's end waits for the last lines.
const LAST_LINES: Duration = Duration::from_secs(1);

impl AccessLog {
    /// Opens the target and starts the thread.
    pub(super) fn start(target: &LogTarget, format: LogFormat) -> io::Result<Self> {
        match target {
            LogTarget::Stdout => Self::spawn(Stdout, format),
            LogTarget::File(path) => Self::spawn(File::open(path)?, format),
        }
    }

    fn spawn(target: impl Target, format: LogFormat) -> io::Result<Self> {
        let (queue, requests) = mpsc::sync_channel(QUEUE);
        let (end, ended) = mpsc::channel();
        let (stop, stopping) = mpsc::channel();
        let counters = Arc::<LogCounters>::default();
        let mut writer = Writer {
            requests,
            stopping,
            target,
            format,
            counters: counters.clone(),
            buffer: Vec::with_capacity(BUFFER),
            lines: 0,
            is_torn: false,
            is_failing: false,
        };
        let thread = std::thread::Builder::new().name("access-log".to_owned());
        thread.spawn(move || {
            writer.run();
            drop(end);
        })?;
        Ok(Self {
            queue: Some(queue),
            counters,
            stop: Some(stop),
            ended: ended.into(),
        })
    }

    /// Takes what is to be written. Never waits.
    pub(super) fn take(&self, request: Line) {
        let sent = self.queue.as_ref().map(|it| it.try_send(request));
        if !matches!(sent, Some(Ok(()))) {
            self.counters.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for AccessLog {
    /// Waits for the last lines, though not for ever: standard output may be a pipe that nobody reads.
    fn drop(&mut self) {
        self.queue = None;
        self.stop = None;
        let ended = self.ended.get_mut();
        let ended = ended.unwrap_or_else(std::sync::PoisonError::into_inner);
        if ended.recv_timeout(LAST_LINES) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("the last lines of the access log could not be written in time");
        }
    }
}

/// Where bytes go.
trait Target: Send + 'static {
    /// Makes sure that it is there; returns whether it is another one than before.
    fn renew(&mut self) -> io::Result<bool> {
        Ok(false)
    }

    /// Writes bytes, maybe a part only; returns how many.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;
}

struct Stdout;

impl Target for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut out = io::stdout().lock();
        out.write_all(bytes)?;
        out.flush()?;
        Ok(bytes.len())
    }
}

impl Target for File {
    fn renew(&mut self) -> io::Result<bool> {
        self.renew()
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.append(bytes)
    }
}

/// The thread's end.
struct Writer<T> {
    requests: Receiver<Line>,
    stopping: Receiver<()>,
    target: T,
    format: LogFormat,
    counters: Arc<LogCounters>,
    buffer: Vec<u8>,
    /// Lines in the buffer.
    lines: u64,
    /// The target ends with a part of a line: what came after it did not fit.
    is_torn: bool,
    is_failing: bool,
}

impl<T: Target> Writer<T> {
    fn run(&mut self) {
        let mut idle = Duration::ZERO;
        loop {
            match self.requests.try_recv() {
                Ok(request) => {
                    idle = Duration::ZERO;
                    self.add(&request);
                    continue;
                }
                Err(TryRecvError::Disconnected) => return self.flush(),
                Err(TryRecvError::Empty) => self.flush(),
            }
            if idle < QUIET {
                // By the time that this is the end, the queue is closed as well.
                let (Ok(()) | Err(_)) = self.stopping.recv_timeout(PAUSE);
                idle += PAUSE;
                continue;
            }
            match self.requests.recv() {
                Ok(request) => self.add(&request),

                Err(RecvError) => return self.flush(),
            }
            idle = Duration::ZERO;
        }
    }

    fn add(&mut self, request: &Line) {
        line::append(&mut self.buffer, request, self.format);
        self.lines += 1;
        if self.buffer.len() >= BUFFER {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if self.buffer.is_empty() {
            return;
        }
        let lines = std::mem::take(&mut self.lines);
        let (done, written) = self.write();
        let whole = self.buffer[..done].iter().filter(|it| **it == b'\n');
        let whole = whole.count() as u64;
        self.counters.written.fetch_add(whole, Ordering::Relaxed);
        let dropped = lines.saturating_sub(whole);
        self.counters.dropped.fetch_add(dropped, Ordering::Relaxed);
        self.buffer.clear();
        // Said once for each row of failures: a full disk stays full for a while.
        if let Err(error) = &written
            && !self.is_failing
        {
            tracing::error!(%error, "failed to write the access log; what cannot be written is counted as dropped");
        }
        self.is_failing = written.is_err();
    }

    /// Writes the buffer, on a line of its own; returns how much of it could be written.
    fn write(&mut self) -> (usize, io::Result<()>) {
        let mut done = 0;
        let mut write = || {
            self.is_torn &= !self.target.renew()?;
            if self.is_torn {
                put(&mut self.target, b"\n")?;
                self.is_torn = false;
            }
            while done < self.buffer.len() {
                done += put(&mut self.target, &self.buffer[done..])?;
            }
            Ok(())
        };
        let written = write();
        if let Some(last) = done.checked_sub(1) {
            self.is_torn = self.buffer[last] != b'\n';
        }
        (done, written)
    }
}

/// Writes at least a byte; returns how many.
fn put(target: &mut impl Target, bytes: &[u8]) -> io::Result<usize> {
    loop {
        match target.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            written => return written,
        }
    }
}

#[cfg(test)]
mod tests;
