//! From single results to whether an endpoint counts as healthy.
#![forbid(unsafe_code)]

use std::sync::Arc;

use crate::model::endpoint::Checked;
use crate::model::service::HealthCheck;

/// What the results of one endpoint amount to.
#[derive(Clone, Debug, Default)]
pub(super) struct Score {
    /// `None` before the first result.
    healthy: Option<bool>,
    /// Results in a row that speak against it.
    against: u32,
    /// Why the last check that failed did.
    error: Option<Arc<str>>,
}

impl Score {
    /// Takes in a result. The first one counts at once, later ones change something only in a row.
    pub(super) fn take(&mut self, outcome: Result<(), String>, check: &HealthCheck) {
        let is_good = outcome.is_ok();
        if let Err(error) = outcome {
            self.error = Some(error.into());
        }
        let Some(healthy) = self.healthy else {
            self.healthy = Some(is_good);
            return;
        };
        if healthy == is_good {
            self.against = 0;
            return;
        }
        self.against += 1;
        let needed = match healthy {
            true => check.unhealthy,
            false => check.healthy,
        };
        if self.against >= needed {
            self.healthy = Some(is_good);
            self.against = 0;
        }
    }

    /// Returns what it amounts to, once there was a result.
    pub(super) fn checked(&self) -> Option<Checked> {
        let healthy = self.healthy?;
        Some(Checked {
            healthy,
            error: self.error.clone().filter(|_| !healthy),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::model::service::Probe;

    fn check(unhealthy: u32, healthy: u32) -> HealthCheck {
        HealthCheck {
            probe: Probe::Tcp,
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(1),
            unhealthy,
            healthy,
        }
    }

    fn run(results: &str, check: &HealthCheck) -> String {
        let mut score = Score::default();
        let state = |result| {
            let outcome = if result == '+' {
                Ok(())
            } else {
                Err("no".to_owned())
            };
            score.take(outcome, check);
            let checked = score.checked().unwrap();
            assert_eq!(checked.error.is_some(), !checked.healthy);
            if checked.healthy { '+' } else { '-' }
        };
        results.chars().map(state).collect()
    }

    #[test]
    fn three_failures_take_out_and_two_successes_bring_back() {
        let check = check(3, 2);
        assert_eq!(run("+--+---+-++-", &check), "++++++----++");
        assert_eq!(
            run("-+-++", &check),
            "----+",
            "the first result counts at once"
        );
    }

    proptest! {
        /// The state is that of the last row of results that was long enough.
        #[test]
        fn a_state_changes_only_after_a_row(results in "[+-]{1,40}", unhealthy in 1u32..5, healthy in 1u32..5) {
            let states = run(&results, &check(unhealthy, healthy));
            let (results, states) = (results.as_bytes(), states.as_bytes());
            prop_assert_eq!(states[0], results[0]);
            for i in 1..results.len() {
                let needed = if states[i - 1] == b'+' { unhealthy } else { healthy } as usize;
                let row = i + 1 >= needed && results[i + 1 - needed..=i].iter().all(|it| *it != states[i - 1]);
                // A row may have begun before the state that it speaks against did.
                let row = row && states[i + 1 - needed.min(i)..i].iter().all(|it| *it == states[i - 1]);
                prop_assert_eq!(states[i] != states[i - 1], row);
            }
        }
    }
}
