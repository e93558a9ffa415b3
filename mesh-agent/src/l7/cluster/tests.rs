//! Shares, exclusion, families, sessions, and what stays over updates. Also what tests of the parts share.

use std::collections::BTreeMap;

use super::policy::{Algorithm, OutlierPolicy, PeakEwma};
use super::*;
use crate::model::service::{Protocol, ServiceName};
use crate::model::workload::WorkloadName;

pub(super) const MS: u64 = 1_000_000;
pub(super) const S: u64 = 1_000 * MS;

pub(super) fn address(index: u16) -> SocketAddr {
    let [high, low] = index.to_be_bytes();
    SocketAddr::from(([10, 0, high, low], 8080))
}

pub(super) fn targets(weights: &[u32]) -> Vec<Target> {
    let target = |(index, weight): (u16, &u32)| Target {
        address: address(index),
        workload: None,
        weight: *weight,
    };
    (0..).zip(weights).map(target).collect()
}

/// A cluster of endpoints with these weights, numbered from 0, at 1 s.
pub(super) fn cluster(weights: &[u32], policy: ClusterPolicy) -> Cluster {
    let id = PortId {
        service: ServiceName {
            namespace: "shop".into(),
            name: "cart".into(),
        },
        port: 80,
        protocol: Protocol::Tcp,
    };
    let cluster = Cluster::new(Arc::new(id), policy);
    cluster.set_endpoints(&targets(weights), S, &mut Chance::seeded(1));
    cluster
}

pub(super) fn by(algorithm: Algorithm) -> ClusterPolicy {
    ClusterPolicy {
        algorithm,
        ..ClusterPolicy::default()
    }
}

pub(super) fn number(picked: &Picked) -> usize {
    let SocketAddr::V4(address) = picked.address() else {
        panic!("{picked:?}");
    };
    let [.., high, low] = address.ip().octets();
    usize::from(u16::from_be_bytes([high, low]))
}

/// Picks so often, each answered before the next with a latency by endpoint; returns each endpoint's share.
fn shares(cluster: &Cluster, count: u32, latency: impl Fn(usize) -> u64) -> Vec<f64> {
    let mut chance = Chance::seeded(2);
    let mut shares = vec![0.0; cluster.endpoints()];
    for pick in 0..count {
        let now = S + u64::from(pick) * MS / 10;
        let picked = cluster.pick(&Ask::default(), &mut chance, now).unwrap();
        let at = number(&picked);
        shares[at] += 1.0 / f64::from(count);
        picked.done(Outcome::Status(200), latency(at), now + latency(at));
    }
    shares
}

fn near(shares: &[f64], expected: &[f64], by: f64) {
    let is_near = |(share, expected): (&f64, &f64)| (share - expected).abs() <= by;
    assert!(shares.iter().zip(expected).all(is_near), "{shares:?}");
}

const EVEN: [Algorithm; 7] = [
    Algorithm::LeastRequest { bias: 1.0 },
    Algorithm::RoundRobin,
    Algorithm::WeightedRandom,
    Algorithm::Random,
    Algorithm::RING_HASH,
    Algorithm::MAGLEV,
    Algorithm::Rendezvous { bound: None },
];

#[test]
fn equal_weights_get_equal_shares() {
    for algorithm in EVEN {
        let cluster = cluster(&[1; 10], by(algorithm));
        let shares = shares(&cluster, 100_000, |_| MS);
        // A ring of 1,030 entries is as uneven as 103 random numbers each make it.
        let is_ring = matches!(algorithm, Algorithm::RingHash { .. });
        near(&shares, &[0.1; 10], if is_ring { 0.03 } else { 0.005 });
    }
    let cluster = cluster(&[1; 10], ClusterPolicy::default());
    near(&shares(&cluster, 100_000, |_| MS), &[0.1; 10], 0.005);
}

#[test]
fn shares_are_in_proportion_to_weights() {
    for algorithm in EVEN {
        if algorithm == Algorithm::Random {
            continue;
        }
        let cluster = cluster(&[1, 2, 3, 4], by(algorithm));
        let shares = shares(&cluster, 100_000, |_| MS);
        let is_ring = matches!(algorithm, Algorithm::RingHash { .. });
        near(
            &shares,
            &[0.1, 0.2, 0.3, 0.4],
            if is_ring { 0.04 } else { 0.006 },
        );
    }
    let cluster = cluster(&[1, 2, 3, 4], by(Algorithm::Random));
    near(&shares(&cluster, 100_000, |_| MS), &[0.25; 4], 0.006);
}

#[test]
fn peak_ewma_keeps_each_share_near_its_weight() {
    let cluster = cluster(&[1, 2, 3, 4], ClusterPolicy::default());
    for (share, weight) in shares(&cluster, 100_000, |_| MS)
        .iter()
        .zip([0.1, 0.2, 0.3, 0.4])
    {
        // Two are drawn by weight, and the cheaper is taken: between both being this one and either.
        let bounds = weight * weight - 0.005..=2.0 * weight - weight * weight + 0.005;
        assert!(bounds.contains(share), "{share} for {weight}");
    }
}

#[test]
fn peak_ewma_leaves_out_who_is_slow_and_tries_it_again() {
    let cluster = cluster(&[1; 10], ClusterPolicy::default());
    let shares = shares(&cluster, 100_000, |at| if at == 3 { 100 * MS } else { MS });
    assert!(shares[3] < 0.01, "{shares:?}");
    // Ten seconds of picks.
    assert!(shares[3] > 0.0, "{shares:?}");
}

/// Picks so often a second for so many seconds, each answered after about its latency, which is by endpoint and number of the pick
/// there; returns the share of the first endpoint in each second.
fn simulated(rate: u64, seconds: u64, latency: impl Fn(usize, u32) -> u64) -> Vec<f64> {
    let cluster = cluster(&[1; 2], ClusterPolicy::default());
    let mut chance = Chance::seeded(6);
    let mut shares = vec![0.0; usize::try_from(seconds).unwrap()];
    let mut counts = vec![0u32; cluster.endpoints()];
    let mut flying: BTreeMap<(Now, u64), (Picked, u64)> = BTreeMap::new();
    for pick in 0..rate * seconds {
        let now = S + pick * S / rate;
        while let Some(first) = flying.first_entry()
            && first.key().0 <= now
        {
            let ((at, _), (picked, latency)) = first.remove_entry();
            picked.done(Outcome::Status(200), latency, at);
        }
        let picked = cluster.pick(&Ask::default(), &mut chance, now).unwrap();
        let at = number(&picked);
        let second = usize::try_from(pick / rate).unwrap();
        shares[second] += f64::from(u8::from(at == 0)) / rate as f64;
        let about = 700 + chance.below(800);
        let latency = latency(at, counts[at]) / 1000 * u64::from(about);
        counts[at] += 1;
        flying.insert((now + latency, pick), (picked, latency));
    }
    shares
}

#[test]
fn one_slow_answer_is_forgiven_soon_and_slowness_is_not() {
    let mean = |shares: &[f64]| shares.iter().sum::<f64>() / shares.len() as f64;
    for rate in [20, 200, 2000] {
        let shares = simulated(rate, 30, |at, number| match (at, number) {
            (0, 0) => S,
            _ => MS,
        });
        assert!(mean(&shares[15..]) > 0.35, "{rate}: {shares:?}");
        let shares = simulated(rate, 200, |at, _| if at == 0 { S } else { MS });
        // A request in flight at a time, now and then.
        assert!(mean(&shares[20..]) < 0.004, "{rate}: {shares:?}");
    }
}

#[test]
fn who_fails_fast_does_not_look_fast() {
    let policy = ClusterPolicy {
        outlier: None,
        ..ClusterPolicy::default()
    };
    let cluster = cluster(&[1; 10], policy);
    let mut chance = Chance::seeded(2);
    let mut bad = 0;
    for pick in 0..10_000 {
        let now = S + pick * MS;
        let picked = cluster.pick(&Ask::default(), &mut chance, now).unwrap();
        if number(&picked) == 3 {
            bad += 1;
            picked.done(Outcome::Status(500), MS / 10, now);
        } else {
            picked.done(Outcome::Status(200), 10 * MS, now);
        }
    }
    assert!((1..100).contains(&bad), "{bad}");
}

#[test]
fn fewer_requests_in_flight_are_preferred() {
    for algorithm in [Algorithm::default(), Algorithm::LeastRequest { bias: 1.0 }] {
        let cluster = cluster(&[1; 5], by(algorithm));
        let mut chance = Chance::seeded(3);
        let mut pick = || cluster.pick(&Ask::default(), &mut chance, S).unwrap();
        let held: Vec<Picked> = (0..1000).map(|_| pick()).collect();
        let mut counts = [0u32; 5];
        held.iter().for_each(|picked| counts[number(picked)] += 1);
        assert!(
            counts.iter().all(|count| (190..=210).contains(count)),
            "{counts:?}"
        );
    }
}

#[test]
fn least_request_by_weight_counts_requests_in_flight() {
    let cluster = cluster(&[1, 3], by(Algorithm::LeastRequest { bias: 1.0 }));
    let mut chance = Chance::seeded(3);
    let mut pick = || cluster.pick(&Ask::default(), &mut chance, S).unwrap();
    let held: Vec<Picked> = (0..1000).map(|_| pick()).collect();
    let heavy = held.iter().filter(|picked| number(picked) == 1).count();
    // Turns are as far apart as `(active + 1) / weight`: the sums of both rows stay equal, so their lengths are as 1 to sqrt(3).
    assert!((620..650).contains(&heavy), "{heavy}");
}

#[test]
fn tried_endpoints_are_left_out_until_there_is_no_other() {
    let tried: Vec<SocketAddr> = (0..9).map(address).collect();
    for algorithm in EVEN.into_iter().chain([Algorithm::default()]) {
        let cluster = cluster(&[1; 10], by(algorithm));
        let mut chance = Chance::seeded(4);
        for hash in 0..200 {
            let ask = Ask {
                hash: Some(hash),
                tried: &tried,
                ..Ask::default()
            };
            assert_eq!(number(&cluster.pick(&ask, &mut chance, S).unwrap()), 9);
        }
        let all: Vec<SocketAddr> = (0..10).map(address).collect();
        let ask = Ask {
            tried: &all,
            ..Ask::default()
        };
        cluster.pick(&ask, &mut chance, S).map(drop).unwrap();
    }
}

#[test]
fn a_session_wins_over_weight_and_hash_unless_its_endpoint_was_tried_or_is_gone() {
    let cluster = cluster(&[1000, 1], by(Algorithm::MAGLEV));
    let mut chance = Chance::seeded(5);
    let session = Some(address(1));
    let tried = [address(1)];
    let mut pick = |session, tried| {
        let ask = Ask {
            hash: Some(7),
            session,
            tried,
            v6: false,
        };
        number(&cluster.pick(&ask, &mut chance, S).unwrap())
    };
    assert_eq!(pick(None, &[]), 0);
    assert_eq!(pick(session, &[]), 1);
    assert_eq!(pick(session, &tried), 0);
    assert_eq!(pick(Some(address(99)), &[]), 0);
}

#[test]
fn a_family_is_preferred_and_the_other_one_answers_where_it_has_nobody() {
    let cluster = cluster(&[1], ClusterPolicy::default());
    let mut chance = Chance::seeded(6);
    let mut family = |v6| {
        let ask = Ask {
            v6,
            ..Ask::default()
        };
        cluster
            .pick(&ask, &mut chance, S)
            .map(|it| it.address().is_ipv6())
    };
    assert_eq!((family(false), family(true)), (Ok(false), Ok(false)));
    let six = Target {
        address: "[fd00::1]:8080".parse().unwrap(),
        workload: None,
        weight: 1,
    };
    let mut both = targets(&[1]);
    both.insert(0, six.clone());
    cluster.set_endpoints(&both, S, &mut Chance::seeded(1));
    assert_eq!((family(false), family(true)), (Ok(false), Ok(true)));
    assert!(cluster.has(six.address) && cluster.has(address(0)) && !cluster.has(address(1)));
    cluster.set_endpoints(&[six], S, &mut Chance::seeded(1));
    assert_eq!((family(false), family(true)), (Ok(true), Ok(true)));
    cluster.set_endpoints(&[], S, &mut Chance::seeded(1));
    assert_eq!(family(true), Err(NoEndpoint));
}

#[test]
fn what_is_known_of_an_endpoint_outlives_updates_of_endpoints_and_policy() {
    let cluster = cluster(&[1, 1], ClusterPolicy::default());
    let mut chance = Chance::seeded(7);
    // The first is slow and known to be, the second is fast.
    for (at, latency) in [(1, 100 * MS), (0, MS)] {
        let tried = [address(at)];
        let ask = Ask {
            tried: &tried,
            ..Ask::default()
        };
        cluster
            .pick(&ask, &mut chance, S)
            .unwrap()
            .done(Outcome::Status(200), latency, S);
    }
    let slow = |cluster: &Cluster, chance: &mut Chance| {
        let picks = (0..100).map(|_| number(&cluster.pick(&Ask::default(), chance, S).unwrap()));
        picks.filter(|at| *at == 0).count()
    };
    assert_eq!(slow(&cluster, &mut chance), 0);
    cluster.set_endpoints(&targets(&[1, 1, 1]), S, &mut chance);
    cluster.set_policy(
        ClusterPolicy {
            outlier: None,
            ..ClusterPolicy::default()
        },
        S,
        &mut chance,
    );
    assert_eq!(slow(&cluster, &mut chance), 0);
    cluster.set_endpoints(&targets(&[1, 1]), S, &mut chance);
    assert_eq!(slow(&cluster, &mut chance), 0);
}

#[test]
fn a_policy_takes_effect_at_once() {
    let cluster = cluster(&[1; 10], ClusterPolicy::default());
    let mut chance = Chance::seeded(8);
    cluster.set_policy(by(Algorithm::MAGLEV), S, &mut chance);
    let ask = Ask {
        hash: Some(42),
        ..Ask::default()
    };
    let first = number(&cluster.pick(&ask, &mut chance, S).unwrap());
    for _ in 0..100 {
        assert_eq!(number(&cluster.pick(&ask, &mut chance, S).unwrap()), first);
    }
}

#[test]
fn threads_leave_nothing_in_flight_while_endpoints_change() {
    let bound = Some(policy::BoundedLoad { percent: 150 });
    for algorithm in EVEN
        .into_iter()
        .chain([Algorithm::default(), Algorithm::Maglev { bound }])
    {
        let cluster = cluster(&[1; 8], by(algorithm));
        std::thread::scope(|scope| {
            for thread in 0..3 {
                let cluster = &cluster;
                scope.spawn(move || {
                    let mut chance = Chance::seeded(thread);
                    for i in 0..2_000 {
                        let now = S + i * MS;
                        let ask = Ask {
                            hash: Some(chance.bits()),
                            ..Ask::default()
                        };
                        let picked = cluster.pick(&ask, &mut chance, now).unwrap();
                        match i % 3 {
                            0 => drop(picked),
                            1 => picked.done(Outcome::Status(200), MS, now),
                            _ => picked.done(Outcome::ConnectFailed, MS, now),
                        }
                    }
                });
            }
            let mut chance = Chance::seeded(9);
            for round in 0..30 {
                let weights = vec![1 + round % 2; 4 + (round as usize % 8)];
                cluster.set_endpoints(&targets(&weights), S, &mut chance);
            }
        });
        assert_eq!(cluster.v4.in_flight(), 0, "{algorithm:?}");
    }
}

#[test]
fn what_nobody_answered_says_nothing_of_latency() {
    let policy = ClusterPolicy {
        concurrency: Some(policy::ConcurrencyPolicy::default()),
        outlier: None,
        ..ClusterPolicy::default()
    };
    let cluster = cluster(&[1], policy);
    let mut chance = Chance::seeded(1);
    let mut attempts = |outcome, count| {
        for _ in 0..count {
            let picked = cluster.pick(&Ask::default(), &mut chance, S).unwrap();
            picked.done(outcome, MS, S);
        }
    };
    let admitted = |now| {
        let admit = |_| cluster.admit(now).ok();
        (0..100).map_while(admit).collect::<Vec<Admission>>().len()
    };
    // Fifty answers end the first measurement; the window after them doubles the limit and adds the root of it.
    attempts(Outcome::Cancelled, 100);
    attempts(Outcome::ConnectFailed, 100);
    attempts(Outcome::Status(200), 49);
    cluster
        .pick(&Ask::default(), &mut chance, 2 * S)
        .unwrap()
        .done(Outcome::Cancelled, MS, 2 * S);
    assert_eq!(admitted(2 * S), 3);
    for now in [2 * S, 3 * S, 4 * S] {
        cluster
            .pick(&Ask::default(), &mut chance, now)
            .unwrap()
            .done(Outcome::Status(404), MS, now);
    }
    assert!(admitted(4 * S) > 3);
}

#[test]
fn a_client_that_goes_away_leaves_the_average_as_it_was() {
    let cluster = cluster(&[1, 1], ClusterPolicy::default());
    let mut chance = Chance::seeded(1);
    let mut attempt = |at: u16, outcome, latency| {
        let tried = [address(1 - at)];
        let ask = Ask {
            tried: &tried,
            ..Ask::default()
        };
        cluster
            .pick(&ask, &mut chance, S)
            .unwrap()
            .done(outcome, latency, S);
    };
    attempt(0, Outcome::Status(200), MS);
    attempt(1, Outcome::Status(200), 2 * MS);
    attempt(0, Outcome::Cancelled, 1000 * MS);
    let picks = (0..50).map(|_| number(&cluster.pick(&Ask::default(), &mut chance, S).unwrap()));
    assert!(picks.into_iter().all(|at| at == 0));
}

#[test]
fn a_failed_attempt_counts_down_when_it_is_dropped() {
    let cluster = cluster(&[1], ClusterPolicy::default());
    let picked = cluster
        .pick(&Ask::default(), &mut Chance::seeded(1), S)
        .unwrap();
    assert_eq!(cluster.v4.in_flight(), 1);
    picked.report(Outcome::Status(500), MS, S);
    assert_eq!(cluster.v4.in_flight(), 1);
    drop(picked);
    assert_eq!(cluster.v4.in_flight(), 0);
}

#[test]
fn defaults_are_as_documented() {
    let policy = ClusterPolicy::default();
    let ewma = PeakEwma {
        decay_ns: 10 * S,
        penalty_ns: S,
    };
    assert_eq!(policy.algorithm, Algorithm::PeakEwma(ewma));
    assert_eq!(
        (policy.budget, policy.concurrency, policy.panic_percent),
        (None, None, 50)
    );
    let outlier = policy.outlier.unwrap();
    assert_eq!(outlier, OutlierPolicy::default());
    assert_eq!(
        (outlier.consecutive_5xx, outlier.consecutive_gateway),
        (Some(5), None)
    );
    assert_eq!((outlier.interval_ns, outlier.ejection_ns), (10 * S, 30 * S));
    assert_eq!(
        (outlier.ejection_max_ns, outlier.max_percent),
        (300 * S, 10)
    );
    assert!(outlier.failure_percentage.is_none() && !outlier.split_local);
}

/// gRPC's statuses as HTTP's, by the table in gRPC's own document.
#[test]
fn grpc_statuses_count_as_http_statuses() {
    let expected = BTreeMap::from([(0, 200), (4, 504), (7, 403), (8, 429), (14, 503), (16, 401)]);
    for (code, status) in expected {
        assert_eq!(Outcome::Grpc(code).status(), Some(status));
    }
    assert!(Outcome::Grpc(13).is_failure() && !Outcome::Grpc(5).is_failure());
    assert!(!Outcome::Cancelled.is_failure() && Outcome::TimedOut.is_failure());
}

#[test]
fn an_address_that_another_workload_has_is_another_endpoint() {
    let cluster = cluster(&[1], ClusterPolicy::default());
    let mut chance = Chance::seeded(1);
    let mut pick = || cluster.pick(&Ask::default(), &mut chance, S).unwrap();
    let named = |name: &str| Target {
        workload: Some(Arc::new(WorkloadName {
            namespace: "shop".to_owned(),
            name: name.to_owned(),
        })),
        ..targets(&[1]).remove(0)
    };
    let name = |picked: &Picked| picked.workload().map(|it| it.name.clone());
    let nobody = pick();
    assert_eq!(name(&nobody), None);
    cluster.set_endpoints(&[named("a")], S, &mut Chance::seeded(1));
    let first = pick();
    assert_eq!(name(&first).as_deref(), Some("a"));
    assert_eq!(cluster.v4.in_flight(), 1, "not what the one before has");
    // The same name, said anew.
    cluster.set_endpoints(&[named("a")], S, &mut Chance::seeded(1));
    assert_eq!(cluster.v4.in_flight(), 1);
    cluster.set_endpoints(&[named("b")], S, &mut Chance::seeded(1));
    assert_eq!(cluster.v4.in_flight(), 0);
    assert_eq!(name(&pick()).as_deref(), Some("b"));
    // Who has the old one keeps its name.
    assert_eq!(name(&first).as_deref(), Some("a"));
}
