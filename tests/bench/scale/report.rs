//! What was measured at scale, as a table and as JSON.

use std::fmt::Write as _;
use std::time::Duration;

use harness::cluster::Size;
use harness::machine::Machine;
use harness::tables::Taken;
use serde_json::{Value, json};

/// Maps that take less than this are left out of the table.
const SMALL_BYTES: u64 = 256 * 1024;

/// Entries below which what a map takes for itself would count for more than they do.
const FEW: u64 = 1000;

/// What one start took; times in seconds, memory in bytes.
#[derive(Clone, Debug)]
pub(super) struct Start {
    pub(super) read: f64,
    pub(super) workloads: f64,
    pub(super) services: f64,
    pub(super) policies: f64,
    pub(super) resident: u64,
    pub(super) peak: u64,
}

impl Start {
    /// Until everything is in the maps.
    fn applied(&self) -> f64 {
        self.workloads.max(self.services).max(self.policies)
    }
}

/// How long each edit took, shortest first.
#[derive(Debug)]
pub(super) struct Edits(pub(super) Vec<Duration>);

impl Edits {
    /// Returns the time that this share of the edits stayed within, in milliseconds.
    fn percentile(&self, percent: usize) -> f64 {
        let at = (self.0.len() * percent).div_ceil(100).saturating_sub(1);
        self.0.get(at).map_or(0.0, |time| time.as_secs_f64() * 1e3)
    }
}

/// A map, what it takes, and how many entries are in use where the agent knows.
#[derive(Debug)]
pub(super) struct MapMemory {
    pub(super) taken: Taken,
    pub(super) used: Option<u64>,
}

/// Everything.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) machine: Machine,
    pub(super) size: Size,
    pub(super) pods: usize,
    pub(super) files: usize,
    pub(super) bytes: u64,
    pub(super) starts: Vec<Start>,
    pub(super) restart: Start,
    pub(super) edits: Edits,
    pub(super) after_edits: u64,
    pub(super) maps: Vec<MapMemory>,
}

impl Report {
    fn median(&self, value: impl Fn(&Start) -> f64) -> f64 {
        let mut values: Vec<f64> = self.starts.iter().map(value).collect();
        values.sort_unstable_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or_default()
    }

    /// Returns each figure with its name and unit.
    fn figures(&self) -> Vec<(&'static str, f64, &'static str)> {
        vec![
            ("read_and_resolve", self.median(|s| s.read), "s"),
            ("snapshot_to_maps", self.median(Start::applied), "s"),
            (
                "snapshot_to_maps_workloads",
                self.median(|s| s.workloads),
                "s",
            ),
            (
                "snapshot_to_maps_services",
                self.median(|s| s.services),
                "s",
            ),
            (
                "snapshot_to_maps_policies",
                self.median(|s| s.policies),
                "s",
            ),
            ("restart_read_and_resolve", self.restart.read, "s"),
            ("restart_snapshot_to_maps", self.restart.applied(), "s"),
            ("one_endpoint_p50", self.edits.percentile(50), "ms"),
            ("one_endpoint_p99", self.edits.percentile(99), "ms"),
            ("resident", self.median(|s| megabytes(s.resident)), "MB"),
            ("resident_peak", self.median(|s| megabytes(s.peak)), "MB"),
            ("resident_after_edits", megabytes(self.after_edits), "MB"),
        ]
    }

    /// Returns everything as a person reads it.
    pub(super) fn table(&self) -> String {
        let Size {
            services,
            endpoints,
            policies,
            pods_elsewhere,
            ..
        } = self.size;
        let mut text = format!(
            "{services} services, {} endpoints, {policies} policies, {} pods here and {pods_elsewhere} elsewhere: {} files, {:.1} MB\n\
             {} starts, {} edits of one endpoint\n\n",
            services * endpoints,
            self.pods,
            self.files,
            megabytes(self.bytes),
            self.starts.len(),
            self.edits.0.len(),
        );
        // Writing to a String cannot fail.
        for (name, value, unit) in self.figures() {
            writeln!(text, "{name:<28} {value:>10.3} {unit}").unwrap_or_default();
        }
        writeln!(
            text,
            "\n{:<16} {:>9} {:>9} {:>10} {:>8}",
            "MAP", "USED", "MAX", "MEMORY", "B/ENTRY"
        )
        .unwrap_or_default();
        for map in self
            .maps
            .iter()
            .filter(|map| map.taken.bytes >= SMALL_BYTES)
        {
            let used = map
                .used
                .map_or_else(|| "-".to_owned(), |used| used.to_string());
            writeln!(
                text,
                "{:<16} {used:>9} {:>9} {:>7.2} MB {:>8}",
                map.taken.map,
                map.taken.max_entries,
                megabytes(map.taken.bytes),
                per_entry(map).map_or_else(|| "-".to_owned(), |bytes| format!("{bytes:.0}"))
            )
            .unwrap_or_default();
        }
        text
    }

    /// Returns everything in the form that other tools read.
    pub(super) fn json(&self) -> Value {
        let figures = self.figures();
        let figures = figures.iter().map(
            |(name, value, unit)| json!({"case": name, "unit": unit, "value": rounded(*value)}),
        );
        let maps = self.maps.iter().map(|map| {
            json!({
                "map": map.taken.map,
                "used": map.used,
                "max": map.taken.max_entries,
                "bytes": map.taken.bytes,
                "bytes_per_entry": per_entry(map).map(f64::round),
            })
        });
        json!({
            "machine": self.machine,
            "size": {
                "services": self.size.services,
                "endpoints": self.size.services * self.size.endpoints,
                "policies": self.size.policies,
                "pods": self.pods,
                "pods_elsewhere": self.size.pods_elsewhere,
                "files": self.files,
                "bytes": self.bytes,
            },
            "rounds": self.starts.len(),
            "edits": self.edits.0.len(),
            "figures": figures.collect::<Vec<_>>(),
            "maps": maps.collect::<Vec<_>>(),
        })
    }
}

/// Returns the bytes of an entry. A hash table that grows has a table of buckets from the start, which is left out; none where
/// there are too few entries to tell.
fn per_entry(map: &MapMemory) -> Option<f64> {
    if !map.taken.grows {
        return Some(map.taken.bytes as f64 / map.taken.max_entries.max(1) as f64);
    }
    let used = map.used.filter(|used| *used >= FEW)?;
    let entries = map.taken.bytes.saturating_sub(map.taken.bucket_bytes);
    Some(entries as f64 / used as f64)
}

fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
