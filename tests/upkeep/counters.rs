//! The agent's metrics page, as numbers.

use std::collections::{BTreeMap, HashSet};

use harness::Agent;

/// Every series that only grows, by its name with labels.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counters(BTreeMap<String, f64>);

impl Counters {
    /// Reads them from a page of metrics: counters, and the buckets, counts and sums of histograms and summaries. Those
    /// that begin anew with the agent's process are left out.
    pub(crate) fn of(agent: &Agent) -> Self {
        Self::of_page(&agent.metrics().unwrap())
    }

    /// As [`Counters::of`], from a page that was read before.
    pub(crate) fn of_page(page: &str) -> Self {
        let kinds = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        let growing: HashSet<&str> = kinds
            .filter_map(|line| line.split_once(' '))
            .filter(|(_, kind)| ["counter", "histogram", "summary"].contains(kind))
            .map(|(name, _)| name)
            .filter(|name| !name.starts_with("process_"))
            .collect();
        let series = page.lines().filter(|line| !line.starts_with('#'));
        let series = series.filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            let metric = name.split('{').next()?;
            let base = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|end| metric.strip_suffix(end));
            let grows = growing.contains(metric) || base.is_some_and(|base| growing.contains(base));
            grows.then(|| (name.to_owned(), value.parse().unwrap()))
        });
        Self(series.collect())
    }

    /// Makes sure that no series is smaller than it was.
    pub(crate) fn assert_not_fallen(&self, before: &Self) {
        for (name, was) in &before.0 {
            let is = self.0.get(name);
            assert!(is.is_some_and(|is| is >= was), "{name}: {was}, then {is:?}");
        }
    }

    /// Returns the sum of every series of `metric` whose labels contain all of these.
    pub(crate) fn sum(&self, metric: &str, labels: &[&str]) -> f64 {
        let found = self.0.iter().filter(|(name, _)| {
            let (found, rest) = name.split_once('{').unwrap_or((name, ""));
            found == metric && labels.iter().all(|label| rest.contains(label))
        });
        found.map(|(_, value)| value).sum()
    }

    /// Returns the series of `metric` with their labels.
    pub(crate) fn series(&self, metric: &str) -> Vec<(&str, f64)> {
        let found = self.0.iter().filter_map(|(name, value)| {
            let (found, rest) = name.split_once('{')?;
            (found == metric).then_some((rest, *value))
        });
        found.collect()
    }
}
