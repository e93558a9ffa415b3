//! Annotations of a `Service`: how it is balanced, in what Kubernetes has no field for.
#![forbid(unsafe_code)]

use std::time::Duration;

use mesh_common::balance::Algorithm;

use crate::config::duration;
use crate::config::known;
use crate::config::limits;
use crate::config::mark;
use crate::config::metadata::{Mark, Metadata};
use crate::config::reader::Reader;
use crate::model::service::{Balance, Drain, HealthCheck, Probe, WithoutBackend};

const ALGORITHMS: [(&str, Algorithm); 4] = [
    ("random", Algorithm::Random),
    ("round-robin", Algorithm::RoundRobin),
    ("least-connections", Algorithm::LeastConnections),
    ("maglev", Algorithm::Maglev),
];

/// A check every 5 s that fails three times in a row finds a dead endpoint within 15 s, at the cost of a connection in 5 s.
const DEFAULT_CHECK: HealthCheck = HealthCheck {
    probe: Probe::Tcp,
    interval: Duration::from_secs(5),
    timeout: Duration::from_secs(1),
    unhealthy: 3,
    healthy: 2,
};
/// The most often that an endpoint may be checked: beyond it checks become load.
const INTERVAL_AT_LEAST: Duration = Duration::from_millis(100);

/// Returns what the annotations say, and the defaults where they say nothing.
pub(crate) fn read(reader: &mut Reader, metadata: &Metadata) -> Balance {
    let marks = &metadata.marks;
    mark::only(reader, marks, known::SERVICE_ANNOTATIONS);
    let default = Balance::default();
    let without = [
        ("refuse", WithoutBackend::Refuse),
        ("drop", WithoutBackend::Drop),
    ];
    let switch = [("on", true), ("off", false)];
    Balance {
        algorithm: mark::word(reader, marks, known::ALGORITHM, &ALGORITHMS)
            .unwrap_or(default.algorithm),
        slow_start: find(marks, known::SLOW_START)
            .and_then(|mark| time(reader, mark, &mark.value))
            .filter(|time| !time.is_zero()),
        drain: find(marks, known::DRAIN).map_or(default.drain, |mark| drain(reader, mark)),
        without_backend: mark::word(reader, marks, known::NO_BACKEND, &without)
            .unwrap_or(default.without_backend),
        health_check: find(marks, known::HEALTH_CHECK).and_then(|mark| health_check(reader, mark)),
        outlier_detection: mark::word(reader, marks, known::OUTLIER_DETECTION, &switch)
            .unwrap_or(default.outlier_detection),
    }
}

fn find<'m>(marks: &'m [Mark], name: &str) -> Option<&'m Mark> {
    marks.iter().find(|mark| mark.name == name)
}

fn time(reader: &mut Reader, mark: &Mark, text: &str) -> Option<Duration> {
    let help = match duration::parse(text) {
        Some(time) if time <= limits::DURATION => return Some(time),
        Some(_) => "give 24h at most",
        None => "write it like `10s`, `500ms` or `1m30s`",
    };
    let problem = format!("`{text}` is not a duration that can be used");
    reader.error(mark.line, &mark.path, problem, help);
    None
}

fn drain(reader: &mut Reader, mark: &Mark) -> Drain {
    match mark.value.as_str() {
        "keep" => Drain::Keep,
        "now" => Drain::Now,
        text => {
            if duration::parse(text).is_none() {
                let problem = format!("`{text}` is no way to drain");
                let help = "write `keep`, `now`, or a duration such as `30s`";
                reader.error(mark.line, &mark.path, problem, help);
                return Drain::Keep;
            }
            match time(reader, mark, text) {
                Some(Duration::ZERO) => Drain::Now,
                Some(time) => Drain::After(time),
                None => Drain::Keep,
            }
        }
    }
}

/// Reads `PROBE;interval=5s;timeout=1s;unhealthy=3;healthy=2`.
fn health_check(reader: &mut Reader, mark: &Mark) -> Option<HealthCheck> {
    let mut parts = mark.value.split(';').map(str::trim);
    let mut check = HealthCheck {
        probe: probe(reader, mark, parts.next().unwrap_or_default())?,
        ..DEFAULT_CHECK
    };
    for part in parts.filter(|part| !part.is_empty()) {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        let name = name.trim();
        match name {
            "interval" => check.interval = time(reader, mark, value.trim())?,
            "timeout" => check.timeout = time(reader, mark, value.trim())?,
            "unhealthy" => check.unhealthy = count(reader, mark, part, value.trim())?,
            "healthy" => check.healthy = count(reader, mark, part, value.trim())?,
            _ => {
                let known = ["interval", "timeout", "unhealthy", "healthy"];
                let help = match known::nearest(name, &known) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("write any of {}", known.join(", ")),
                };
                let problem = format!("`{name}` is no part of a health check");
                reader.error(mark.line, &mark.path, problem, help);
                return None;
            }
        }
    }
    if check.interval < INTERVAL_AT_LEAST || check.timeout.is_zero() {
        let problem = "checks too often, or gives no time to answer";
        let help = "give an interval of 100ms at least, and a timeout above zero";
        reader.error(mark.line, &mark.path, problem, help);
        return None;
    }
    Some(check)
}

fn probe(reader: &mut Reader, mark: &Mark, text: &str) -> Option<Probe> {
    let (word, rest) = match text.split_once(':') {
        Some((word, rest)) => (word, Some(rest)),
        None => (text, None),
    };
    let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
    match (word, rest) {
        ("tcp", None) => return Some(Probe::Tcp),
        ("http", Some(path)) if path.starts_with('/') && plain(path) => {
            return Some(Probe::Http {
                path: path.to_owned(),
            });
        }
        ("grpc", service) if service.is_none_or(plain) => {
            return Some(Probe::Grpc {
                service: service.unwrap_or_default().to_owned(),
            });
        }
        _ => {}
    }
    let problem = format!("`{text}` is no way to check an endpoint");
    let help = "write `tcp`, `http:/path`, `grpc` or `grpc:service`";
    reader.error(mark.line, &mark.path, problem, help);
    None
}

fn count(reader: &mut Reader, mark: &Mark, part: &str, text: &str) -> Option<u32> {
    if let Ok(count @ 1..=limits::CHECKS) = text.parse() {
        return Some(count);
    }
    let problem = format!("`{part}` is not a number of checks");
    let help = format!("give a whole number from 1 to {}", limits::CHECKS);
    reader.error(mark.line, &mark.path, problem, help);
    None
}
