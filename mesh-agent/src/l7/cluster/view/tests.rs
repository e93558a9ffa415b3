//! Levels: how requests spill over as endpoints are ejected, by Envoy's documented numbers.

use std::collections::BTreeSet;

use super::super::policy::{ClusterPolicy, OutlierPolicy};
use super::super::tests::{MS, S, address, by, cluster, number, targets};
use super::super::{Cluster, Outcome};
use super::*;

/// Endpoints of each level, numbered from 0.
fn listed(levels: &[u16]) -> Vec<Candidate> {
    let count = levels.iter().sum::<u16>();
    let level = |at: u16| {
        let mut before = 0;
        let mut levels = levels.iter();
        let is_in = |size: &u16| {
            before += size;
            at < before
        };
        u16::try_from(levels.position(is_in).unwrap()).unwrap()
    };
    let all = targets(&vec![1; usize::from(count)]);
    let one = |(at, target)| Candidate {
        target,
        level: level(at),
        is_healthy: true,
    };
    (0..).zip(all).map(one).collect()
}

/// One failure ejects, and as many may be as leave half.
fn strict(algorithm: Algorithm) -> ClusterPolicy {
    ClusterPolicy {
        outlier: Some(OutlierPolicy {
            consecutive_5xx: Some(1),
            max_percent: 100,
            ..OutlierPolicy::default()
        }),
        ..by(algorithm)
    }
}

fn of(levels: &[u16], algorithm: Algorithm) -> Cluster {
    let cluster = cluster(&[], strict(algorithm));
    cluster.set_levels(&[], &listed(levels), S, &mut Chance::seeded(1));
    cluster
}

/// Has an endpoint answer badly.
fn eject(cluster: &Cluster, at: u16, now: Now) {
    let ask = Ask {
        session: Some(address(at)),
        ..Ask::default()
    };
    let picked = cluster.pick(&ask, &mut Chance::seeded(1), now).unwrap();
    assert_eq!(number(&picked), usize::from(at));
    picked.done(Outcome::Status(503), MS, now);
}

/// Returns each endpoint's share of 10,000 requests, in percent.
fn shares(cluster: &Cluster, hashed: bool, now: Now) -> Vec<f64> {
    let mut chance = Chance::seeded(3);
    let mut shares = vec![0.0; cluster.endpoints()];
    for _ in 0..10_000 {
        let ask = Ask {
            hash: hashed.then(|| chance.bits()),
            ..Ask::default()
        };
        let picked = cluster.pick(&ask, &mut chance, now).unwrap();
        shares[number(&picked)] += 0.01;
    }
    shares
}

const ALL: [Algorithm; 7] = [
    Algorithm::LeastRequest { bias: 1.0 },
    Algorithm::RoundRobin,
    Algorithm::WeightedRandom,
    Algorithm::Random,
    Algorithm::RING_HASH,
    Algorithm::MAGLEV,
    Algorithm::Rendezvous { bound: None },
];

#[test]
fn requests_spill_over_as_a_level_is_ejected() {
    for algorithm in ALL {
        let hashed = ALL[4..].contains(&algorithm);
        let cluster = of(&[4, 4], algorithm);
        // 1.4 times the healthy share, as for priorities in Envoy's documentation.
        for (ejected, stays) in [(0, 100.0), (1, 100.0), (2, 70.0), (3, 35.0), (4, 0.0)] {
            if ejected > 0 {
                eject(&cluster, ejected - 1, S);
            }
            let shares = shares(&cluster, hashed, S);
            let first: f64 = shares[..4].iter().sum();
            assert!(
                (first - stays).abs() < 2.0,
                "{algorithm:?} {ejected}: {shares:?}"
            );
            for (at, share) in shares.iter().enumerate() {
                let is_out = at < usize::from(ejected);
                assert!(
                    !is_out || *share == 0.0,
                    "{algorithm:?} {ejected}: {shares:?}"
                );
            }
            if ejected == 4 {
                assert!(
                    shares[4..].iter().all(|it| (15.0..35.0).contains(it)),
                    "{shares:?}"
                );
            }
        }
        // And back once they are over.
        let later: f64 = shares(&cluster, hashed, 40 * S)[..4].iter().sum();
        assert!((later - 100.0).abs() < 1e-6, "{algorithm:?}: {later}");
    }
}

#[test]
fn what_balancing_knows_counts_as_well() {
    let cluster = cluster(&[], strict(Algorithm::RoundRobin));
    let mut all = listed(&[4, 2, 2]);
    all[0].is_healthy = false;
    cluster.set_levels(&[], &all, S, &mut Chance::seeded(1));
    eject(&cluster, 1, S);
    // Half of the first level is left, the second takes the rest, and the third nothing.
    let part =
        |range: std::ops::Range<usize>| shares(&cluster, false, S)[range].iter().sum::<f64>();
    assert!((part(2..4) - 70.0).abs() < 2.0 && part(0..2) == 0.0);
    assert!((part(4..6) - 30.0).abs() < 2.0 && part(6..8) == 0.0);
    // A new list keeps what is known.
    all[7].target.weight = 2;
    cluster.set_levels(&[], &all, S, &mut Chance::seeded(1));
    assert!((part(2..4) - 70.0).abs() < 2.0);
    // The very same one is none: nothing is built anew.
    let before = cluster.v4.listed();
    cluster.set_levels(&[], &all, S, &mut Chance::seeded(1));
    assert_eq!(cluster.v4.listed(), before);
}

#[test]
fn no_more_are_ejected_than_leave_half_of_all() {
    let cluster = of(&[2, 2], Algorithm::RoundRobin);
    for at in 0..2 {
        eject(&cluster, at, S);
    }
    let mut chance = Chance::seeded(1);
    for _ in 0..100 {
        let picked = cluster.pick(&Ask::default(), &mut chance, S).unwrap();
        assert!(number(&picked) >= 2);
        picked.done(Outcome::Status(503), MS, S);
    }
    // Of a level with nobody left nobody is asked, also while the other is bad.
    assert_eq!(cluster.v4.ejected(S), [address(0), address(1)]);
}

#[test]
fn a_session_stays_on_its_level_and_a_retry_leaves_it_if_need_be() {
    let cluster = of(&[2, 2], Algorithm::RoundRobin);
    let mut chance = Chance::seeded(1);
    let mut pick = |session: Option<u16>, tried: &[u16]| {
        let tried: Vec<SocketAddr> = tried.iter().map(|at| address(*at)).collect();
        let ask = Ask {
            session: session.map(address),
            tried: &tried,
            ..Ask::default()
        };
        number(&cluster.pick(&ask, &mut chance, S).unwrap())
    };
    for _ in 0..20 {
        assert_eq!(pick(Some(3), &[]), 3);
        assert!(pick(None, &[]) < 2);
        assert_eq!(pick(None, &[0]), 1);
        assert!(pick(None, &[0, 1]) >= 2);
        // No other is left.
        assert!(pick(None, &[0, 1, 2, 3]) < 2);
    }
}

#[test]
fn a_hash_moves_only_if_its_share_does() {
    let cluster = of(&[4, 4], Algorithm::MAGLEV);
    let pick = |hash| {
        let ask = Ask {
            hash: Some(hash),
            ..Ask::default()
        };
        number(&cluster.pick(&ask, &mut Chance::random(), S).unwrap())
    };
    let hashes: Vec<u64> = (0..1000).map(|it| mix(it + 1)).collect();
    let before: Vec<usize> = hashes.iter().map(|hash| pick(*hash)).collect();
    assert_eq!(
        before.iter().copied().collect::<BTreeSet<_>>(),
        [0, 1, 2, 3].into()
    );
    eject(&cluster, 0, S);
    eject(&cluster, 1, S);
    for (hash, before) in hashes.iter().zip(&before) {
        let now = pick(*hash);
        assert_eq!(now, pick(*hash));
        assert!(now == *before || *before < 2 || now >= 4, "{before} {now}");
    }
}
