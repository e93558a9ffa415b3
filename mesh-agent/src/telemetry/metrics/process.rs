//! The agent's own CPU time, memory and descriptors, under the names that every Prometheus client uses.
//!
//! Not the crate's own collector: that counts CPU in whole seconds, which hides an agent that should need none.

#![forbid(unsafe_code)]

use std::fs;

use jiff::Timestamp;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use rustix::process::{Resource, getrlimit};

use crate::telemetry::clock::monotonic_ns;
use crate::telemetry::metrics::page::{Page, desc, float};
use crate::telemetry::metrics::table;

/// Metrics of the agent's process.
pub(super) struct ProcessCollector {
    descs: Vec<Desc>,
    started_seconds: f64,
}

impl ProcessCollector {
    pub(super) fn new() -> Result<Self, prometheus::Error> {
        let own = |metric: &&table::Metric| metric.name.starts_with("process_");
        let descs = table::ALL.iter().filter(own).map(desc);
        Ok(Self {
            descs: descs.collect::<Result<_, _>>()?,
            started_seconds: started_seconds().unwrap_or_default(),
        })
    }
}

impl Collector for ProcessCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut page = Page::default();
        if let Some(stat) = Stat::read() {
            let ticks = float(rustix::param::clock_ticks_per_second());
            let page_size = rustix::param::page_size() as u64;
            page.add(&table::PROCESS_CPU, &[], float(stat.cpu_ticks) / ticks);
            page.count(
                &table::PROCESS_RESIDENT,
                &[],
                stat.resident_pages * page_size,
            );
            page.count(&table::PROCESS_VIRTUAL, &[], stat.virtual_bytes);
            page.count(&table::PROCESS_THREADS, &[], stat.threads);
        }
        if let Ok(fds) = fs::read_dir("/proc/self/fd") {
            page.count(&table::PROCESS_FDS, &[], fds.count() as u64);
        }
        if let Some(max) = getrlimit(Resource::Nofile).current {
            page.count(&table::PROCESS_MAX_FDS, &[], max);
        }
        if self.started_seconds > 0.0 {
            page.add(&table::PROCESS_START, &[], self.started_seconds);
        }
        page.into_families()
    }
}

/// What `/proc/self/stat` says (proc_pid_stat(5)).
struct Stat {
    cpu_ticks: u64,
    threads: u64,
    start_ticks: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

impl Stat {
    fn read() -> Option<Self> {
        let text = fs::read_to_string("/proc/self/stat").ok()?;
        // The second field is the program's name in parentheses, which may contain anything; the third is `fields[0]`.
        let fields: Vec<_> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        Some(Self {
            cpu_ticks: number(14)? + number(15)?,
            threads: number(20)?,
            start_ticks: number(22)?,
            virtual_bytes: number(23)?,
            resident_pages: number(24)?,
        })
    }
}

/// Returns when the process started, in seconds since 1970.
fn started_seconds() -> Option<f64> {
    let ticks = float(rustix::param::clock_ticks_per_second());
    let after_boot = float(Stat::read()?.start_ticks) / ticks;
    let uptime = float(monotonic_ns()) / 1e9;
    let now = Timestamp::now().as_duration().as_secs_f64();
    Some(now - (uptime - after_boot))
}
