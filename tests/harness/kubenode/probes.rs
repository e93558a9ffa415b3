//! Probes of containers: whether they have started, are ready, are alive.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::spec::{items, text};
use crate::Node;

/// A probe, and what it found.
#[derive(Debug)]
pub(super) struct Probe {
    spec: Value,
    next: Instant,
    failures: u64,
    /// Whether it succeeded at last; nothing before the first time.
    pub(super) succeeded: Option<bool>,
}

impl Probe {
    /// Returns a container's probe of a sort, if it has one.
    pub(super) fn of(container: &Value, sort: &str) -> Option<Self> {
        let spec = container[sort].clone();
        spec.is_object().then(|| Self {
            spec,
            next: Instant::now(),
            failures: 0,
            succeeded: None,
        })
    }

    fn number(&self, field: &str, default: u64) -> u64 {
        self.spec[field].as_u64().unwrap_or(default)
    }

    /// Returns whether it failed so often that this counts.
    pub(super) fn has_failed(&self) -> bool {
        self.failures >= self.number("failureThreshold", 3)
    }

    /// Probes, if it is time to. `address` is the pod's; `exec` says whether words that run in the container succeed.
    pub(super) fn look(
        &mut self,
        node: &Node,
        container: &Value,
        address: &str,
        exec: &dyn Fn(&[String], i64) -> bool,
    ) {
        if Instant::now() < self.next {
            return;
        }
        self.next = Instant::now() + Duration::from_secs(self.number("periodSeconds", 10));
        let most = Duration::from_secs(self.number("timeoutSeconds", 1));
        let done = match self.spec["exec"]["command"].as_array() {
            Some(words) => {
                let words: Vec<String> = words.iter().map(text).collect();
                exec(&words, i64::try_from(most.as_secs()).unwrap_or(i64::MAX))
            }
            None => self
                .connects(node, container, address, most)
                .unwrap_or(false),
        };
        self.failures = if done { 0 } else { self.failures + 1 };
        // What was ready stays so until it failed often enough.
        if done || self.has_failed() || self.succeeded.is_none() {
            self.succeeded = Some(done);
        }
    }

    /// Connects from the node, as kubelet does.
    fn connects(&self, node: &Node, container: &Value, pod: &str, most: Duration) -> Result<bool> {
        let http = &self.spec["httpGet"];
        let way = if http.is_object() {
            http
        } else {
            &self.spec["tcpSocket"]
        };
        let host = way["host"].as_str().unwrap_or(pod);
        let address = SocketAddr::new(host.parse()?, port(container, &way["port"])?);
        let path = http["path"].as_str();
        node.enter(|| {
            let mut stream = TcpStream::connect_timeout(&address, most)?;
            let Some(path) = path else {
                return anyhow::Ok(true);
            };
            stream.set_read_timeout(Some(most))?;
            let head =
                format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
            stream.write_all(head.as_bytes())?;
            let mut line = [0; 12];
            stream.read_exact(&mut line)?;
            Ok(matches!(line[9], b'2' | b'3'))
        })?
    }
}

/// Returns a port that is named by its number or its name.
fn port(container: &Value, port: &Value) -> Result<u16> {
    let number = match port.as_str() {
        None => port.as_u64(),
        Some(name) => {
            let mut ports = items(&container["ports"]);
            let found = ports.find(|it| it["name"] == name);
            found.and_then(|it| it["containerPort"].as_u64())
        }
    };
    let number = number.with_context(|| format!("no port {port}"))?;
    Ok(u16::try_from(number)?)
}
