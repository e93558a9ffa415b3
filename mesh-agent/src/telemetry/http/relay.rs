//! Connections that are passed on byte by byte: what is counted of them, and their lines in the access log.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use crate::model::balanced::PortId;
use crate::telemetry::flow::{ServiceRef, WorkloadRef};
use crate::telemetry::http::record::{RelayEnd, RelayRecord};
use crate::telemetry::metrics::page::Page;
use crate::telemetry::metrics::table::{self, OTHER};

/// Service ports with series of their own, as of clusters: what is dialled after that is added up.
const SERVICES_MAX: usize = 1_000;

/// Bytes of a name that come from the client.
const WORD_BYTES: usize = 256;

/// A connection that has ended, for the access log.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(super) struct Relay {
    /// When it came.
    pub(super) start: Timestamp,
    /// `TCP`, where requests have their version of HTTP.
    pub(super) protocol: &'static str,
    /// The name that its `ClientHello` asked for.
    pub(super) server_name: Option<String>,
    /// How it ended.
    pub(super) end: &'static str,
    /// Bytes that came from the client.
    pub(super) received_bytes: u64,
    /// Bytes that went to it.
    pub(super) sent_bytes: u64,
    /// How long it lasted, in microseconds.
    pub(super) duration_us: u64,
    /// How long it took to connect to the endpoint.
    pub(super) connect_us: u64,
    pub(super) source: WorkloadRef,
    pub(super) source_address: SocketAddr,
    pub(super) service: ServiceRef,
    pub(super) backend: Option<ServiceRef>,
    pub(super) endpoint: Option<SocketAddr>,
}

impl Relay {
    pub(super) fn of(record: &RelayRecord<'_>, now: Timestamp) -> Self {
        let total = i64::try_from(record.total_ns).unwrap_or(i64::MAX);
        let start = now.saturating_sub(SignedDuration::from_nanos(total));
        let name = |name: &str| name[..name.floor_char_boundary(WORD_BYTES)].to_owned();
        Self {
            // Fails for spans of calendar units only.
            start: start.unwrap_or(now),
            protocol: "TCP",
            server_name: record.server_name.map(name),
            end: record.end.word(),
            received_bytes: record.received,
            sent_bytes: record.sent,
            duration_us: record.total_ns / 1_000,
            connect_us: record.connect_ns / 1_000,
            source: WorkloadRef::from((*record.client.workload).clone()),
            source_address: record.client.address,
            service: ServiceRef::from(&*record.client.port),
            backend: record.destination.map(|id| ServiceRef::from(&**id)),
            endpoint: record.endpoint,
        }
    }
}

/// Which service ports have series of their own, of all data threads: the first ones, for good. So no series goes that was shown.
#[derive(Debug, Default)]
pub(super) struct Shown(Mutex<BTreeSet<Arc<PortId>>>);

impl Shown {
    /// Returns whether a port has series, or gets them.
    fn take(&self, port: &Arc<PortId>) -> bool {
        let mut ports = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ports.contains(port) || (ports.len() < SERVICES_MAX && ports.insert(port.clone()))
    }
}

/// What one data thread counts, by the service port that was dialled; `None`: all beyond the bound.
#[derive(Debug, Default)]
pub(super) struct Relays(BTreeMap<Option<Arc<PortId>>, Sums>);

#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    ends: [u64; RelayEnd::ALL.len()],
    received: u64,
    sent: u64,
}

impl Relays {
    pub(super) fn count(&mut self, record: &RelayRecord<'_>, shown: &Shown) {
        let port = Some(record.client.port.clone());
        // Who is counted here already need not ask.
        let key = port.filter(|it| self.0.contains_key(&Some(it.clone())) || shown.take(it));
        let sums = self.0.entry(key).or_default();
        sums.ends[record.end as usize] += 1;
        sums.received += record.received;
        sums.sent += record.sent;
    }

    pub(super) fn add(&mut self, other: &Self) {
        for (port, its) in &other.0 {
            let sums = self.0.entry(port.clone()).or_default();
            for (mine, its) in sums.ends.iter_mut().zip(its.ends) {
                *mine += its;
            }
            sums.received += its.received;
            sums.sent += its.sent;
        }
    }

    pub(super) fn show(&self, page: &mut Page) {
        for (port, sums) in &self.0 {
            let number = port
                .as_ref()
                .map_or(OTHER.to_owned(), |it| it.port.to_string());
            let labels = match port {
                Some(port) => [&*port.service.namespace, &*port.service.name, &*number],
                None => [OTHER; 3],
            };
            for end in RelayEnd::ALL {
                let count = sums.ends[end as usize];
                if count > 0 {
                    let labels = [&labels[..], &[end.word()]].concat();
                    page.count(&table::TCP_CONNECTIONS, &labels, count);
                }
            }
            page.count(&table::TCP_RECEIVED, &labels, sums.received);
            page.count(&table::TCP_SENT, &labels, sums.sent);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::http::fake::Sample;
    use crate::telemetry::http::record::Client;

    fn count(relays: &mut Relays, client: &Client, shown: &Shown) {
        let record = RelayRecord {
            client,
            destination: None,
            endpoint: None,
            server_name: None,
            end: RelayEnd::Closed,
            received: 1,
            sent: 2,
            connect_ns: 0,
            total_ns: 0,
        };
        relays.count(&record, shown);
    }

    #[test]
    fn services_beyond_the_bound_of_all_threads_are_added_up() {
        let shown = Shown::default();
        let mut threads = [Relays::default(), Relays::default()];
        let mut client = Sample::default().client;
        // Each thread has others than the other one, but for one of each hundred.
        for number in 0..SERVICES_MAX {
            for (which, thread) in threads.iter_mut().enumerate() {
                let number = match number % 100 {
                    0 => number,
                    _ => 2 * number + which,
                };
                Arc::make_mut(&mut client.port).service.name = format!("s{number}");
                count(thread, &client, &shown);
            }
        }
        let mut both = Relays::default();
        threads.iter().for_each(|thread| both.add(thread));
        assert_eq!(both.0.len(), SERVICES_MAX + 1);
        let sum: u64 = both.0.values().map(|sums| sums.received).sum();
        assert_eq!(sum, 2 * SERVICES_MAX as u64);
        let (other, before) = (both.0[&None], both);
        assert_eq!(other.ends[0], other.received);
        assert_eq!(other.sent, 2 * other.received);
        // Who is shown stays, whoever comes.
        Arc::make_mut(&mut client.port).service.name = "a".to_owned();
        count(&mut threads[0], &client, &shown);
        let mut both = Relays::default();
        threads.iter().for_each(|thread| both.add(thread));
        assert!(both.0.keys().eq(before.0.keys()));
        assert_eq!(both.0[&None].received, other.received + 1);
    }
}
