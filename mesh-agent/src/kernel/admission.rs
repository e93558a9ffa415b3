//! Whether a workload is accelerated: from its mode, what it was seen to do, and how far the kernel can be trusted. Pure.

use std::time::{Duration, Instant};

use mesh_common::behaviour;
use mesh_common::workload::{
    ADMISSION_AUTO, ADMISSION_OBSERVING, ADMISSION_OFF, ADMISSION_ON, Admission,
};

use crate::model::observed::{Level, WorkloadState};
use crate::model::workload::Acceleration;

/// Receive calls that an observation window must have seen: an idle workload has shown nothing.
pub(crate) const READS_MIN: u64 = 64;

/// What the probe and the settings allow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    /// How far the kernel can be trusted.
    pub(crate) level: Level,
    /// Behaviours that it forbids.
    pub(crate) forbidden: u64,
    /// How long a workload is observed.
    pub(crate) window: Duration,
}

/// One workload's way to admission.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    mode: Acceleration,
    /// When the observation began; `None` when none is under way.
    since: Option<Instant>,
}

/// What is to be written, and how the workload stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Decision {
    /// `ADMISSION_*`.
    pub(crate) admission: u32,
    /// Whether its syscalls are to be observed.
    pub(crate) observed: bool,
    /// How it stands.
    pub(crate) state: WorkloadState,
    /// Why, in words.
    pub(crate) why: String,
}

impl Candidate {
    /// Starts with what the kernel has (of an earlier agent, or zeros).
    pub(crate) fn new(mode: Acceleration) -> Self {
        Self { mode, since: None }
    }

    /// Changes the mode; an observation starts anew.
    pub(crate) fn set_mode(&mut self, mode: Acceleration) {
        if self.mode != mode {
            *self = Self::new(mode);
        }
    }

    /// Decides, given what the kernel has seen by `now`.
    pub(crate) fn decide(&mut self, seen: &Admission, terms: &Terms, now: Instant) -> Decision {
        match self.mode {
            Acceleration::Off => not(ADMISSION_OFF, "acceleration is off"),
            Acceleration::Observe => observing("mode `observe`", seen.behaviours & terms.forbidden),
            _ if terms.level == Level::Off => {
                not(ADMISSION_OBSERVING, "the kernel failed the start-up probe")
            }
            Acceleration::On => accelerated(ADMISSION_ON),
            Acceleration::Auto => self.auto(seen, terms, now),
        }
    }

    fn auto(&mut self, seen: &Admission, terms: &Terms, now: Instant) -> Decision {
        if terms.level < Level::Applications {
            return not(
                ADMISSION_OBSERVING,
                "this kernel's redirect is not safe for applications",
            );
        }
        if let Some(words) = behaviour::first_words(seen.behaviours & terms.forbidden) {
            self.since = None;
            return not(ADMISSION_OBSERVING, words);
        }
        if seen.admission == ADMISSION_AUTO {
            self.since = None;
            return accelerated(ADMISSION_AUTO);
        }
        let since = *self.since.get_or_insert(now);
        let left = terms.window.saturating_sub(now.duration_since(since));
        if left.is_zero() && seen.reads >= READS_MIN {
            self.since = None;
            return accelerated(ADMISSION_AUTO);
        }
        let why = if left.is_zero() {
            format!(
                "has received only {} of {READS_MIN} messages yet",
                seen.reads
            )
        } else {
            format!("observed for another {} s", left.as_secs() + 1)
        };
        Decision {
            admission: ADMISSION_OBSERVING,
            observed: true,
            state: WorkloadState::Observing,
            why,
        }
    }
}

fn accelerated(admission: u32) -> Decision {
    Decision {
        admission,
        observed: false,
        state: WorkloadState::Accelerated,
        why: String::new(),
    }
}

fn not(admission: u32, why: &str) -> Decision {
    Decision {
        admission,
        observed: false,
        state: WorkloadState::NotAccelerated,
        why: why.to_owned(),
    }
}

fn observing(why: &str, forbidden: u64) -> Decision {
    let why = match behaviour::first_words(forbidden) {
        Some(words) => format!("{why}; seen: {words}"),
        None => why.to_owned(),
    };
    Decision {
        admission: ADMISSION_OBSERVING,
        observed: true,
        state: WorkloadState::Observing,
        why,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERMS: Terms = Terms {
        level: Level::Applications,
        forbidden: behaviour::FIONREAD,
        window: Duration::from_secs(30),
    };

    fn seen(behaviours: u64, reads: u64) -> Admission {
        Admission {
            behaviours,
            reads,
            ..Admission::default()
        }
    }

    #[test]
    fn auto_admits_after_a_window_with_evidence() {
        let start = Instant::now();
        let mut candidate = Candidate::new(Acceleration::Auto);
        assert_eq!(
            candidate.decide(&seen(0, 0), &TERMS, start).state,
            WorkloadState::Observing
        );
        let later = start + Duration::from_secs(31);
        assert_eq!(
            candidate
                .decide(&seen(0, READS_MIN - 1), &TERMS, later)
                .state,
            WorkloadState::Observing
        );
        let decision = candidate.decide(&seen(behaviour::SPLICE, READS_MIN), &TERMS, later);
        assert_eq!(
            decision,
            accelerated(ADMISSION_AUTO),
            "splice is not forbidden by these terms"
        );
    }

    #[test]
    fn auto_refuses_a_forbidden_behaviour_at_any_time() {
        let mut candidate = Candidate::new(Acceleration::Auto);
        let admitted = Admission {
            admission: ADMISSION_AUTO,
            behaviours: behaviour::FIONREAD,
            ..Admission::default()
        };
        let decision = candidate.decide(&admitted, &TERMS, Instant::now());
        assert_eq!(decision.state, WorkloadState::NotAccelerated);
        assert_eq!(decision.why, "ioctl(FIONREAD) on a TCP socket");
    }

    #[test]
    fn an_earlier_agents_admission_is_kept() {
        let mut candidate = Candidate::new(Acceleration::Auto);
        let admitted = Admission {
            admission: ADMISSION_AUTO,
            ..Admission::default()
        };
        assert_eq!(
            candidate.decide(&admitted, &TERMS, Instant::now()),
            accelerated(ADMISSION_AUTO)
        );
    }

    #[test]
    fn on_needs_a_kernel_that_redirects_at_all() {
        let mut candidate = Candidate::new(Acceleration::On);
        let terms = Terms {
            level: Level::OwnSockets,
            ..TERMS
        };
        assert_eq!(
            candidate.decide(&seen(u64::MAX, 0), &terms, Instant::now()),
            accelerated(ADMISSION_ON)
        );
        let terms = Terms {
            level: Level::Off,
            ..TERMS
        };
        let decision = candidate.decide(&seen(0, 0), &terms, Instant::now());
        assert_eq!(decision.state, WorkloadState::NotAccelerated);
    }

    #[test]
    fn off_and_observe_never_accelerate() {
        for mode in [Acceleration::Off, Acceleration::Observe] {
            let later = Instant::now() + Duration::from_secs(3600);
            let decision = Candidate::new(mode).decide(&seen(0, 1_000_000), &TERMS, later);
            assert_ne!(decision.state, WorkloadState::Accelerated);
        }
    }
}
