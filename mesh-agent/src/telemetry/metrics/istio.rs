//! What Istio's labels say of both ends, for requests and for bytes alike.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::mem::take;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;

use crate::model::labels::Labels;
use crate::model::service::ServiceName;
use crate::model::snapshot::Snapshot;
use crate::model::workload::WorkloadName;
use crate::telemetry::metrics::table::UNKNOWN;

/// What names a workload's application, the first that it has: Istio's own order.
const CANONICAL_NAME: [&str; 3] = [
    "service.istio.io/canonical-name",
    "app.kubernetes.io/name",
    "app",
];

/// The same of its version.
const CANONICAL_REVISION: [&str; 3] = [
    "service.istio.io/canonical-revision",
    "app.kubernetes.io/version",
    "version",
];

/// What Istio calls a version that nobody has named.
const LATEST: &str = "latest";

/// What the labels of a workload say of it.
#[derive(Debug)]
struct Who {
    app: String,
    version: String,
    canonical_name: Option<String>,
    canonical_revision: String,
}

impl Who {
    fn of(labels: &Labels) -> Self {
        let first = |names: &[&str]| names.iter().find_map(|name| labels.get(name));
        let word = |found: Option<&str>, otherwise: &str| found.unwrap_or(otherwise).to_owned();
        Self {
            app: word(labels.get("app"), UNKNOWN),
            version: word(labels.get("version"), UNKNOWN),
            canonical_name: first(&CANONICAL_NAME).map(str::to_owned),
            canonical_revision: word(first(&CANONICAL_REVISION), LATEST),
        }
    }
}

/// What is known of workloads from one scrape to the next.
///
/// It stays as it was known first for as long as each scrape asks for it, so that a pod that is gone does not change the labels of its
/// last series.
#[derive(Debug)]
pub(in crate::telemetry) struct Names {
    snapshot: Arc<ArcSwap<Snapshot>>,
    domain: String,
    known: Mutex<HashMap<WorkloadName, Arc<Who>>>,
}

impl Names {
    pub(in crate::telemetry) fn new(snapshot: Arc<ArcSwap<Snapshot>>, domain: String) -> Self {
        Self {
            snapshot,
            domain,
            known: Mutex::default(),
        }
    }

    /// Begins a scrape.
    pub(in crate::telemetry) fn look(&self) -> Look<'_> {
        Look {
            snapshot: self.snapshot.load_full(),
            domain: &self.domain,
            // A panic in between leaves it whole.
            known: self.known.lock().unwrap_or_else(PoisonError::into_inner),
            asked: HashMap::new(),
        }
    }
}

/// One scrape.
pub(in crate::telemetry) struct Look<'n> {
    snapshot: Arc<Snapshot>,
    domain: &'n str,
    known: MutexGuard<'n, HashMap<WorkloadName, Arc<Who>>>,
    asked: HashMap<WorkloadName, Arc<Who>>,
}

impl Drop for Look<'_> {
    fn drop(&mut self) {
        *self.known = take(&mut self.asked);
    }
}

impl Look<'_> {
    /// Returns the labels of both ends, in the order of the table: from `reporter` to `destination_cluster`. Istio's workload is what
    /// made the pod, which the agent does not know: it is the pod.
    pub(in crate::telemetry) fn ends(
        &mut self,
        source: &WorkloadName,
        destination: Option<&WorkloadName>,
        service: Option<&ServiceName>,
    ) -> Vec<String> {
        let domain = self.domain;
        let host = service.map(|it| format!("{}.{}.svc.{domain}", it.name, it.namespace));
        let [service_name, service_namespace] = match service {
            Some(service) => [service.name.as_str(), &service.namespace],
            None => [UNKNOWN; 2],
        };
        let mut row = Vec::with_capacity(25);
        row.push("source".to_owned());
        self.end(Some(source), &source.name, &mut row);
        row.push(UNKNOWN.to_owned());
        self.end(destination, service_name, &mut row);
        row.push(host.unwrap_or_else(|| UNKNOWN.to_owned()));
        row.extend([service_name, service_namespace, UNKNOWN].map(str::to_owned));
        row
    }

    /// Adds what there is of both ends. `otherwise`: the canonical service of one that has no label for it.
    fn end(&mut self, workload: Option<&WorkloadName>, otherwise: &str, row: &mut Vec<String>) {
        let who = workload.and_then(|name| self.who(name));
        let [name, namespace] = match workload {
            Some(workload) => [workload.name.as_str(), &workload.namespace],
            None => [UNKNOWN; 2],
        };
        let [app, version, canonical_name, revision] = match &who {
            Some(who) => [
                &who.app,
                &who.version,
                who.canonical_name.as_deref().unwrap_or(otherwise),
                &who.canonical_revision,
            ],
            None => [UNKNOWN, UNKNOWN, otherwise, LATEST],
        };
        let principal = UNKNOWN;
        let words = [
            name,
            namespace,
            principal,
            app,
            version,
            canonical_name,
            revision,
        ];
        row.extend(words.map(str::to_owned));
    }

    fn who(&mut self, name: &WorkloadName) -> Option<Arc<Who>> {
        if let Some(who) = self.asked.get(name) {
            return Some(who.clone());
        }
        let who = match self.known.remove(name) {
            Some(who) => who,
            None => {
                let all = &self.snapshot.workloads;
                let at = all.binary_search_by(|it| it.name.cmp(name)).ok()?;
                Arc::new(Who::of(&all[at].labels))
            }
        };
        self.asked.insert(name.clone(), who.clone());
        Some(who)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::telemetry::fake::{name, service, workload};
    use crate::telemetry::metrics::table::ISTIO_TCP_LABELS;

    fn snapshot(all: &[(&str, &[(&str, &str)])]) -> Arc<Snapshot> {
        let one = |(name, labels): &(&str, &[(&str, &str)])| {
            let labels = labels
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
            Arc::new(workload(name, labels.collect::<BTreeMap<_, _>>().into()))
        };
        Arc::new(Snapshot {
            workloads: all.iter().map(one).collect(),
            ..Snapshot::default()
        })
    }

    /// Returns the value of a label.
    fn of<'r>(row: &'r [String], label: &str) -> &'r str {
        let at = ISTIO_TCP_LABELS.iter().position(|it| *it == label);
        &row[at.unwrap()]
    }

    #[test]
    fn both_ends_are_told_by_their_labels_as_long_as_somebody_asks() {
        let named: &[_] = &[("app", "web"), ("version", "v2")];
        let canonical: &[_] = &[
            ("app", "cart"),
            ("app.kubernetes.io/name", "basket"),
            ("app.kubernetes.io/version", "7"),
        ];
        let there = snapshot(&[("cart-1", canonical), ("plain", &[]), ("web-1", named)]);
        let held = Arc::new(ArcSwap::new(there));
        let names = Names::new(held.clone(), "mesh.local".to_owned());
        let (web, cart) = (name("shop", "web-1"), name("shop", "cart-1"));
        let to = service("shop", "cart", 80).service;
        let row = names.look().ends(&web, Some(&cart), Some(&to));
        for (label, value) in [
            ("reporter", "source"),
            ("source_workload", "web-1"),
            ("source_workload_namespace", "shop"),
            ("source_principal", "unknown"),
            ("source_app", "web"),
            ("source_version", "v2"),
            ("source_canonical_service", "web"),
            ("source_canonical_revision", "v2"),
            ("source_cluster", "unknown"),
            ("destination_workload", "cart-1"),
            ("destination_workload_namespace", "shop"),
            ("destination_app", "cart"),
            ("destination_version", "unknown"),
            ("destination_canonical_service", "basket"),
            ("destination_canonical_revision", "7"),
            ("destination_service", "cart.shop.svc.mesh.local"),
            ("destination_service_name", "cart"),
            ("destination_service_namespace", "shop"),
            ("destination_cluster", "unknown"),
        ] {
            assert_eq!(of(&row, label), value, "{label}");
        }
        // Gone, and still asked for.
        held.store(snapshot(&[("plain", &[])]));
        assert_eq!(names.look().ends(&web, Some(&cart), Some(&to)), row);
        // Nobody asked for a scrape.
        drop(names.look());
        let row = names.look().ends(&web, None, Some(&to));
        assert_eq!(of(&row, "source_app"), "unknown");
        assert_eq!(of(&row, "destination_workload"), "unknown");
        assert_eq!(of(&row, "destination_canonical_service"), "cart");
        // Without labels and without a service.
        let row = names.look().ends(&name("shop", "plain"), None, None);
        assert_eq!(of(&row, "source_canonical_service"), "plain");
        assert_eq!(of(&row, "destination_service"), "unknown");
    }
}
