//! Rows, rates, how long and how many: Envoy's documented numbers.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::super::policy::{Algorithm, ClusterPolicy, FailurePercentage, SuccessRate};
use super::super::tests::{MS, S, address, by, cluster, number, targets};
use super::super::{Ask, Cluster, Picked};
use super::*;
use crate::chance::Chance;

/// Picks this endpoint of `hosts`.
fn at(cluster: &Cluster, hosts: u16, index: u16, now: Now) -> Picked {
    // No session: one whose endpoint is ejected goes elsewhere.
    let tried: Vec<SocketAddr> = (0..hosts).filter(|it| *it != index).map(address).collect();
    let ask = Ask {
        tried: &tried,
        session: Some(address(index)),
        ..Ask::default()
    };
    cluster.pick(&ask, &mut Chance::seeded(1), now).unwrap()
}

/// Answers so often in a row; the endpoint must not be ejected before.
fn answer(cluster: &Cluster, hosts: u16, index: u16, outcomes: &[Outcome], now: Now) {
    for outcome in outcomes {
        let picked = at(cluster, hosts, index, now);
        assert_eq!(number(&picked), usize::from(index));
        picked.done(*outcome, MS, now);
    }
}

fn outlier(policy: OutlierPolicy) -> ClusterPolicy {
    ClusterPolicy {
        outlier: Some(policy),
        ..by(Algorithm::RoundRobin)
    }
}

fn ejected(cluster: &Cluster, now: Now) -> Vec<SocketAddr> {
    cluster.v4.ejected(now)
}

const BAD: Outcome = Outcome::Status(500);
const GOOD: Outcome = Outcome::Status(200);

#[test]
fn five_failures_in_a_row_eject_for_thirty_seconds() {
    let cluster = cluster(&[1; 10], by(Algorithm::RoundRobin));
    answer(&cluster, 10, 3, &[BAD, BAD, BAD, BAD, GOOD], S);
    answer(&cluster, 10, 3, &[BAD; 4], S);
    answer(&cluster, 10, 3, &[Outcome::Status(404)], S);
    answer(&cluster, 10, 3, &[BAD; 4], S);
    assert!(ejected(&cluster, S).is_empty());
    answer(&cluster, 10, 3, &[BAD], S);
    assert_eq!(ejected(&cluster, S), [address(3)]);
    let mut chance = Chance::seeded(1);
    let mut picks = |now| -> BTreeSet<usize> {
        let pick = |_| number(&cluster.pick(&Ask::default(), &mut chance, now).unwrap());
        (0..50).map(pick).collect()
    };
    assert!(!picks(S).contains(&3) && !picks(31 * S - 1).contains(&3));
    assert_eq!(picks(31 * S).len(), 10);
}

#[test]
fn each_further_ejection_is_longer_up_to_the_longest() {
    let cluster = cluster(&[1; 10], by(Algorithm::RoundRobin));
    let mut now = S;
    for times in 1..=12 {
        answer(&cluster, 10, 3, &[BAD; 5], now);
        let length = (30 * S * times).min(300 * S);
        assert_eq!(ejected(&cluster, now + length - 1), [address(3)], "{times}");
        assert!(ejected(&cluster, now + length).is_empty(), "{times}");
        now += length;
    }
}

#[test]
fn an_interval_without_ejection_forgets_one() {
    let cluster = cluster(&[1; 10], by(Algorithm::RoundRobin));
    let mut now = S;
    for times in 1..=3 {
        answer(&cluster, 10, 3, &[BAD; 5], now);
        now += 30 * S * times;
    }
    // Two are forgotten; the third is kept, so the next is the second.
    for _ in 0..2 {
        now += 10 * S;
        answer(&cluster, 10, 3, &[GOOD], now);
    }
    answer(&cluster, 10, 3, &[BAD; 5], now);
    assert_eq!(ejected(&cluster, now + 60 * S - 1), [address(3)]);
    assert!(ejected(&cluster, now + 60 * S).is_empty());
}

#[test]
fn jitter_is_added_up_to_its_most() {
    let policy = OutlierPolicy {
        jitter_max_ns: 10 * S,
        ..OutlierPolicy::default()
    };
    let times: BTreeSet<u64> = (0..100)
        .map(|index| time(&policy, 1, address(index), S))
        .collect();
    assert!(times.len() > 90 && times.iter().all(|it| (30 * S..=40 * S).contains(it)));
}

#[test]
fn gateway_failures_eject_only_where_asked_for() {
    let policy = |consecutive_gateway| {
        outlier(OutlierPolicy {
            consecutive_5xx: None,
            consecutive_gateway,
            ..OutlierPolicy::default()
        })
    };
    let gateway: Vec<Outcome> = [502, 503, 504, 502, 503].map(Outcome::Status).to_vec();
    let off = cluster(&[1; 10], policy(None));
    answer(&off, 10, 3, &gateway, S);
    assert!(ejected(&off, S).is_empty());
    let on = cluster(&[1; 10], policy(Some(5)));
    answer(&on, 10, 3, &gateway[..4], S);
    // Another 5xx ends the row.
    answer(&on, 10, 3, &[BAD], S);
    answer(&on, 10, 3, &gateway[..4], S);
    assert!(ejected(&on, S).is_empty());
    answer(&on, 10, 3, &[Outcome::ConnectFailed], S);
    assert_eq!(ejected(&on, S), [address(3)]);
}

#[test]
fn local_failures_count_as_answers_unless_they_are_split_off() {
    let local = [Outcome::ConnectFailed, Outcome::Reset, Outcome::TimedOut];
    let mixed: Vec<Outcome> = local.into_iter().chain([BAD, BAD]).collect();
    let together = cluster(&[1; 10], by(Algorithm::RoundRobin));
    answer(&together, 10, 3, &mixed, S);
    assert_eq!(ejected(&together, S), [address(3)]);
    let split = OutlierPolicy {
        split_local: true,
        ..OutlierPolicy::default()
    };
    let apart = cluster(&[1; 10], outlier(split));
    answer(&apart, 10, 3, &mixed, S);
    assert!(ejected(&apart, S).is_empty());
    answer(&apart, 10, 3, &[Outcome::ConnectFailed; 5], S);
    assert_eq!(ejected(&apart, S), [address(3)]);
}

#[test]
fn a_client_that_goes_away_says_nothing() {
    let cluster = cluster(&[1; 10], by(Algorithm::RoundRobin));
    answer(
        &cluster,
        10,
        3,
        &[BAD, BAD, Outcome::Cancelled, BAD, BAD],
        S,
    );
    answer(&cluster, 10, 3, &[Outcome::Cancelled; 10], S);
    assert!(ejected(&cluster, S).is_empty());
    answer(&cluster, 10, 3, &[BAD], S);
    assert_eq!(ejected(&cluster, S).len(), 1);
}

/// Lets everybody fail; returns how many are ejected.
fn all_fail(hosts: u16, max_percent: u32) -> usize {
    let policy = OutlierPolicy {
        max_percent,
        ..OutlierPolicy::default()
    };
    let cluster = cluster(&vec![1; usize::from(hosts)], outlier(policy));
    for index in 0..hosts {
        answer(&cluster, hosts, index, &[BAD; 5], S);
    }
    ejected(&cluster, S).len()
}

#[test]
fn a_tenth_is_ejected_at_most_but_one_may_be_and_never_more_than_half() {
    assert_eq!(all_fail(100, 10), 10);
    assert_eq!(all_fail(19, 10), 1);
    assert_eq!(all_fail(5, 10), 1);
    assert_eq!(all_fail(2, 10), 1);
    assert_eq!(all_fail(1, 10), 0);
    assert_eq!(all_fail(100, 100), 50);
    assert_eq!(all_fail(7, 100), 3);
    assert_eq!(all_fail(4, 0), 1);
}

#[test]
fn ejections_are_ignored_when_too_few_are_left() {
    let cluster = cluster(&[1; 10], by(Algorithm::RoundRobin));
    answer(&cluster, 10, 0, &[BAD; 5], S);
    let mut chance = Chance::seeded(1);
    let mut picks = |cluster: &Cluster| -> BTreeSet<usize> {
        let pick = |_| number(&cluster.pick(&Ask::default(), &mut chance, S).unwrap());
        (0..50).map(pick).collect()
    };
    // Half is not too few.
    cluster.set_endpoints(&targets(&[1; 2]), S, &mut Chance::seeded(1));
    assert_eq!(picks(&cluster), BTreeSet::from([1]));
    cluster.set_endpoints(&targets(&[1; 1]), S, &mut Chance::seeded(1));
    assert_eq!(picks(&cluster), BTreeSet::from([0]));
    // It is ejected still.
    cluster.set_endpoints(&targets(&[1; 3]), S, &mut Chance::seeded(1));
    assert_eq!(picks(&cluster), BTreeSet::from([1, 2]));
}

#[test]
fn who_is_gone_is_forgotten_and_leaves_room_for_others() {
    let cluster = cluster(&[1; 10], by(Algorithm::RoundRobin));
    answer(&cluster, 10, 9, &[BAD; 5], S);
    cluster.set_endpoints(&targets(&[1; 9]), S, &mut Chance::seeded(1));
    answer(&cluster, 9, 0, &[BAD; 5], S);
    assert_eq!(ejected(&cluster, S), [address(0)]);
    cluster.set_endpoints(&targets(&[1; 10]), S, &mut Chance::seeded(1));
    assert_eq!(ejected(&cluster, S), [address(0)]);
}

#[test]
fn without_a_policy_nobody_is_ejected_any_more() {
    let cluster = cluster(&[1; 10], by(Algorithm::RoundRobin));
    answer(&cluster, 10, 3, &[BAD; 5], S);
    let off = ClusterPolicy {
        outlier: None,
        ..by(Algorithm::RoundRobin)
    };
    cluster.set_policy(off, S, &mut Chance::seeded(1));
    answer(&cluster, 10, 3, &[BAD; 50], S);
    assert!(ejected(&cluster, S).is_empty());
    cluster.set_policy(by(Algorithm::RoundRobin), 2 * S, &mut Chance::seeded(1));
    answer(&cluster, 10, 3, &[BAD; 5], 2 * S);
    assert_eq!(ejected(&cluster, 2 * S), [address(3)]);
}

/// Envoy's own example: a mean of 90, a deviation of 20.
#[test]
fn the_success_rate_below_which_an_endpoint_is_an_outlier() {
    let rates = [50.0, 100.0, 100.0, 100.0, 100.0];
    assert_eq!(threshold(rates.into_iter(), 5, 1.9), Some(52.0));
    assert_eq!(threshold(rates.into_iter().take(4), 5, 1.9), None);
    assert_eq!(threshold(std::iter::empty(), 0, 1.9), None);
}

/// Answers 100 times at each endpoint, so many of them badly but never five in a row, and lets the interval end.
fn interval(policy: OutlierPolicy, requests: u32, bad: &[u32]) -> Vec<SocketAddr> {
    let hosts = u16::try_from(bad.len()).unwrap();
    let policy = OutlierPolicy {
        consecutive_5xx: None,
        ..policy
    };
    let cluster = cluster(&vec![1; bad.len()], outlier(policy));
    for (index, bad) in (0..).zip(bad) {
        for request in 0..requests {
            let outcome = if request < *bad { BAD } else { GOOD };
            answer(&cluster, hosts, index, &[outcome], 2 * S);
        }
    }
    assert!(ejected(&cluster, 11 * S - 1).is_empty());
    cluster
        .pick(&Ask::default(), &mut Chance::seeded(1), 11 * S)
        .map(drop)
        .unwrap();
    ejected(&cluster, 11 * S)
}

#[test]
fn who_succeeds_far_less_often_than_the_others_is_ejected() {
    let policy = OutlierPolicy::default;
    assert_eq!(interval(policy(), 100, &[50, 0, 0, 0, 0]), [address(0)]);
    assert_eq!(interval(policy(), 100, &[50, 40, 40, 40, 45]), []);
    // Too few requests, too few endpoints.
    assert_eq!(interval(policy(), 99, &[50, 0, 0, 0, 0]), []);
    assert_eq!(interval(policy(), 100, &[50, 0, 0, 0]), []);
    let off = OutlierPolicy {
        success_rate: None,
        ..policy()
    };
    assert_eq!(interval(off, 100, &[50, 0, 0, 0, 0]), []);
}

#[test]
fn a_share_of_failures_above_the_bound_ejects_where_asked_for() {
    let policy = || OutlierPolicy {
        success_rate: None,
        failure_percentage: Some(FailurePercentage::default()),
        max_percent: 50,
        ..OutlierPolicy::default()
    };
    assert_eq!(
        interval(policy(), 100, &[85, 84, 0, 0, 90]),
        [address(0), address(4)]
    );
    assert_eq!(interval(policy(), 49, &[49, 0, 0, 0, 0]), []);
    assert_eq!(interval(policy(), 50, &[50, 0, 0, 0, 0]), [address(0)]);
    assert_eq!(interval(policy(), 50, &[50, 0, 0, 0]), []);
    let default = OutlierPolicy {
        success_rate: Some(SuccessRate {
            min_requests: 1000,
            ..SuccessRate::default()
        }),
        ..OutlierPolicy::default()
    };
    assert_eq!(interval(default, 100, &[100, 0, 0, 0, 0]), []);
}

#[test]
fn an_interval_says_nothing_of_the_next() {
    let policy = OutlierPolicy {
        consecutive_5xx: None,
        ..OutlierPolicy::default()
    };
    let cluster = cluster(&[1; 5], outlier(policy));
    for index in 0..5 {
        answer(&cluster, 5, index, &[GOOD; 60], 2 * S);
    }
    // The first interval has too few requests, and so has the second.
    answer(&cluster, 5, 0, &[BAD; 60], 12 * S);
    answer(&cluster, 5, 1, &[GOOD; 60], 22 * S);
    assert!(ejected(&cluster, 22 * S).is_empty());
}

proptest! {
    /// Against rows of each endpoint written out, with ejections as a list.
    #[test]
    fn rows_equal_a_model(steps in prop::collection::vec((0..6u16, any::<bool>(), 0..4u64), 1..400)) {
        let policy = OutlierPolicy { max_percent: 40, success_rate: None, ..OutlierPolicy::default() };
        let cluster = cluster(&[1; 6], outlier(policy));
        let mut now = 2 * S;
        let mut rows: Vec<Vec<bool>> = vec![Vec::new(); 6];
        let mut model: Vec<(u16, u64)> = Vec::new();
        let mut times = [0u64; 6];
        // Before the end of the first interval nothing is forgotten: seconds do not matter here.
        for (index, is_bad, pause) in steps {
            now += pause * MS;
            let is_out = model.iter().any(|(it, until)| *it == index && *until > now);
            prop_assert_eq!(ejected(&cluster, now).contains(&address(index)), is_out);
            if is_out {
                continue;
            }
            let outcome = if is_bad { BAD } else { GOOD };
            answer(&cluster, 6, index, &[outcome], now);
            let row = &mut rows[usize::from(index)];
            row.push(is_bad);
            if row.len() >= 5 && row[row.len() - 5..].iter().all(|is_bad| *is_bad) {
                row.clear();
                if model.iter().filter(|(_, until)| *until > now).count() < 2 {
                    times[usize::from(index)] += 1;
                    model.push((index, now + 30 * S * times[usize::from(index)]));
                }
            }
        }
    }
}
