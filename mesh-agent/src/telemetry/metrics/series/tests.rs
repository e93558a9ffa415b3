//! Tests of `telemetry::metrics::series`.

use mesh_common::path::Path;
use proptest::prelude::*;

use super::*;
use crate::telemetry::fake::{name, pair, service, traffic};

fn names(id: u32) -> Option<WorkloadName> {
    (id < 1000).then(|| name("ns", &format!("w{id}")))
}

fn services(number: u32) -> Option<Arc<PortId>> {
    (number == 1).then(|| Arc::new(service("shop", "cart", 80)))
}

fn bytes(book: &Book, source: &str) -> Option<u64> {
    let mut found = None;
    book.each(|labels, sums| {
        if labels.source.1 == source {
            found = Some(sums.values().map(|sum| sum.tx_bytes).sum());
        }
    });
    found
}

#[test]
fn a_row_that_goes_leaves_its_bytes_in_the_sum() {
    let mut book = Book::default();
    // Two handles of one name: a restarted workload.
    let again = |id| {
        if id == 1 || id == 5 {
            Some(name("ns", "w"))
        } else {
            names(id)
        }
    };
    let old = (pair(1, 2, 80, Path::Tcp), traffic(10));
    let new = (pair(5, 2, 80, Path::Tcp), traffic(1));
    book.update(&[old], &again, &services);
    book.update(&[old, new], &again, &services);
    assert_eq!(bytes(&book, "w"), Some(11_000));
    book.update(&[new], &again, &services);
    assert_eq!(bytes(&book, "w"), Some(11_000));
}

#[test]
fn a_row_made_anew_is_added() {
    let mut book = Book::default();
    let key = pair(1, 2, 80, Path::Tcp);
    book.update(&[(key, traffic(10))], &names, &services);
    book.update(&[(key, traffic(3))], &names, &services);
    assert_eq!(bytes(&book, "w1"), Some(13_000));
}

#[test]
fn a_handle_that_went_to_another_workload_starts_other_series() {
    let mut book = Book::default();
    let key = pair(1, 2, 80, Path::Tcp);
    book.update(&[(key, traffic(10))], &names, &services);
    let renamed = |id| {
        if id == 1 {
            Some(name("ns", "x"))
        } else {
            names(id)
        }
    };
    book.update(&[(key, traffic(12))], &renamed, &services);
    assert_eq!(bytes(&book, "w1"), None);
    assert_eq!(bytes(&book, "x"), Some(12_000));
}

#[test]
fn a_service_number_that_got_another_name_counts_on_from_where_the_row_stands() {
    let mut book = Book::default();
    let key = PairKey {
        service: 1,
        ..pair(1, 2, 80, Path::Tcp)
    };
    let of = |book: &Book, wanted: &str| {
        let mut found = None;
        book.each(|labels, sums| {
            if labels.service.1 == wanted {
                found = Some(sums.values().map(|sum| sum.tx_bytes).sum::<u64>());
            }
        });
        found
    };
    book.update(&[(key, traffic(10))], &names, &|_| None);
    assert_eq!(of(&book, UNKNOWN), Some(10_000));
    book.update(&[(key, traffic(12))], &names, &services);
    assert_eq!(of(&book, "cart"), Some(2_000));
    assert_eq!(of(&book, UNKNOWN), Some(10_000));
}

#[test]
fn the_end_that_is_elsewhere_is_unknown() {
    let mut book = Book::default();
    book.update(
        &[(pair(0, 2, 80, Path::Tcp), traffic(1))],
        &names,
        &services,
    );
    assert_eq!(bytes(&book, UNKNOWN), Some(1_000));
}

#[test]
fn pairs_beyond_the_bound_are_folded_and_stay_folded() {
    let mut book = Book::default();
    book.update(&[], &names, &services);
    let max = u32::try_from(PAIRS_MAX).unwrap();
    let mut rows: Vec<_> = (1..=max + 10)
        .map(|id| (pair(id, 999, 80, Path::Tcp), traffic(1)))
        .collect();
    book.update(&rows, &names, &services);
    assert_eq!(book.folded(), 10);
    assert_eq!(bytes(&book, OTHER), Some(10_000));
    // A workload with series goes, which makes room: the folded ones stay, the next newcomer gets it.
    rows.remove(0);
    let gone = |id| if id == 1 { None } else { names(id) };
    book.update(&rows, &gone, &services);
    assert_eq!((book.folded(), bytes(&book, "w1")), (10, None));
    rows.push((pair(998, 999, 80, Path::Tcp), traffic(1)));
    book.update(&rows, &gone, &services);
    assert_eq!((book.folded(), bytes(&book, "w998")), (10, Some(1_000)));
    assert_eq!(bytes(&book, OTHER), Some(10_000));
}

#[test]
fn what_was_in_other_before_the_agent_started_is_not_counted_again() {
    let mut book = Book::default();
    let overflow = |scale| (PairKey::OVERFLOW, traffic(scale));
    let gone = |scale| (pair(2000, 1, 80, Path::Tcp), traffic(scale));
    book.update(&[overflow(10), gone(10)], &names, &services);
    assert_eq!(bytes(&book, OTHER), Some(0));
    book.update(&[overflow(11), gone(12)], &names, &services);
    assert_eq!(bytes(&book, OTHER), Some(3_000));
}

/// Returns what carries no requests, by source and service.
fn opaque(book: &Book) -> BTreeMap<(String, String), Opaque> {
    let mut all = BTreeMap::new();
    book.each_opaque(|ends, opaque| {
        let key = match ends {
            Some(ends) => (ends.source.1.clone(), ends.service.1.clone()),
            None => (OTHER.to_owned(), OTHER.to_owned()),
        };
        all.insert(key, *opaque);
    });
    all
}

#[test]
fn what_carries_requests_and_what_comes_from_elsewhere_is_not_for_istio() {
    let mut book = Book::default();
    let key = |source, port| PairKey {
        service: 1,
        ..pair(source, 2, port, Path::Tcp)
    };
    let requests = PairKey {
        requests: 1,
        ..key(1, 80)
    };
    book.update(&[], &names, &services);
    let rows = |scale| {
        [
            (key(1, 80), traffic(scale)),
            (key(1, 81), traffic(scale)),
            (requests, traffic(10 * scale)),
            (key(0, 80), traffic(scale)),
            (pair(1, 1, 80, Path::Tcp), traffic(scale)),
            (PairKey::OVERFLOW, traffic(scale)),
            (pair(2000, 2, 80, Path::Tcp), traffic(scale)),
        ]
    };
    for scale in 1..4 {
        book.update(&rows(scale), &names, &services);
        let both = Opaque {
            tx_bytes: 2_000 * scale,
            rx_bytes: 100_000 * scale,
            opened: 4 * scale,
            closed: 2 * scale,
            failed: 0,
        };
        let all = opaque(&book);
        let keys: Vec<_> = all.keys().map(|(source, _)| source.as_str()).collect();
        assert_eq!(keys, [OTHER, "w1"]);
        assert_eq!(all[&("w1".to_owned(), "cart".to_owned())], both);
        assert_eq!(all[&(OTHER.to_owned(), OTHER.to_owned())].opened, 2 * scale);
    }
}

#[test]
fn a_sum_of_several_ports_does_not_fall_when_one_ends() {
    let mut book = Book::default();
    let again = |id| {
        if id == 5 {
            Some(name("ns", "w2"))
        } else {
            names(id)
        }
    };
    let (old, new) = (pair(1, 2, 80, Path::Tcp), pair(1, 5, 81, Path::Tcp));
    book.update(&[(old, traffic(10)), (new, traffic(1))], &again, &services);
    // The destination was started anew under its name, and is dialled at its other port alone.
    let gone = |id| if id == 2 { None } else { again(id) };
    book.update(&[(new, traffic(2))], &gone, &services);
    let all: Vec<u64> = opaque(&book).values().map(|it| it.tx_bytes).collect();
    assert_eq!(all, [12_000]);
    let none = |_| None;
    book.update(&[], &none, &services);
    assert_eq!(opaque(&book).len(), 0);
}

proptest! {
    /// Whatever rows come, grow and go, no series that stays ever falls.
    #[test]
    fn sums_never_fall(steps in prop::collection::vec(
        prop::collection::btree_map((0u32..6, 0u32..6, 0u8..2, 80u16..82, 0u8..2), 0u64..50, 0..12), 1..20,
    )) {
        let mut book = Book::default();
        let (mut before, mut before_opaque) = (BTreeMap::new(), BTreeMap::new());
        for step in steps {
            let rows: Vec<_> = step.into_iter().map(|((source, destination, path, port, requests), scale)| {
                let path = Path::from_number(path).unwrap();
                // Handles from 4 on are gone workloads, and folded.
                let id = |id| if id >= 4 { 2000 + id } else { id };
                let pair = pair(id(source), id(destination), port, path);
                (PairKey { requests, ..pair }, traffic(scale))
            }).collect();
            book.update(&rows, &names, &services);
            let mut now = BTreeMap::new();
            book.each(|labels, sums| {
                for (path, sum) in sums {
                    now.insert((labels.clone(), *path), (sum.tx_bytes, sum.connect_histogram));
                }
            });
            for (series, (bytes, histogram)) in &before {
                let (now_bytes, now_histogram) = now.get(series).copied().unwrap();
                prop_assert!(now_bytes >= *bytes);
                let mut buckets = now_histogram.iter().zip(histogram);
                prop_assert!(buckets.all(|(now, before)| now >= before));
            }
            before = now;
            let mut now = BTreeMap::new();
            book.each_opaque(|ends, opaque| _ = now.insert(ends.cloned(), *opaque));
            for (ends, was) in &before_opaque {
                let is: Opaque = now.get(ends).copied().unwrap();
                let was: &Opaque = was;
                prop_assert!(is.tx_bytes >= was.tx_bytes && is.rx_bytes >= was.rx_bytes);
                prop_assert!(is.opened >= was.opened && is.closed >= was.closed);
            }
            before_opaque = now;
        }
    }
}
