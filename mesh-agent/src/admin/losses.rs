//! What was lost lately, as opposed to ever.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::admin::types::LossCounts;
use crate::model::observed::NodeCounters;

/// Time between two samples: one small read, often enough for a window of minutes.
pub(super) const SAMPLE_EVERY: Duration = Duration::from_secs(10);

/// How long a loss makes the agent count as degraded: as long as an alert takes to fire and a person to look.
const WINDOW: Duration = Duration::from_secs(300);

/// Samples of the loss counters, oldest first.
#[derive(Debug, Default)]
pub(super) struct Losses(VecDeque<(Instant, LossCounts)>);

impl Losses {
    /// Takes a sample, and forgets those that the window does not need any more.
    pub(super) fn sample(&mut self, now: Instant, counts: LossCounts) {
        while self.0.len() > 1 && now.duration_since(self.0[1].0) >= WINDOW {
            self.0.pop_front();
        }
        self.0.push_back((now, counts));
    }

    /// Returns what was lost since the start of the window, given what was lost in all, and how long the window is.
    pub(super) fn recent(&self, now: Instant, total: LossCounts) -> (LossCounts, Duration) {
        let Some((since, then)) = self.0.front() else {
            return (LossCounts::default(), Duration::ZERO);
        };
        let recent = LossCounts {
            flow_records: total.flow_records.saturating_sub(then.flow_records),
            pairs_overflowed: total.pairs_overflowed.saturating_sub(then.pairs_overflowed),
            socket_state: total.socket_state.saturating_sub(then.socket_state),
            stalls: total.stalls.saturating_sub(then.stalls),
            spurious_eagain: total.spurious_eagain.saturating_sub(then.spurious_eagain),
        };
        (recent, now.duration_since(*since))
    }
}

impl From<&NodeCounters> for LossCounts {
    fn from(counters: &NodeCounters) -> Self {
        Self {
            flow_records: counters.records_lost,
            pairs_overflowed: counters.pairs_overflowed,
            socket_state: counters.state_failed,
            stalls: counters.stalls,
            spurious_eagain: counters.spurious_eagain,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_recent_for_the_window_and_then_no_more() {
        let lost = |flow_records| LossCounts {
            flow_records,
            ..LossCounts::default()
        };
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut losses = Losses::default();
        assert_eq!(
            losses.recent(at(0), lost(9)).0,
            lost(0),
            "nothing known yet"
        );
        // Nine were lost before the agent started.
        losses.sample(at(0), lost(9));
        assert_eq!(losses.recent(at(5), lost(9)).0, lost(0));
        losses.sample(at(10), lost(12));
        assert_eq!(losses.recent(at(11), lost(12)).0, lost(3));
        for seconds in (20..=400).step_by(10) {
            losses.sample(at(seconds), lost(12));
        }
        let (recent, window) = losses.recent(at(400), lost(12));
        assert_eq!((recent, window), (lost(0), WINDOW));
    }
}
