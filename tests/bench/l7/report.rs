//! What was measured, over all rounds.

use std::collections::BTreeMap;

use harness::machine::Machine;
use serde_json::{Map, Value, json};

use super::case::Case;
use super::load::Saturated;
use super::proxy::{Entry, Proxy};
use crate::worker::http::Outcome;

/// Every sample of one case over one proxy.
#[derive(Debug, Default)]
struct Samples {
    rate: Vec<f64>,
    cpu_us: Vec<f64>,
    busy: Vec<f64>,
    p50_us: Vec<f64>,
    p99_us: Vec<f64>,
    p999_us: Vec<f64>,
}

/// Medians.
#[derive(Clone, Debug)]
pub(crate) struct Summary {
    pub(crate) proxy: Proxy,
    pub(crate) rate: f64,
    pub(crate) rate_min: f64,
    pub(crate) rate_max: f64,
    /// `None` without a proxy.
    pub(crate) cpu_us: Option<f64>,
    pub(crate) busy: f64,
    /// 50th percentile at the fixed rate, 99th of tenths of a second, and 99.9th of the whole.
    pub(crate) times_us: Option<[f64; 3]>,
}

/// A case with all its samples.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) case: &'static Case,
    /// The fixed rate of its times.
    pub(crate) pace: Option<f64>,
    samples: BTreeMap<Proxy, Samples>,
}

/// Everything.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) rounds: u32,
    pub(crate) window: std::time::Duration,
    pub(crate) rows: Vec<Row>,
    /// Bytes for each idle connection, and how many there were.
    pub(crate) memory: Vec<(Proxy, usize, f64)>,
    /// What was not measured, and why.
    pub(crate) skipped: Vec<(Proxy, Option<Entry>, String)>,
}

impl Report {
    pub(crate) fn new(machine: Machine, rounds: u32, window: std::time::Duration) -> Self {
        Self {
            machine,
            rounds,
            window,
            rows: Vec::new(),
            memory: Vec::new(),
            skipped: Vec::new(),
        }
    }

    fn row(&mut self, case: &'static Case) -> &mut Row {
        let found = self.rows.iter().position(|row| row.case.name == case.name);
        let index = found.unwrap_or(self.rows.len());
        if found.is_none() {
            self.rows.push(Row {
                case,
                pace: None,
                samples: BTreeMap::new(),
            });
        }
        &mut self.rows[index]
    }

    pub(crate) fn add(&mut self, case: &'static Case, proxy: Proxy, sample: Saturated) {
        let samples = self.row(case).samples.entry(proxy).or_default();
        samples.rate.push(sample.rate);
        samples.busy.push(sample.busy);
        if proxy != Proxy::Direct {
            samples.cpu_us.push(sample.cpu_us);
        }
    }

    pub(crate) fn add_times(&mut self, case: &'static Case, proxy: Proxy, outcome: &Outcome) {
        let samples = self.row(case).samples.entry(proxy).or_default();
        samples.p50_us.push(outcome.p50_us);
        samples.p99_us.extend(&outcome.p99_us);
        samples.p999_us.push(outcome.p999_us);
    }

    pub(crate) fn add_memory(&mut self, proxy: Proxy, connections: usize, bytes: f64) {
        self.memory.push((proxy, connections, bytes));
    }

    /// Returns whether it is noted that the way of `proxy` to `entry` is not there.
    pub(crate) fn skips(&self, proxy: Proxy, entry: Entry) -> bool {
        let mut skipped = self.skipped.iter();
        skipped.any(|(of, at, _)| *of == proxy && *at == Some(entry))
    }

    /// Notes once that a proxy, or its way to an entry, is not there.
    pub(crate) fn skip(&mut self, proxy: Proxy, entry: Option<Entry>, why: String) {
        let known = |(of, at, _): &(Proxy, Option<Entry>, String)| *of == proxy && *at == entry;
        if !self.skipped.iter().any(known) {
            let place = entry.map_or_else(String::new, |entry| format!(", {}", entry.name()));
            eprintln!("!!! SKIPPED: {proxy}{place}: {why}");
            self.skipped.push((proxy, entry, why));
        }
    }

    /// Sets the rate at which the times of `case` are taken, for this and all further rounds: `share` of the slowest proxy's.
    pub(crate) fn set_pace(&mut self, case: &'static Case, share: f64) {
        let row = self.row(case);
        let rates = row
            .samples
            .values()
            .filter_map(|samples| samples.rate.first());
        let slowest = rates.copied().min_by(f64::total_cmp);
        row.pace = row.pace.or(slowest.map(|rate| (rate * share).round()));
    }

    /// Returns that rate.
    pub(crate) fn pace(&mut self, case: &'static Case) -> Option<f64> {
        let row = self.row(case);
        if row.pace.is_none() {
            // Without peers: the proxy's own.
            self.set_pace(case, super::SHARE_OF_SLOWEST);
        }
        self.row(case).pace
    }

    /// Returns everything in the form that other tools read.
    pub(crate) fn json(&self) -> Value {
        let memory = self.memory.iter().map(|(proxy, connections, bytes)| {
            let value = json!({"connections": connections, "bytes_per_connection": round(*bytes)});
            (proxy.name().to_owned(), value)
        });
        let skipped = self.skipped.iter().map(|(proxy, entry, why)| {
            json!({"proxy": proxy.name(), "entry": entry.map(Entry::name), "why": why})
        });
        json!({
            "machine": self.machine,
            "rounds": self.rounds,
            "window_ms": u64::try_from(self.window.as_millis()).unwrap_or(u64::MAX),
            "cases": self.rows.iter().map(Row::json).collect::<Vec<_>>(),
            "memory": memory.collect::<Map<_, _>>(),
            "skipped": skipped.collect::<Vec<_>>(),
        })
    }
}

impl Row {
    /// Returns a summary for each proxy that was measured.
    pub(crate) fn summaries(&self) -> Vec<Summary> {
        let all = Proxy::ALL.into_iter();
        all.filter_map(|proxy| self.summary(proxy)).collect()
    }

    /// Returns the summary of `proxy`, or `None` when it was not measured.
    pub(crate) fn summary(&self, proxy: Proxy) -> Option<Summary> {
        let samples = self.samples.get(&proxy)?;
        let times = [&samples.p50_us, &samples.p99_us, &samples.p999_us].map(|of| median(of));
        let times_us = match times {
            [Some(p50), Some(p99), Some(p999)] => Some([p50, p99, p999]),
            _ => None,
        };
        Some(Summary {
            proxy,
            rate: median(&samples.rate)?,
            rate_min: samples.rate.iter().copied().min_by(f64::total_cmp)?,
            rate_max: samples.rate.iter().copied().max_by(f64::total_cmp)?,
            cpu_us: median(&samples.cpu_us),
            busy: median(&samples.busy)?,
            times_us,
        })
    }

    fn json(&self) -> Value {
        let agent = self.summary(Proxy::Underpass);
        let proxies = self.summaries().into_iter().map(|it| {
            let mut values = json!({
                "requests_per_second": round(it.rate),
                "min": round(it.rate_min),
                "max": round(it.rate_max),
                "cores": round(it.busy),
            });
            if let Some(cpu) = it.cpu_us {
                values["cpu_us_per_request"] = round(cpu).into();
            }
            if let Some([p50, p99, p999]) = it.times_us {
                values["p50_us"] = round(p50).into();
                values["p99_us"] = round(p99).into();
                values["p999_us"] = round(p999).into();
            }
            if let (Some(agent), true) = (&agent, Proxy::PEERS.contains(&it.proxy)) {
                values["underpass_to_this"] = ratios(agent, &it);
            }
            (it.proxy.name().to_owned(), values)
        });
        json!({
            "case": self.case.name,
            "title": self.case.title,
            "connections": self.case.connections,
            "in_flight": self.case.concurrency(),
            "body_bytes": self.case.body,
            "rate_of_times": self.pace,
            "proxies": proxies.collect::<Map<_, _>>(),
        })
    }
}

/// Returns the agent's figures as multiples of a peer's.
fn ratios(agent: &Summary, peer: &Summary) -> Value {
    let mut values = json!({"requests_per_second": round(agent.rate / peer.rate)});
    if let (Some(own), Some(other)) = (agent.cpu_us, peer.cpu_us) {
        values["cpu_us_per_request"] = round(own / other).into();
    }
    if let (Some([_, own, _]), Some([_, other, _])) = (agent.times_us, peer.times_us) {
        values["p99_us"] = round(own / other).into();
    }
    values
}

/// Three digits after the point are more than any of these measurements holds.
fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    crate::report::median(&sorted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l7::case::GROUPS;

    fn report() -> Report {
        let machine = Machine {
            kernel: "6".to_owned(),
            cpu: "x".to_owned(),
            cores: 2,
            memory_gib: 4,
        };
        Report::new(machine, 1, std::time::Duration::from_secs(1))
    }

    fn saturated(rate: f64) -> Saturated {
        Saturated {
            rate,
            cpu_us: 10.0,
            busy: 1.0,
        }
    }

    #[test]
    fn the_pace_is_the_slowest_peers_and_stays() {
        let (mut report, case) = (report(), &GROUPS[0][0]);
        report.add(case, Proxy::Nginx, saturated(50_000.0));
        report.add(case, Proxy::Envoy, saturated(20_000.0));
        report.set_pace(case, 0.5);
        report.add(case, Proxy::Underpass, saturated(10.0));
        report.set_pace(case, 0.5);
        assert_eq!(report.pace(case), Some(10_000.0));
    }

    #[test]
    fn the_agent_stands_beside_each_peer() {
        let (mut report, case) = (report(), &GROUPS[0][0]);
        report.add(case, Proxy::Nginx, saturated(50_000.0));
        report.add(case, Proxy::Underpass, saturated(75_000.0));
        report.add(case, Proxy::Direct, saturated(90_000.0));
        let json = report.json();
        let proxies = &json["cases"][0]["proxies"];
        assert_eq!(
            proxies["nginx"]["underpass_to_this"]["requests_per_second"],
            1.5
        );
        assert!(proxies["direct"]["underpass_to_this"].is_null());
        assert!(proxies["direct"]["cpu_us_per_request"].is_null());
    }

    #[test]
    fn what_is_skipped_is_told_once() {
        let mut report = report();
        for _ in 0..2 {
            report.skip(Proxy::Underpass, Some(Entry::Tls), "no".to_owned());
        }
        assert_eq!(report.skipped.len(), 1);
    }
}
