//! Tests of `telemetry::http::counts`.

use super::*;
use crate::l7::flag::Flag;
use crate::l7::route::CompiledRule;
use crate::telemetry::fake::name;
use crate::telemetry::http::fake::{Sample, rule};
use crate::telemetry::http::record::Messages;
use crate::telemetry::http::rows::{self, Row};
use crate::telemetry::metrics::istio::Names;

fn counts(sets_max: usize) -> Counts {
    Counts::new(false, sets_max)
}

/// Returns requests by source and status, in order.
fn shown(counts: &Counts, now: Instant) -> Vec<(String, u16, u64)> {
    let sums = counts.sums(now).sets;
    let row = |(labels, sums): (&Arc<Labels>, &Sums)| {
        let source = labels.whose.as_ref().map(|it| it.source.name.clone());
        let source = source.unwrap_or_else(|| "other".to_owned());
        (source, labels.how.status, sums.requests())
    };
    sums.iter().map(row).collect()
}

fn of(source: &str, status: u16) -> Sample {
    let mut sample = Sample {
        status,
        ..Sample::default()
    };
    Arc::make_mut(&mut sample.client.workload).name = source.to_owned();
    sample
}

#[test]
fn threads_count_by_themselves_and_are_added_up() {
    let counts = counts(10);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let table = counts.table();
                for _ in 0..1_000 {
                    counts.count(&table, &of("web", 200).record());
                    counts.count(&table, &of("web", 204).record());
                    counts.count(&table, &of("web", 404).record());
                }
            });
        }
    });
    let expected = [("web".into(), 200, 8_000), ("web".into(), 400, 4_000)];
    assert_eq!(shown(&counts, Instant::now()), expected);
    let sums = counts.sums(Instant::now()).sets;
    let first = sums.values().next().unwrap();
    assert_eq!(first.received, 80_000);
    assert_eq!(first.times.total_ns(), 8_000 * 1_000_000);
    assert_eq!(
        first.durations[3], 8_000,
        "1 ms is in the bucket up to 1 ms"
    );
}

#[test]
fn the_same_names_are_the_same_wherever_they_come_from() {
    let counts = counts(10);
    let table = counts.table();
    let one = of("web", 200);
    counts.count(&table, &one.record());
    let mut other = of("web", 200);
    // As after another compilation: another pointer.
    other.rule = Some(Arc::new(CompiledRule::clone(&rule("cart"))));
    counts.count(&table, &other.record());
    assert_eq!(shown(&counts, Instant::now()).len(), 1);
    other.rule = Some(rule("cart2"));
    counts.count(&table, &other.record());
    other.rule = None;
    counts.count(&table, &other.record());
    other.flags.raise(Flag::NoRoute);
    counts.count(&table, &other.record());
    other.destination = None;
    counts.count(&table, &other.record());
    other.grpc_status = Some(99);
    counts.count(&table, &other.record());
    assert_eq!(shown(&counts, Instant::now()).len(), 6);
}

#[test]
fn beyond_the_bound_all_are_one_and_idle_ones_make_room() {
    let counts = counts(2);
    let table = counts.table();
    let begun = Instant::now();
    for source in ["a", "b", "c", "d", "c", "e", "f", "g"] {
        counts.count(&table, &of(source, 200).record());
    }
    let other = |count| ("other".to_owned(), 0, count);
    let expected = [other(6), ("a".into(), 200, 1), ("b".into(), 200, 1)];
    assert_eq!(shown(&counts, begun), expected);
    assert!(
        lock(&table.0).known.len() <= 4,
        "what has no place is bounded too"
    );
    // Only `a` goes on; at the next look `b` has been idle for long enough.
    counts.count(&table, &of("a", 200).record());
    assert_eq!(shown(&counts, begun + IDLE / 2).len(), 3);
    let after = begun + IDLE + Duration::from_secs(1);
    let expected = [other(6), ("a".into(), 200, 2)];
    assert_eq!(shown(&counts, after), expected);
    counts.count(&table, &of("c", 200).record());
    counts.count(&table, &of("d", 200).record());
    let expected = [other(7), ("a".into(), 200, 2), ("c".into(), 200, 1)];
    assert_eq!(shown(&counts, after), expected);
    // One that comes back begins anew.
    assert_eq!(shown(&counts, after + 2 * IDLE), [other(7)]);
    counts.count(&table, &of("a", 200).record());
    let expected = [other(7), ("a".into(), 200, 1)];
    assert_eq!(shown(&counts, after + 2 * IDLE), expected);
}

#[test]
fn what_is_counted_while_somebody_looks_is_never_lost() {
    let counts = counts(1_000);
    let stop = std::sync::atomic::AtomicBool::new(false);
    let total = AtomicU64::default();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let table = counts.table();
                    let samples: Vec<_> = (0..50).map(|it| of(&format!("w{it}"), 200)).collect();
                    for round in 0..4_000 {
                        counts.count(&table, &samples[round % 50].record());
                        total.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            let mut before = 0;
            while !stop.load(Ordering::Relaxed) {
                let sums = counts.sums(Instant::now()).sets;
                let now: u64 = sums.values().map(Sums::requests).sum();
                assert!(now >= before, "{now} after {before}");
                before = now;
            }
        });
        for thread in threads {
            thread.join().unwrap();
        }
        stop.store(true, Ordering::Relaxed);
    });
    let sums = counts.sums(Instant::now()).sets;
    let all: u64 = sums.values().map(Sums::requests).sum();
    assert_eq!(all, total.load(Ordering::Relaxed));
}

#[test]
fn two_sets_of_one_hash_are_told_apart() {
    let table = Table::default();
    let mut slots = lock(&table.0);
    let samples = [of("a", 200), of("b", 200), of("c", 200)];
    let how = |sample: &Sample| How::of(&sample.record(), false);
    for sample in &samples[..2] {
        let slot = Slot {
            labels: Arc::new(Labels::of(&sample.record(), how(sample))),
            cell: Arc::default(),
            homeless: None,
        };
        slots.put(7, slot);
    }
    let found = |slots: &Slots, at: usize| {
        let sample = &samples[at];
        let slot = slots.find(7, &sample.record(), how(sample));
        slot.map(|it| it.labels.clone())
    };
    let (a, b) = (found(&slots, 0).unwrap(), found(&slots, 1).unwrap());
    assert!(a != b && found(&slots, 2).is_none());
    slots.remove(7, &b);
    assert!(found(&slots, 1).is_none() && found(&slots, 0) == Some(a));
}

#[test]
fn a_rule_with_a_name_is_the_same_wherever_it_stands() {
    let counts = counts(10);
    let table = counts.table();
    let begun = Instant::now();
    let named = |index, name: Option<&str>| {
        let mut named = CompiledRule::clone(&rule("cart"));
        (named.index, named.name) = (index, name.map(str::to_owned));
        Sample {
            rule: Some(Arc::new(named)),
            ..of("web", 200)
        }
    };
    let (here, there) = (named(0, Some("pay")), named(1, Some("pay")));
    counts.count(&table, &here.record());
    counts.count(&table, &there.record());
    assert_eq!(shown(&counts, begun), [("web".into(), 200, 2)]);
    assert_eq!(lock(&table.0).known.len(), 1);
    assert_eq!(shown(&counts, begun + IDLE), []);
    counts.count(&table, &there.record());
    assert_eq!(shown(&counts, begun + IDLE), [("web".into(), 200, 1)]);
    // One whose name looks like a place has the label of that place.
    counts.count(&table, &named(12, None).record());
    counts.count(&table, &named(3, Some("12")).record());
    let sums = shown(&counts, begun + IDLE);
    assert_eq!(sums, [("web".into(), 200, 2), ("web".into(), 200, 1)]);
}

/// Returns Istio's labels, of workloads that nothing else is known of.
fn istio(labels: &Labels) -> Row {
    rows::istio(
        labels,
        &mut Names::new(Arc::default(), String::new()).look(),
    )
}

/// Returns what is shown by each of the ways in which sets are added up: requests, retries and time.
fn rows(counts: &Counts, now: Instant) -> BTreeMap<(bool, Row), (u64, u64, u64)> {
    let mut all = BTreeMap::<_, (u64, u64, u64)>::new();
    let mut add = |key, sums: &Sums| {
        let row = all.entry(key).or_default();
        row.0 += sums.requests();
        row.1 += sums.retries;
        row.2 += sums.times.total_ns();
    };
    let seen = counts.sums(now);
    for (labels, sums) in &seen.sets {
        add((true, istio(labels)), sums);
    }
    for (labels, sums) in seen.sets.iter().chain(&seen.past) {
        add((false, rows::route(labels)), sums);
    }
    all
}

#[test]
fn no_sum_falls_while_a_part_of_it_goes_on() {
    let counts = Counts::new(true, 10);
    let table = counts.table();
    let begun = Instant::now();
    let busy = of("web", 200);
    let failed = Sample {
        attempts: 3,
        ..of("web", 503)
    };
    // Of another route to the same service, which Istio's labels do not tell from the first.
    let mut routed = of("web", 200);
    routed.rule = Some(rule("other"));
    let bystander = of("cli", 200);
    for sample in [&busy, &failed, &routed, &bystander] {
        counts.count(&table, &sample.record());
    }
    let mut before = rows(&counts, begun);
    for round in 1..6 {
        counts.count(&table, &busy.record());
        let now = rows(&counts, begun + IDLE / 2 * round);
        for ((is_istio, row), was) in &before {
            let Some(is) = now.get(&(*is_istio, row.clone())) else {
                assert!(row.refs().contains(&"cli"), "{row:?} has ended");
                continue;
            };
            assert!(is >= was && is.1 >= was.1 && is.2 >= was.2, "{row:?}");
        }
        before = now;
    }
    let left = shown(&counts, begun + IDLE / 2 * 5);
    let expected = [
        ("web".to_owned(), 200, 6),
        ("web".to_owned(), 503, 1),
        ("web".to_owned(), 200, 1),
    ];
    assert_eq!(left, expected, "nobody else has a part in what `cli` did");
    assert_eq!(shown(&counts, begun + 5 * IDLE), [], "all go at once");
}

/// Returns a request that this pod answered, after a retry.
fn by(pod: &str) -> Sample {
    Sample {
        workload: Some(Arc::new(name("shop", pod))),
        attempts: 2,
        ..of("web", 200)
    }
}

#[test]
fn a_pod_that_answers_no_more_makes_room_and_leaves_what_it_had_a_part_in() {
    // Two pods, the next one, and what is past.
    let counts = Counts::new(true, 4);
    let table = counts.table();
    let begun = Instant::now();
    let pods = |now| {
        let sums = counts.sums(now).sets;
        let name = |labels: &Arc<Labels>| labels.whose.clone()?.workload.map(|it| it.name.clone());
        let all = sums.iter();
        let all = all.map(|(labels, sums)| (name(labels), sums.requests()));
        all.collect::<Vec<_>>()
    };
    let own = |pod: &str, requests| (Some(pod.to_owned()), requests);
    counts.count(&table, &by("cart-0").record());
    counts.count(&table, &by("cart-1").record());
    assert_eq!(pods(begun), [own("cart-0", 1), own("cart-1", 1)]);
    // A pod takes another's place again and again, as in a service that is rolled out for ever.
    let (mut before, mut retries) = (rows(&counts, begun), 2);
    for round in 2..12 {
        let now = begun + IDLE * (round - 1);
        let newest = format!("cart-{round}");
        counts.count(&table, &by(&newest).record());
        counts.count(&table, &by("cart-0").record());
        retries += 2;
        let all = rows(&counts, now);
        for ((is_istio, row), was) in &before {
            match all.get(&(*is_istio, row.clone())) {
                Some(is) => assert!(is >= was && is.1 >= was.1 && is.2 >= was.2, "{row:?}"),
                None => assert!(*is_istio, "{row:?} has ended"),
            }
        }
        let of_route = all.iter().find(|((is_istio, _), _)| !is_istio).unwrap().1;
        assert_eq!(of_route.1, retries, "of all pods that there ever were");
        let told = pods(now);
        assert_eq!(told, [own("cart-0", u64::from(round)), own(&newest, 1)]);
        before = all;
    }
    assert_eq!(pods(begun + 20 * IDLE), []);
    let seen = counts.sums(begun + 20 * IDLE);
    assert_eq!(seen.past.len(), 0, "it goes with the last of them");
}

#[test]
fn messages_are_counted_and_tell_that_it_is_grpc() {
    let counts = Counts::new(true, 10);
    let table = counts.table();
    let (received, sent) = (2, 3);
    let call = Sample {
        messages: Some(Messages { received, sent }),
        ..of("web", 200)
    };
    counts.count(&table, &call.record());
    counts.count(&table, &call.record());
    counts.count(&table, &of("web", 200).record());
    let sums = counts.sums(Instant::now()).sets;
    let told: Vec<_> = sums
        .iter()
        .map(|(labels, sums)| (istio(labels).refs()[20].to_owned(), sums.messages))
        .collect();
    let (received, sent) = (4, 6);
    assert_eq!(
        told,
        [
            ("http".to_owned(), Messages::default()),
            ("grpc".to_owned(), Messages { received, sent })
        ]
    );
}

#[test]
fn a_table_that_is_full_of_the_homeless_has_room_for_who_has_a_place() {
    let counts = counts(2);
    let (one, other) = (counts.table(), counts.table());
    let begun = Instant::now();
    for source in ["a", "b"] {
        counts.count(&one, &of(source, 200).record());
    }
    for source in ["c", "d", "e", "f"] {
        counts.count(&other, &of(source, 200).record());
    }
    shown(&counts, begun);
    shown(&counts, begun + IDLE);
    for _ in 0..1_000 {
        counts.count(&other, &of("g", 200).record());
    }
    let book = counts.book();
    let cells = book.sets.values().map(|set| set.cells.len());
    assert_eq!(cells.collect::<Vec<_>>(), [1]);
    assert!(lock(&other.0).known.len() <= 4);
}

#[test]
fn the_flag_that_is_counted_is_the_cause() {
    let flags = |is_exact: bool, all: &[Flag]| {
        let counts = Counts::new(is_exact, 10);
        let mut sample = of("web", 503);
        all.iter().for_each(|flag| sample.flags.raise(*flag));
        counts.count(&counts.table(), &sample.record());
        let sums = counts.sums(Instant::now()).sets;
        let (labels, _) = sums.first_key_value().unwrap();
        let row = match is_exact {
            true => istio(labels),
            false => rows::mesh(labels),
        };
        // Behind it, Istio says what secures the connection.
        let at = row.refs().len() - 1 - usize::from(is_exact);
        row.refs()[at].to_owned()
    };
    use Flag::{FaultDelay, RetriesExhausted, UpstreamConnectFailure, UpstreamTimeout};
    let all = [FaultDelay, RetriesExhausted, UpstreamConnectFailure];
    for (raised, cause, joined) in [
        (&[][..], "-", "-"),
        (&[UpstreamTimeout], "UT", "UT"),
        (&all[..1], "DI", "DI"),
        (&all[..2], "DI", "DI,URX"),
        (&all[1..], "UF", "UF,URX"),
        (&all[..], "UF", "UF,DI,URX"),
        (&[UpstreamTimeout, RetriesExhausted], "UT", "UT,URX"),
    ] {
        assert_eq!(flags(false, raised), cause, "{raised:?}");
        assert_eq!(flags(true, raised), joined, "{raised:?}");
    }
}
