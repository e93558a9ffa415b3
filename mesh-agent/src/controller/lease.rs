//! Who leads: what a candidate makes of a `Lease`. Pure; `elector` asks and writes.
//!
//! Clocks are not compared: a lease that others hold counts from when *this* candidate saw it change, by its own clock, so clocks
//! that are wrong by hours do no harm. Two never lead at once, because who leads gives up before the others' patience ends.
#![forbid(unsafe_code)]

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::Instant;

/// Longest time for which somebody else's lease is believed, whatever it says: a slip of one digit is not to end all leading.
const BELIEVED: Duration = Duration::from_secs(3600);

/// One who may lead, and what is known of the lease.
#[derive(Debug)]
pub(super) struct Candidate {
    namespace: String,
    name: String,
    identity: String,
    duration: Duration,
    seen: Option<Seen>,
}

#[derive(Debug)]
struct Seen {
    lease: Value,
    /// When its content was first seen.
    at: Instant,
}

/// What to do.
#[derive(Debug)]
pub(super) enum Step {
    /// There is no lease: create this one.
    Create(Value),
    /// Put this one in the place of what was seen.
    Take(Value),
    /// Somebody else leads.
    Wait(String),
}

impl Candidate {
    pub(super) fn new(namespace: &str, name: &str, identity: &str, duration: Duration) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            identity: identity.to_owned(),
            duration,
            seen: None,
        }
    }

    /// Takes in the lease as the server has it now; `None` where there is none.
    pub(super) fn see(&mut self, lease: Option<Value>, now: Instant) {
        let before = self.seen.take();
        self.seen = lease.map(|lease| {
            let same = before.filter(|before| before.lease["spec"] == lease["spec"]);
            let at = same.map_or(now, |before| before.at);
            Seen { lease, at }
        });
    }

    /// Returns whether the lease was this candidate's when it was seen last.
    pub(super) fn is_ours(&self) -> bool {
        self.seen
            .as_ref()
            .is_some_and(|it| holder(&it.lease) == self.identity)
    }

    /// Returns what to do now; `time` is what to write as the time.
    pub(super) fn step(&self, now: Instant, time: Timestamp) -> Step {
        let Some(seen) = &self.seen else {
            return Step::Create(json!({
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": self.name, "namespace": self.namespace},
                "spec": {
                    "holderIdentity": self.identity,
                    "leaseDurationSeconds": seconds(self.duration),
                    "acquireTime": micros(time),
                    "renewTime": micros(time),
                    "leaseTransitions": 0,
                },
            }));
        };
        let holder = holder(&seen.lease);
        if !holder.is_empty() && holder != self.identity {
            let said = seen.lease["spec"]["leaseDurationSeconds"].as_u64();
            let lasts = said
                .map_or(self.duration, Duration::from_secs)
                .min(BELIEVED);
            if now < seen.at + lasts {
                return Step::Wait(holder.to_owned());
            }
        }
        let mut lease = seen.lease.clone();
        let spec = &mut lease["spec"];
        if holder != self.identity {
            let transitions = spec["leaseTransitions"].as_u64().unwrap_or_default();
            spec["leaseTransitions"] = (transitions + 1).into();
            spec["acquireTime"] = micros(time).into();
            spec["holderIdentity"] = self.identity.as_str().into();
        }
        spec["leaseDurationSeconds"] = seconds(self.duration).into();
        spec["renewTime"] = micros(time).into();
        Step::Take(lease)
    }

    /// Returns the lease as it is to be when this candidate goes, so that nobody has to wait; `None` where it is not its own.
    pub(super) fn release(&self, time: Timestamp) -> Option<Value> {
        let seen = self.seen.as_ref().filter(|_| self.is_ours())?;
        let mut lease = seen.lease.clone();
        let spec = &mut lease["spec"];
        spec["holderIdentity"] = "".into();
        // The API takes no 0.
        spec["leaseDurationSeconds"] = 1.into();
        spec["renewTime"] = micros(time).into();
        Some(lease)
    }
}

fn holder(lease: &Value) -> &str {
    lease["spec"]["holderIdentity"].as_str().unwrap_or_default()
}

fn seconds(duration: Duration) -> u64 {
    duration.as_secs().max(1)
}

/// Returns a time as leases and events have it: the server refuses any but six digits.
pub(super) fn micros(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LASTS: Duration = Duration::from_secs(15);

    fn candidate(identity: &str) -> Candidate {
        Candidate::new("system", "lease", identity, LASTS)
    }

    fn of(step: Step) -> Option<Value> {
        match step {
            Step::Create(lease) | Step::Take(lease) => Some(lease),
            Step::Wait(_) => None,
        }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    #[test]
    fn times_have_six_digits() {
        assert_eq!(micros(Timestamp::UNIX_EPOCH), "1970-01-01T00:00:00.000000Z");
        let time: Timestamp = "2026-01-01T00:00:05.123456789Z".parse().unwrap();
        assert_eq!(micros(time), "2026-01-01T00:00:05.123456Z");
    }

    #[test]
    fn who_comes_first_leads_and_others_wait_for_its_silence() {
        let now = Instant::now();
        let (mut first, mut second) = (candidate("a"), candidate("b"));
        let lease = of(first.step(now, at(0))).unwrap();
        assert_eq!(lease["spec"]["leaseTransitions"], 0);
        first.see(Some(lease.clone()), now);
        assert!(first.is_ours());
        second.see(Some(lease), now);
        let almost = now + LASTS - Duration::from_millis(1);
        assert!(of(second.step(almost, at(0))).is_none());
        let renewed = of(first.step(almost, at(14))).unwrap();
        second.see(Some(renewed.clone()), almost);
        assert!(of(second.step(now + LASTS, at(15))).is_none());
        second.see(Some(renewed), almost + LASTS);
        let taken = of(second.step(almost + LASTS, at(30))).unwrap();
        assert_eq!(taken["spec"]["holderIdentity"], "b");
        assert_eq!(taken["spec"]["leaseTransitions"], 1);
    }

    #[test]
    fn clocks_that_are_wrong_by_an_hour_change_nothing() {
        for skew in [-3600, 3600] {
            let now = Instant::now();
            let first = candidate("a");
            let lease = of(first.step(now, at(skew))).unwrap();
            let mut second = candidate("b");
            second.see(Some(lease), now);
            assert!(of(second.step(now + LASTS / 2, at(7))).is_none(), "{skew}");
            assert!(of(second.step(now + LASTS, at(15))).is_some(), "{skew}");
        }
    }

    #[test]
    fn who_goes_leaves_the_lease_to_the_next_and_nobody_else_s_is_released() {
        let now = Instant::now();
        let (mut first, mut second) = (candidate("a"), candidate("b"));
        assert!(first.release(at(0)).is_none());
        first.see(of(first.step(now, at(0))), now);
        let released = first.release(at(1)).unwrap();
        second.see(Some(released), now);
        assert!(second.release(at(1)).is_none());
        assert!(of(second.step(now, at(1))).is_some());
    }

    #[test]
    fn what_else_stands_in_the_lease_stays() {
        let now = Instant::now();
        let mut first = candidate("a");
        let lease = json!({"metadata": {"name": "lease", "labels": {"x": "y"}, "resourceVersion": "7"},
            "spec": {"strategy": "OldestEmulationVersion"}});
        first.see(Some(lease), now);
        let taken = of(first.step(now, at(0))).unwrap();
        assert_eq!(taken["metadata"]["labels"]["x"], "y");
        assert_eq!(taken["metadata"]["resourceVersion"], "7");
        assert_eq!(taken["spec"]["strategy"], "OldestEmulationVersion");
        assert_eq!(taken["spec"]["holderIdentity"], "a");
    }

    #[test]
    fn a_lease_for_ever_is_not_believed() {
        let now = Instant::now();
        let mut second = candidate("b");
        let lease =
            json!({"spec": {"holderIdentity": "a", "leaseDurationSeconds": u64::from(u32::MAX)}});
        second.see(Some(lease), now);
        assert!(of(second.step(now + BELIEVED, at(0))).is_some());
    }
}
