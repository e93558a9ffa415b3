//! What a port's policy allows at a time: rate limits, and faults on purpose. Kept for as long as the policy stays the same.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use crate::l7::cluster::Now;
use crate::l7::limit::bucket::{Bucket, Rate};
use crate::l7::limit::fault::{Abort, FaultPolicy, Fraction};
use crate::l7::limit::keyed::{KEYS_MAX, Keyed};
use crate::l7::limit::window::Window;
use crate::l7::limit::{Limit, Limited};
use crate::l7::message::RequestHead;
use crate::l7::route::CompiledRule;
use crate::model::traffic::{Fault, FaultStatus, LimitBy, LimitKey, RateLimit, Traffic};
use crate::proxy::exchange::room::nanoseconds;
use crate::proxy::record::Client;

/// What is kept for one port's policy.
#[derive(Debug)]
pub struct Governor {
    /// What it was made of.
    traffic: Arc<Traffic>,
    limits: Vec<Entry>,
    pub(super) faults: Option<FaultPolicy>,
}

/// One rate limit.
#[derive(Debug)]
struct Entry {
    limit: RateLimit,
    counts: Counts,
}

#[derive(Debug)]
enum Counts {
    Bucket(Bucket),
    Window(Window),
    Buckets(Keyed<Bucket>),
    Windows(Keyed<Window>),
}

impl Governor {
    /// Begins to keep what a policy needs; `None`: it needs nothing. `before` is what was kept for the port so far: it goes on
    /// where the policy is the same.
    pub fn new(traffic: &Arc<Traffic>, before: Option<&Arc<Self>>) -> Option<Arc<Self>> {
        if traffic.limits.is_empty() && traffic.fault.is_none() {
            return None;
        }
        let is_same = |before: &&Arc<Self>| {
            before.traffic.limits == traffic.limits && before.traffic.fault == traffic.fault
        };
        if let Some(before) = before.filter(is_same) {
            return Some(Arc::clone(before));
        }
        Some(Arc::new(Self {
            traffic: Arc::clone(traffic),
            limits: traffic.limits.iter().map(Entry::new).collect(),
            faults: traffic.fault.map(faults),
        }))
    }

    /// Takes one request from every limit that it falls under.
    ///
    /// # Errors
    ///
    /// Where it is one too many for one of them; those before it have counted it.
    pub(super) fn take(
        &self,
        head: &RequestHead,
        client: &Client,
        rule: Option<&CompiledRule>,
        now: Now,
    ) -> Result<(), Limited> {
        let applies = |entry: &&Entry| match &entry.limit.route {
            None => true,
            Some(route) => rule.is_some_and(|rule| rule.is_of(route)),
        };
        let mut entries = self.limits.iter().filter(applies);
        entries.try_for_each(|entry| entry.take(head, client, now))
    }
}

impl Entry {
    fn new(limit: &RateLimit) -> Self {
        let is_keyed = !limit.key.is_empty();
        Self {
            limit: limit.clone(),
            counts: match limit.by {
                LimitBy::TokenBucket if is_keyed => Counts::Buckets(Keyed::new(KEYS_MAX)),
                LimitBy::SlidingWindow if is_keyed => Counts::Windows(Keyed::new(KEYS_MAX)),
                LimitBy::TokenBucket => Counts::Bucket(bucket(limit)),
                LimitBy::SlidingWindow => Counts::Window(window(limit)),
            },
        }
    }

    fn take(&self, head: &RequestHead, client: &Client, now: Now) -> Result<(), Limited> {
        match &self.counts {
            Counts::Bucket(one) => one.take(now),
            Counts::Window(one) => one.take(now),
            Counts::Buckets(all) => all.take(&self.key(head, client), now, || bucket(&self.limit)),
            Counts::Windows(all) => all.take(&self.key(head, client), now, || window(&self.limit)),
        }
    }

    /// Returns a number for what is counted apart; the table that it goes to hashes it again, with a secret.
    fn key(&self, head: &RequestHead, client: &Client) -> u64 {
        let mut hasher = DefaultHasher::new();
        for key in &self.limit.key {
            match key {
                LimitKey::Workload => client.workload.hash(&mut hasher),
                LimitKey::Header(name) => head.fields.get(name.as_str()).hash(&mut hasher),
            }
        }
        hasher.finish()
    }
}

fn bucket(limit: &RateLimit) -> Bucket {
    let burst = limit.burst.unwrap_or(limit.requests);
    Bucket::new(Rate::new(limit.requests, nanoseconds(limit.per), burst))
}

fn window(limit: &RateLimit) -> Window {
    Window::new(limit.requests, nanoseconds(limit.per))
}

fn faults(fault: Fault) -> FaultPolicy {
    let delay = fault.delay.and_then(|(delay, percent): (Duration, u32)| {
        Some((Fraction::new(percent, 100)?, nanoseconds(delay)))
    });
    let abort = fault.abort.and_then(|(status, percent)| {
        let abort = match status {
            FaultStatus::Http(status) => Abort::Status(status.as_u16()),
            FaultStatus::Grpc(code) => Abort::Grpc(u32::from(code)),
        };
        Some((Fraction::new(percent, 100)?, abort))
    });
    FaultPolicy { delay, abort }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::workload::WorkloadName;
    use crate::proxy::tests::{port, tables};

    fn client(name: &str) -> Client {
        Client {
            workload: Arc::new(WorkloadName {
                namespace: "shop".to_owned(),
                name: name.to_owned(),
            }),
            netns: 1,
            address: "10.0.0.1:1".parse().unwrap(),
            port: Arc::new(port("cart")),
            dialled: "10.96.0.1:80".parse().unwrap(),
        }
    }

    fn governor(limit: RateLimit) -> Arc<Governor> {
        let traffic = Traffic {
            limits: vec![limit],
            ..Traffic::default()
        };
        Governor::new(&Arc::new(traffic), None).unwrap()
    }

    fn once(by: LimitBy, key: Vec<LimitKey>, route: Option<&str>) -> RateLimit {
        RateLimit {
            name: None,
            requests: 1,
            per: Duration::from_secs(3600),
            burst: None,
            by,
            key,
            route: route.map(str::to_owned),
        }
    }

    #[test]
    fn each_workload_has_its_own_count() {
        let head = RequestHead::default();
        for by in [LimitBy::TokenBucket, LimitBy::SlidingWindow] {
            let governor = governor(once(by, vec![LimitKey::Workload], None));
            let take = |name: &str| governor.take(&head, &client(name), None, 1).is_ok();
            assert!(take("a") && !take("a"), "{by:?}");
            assert!(take("b") && !take("b") && !take("a"), "{by:?}");
        }
    }

    #[test]
    fn a_limit_is_for_its_route_or_rule_alone() {
        let mut rules = vec![
            crate::proxy::tests::rule("/a", "cart"),
            crate::proxy::tests::rule("/b", "cart"),
        ];
        rules[0].name = Some("one".to_owned());
        let tables = tables(rules, Traffic::default());
        let table = tables.port(&port("cart")).unwrap().table("shop").unwrap();
        let head = RequestHead::default();
        // The first rule has a name; the other is only its route's.
        for (of, expected) in [
            (Some("shop/r/one"), [false, true]),
            (Some("shop/r"), [false, false]),
            (Some("shop/other"), [true, true]),
            (None, [false, false]),
        ] {
            for by in [LimitBy::TokenBucket, LimitBy::SlidingWindow] {
                for (rule, may) in table.rules().iter().zip(expected) {
                    let governor = governor(once(by, Vec::new(), of));
                    let take = || governor.take(&head, &client("a"), Some(rule), 1).is_ok();
                    assert!(take());
                    assert_eq!(take(), may, "{of:?} {by:?} {}", rule.label());
                }
            }
        }
    }
}
