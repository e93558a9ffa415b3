//! A collector of spans: OTLP over HTTP, as much of it as the tests look at.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use harness::Node;
use harness::wait::{PATIENCE, pause, wait_for_some};
use prost::Message;

/// Where it listens, on the node.
pub(super) const ADDRESS: &str = "127.0.0.1:4318";

/// How often it looks for connections, and whether it is to end.
const LOOK: Duration = Duration::from_millis(5);

#[derive(Clone, PartialEq, Message)]
struct Export {
    #[prost(message, repeated, tag = "1")]
    resources: Vec<OfResource>,
}

#[derive(Clone, PartialEq, Message)]
struct OfResource {
    #[prost(message, repeated, tag = "2")]
    scopes: Vec<OfScope>,
}

#[derive(Clone, PartialEq, Message)]
struct OfScope {
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Span>,
}

/// A span.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Span {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) span_id: Vec<u8>,
    #[prost(string, tag = "3")]
    pub(super) trace_state: String,
    #[prost(bytes = "vec", tag = "4")]
    pub(super) parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    pub(super) name: String,
    #[prost(fixed64, tag = "7")]
    pub(super) start_ns: u64,
    #[prost(fixed64, tag = "8")]
    pub(super) end_ns: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
    #[prost(message, optional, tag = "15")]
    pub(super) status: Option<Status>,
}

/// How it ended.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Status {
    #[prost(int32, tag = "3")]
    pub(super) code: i32,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct AnyValue {
    #[prost(int64, optional, tag = "3")]
    whole: Option<i64>,
}

impl Span {
    /// Returns an attribute that is a number.
    pub(super) fn number(&self, key: &str) -> Option<i64> {
        let found = self.attributes.iter().find(|it| it.key == key)?;
        found.value.as_ref()?.whole
    }
}

/// Returns bytes as they stand in `traceparent`.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A running collector.
#[derive(Debug)]
pub(super) struct Collector {
    spans: Arc<Mutex<Vec<Span>>>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Collector {
    /// Starts one on a node.
    pub(super) fn start(node: &Node) -> Self {
        let listener = node.enter(|| TcpListener::bind(ADDRESS)).unwrap().unwrap();
        listener.set_nonblocking(true).unwrap();
        let (spans, ends) = (Arc::<Mutex<Vec<Span>>>::default(), Arc::default());
        let (to, end) = (Arc::clone(&spans), Arc::clone(&ends));
        let thread = std::thread::spawn(move || run(&listener, &to, &end));
        Self {
            spans,
            ends,
            thread: Some(thread),
        }
    }

    /// Waits for the span of a trace.
    pub(super) fn span(&self, trace: &str) -> Span {
        let what = format!("the span of trace {trace}");
        wait_for_some(&what, PATIENCE, || self.find(trace)).unwrap()
    }

    /// Returns the span of a trace, if it has come.
    pub(super) fn find(&self, trace: &str) -> Option<Span> {
        let spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        let mut of = spans.iter().filter(|it| hex(&it.trace_id) == trace);
        let found = of.next().cloned();
        assert!(of.next().is_none(), "two spans of one request");
        found
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            eprintln!("the collector has failed");
        }
    }
}

/// Takes one connection after the other: the agent has one.
fn run(listener: &TcpListener, spans: &Mutex<Vec<Span>>, ends: &AtomicBool) {
    while !ends.load(Ordering::Relaxed) {
        match listener.accept() {
            // One that breaks off is followed by another.
            Ok((stream, _)) => serve(&stream, spans, ends).unwrap_or(()),
            Err(_) => pause(LOOK),
        }
    }
}

fn serve(
    mut stream: &TcpStream,
    spans: &Mutex<Vec<Span>>,
    ends: &AtomicBool,
) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    loop {
        // The connection is kept, and silent most of the time.
        stream.set_read_timeout(Some(LOOK))?;
        while matches!(stream.peek(&mut [0]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
        {
            if ends.load(Ordering::Relaxed) {
                return Ok(());
            }
        }
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut reader = BufReader::new(stream);
        let mut length = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let line = line.trim_end().to_ascii_lowercase();
            if let Some(number) = line.strip_prefix("content-length:") {
                length = number.trim().parse().unwrap();
            }
            if line.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let export = Export::decode(&body[..]).unwrap();
        let scopes = export.resources.into_iter().flat_map(|it| it.scopes);
        let came = scopes.flat_map(|it| it.spans);
        let mut all = spans.lock().unwrap_or_else(PoisonError::into_inner);
        all.extend(came);
        drop(all);
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")?;
    }
}
