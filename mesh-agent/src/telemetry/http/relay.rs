//! Connections that are passed on byte by byte: what is counted of them, and their lines in the access log.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

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
    pub(super) fn count(&mut self, record: &RelayRecord<'_>) {
        let port = Some(record.client.port.clone());
        let key = port.filter(|_| {
            self.0.len() < SERVICES_MAX || self.0.contains_key(&Some(record.client.port.clone()))
        });
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

    #[test]
    fn services_beyond_the_bound_are_added_up() {
        let mut relays = Relays::default();
        let mut client = Sample::default().client;
        for number in 0..SERVICES_MAX + 5 {
            let port = Arc::make_mut(&mut client.port);
            port.service.name = format!("s{number}");
            for _ in 0..2 {
                relays.count(&RelayRecord {
                    client: &client,
                    destination: None,
                    endpoint: None,
                    server_name: None,
                    end: RelayEnd::Closed,
                    received: 1,
                    sent: 2,
                    connect_ns: 0,
                    total_ns: 0,
                });
            }
        }
        assert_eq!(relays.0.len(), SERVICES_MAX + 1);
        let other = relays.0[&None];
        assert_eq!((other.ends[0], other.received, other.sent), (10, 10, 20));
        let mut both = Relays::default();
        both.add(&relays);
        both.add(&relays);
        assert_eq!(both.0[&None].received, 20);
    }
}
