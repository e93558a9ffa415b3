//! Series of services: which have their own, and sums of the others that never fall although services come and go.

#![forbid(unsafe_code)]

use std::collections::HashMap;

use crate::model::endpoint::EndpointHealth;
use crate::model::service::ServiceName;
use crate::telemetry::metrics::page::{Page, float};
use crate::telemetry::metrics::table::{self, OTHER};

/// Services with series of their own, 8 each. With those of pairs, what one target may cost a Prometheus server.
pub(super) const SERVICES_MAX: usize = 1_000;

/// How a service stands: the first that holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ServiceState {
    /// Not all of it is in force in the kernel.
    NotInForce,
    /// One of its ports has nobody who answers.
    WithoutBackend,
    /// Backends get connections only because too few are healthy.
    Panic,
    /// All is well.
    Balanced,
}

const STATES: [(ServiceState, &str); 4] = [
    (ServiceState::NotInForce, "not_in_force"),
    (ServiceState::WithoutBackend, "without_backend"),
    (ServiceState::Panic, "panic"),
    (ServiceState::Balanced, "balanced"),
];

const HEALTH: [(EndpointHealth, &str); 7] = [
    (EndpointHealth::Healthy, "healthy"),
    (EndpointHealth::Ready, "ready"),
    (EndpointHealth::Unhealthy, "unhealthy"),
    (EndpointHealth::Ejected, "ejected"),
    (EndpointHealth::NotReady, "not_ready"),
    (EndpointHealth::Terminating, "terminating"),
    (EndpointHealth::Closed, "closed"),
];

/// One service as it stands at a scrape, all ports together.
#[derive(Clone, Debug)]
pub struct ServiceSample {
    /// Its name.
    pub name: ServiceName,
    /// How it stands.
    pub state: ServiceState,
    /// Connects and first datagrams so far.
    pub connects: u64,
    /// Of those, the ones for which there was no backend.
    pub refused: u64,
    /// Health of each of its backends.
    pub backends: Vec<EndpointHealth>,
}

/// What was added up so far. A service that got series keeps them while it is there; one that comes when [`SERVICES_MAX`] have
/// some is added up under `__other__` and stays there, where counting starts from nothing when the agent starts.
#[derive(Default)]
pub(super) struct ServiceBook {
    started: bool,
    known: HashMap<ServiceName, Known>,
    other: Counts,
}

#[derive(Clone, Copy, Default)]
struct Counts {
    connects: u64,
    refused: u64,
}

struct Known {
    has_series: bool,
    last: Counts,
    seen: bool,
}

impl ServiceBook {
    /// Puts the services of this moment on the page.
    pub(super) fn show(&mut self, samples: &[ServiceSample], page: &mut Page) {
        for (state, word) in STATES {
            let count = samples.iter().filter(|it| it.state == state).count();
            page.add(&table::SERVICES, &[word], float(count as u64));
        }
        let mut folded = Vec::new();
        for sample in samples {
            if self.take(sample) {
                let labels = [&*sample.name.namespace, &*sample.name.name];
                let counts = Counts::of(sample);
                one(page, labels, counts, &[sample]);
            } else {
                folded.push(sample);
            }
        }
        self.known
            .retain(|_, known| std::mem::take(&mut known.seen));
        self.started = true;
        page.count(&table::SERVICES_FOLDED, &[], folded.len() as u64);
        if !folded.is_empty() || self.other.connects > 0 {
            one(page, [OTHER, OTHER], self.other, &folded);
        }
    }

    /// Takes a service's counters; returns whether it has series of its own.
    fn take(&mut self, sample: &ServiceSample) -> bool {
        let counts = Counts::of(sample);
        if let Some(known) = self.known.get_mut(&sample.name) {
            known.seen = true;
            if !known.has_series {
                self.other.add(counts, known.last);
            }
            known.last = counts;
            return known.has_series;
        }
        let taken = self.known.values().filter(|known| known.has_series);
        let has_series = taken.count() < SERVICES_MAX;
        if !has_series && self.started {
            self.other.add(counts, Counts::default());
        }
        let known = Known {
            has_series,
            last: counts,
            seen: true,
        };
        self.known.insert(sample.name.clone(), known);
        has_series
    }
}

impl Counts {
    fn of(sample: &ServiceSample) -> Self {
        Self {
            connects: sample.connects,
            refused: sample.refused,
        }
    }

    /// Adds what was counted since `last`; all of it where the service was made anew.
    fn add(&mut self, now: Self, last: Self) {
        let is_new = now.connects < last.connects || now.refused < last.refused;
        let last = if is_new { Self::default() } else { last };
        self.connects += now.connects - last.connects;
        self.refused += now.refused - last.refused;
    }
}

fn one(page: &mut Page, labels: [&str; 2], counts: Counts, samples: &[&ServiceSample]) {
    let [namespace, name] = labels;
    page.count(&table::SERVICE_CONNECTS, &labels, counts.connects);
    page.count(&table::SERVICE_REFUSED, &labels, counts.refused);
    for (health, word) in HEALTH {
        let all = samples.iter().flat_map(|sample| &sample.backends);
        let count = all.filter(|it| **it == health).count();
        let labels = [namespace, name, word];
        page.count(&table::SERVICE_BACKENDS, &labels, count as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(number: usize, connects: u64) -> ServiceSample {
        ServiceSample {
            name: ServiceName {
                namespace: "ns".into(),
                name: format!("s{number:05}"),
            },
            state: ServiceState::Balanced,
            connects,
            refused: 0,
            backends: vec![EndpointHealth::Ready],
        }
    }

    fn many(count: usize, connects: u64) -> Vec<ServiceSample> {
        (0..count).map(|number| sample(number, connects)).collect()
    }

    fn connects(book: &mut ServiceBook, samples: &[ServiceSample], name: &str) -> Option<f64> {
        let mut page = Page::default();
        book.show(samples, &mut page);
        let families = page.into_families().into_iter();
        let mut wanted = families.filter(|it| it.name() == table::SERVICE_CONNECTS.name);
        let family = wanted.next()?;
        let is = |it: &&prometheus::proto::Metric| it.get_label().iter().any(|l| l.value() == name);
        let found = family.get_metric().iter().find(is);
        found.map(|metric| metric.get_counter().get_value())
    }

    #[test]
    fn services_beyond_the_bound_are_added_up_and_their_sum_never_falls() {
        let mut book = ServiceBook::default();
        let all = SERVICES_MAX + 2;
        // What was counted before the agent started nobody knows to have been shown.
        assert_eq!(connects(&mut book, &many(all, 10), OTHER), Some(0.0));
        assert_eq!(connects(&mut book, &many(all, 15), OTHER), Some(10.0));
        assert_eq!(connects(&mut book, &many(all, 15), "s00000"), Some(15.0));
        // One of the two goes, the other was made anew.
        let mut fewer = many(all - 1, 15);
        fewer[all - 2].connects = 3;
        assert_eq!(connects(&mut book, &fewer, OTHER), Some(13.0));
        // One that had series goes: the folded one stays, a newcomer gets them.
        fewer.remove(0);
        connects(&mut book, &fewer, OTHER);
        fewer.push(sample(99_999, 7));
        assert_eq!(connects(&mut book, &fewer, "s99999"), Some(7.0));
        assert_eq!(connects(&mut book, &fewer, OTHER), Some(13.0));
    }
}
