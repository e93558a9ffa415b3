//! Metrics of requests and of what they go through, read at each scrape.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use arc_swap::ArcSwap;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;

use crate::l7::cluster::{Cluster, Kind};
use crate::model::snapshot::Snapshot;
use crate::telemetry::http::cell::Sums;
use crate::telemetry::http::counts::Seen;
use crate::telemetry::http::record::Messages;
use crate::telemetry::http::refused::Refusals;
use crate::telemetry::http::relay::Relays;
use crate::telemetry::http::rows::{self, Row};
use crate::telemetry::http::{Http, View, lock};
use crate::telemetry::metrics::istio::Names;
use crate::telemetry::metrics::page::{Page, desc, float};
use crate::telemetry::metrics::table;

const NS_PER_SECOND: f64 = 1e9;

/// Service ports with series of their own, 15 each.
const CLUSTERS_MAX: usize = 1_000;

/// Place of `request_protocol` among Istio's labels.
const PROTOCOL: usize = 20;

/// Metrics of requests and of what they go through.
pub(in crate::telemetry) struct HttpCollector {
    http: Arc<Http>,
    /// `None`: the mesh's own names are asked for.
    istio: Option<Names>,
    descs: Vec<Desc>,
}

impl HttpCollector {
    pub(in crate::telemetry) fn new(
        http: Arc<Http>,
        snapshot: Arc<ArcSwap<Snapshot>>,
    ) -> Result<Self, prometheus::Error> {
        let own = table::ALL.iter().filter(|it| table::is_http(it));
        let all = own.chain(table::ISTIO);
        let descs = all.map(desc).collect::<Result<_, _>>()?;
        let domain = http.istio_domain();
        let istio = domain.map(|domain| Names::new(snapshot, domain.to_owned()));
        Ok(Self { http, istio, descs })
    }

    fn requests(&self, page: &mut Page) {
        let Seen { sets: all, past } = self.http.counts.sums(Instant::now());
        let count = (all.len() + past.len()) as u64;
        page.add(&table::HTTP_LABEL_SETS, &[], float(count));
        let mut look = self.istio.as_ref().map(Names::look);
        // By the labels that are shown: what tells two sets apart may not be among them.
        let mut shown = BTreeMap::<Row, Sums>::new();
        for (labels, sums) in &all {
            let row = match &mut look {
                None => rows::mesh(labels),
                Some(look) => rows::istio(labels, look),
            };
            shown.entry(row).or_default().add(sums);
        }
        for (row, sums) in &shown {
            match &look {
                None => mesh(page, &row.refs(), sums),
                Some(_) => istio(page, &row.refs(), sums),
            }
        }
        // Where the time went and how often it was tried again Istio has no names for.
        let mut shown = BTreeMap::<Row, Sums>::new();
        for (labels, sums) in all.iter().chain(&past) {
            shown.entry(rows::route(labels)).or_default().add(sums);
        }
        for (row, sums) in &shown {
            times(page, &row.refs(), sums);
        }
    }

    fn threads(&self, page: &mut Page) {
        let mut refused = Refusals::default();
        let mut relays = Relays::default();
        for thread in lock(&self.http.threads).iter() {
            let own = lock(&thread.own);
            refused.add(&own.refused);
            relays.add(&own.relays);
        }
        refused.show(page);
        relays.show(page);
        let left_out = self.http.left_out();
        page.count(&table::HTTP_LEFT_OUT, &[], left_out);
        if let Some(log) = &self.http.log {
            let counters = &log.counters;
            for (outcome, counter) in [
                ("written", &counters.written),
                ("dropped", &counters.dropped),
            ] {
                let count = counter.load(Ordering::Relaxed);
                page.count(&table::HTTP_LOG_LINES, &[outcome], count);
            }
        }
        if let Some(spans) = &self.http.spans {
            let counters = &spans.counters;
            for (outcome, counter) in [
                ("exported", &counters.exported),
                ("dropped", &counters.dropped),
                ("rejected", &counters.rejected),
            ] {
                let count = counter.load(Ordering::Relaxed);
                page.count(&table::HTTP_SPANS, &[outcome], count);
            }
        }
    }

    fn view(page: &mut Page, view: &View) {
        let (active, idle) = (view.connections)();
        for (state, count) in [("active", active), ("idle", idle)] {
            page.count(&table::HTTP_CONNECTIONS, &[state], count as u64);
        }
        let now = (view.now)();
        let mut clusters = (view.clusters)();
        clusters.sort_unstable_by(|one, other| one.id.cmp(&other.id));
        for cluster in clusters.iter().take(CLUSTERS_MAX) {
            show(page, cluster, now);
        }
    }
}

impl Collector for HttpCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut page = Page::default();
        self.requests(&mut page);
        self.threads(&mut page);
        if let Some(view) = self.http.view.get() {
            Self::view(&mut page, view);
        }
        page.into_families()
    }
}

fn mesh(page: &mut Page, labels: &[&str], sums: &Sums) {
    page.count(&table::HTTP_REQUESTS, labels, sums.requests());
    let seconds = float(sums.times.total_ns()) / NS_PER_SECOND;
    let buckets = rows::buckets_seconds(&sums.durations);
    page.buckets(
        &table::HTTP_DURATION,
        labels,
        &buckets,
        sums.requests(),
        seconds,
    );
    page.count(&table::HTTP_REQUEST_BYTES, labels, sums.received);
    page.count(&table::HTTP_RESPONSE_BYTES, labels, sums.sent);
}

fn istio(page: &mut Page, labels: &[&str], sums: &Sums) {
    let requests = sums.requests();
    page.count(&table::ISTIO_REQUESTS, labels, requests);
    let ms = float(sums.times.total_ns()) / 1e6;
    let buckets = rows::buckets_ms(&sums.durations);
    page.buckets(&table::ISTIO_DURATION, labels, &buckets, requests, ms);
    let sizes = rows::buckets_bytes(&sums.received_sizes);
    let received = float(sums.received);
    page.buckets(
        &table::ISTIO_REQUEST_BYTES,
        labels,
        &sizes,
        requests,
        received,
    );
    let sizes = rows::buckets_bytes(&sums.sent_sizes);
    let sent = float(sums.sent);
    page.buckets(&table::ISTIO_RESPONSE_BYTES, labels, &sizes, requests, sent);
    if labels[PROTOCOL] == "grpc" {
        let Messages { received, sent } = sums.messages;
        page.count(&table::ISTIO_REQUEST_MESSAGES, labels, received);
        page.count(&table::ISTIO_RESPONSE_MESSAGES, labels, sent);
    }
}

fn times(page: &mut Page, labels: &[&str], sums: &Sums) {
    page.count(&table::HTTP_RETRIES, labels, sums.retries);
    for (part, ns) in [
        ("agent", sums.times.agent_ns),
        ("connect", sums.times.connect_ns),
        ("upstream", sums.times.upstream_ns),
        ("transfer", sums.times.transfer_ns),
    ] {
        let labels = [labels, &[part]].concat();
        page.add(&table::HTTP_TIME, &labels, float(ns) / NS_PER_SECOND);
    }
}

fn show(page: &mut Page, cluster: &Cluster, now: crate::l7::cluster::Now) {
    let service = &cluster.id.service;
    let port = cluster.id.port.to_string();
    let [namespace, name, port] = [service.namespace.as_str(), &service.name, &port];
    let report = cluster.report(now);
    for (state, count) in [
        ("ejected", report.ejected),
        ("in_use", report.endpoints.saturating_sub(report.ejected)),
    ] {
        let labels = [namespace, name, port, state];
        page.count(&table::CLUSTER_ENDPOINTS, &labels, count as u64);
    }
    let labels = [namespace, name, port];
    page.count(&table::CLUSTER_EJECTIONS, &labels, report.ejections);
    for kind in Kind::ALL {
        let labels = [namespace, name, port, kind.word()];
        let usage = report.usage(kind);
        page.count(&table::CLUSTER_IN_FLIGHT, &labels, usage.used.into());
        page.count(&table::CLUSTER_LIMIT, &labels, usage.limit.into());
        page.count(&table::CLUSTER_OVERFLOWS, &labels, usage.overflows);
    }
}
