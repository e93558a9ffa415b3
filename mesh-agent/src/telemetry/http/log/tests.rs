//! Tests of `telemetry::http::log`.

use std::sync::Mutex;
use std::sync::mpsc::Sender;
use std::time::Instant;

use super::*;
use crate::l7::flag::Flag;
use crate::telemetry::http::fake::Sample;
use crate::telemetry::http::record::{RelayEnd, RelayRecord};

/// Passes on what is written, once it may.
struct Gate {
    open: Receiver<()>,
    written: Sender<String>,
}

impl Target for Gate {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Closed for good is open.
        let (Ok(()) | Err(_)) = self.open.recv();
        let text = String::from_utf8(bytes.to_vec()).map_err(io::Error::other)?;
        self.written.send(text).map_err(io::Error::other)?;
        Ok(bytes.len())
    }
}

fn gated(format: LogFormat) -> (AccessLog, Sender<()>, Receiver<String>) {
    let (key, open) = mpsc::channel();
    let (written, lines) = mpsc::channel();
    let log = AccessLog::spawn(Gate { open, written }, format).unwrap();
    (log, key, lines)
}

fn writer<T: Target>(target: T) -> Writer<T> {
    Writer {
        requests: mpsc::sync_channel(1).1,
        stopping: mpsc::channel().1,
        target,
        format: LogFormat::Json,
        counters: Arc::default(),
        buffer: Vec::new(),
        lines: 0,
        is_torn: false,
        is_failing: false,
    }
}

fn request() -> Line {
    Line::Request(Arc::new(Sample::default().request()))
}

#[test]
fn a_line_of_json_has_every_field() {
    let (log, key, lines) = gated(LogFormat::Json);
    let mut sample = Sample::default();
    sample.flags.raise(Flag::UpstreamTimeout);
    log.take(Line::Request(Arc::new(sample.request())));
    drop(key);
    let line = lines.recv().unwrap();
    let value: serde_json::Value = serde_json::from_str(line.trim_end()).unwrap();
    for (field, expected) in [
        ("method", "GET".into()),
        ("authority", "cart.shop".into()),
        ("path", "/items?id=\"7\"".into()),
        ("protocol", "HTTP/1.1".into()),
        ("status", 200.into()),
        ("flags", serde_json::json!(["UT"])),
        ("received_bytes", 10.into()),
        ("sent_bytes", 2000.into()),
        ("duration_us", 1000.into()),
        ("upstream_us", 600.into()),
        ("endpoint", "10.0.0.2:8080".into()),
        ("attempts", 1.into()),
        ("route", "shop/cart/0".into()),
        ("request_id", serde_json::Value::Null),
        (
            "source",
            serde_json::json!({"namespace": "shop", "name": "web"}),
        ),
    ] {
        assert_eq!(value[field], expected, "{field} of {line}");
    }
    assert!(value.get("span").is_none());
}

#[test]
fn a_line_of_text_is_one_line_whatever_the_client_sends() {
    let sample = Sample {
        original: Some(("/\n\u{1b}[31m\"".to_owned(), "a\r\nb".to_owned())),
        ..Sample::default()
    };
    let mut line = Vec::new();
    line::append(
        &mut line,
        &Line::Request(Arc::new(sample.request())),
        LogFormat::Text,
    );
    let line = String::from_utf8(line).unwrap();
    assert_eq!(line.trim_end().lines().count(), 1, "{line}");
    assert!(
        line.starts_with("[1969-12-31T23:59:59.999Z] \"GET /\\n"),
        "{line}"
    );
    assert!(!line.contains('\u{1b}'));
    let tail = "to=shop/cart:80 backend=shop/cart-v2:80 endpoint=10.0.0.2:8080 route=shop/cart/0 id=- trace=- why=-\n";
    assert!(line.ends_with(tail), "{line}");
}

#[test]
fn what_finds_no_room_is_dropped_and_counted_and_nobody_waits() {
    let (log, key, lines) = gated(LogFormat::Text);
    // The thread takes a buffer's worth and hangs in the write; the queue fills behind it.
    let mut line = Vec::new();
    line::append(&mut line, &request(), LogFormat::Text);
    let held = BUFFER.div_ceil(line.len());
    let all = QUEUE + held + 1_000;
    let begun = Instant::now();
    for _ in 0..all {
        log.take(request());
    }
    let dropped = log.counters.dropped.load(Ordering::Relaxed);
    assert!(dropped >= 1_000, "{dropped}");
    assert!(begun.elapsed() < Duration::from_secs(30), "somebody waited");
    let counters = log.counters.clone();
    drop(key);
    drop(log);
    let written: usize = lines.iter().map(|text| text.lines().count()).sum();
    assert_eq!(
        written as u64 + dropped,
        all as u64,
        "nothing is lost silently"
    );
    assert_eq!(counters.written.load(Ordering::Relaxed), written as u64);
}

#[test]
fn a_target_that_fails_is_counted_as_dropped() {
    struct Full(Arc<Mutex<u64>>);
    impl Target for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            *self.0.lock().unwrap() += 1;
            Err(io::ErrorKind::StorageFull.into())
        }
    }
    let writes = Arc::<Mutex<u64>>::default();
    let log = AccessLog::spawn(Full(writes.clone()), LogFormat::Json).unwrap();
    log.take(request());
    let counters = log.counters.clone();
    drop(log);
    assert_eq!(*writes.lock().unwrap(), 1);
    assert_eq!(counters.dropped.load(Ordering::Relaxed), 1);
    assert_eq!(counters.written.load(Ordering::Relaxed), 0);
}

#[test]
fn a_line_that_did_not_fit_spoils_no_other() {
    /// A disk with room for so many bytes, which somebody empties while nothing fits. Takes a few at a time.
    struct Disk(Arc<Mutex<(usize, Vec<u8>)>>);
    impl Target for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let (room, all) = &mut *self.0.lock().unwrap();
            let taken = bytes.len().min(*room).min(100);
            if taken == 0 {
                *room = usize::MAX;
                return Err(io::ErrorKind::StorageFull.into());
            }
            *room -= taken;
            all.extend_from_slice(&bytes[..taken]);
            Ok(taken)
        }
    }
    let mut line = Vec::new();
    line::append(&mut line, &request(), LogFormat::Json);
    let room = line.len() * 5 / 2;
    let disk = Arc::new(Mutex::new((room, Vec::new())));
    let mut writer = writer(Disk(disk.clone()));
    for _ in 0..4 {
        writer.add(&request());
    }
    // Two lines and a half; then there is room.
    writer.flush();
    writer.add(&request());
    writer.flush();
    let counters = &writer.counters;
    assert_eq!(counters.written.load(Ordering::Relaxed), 3);
    assert_eq!(counters.dropped.load(Ordering::Relaxed), 2);
    let all = disk.lock().unwrap().1.clone();
    let lines: Vec<_> = all.split(|it| *it == b'\n').collect();
    let whole = |line: &&[u8]| serde_json::from_slice::<serde_json::Value>(line).is_ok();
    let is_whole: Vec<_> = lines.iter().map(whole).collect();
    assert_eq!(is_whole, [true, true, false, true, false]);
    assert!(lines[4].is_empty());
}

#[test]
fn a_file_that_was_renamed_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.log");
    let rotated = dir.path().join("access.log.1");
    let mut file = File::open(&path).unwrap();
    assert!(!file.renew().unwrap());
    file.append(b"first\n").unwrap();
    std::fs::rename(&path, &rotated).unwrap();
    assert!(file.renew().unwrap());
    file.append(b"second\n").unwrap();
    assert_eq!(std::fs::read_to_string(&rotated).unwrap(), "first\n");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "second\n");
    let log = AccessLog::start(&LogTarget::File(path.clone()), LogFormat::Json).unwrap();
    log.take(request());
    drop(log);
    let lines = std::fs::read_to_string(&path).unwrap();
    assert_eq!(lines.lines().count(), 2);
    let nowhere = LogTarget::File(dir.path().join("none/access.log"));
    assert!(AccessLog::start(&nowhere, LogFormat::Json).is_err());
}

#[test]
fn a_connection_that_was_passed_on_has_a_line_of_its_own() {
    let client = Sample::default().client;
    let relay = Relay::of(
        &RelayRecord {
            client: &client,
            destination: Some(&client.port),
            endpoint: "10.0.0.2:8080".parse().ok(),
            server_name: Some("cart\n"),
            end: RelayEnd::UpstreamReset,
            received: 10,
            sent: 2_000,
            connect_ns: 1_500_000,
            total_ns: 3_000_000,
        },
        jiff::Timestamp::UNIX_EPOCH,
    );
    let line = Line::Relay(Box::new(relay));
    let mut text = Vec::new();
    line::append(&mut text, &line, LogFormat::Text);
    assert_eq!(
        String::from_utf8(text).unwrap(),
        "[1969-12-31T23:59:59.997Z] TCP upstream_reset in=10 out=2000 took=3.000ms connect=1.500ms name=\"cart\\n\" from=shop/web at=10.0.0.1:40000 to=shop/cart:80 backend=shop/cart:80 endpoint=10.0.0.2:8080\n"
    );
    let mut json = Vec::new();
    line::append(&mut json, &line, LogFormat::Json);
    let value: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(
        (&value["end"], &value["sent_bytes"]),
        (&"upstream_reset".into(), &2000.into())
    );
}
