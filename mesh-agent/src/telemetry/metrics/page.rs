//! One scrape in the making: samples by metric.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashMap};

use mesh_common::histogram::{BUCKETS, upper_bound_us};
use prometheus::core::Desc;
use prometheus::proto;

use crate::telemetry::metrics::table::{Kind, Metric};

const US_PER_SECOND: f64 = 1e6;

/// Samples of one scrape, by metric.
#[derive(Default)]
pub(in crate::telemetry) struct Page(BTreeMap<&'static str, (Metric, Vec<proto::Metric>)>);

impl Page {
    /// Adds a sample of a counter or a gauge.
    pub(in crate::telemetry) fn add(&mut self, metric: &Metric, labels: &[&str], value: f64) {
        let mut sample = labelled(metric, labels);
        if metric.kind == Kind::Counter {
            let mut counter = proto::Counter::default();
            counter.set_value(value);
            sample.set_counter(counter);
        } else {
            let mut gauge = proto::Gauge::default();
            gauge.set_value(value);
            sample.set_gauge(gauge);
        }
        self.push(metric, sample);
    }

    /// Adds a sample of a counter or a gauge that is a whole number.
    pub(in crate::telemetry) fn count(&mut self, metric: &Metric, labels: &[&str], value: u64) {
        self.add(metric, labels, float(value));
    }

    /// Adds a sample of a histogram, from log2 buckets of microseconds and their sum.
    ///
    /// A bucket's upper bound is exclusive in the kernel and inclusive in Prometheus: a duration of exactly a power of two
    /// is one bucket high. All buckets are given, empty ones too, so that series can be added up.
    pub(in crate::telemetry) fn histogram(
        &mut self,
        metric: &Metric,
        labels: &[&str],
        counts: &[u64; BUCKETS],
        sum_us: u64,
    ) {
        let mut below = 0u64;
        let mut buckets = Vec::with_capacity(BUCKETS);
        for (i, count) in counts.iter().enumerate() {
            below = below.wrapping_add(*count);
            let Some(bound) = upper_bound_us(i) else {
                break;
            };
            let mut bucket = proto::Bucket::default();
            bucket.set_upper_bound(float(bound) / US_PER_SECOND);
            bucket.set_cumulative_count(below);
            buckets.push(bucket);
        }
        let mut histogram = proto::Histogram::default();
        histogram.set_sample_count(below);
        histogram.set_sample_sum(float(sum_us) / US_PER_SECOND);
        histogram.set_bucket(buckets);
        let mut sample = labelled(metric, labels);
        sample.set_histogram(histogram);
        self.push(metric, sample);
    }

    /// Adds a sample of a histogram, from upper bounds with the number of those that lie below.
    pub(in crate::telemetry) fn buckets(
        &mut self,
        metric: &Metric,
        labels: &[&str],
        below: &[(f64, u64)],
        count: u64,
        sum: f64,
    ) {
        let buckets = below.iter().map(|(bound, below)| {
            let mut bucket = proto::Bucket::default();
            bucket.set_upper_bound(*bound);
            bucket.set_cumulative_count(*below);
            bucket
        });
        let mut histogram = proto::Histogram::default();
        histogram.set_sample_count(count);
        histogram.set_sample_sum(sum);
        histogram.set_bucket(buckets.collect());
        let mut sample = labelled(metric, labels);
        sample.set_histogram(histogram);
        self.push(metric, sample);
    }

    /// Adds a sample of a summary without quantiles.
    pub(in crate::telemetry) fn summary(
        &mut self,
        metric: &Metric,
        labels: &[&str],
        count: u64,
        sum_us: u64,
    ) {
        let mut summary = proto::Summary::default();
        summary.set_sample_count(count);
        summary.set_sample_sum(float(sum_us) / US_PER_SECOND);
        let mut sample = labelled(metric, labels);
        sample.set_summary(summary);
        self.push(metric, sample);
    }

    /// Returns the scrape in the library's form. A metric without samples is left out: the encoder refuses it.
    pub(in crate::telemetry) fn into_families(self) -> Vec<proto::MetricFamily> {
        let family = |(metric, samples): (Metric, Vec<proto::Metric>)| {
            let mut family = proto::MetricFamily::default();
            family.set_name(metric.name.to_owned());
            family.set_help(metric.help.to_owned());
            family.set_field_type(match metric.kind {
                Kind::Counter => proto::MetricType::COUNTER,
                Kind::Gauge => proto::MetricType::GAUGE,
                Kind::Histogram => proto::MetricType::HISTOGRAM,
                Kind::Summary => proto::MetricType::SUMMARY,
            });
            family.set_metric(samples);
            family
        };
        self.0.into_values().map(family).collect()
    }

    fn push(&mut self, metric: &Metric, sample: proto::Metric) {
        let (_, samples) = self
            .0
            .entry(metric.name)
            .or_insert_with(|| (*metric, Vec::new()));
        samples.push(sample);
    }
}

/// Returns the library's description of a metric.
pub(in crate::telemetry) fn desc(metric: &Metric) -> Result<Desc, prometheus::Error> {
    let labels = metric.labels.iter().map(|&label| label.to_owned());
    Desc::new(
        metric.name.to_owned(),
        metric.help.to_owned(),
        labels.collect(),
        HashMap::new(),
    )
}

/// Returns `value` as Prometheus' only type of number.
#[expect(
    clippy::cast_precision_loss,
    reason = "Prometheus has no other number; above 2^53 the last digits are lost"
)]
pub(in crate::telemetry) fn float(value: u64) -> f64 {
    value as f64
}

fn labelled(metric: &Metric, values: &[&str]) -> proto::Metric {
    debug_assert_eq!(metric.labels.len(), values.len(), "{}", metric.name);
    let pairs = metric.labels.iter().zip(values).map(|(name, value)| {
        let mut pair = proto::LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    });
    proto::Metric::from_label(pairs.collect())
}
