//! What was measured, over all rounds.

use std::time::Duration;

use harness::machine::Machine;
use serde_json::{Map, Value, json};

use crate::case::Case;
use crate::place::Variant;
use crate::worker::Sample;

/// One figure without rounds.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    pub(crate) case: &'static str,
    pub(crate) title: &'static str,
    pub(crate) metric: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) variant: Variant,
    pub(crate) value: f64,
}

/// Every sample of one case.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) case: Case,
    samples: Vec<(Variant, Sample)>,
    /// Bytes redirected and bytes in all, as the agent counted them.
    redirected: (f64, f64),
}

/// What the samples of a variant come to.
#[derive(Clone, Debug)]
pub(crate) struct Summary {
    pub(crate) variant: Variant,
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    pub(crate) cpu_us: f64,
    pub(crate) machine_cpu_us: f64,
    pub(crate) other_cores: f64,
    pub(crate) softirq_share: f64,
    pub(crate) p50_us: Option<f64>,
    pub(crate) p99_us: Option<f64>,
    pub(crate) in_flight_bytes: Option<u64>,
    /// Share of the bytes that the agent saw redirected.
    pub(crate) redirected_share: Option<f64>,
}

/// Everything.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) rounds: u32,
    pub(crate) window: Duration,
    pub(crate) rows: Vec<Row>,
    pub(crate) figures: Vec<Figure>,
}

impl Report {
    pub(crate) fn new(machine: Machine, rounds: u32, window: Duration) -> Self {
        Self {
            machine,
            rounds,
            window,
            rows: Vec::new(),
            figures: Vec::new(),
        }
    }

    fn row(&mut self, case: &Case) -> &mut Row {
        let found = self.rows.iter().position(|row| row.case.name == case.name);
        let index = found.unwrap_or_else(|| {
            let samples = Vec::new();
            self.rows.push(Row {
                case: *case,
                samples,
                redirected: (0.0, 0.0),
            });
            self.rows.len() - 1
        });
        &mut self.rows[index]
    }

    pub(crate) fn add(&mut self, case: &Case, variant: Variant, sample: Sample) {
        self.row(case).samples.push((variant, sample));
    }

    pub(crate) fn add_share(&mut self, case: &Case, redirected: f64, all: f64) {
        let row = self.row(case);
        row.redirected.0 += redirected;
        row.redirected.1 += all;
    }

    pub(crate) fn add_figure(&mut self, figure: Figure) {
        self.figures.push(figure);
    }

    /// Returns everything in the form that other tools read.
    pub(crate) fn json(&self) -> Value {
        let cases = self.rows.iter().map(Row::json);
        let figures = self.figures.iter().map(|figure| {
            let value = round(figure.value);
            let values =
                json!({"median": value, "min": value, "max": value, "cpu_us_per_unit": null});
            json!({
                "case": figure.case,
                "metric": figure.metric,
                "unit": figure.unit,
                "variants": {figure.variant.name(): values},
            })
        });
        json!({
            "machine": self.machine,
            "rounds": self.rounds,
            "window_ms": u64::try_from(self.window.as_millis()).unwrap_or(u64::MAX),
            "cases": cases.chain(figures).collect::<Vec<_>>(),
        })
    }
}

impl Row {
    /// Returns a summary for each variant that was measured.
    pub(crate) fn summaries(&self) -> Vec<Summary> {
        Variant::ALL
            .iter()
            .filter_map(|variant| self.summary(*variant))
            .collect()
    }

    /// Returns the summary of `variant`, or `None` when it was not measured.
    pub(crate) fn summary(&self, variant: Variant) -> Option<Summary> {
        let samples: Vec<_> = self
            .samples
            .iter()
            .filter(|(of, _)| *of == variant)
            .collect();
        let samples: Vec<_> = samples.into_iter().map(|(_, sample)| sample).collect();
        let all = |value: fn(&Sample) -> Option<f64>| {
            let mut values: Vec<_> = samples.iter().filter_map(|sample| value(sample)).collect();
            values.sort_unstable_by(f64::total_cmp);
            values
        };
        let rates = all(|sample| Some(sample.rate));
        let (redirected, bytes) = self.redirected;
        let share = (variant == Variant::Redirect && bytes > 0.0).then(|| redirected / bytes);
        Some(Summary {
            variant,
            median: median(&rates)?,
            min: *rates.first()?,
            max: *rates.last()?,
            cpu_us: median(&all(|sample| Some(sample.cpu_us_per_unit)))?,
            machine_cpu_us: median(&all(|sample| Some(sample.machine_cpu_us_per_unit)))?,
            other_cores: median(&all(|sample| Some(sample.other_cores)))?,
            softirq_share: median(&all(|sample| Some(sample.softirq_share)))?,
            p50_us: median(&all(|sample| sample.p50_us)),
            p99_us: median(&all(|sample| sample.p99_us)),
            in_flight_bytes: samples
                .iter()
                .filter_map(|sample| sample.in_flight_bytes)
                .max(),
            redirected_share: share,
        })
    }

    fn json(&self) -> Value {
        let (metric, unit) = self.case.load.metric();
        let variants = self.summaries().into_iter().map(|summary| {
            let mut values = json!({
                "median": round(summary.median),
                "min": round(summary.min),
                "max": round(summary.max),
                "cpu_us_per_unit": round(summary.cpu_us),
                "machine_cpu_us_per_unit": round(summary.machine_cpu_us),
                "other_cores": round(summary.other_cores),
                "softirq_share": round(summary.softirq_share),
            });
            let mut add = |name: &str, value: Option<f64>| {
                if let Some(value) = value {
                    values[name] = round(value).into();
                }
            };
            add("p50_us", summary.p50_us);
            add("p99_us", summary.p99_us);
            add("redirected_share", summary.redirected_share);
            if let Some(bytes) = summary.in_flight_bytes {
                values["in_flight_bytes"] = bytes.into();
            }
            (summary.variant.name().to_owned(), values)
        });
        json!({
            "case": self.case.name,
            "metric": metric,
            "unit": unit,
            "variants": variants.collect::<Map<_, _>>(),
        })
    }
}

/// Three digits after the point are more than any of these measurements holds.
fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

pub(crate) fn median(sorted: &[f64]) -> Option<f64> {
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    Some(match sorted.len() % 2 {
        0 => f64::midpoint(sorted[middle - 1], upper),
        _ => upper,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_of_odd_even_and_none() {
        assert_eq!(median(&[1.0, 2.0, 9.0]), Some(2.0));
        assert_eq!(median(&[1.0, 2.0, 4.0, 9.0]), Some(3.0));
        assert_eq!(median(&[]), None);
    }
}
