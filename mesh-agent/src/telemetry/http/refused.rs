//! What came on connections for HTTP and was no request: counted by whose connection it was and by its answer.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::Arc;

use http::StatusCode;

use crate::model::balanced::PortId;
use crate::model::workload::WorkloadName;
use crate::telemetry::http::record::Client;
use crate::telemetry::metrics::page::Page;
use crate::telemetry::metrics::table::{self, OTHER};

/// Sources, services and statuses with series of their own: far more than clients that are broken. What comes after them is added up.
const SETS_MAX: usize = 1_000;

/// Who sent it, and to which service port; `None`: all beyond the bound.
type Whose = Option<(Arc<WorkloadName>, Arc<PortId>)>;

/// What one data thread counts.
#[derive(Debug, Default)]
pub(super) struct Refusals(BTreeMap<(Whose, u16), u64>);

impl Refusals {
    pub(super) fn count(&mut self, client: &Client, status: StatusCode) {
        let whose = Some((client.workload.clone(), client.port.clone()));
        self.more((whose, status.as_u16()), 1);
    }

    pub(super) fn add(&mut self, other: &Self) {
        for (key, count) in &other.0 {
            self.more(key.clone(), *count);
        }
    }

    fn more(&mut self, key: (Whose, u16), count: u64) {
        let is_known = self.0.len() < SETS_MAX || self.0.contains_key(&key);
        let key = if is_known { key } else { (None, key.1) };
        *self.0.entry(key).or_default() += count;
    }

    pub(super) fn show(&self, page: &mut Page) {
        for ((whose, status), count) in &self.0 {
            let status = status.to_string();
            let port = whose
                .as_ref()
                .map_or(OTHER.to_owned(), |(_, id)| id.port.to_string());
            let labels = match whose {
                Some((source, id)) => [
                    source.namespace.as_str(),
                    &source.name,
                    &id.service.namespace,
                    &id.service.name,
                    &port,
                    &status,
                ],
                None => [OTHER, OTHER, OTHER, OTHER, OTHER, &status],
            };
            page.count(&table::HTTP_REFUSED, &labels, *count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::http::fake::Sample;

    #[test]
    fn clients_beyond_the_bound_are_added_up() {
        let mut refusals = Refusals::default();
        let mut client = Sample::default().client;
        for number in 0..SETS_MAX + 5 {
            Arc::make_mut(&mut client.workload).name = format!("w{number}");
            refusals.count(&client, StatusCode::BAD_REQUEST);
            refusals.count(&client, StatusCode::BAD_REQUEST);
        }
        assert_eq!(refusals.0.len(), SETS_MAX + 1);
        assert_eq!(refusals.0[&(None, 400)], 10);
        let mut both = Refusals::default();
        both.add(&refusals);
        both.add(&refusals);
        let all: u64 = both.0.values().sum();
        assert_eq!(all, 4 * (SETS_MAX as u64 + 5));
    }
}
