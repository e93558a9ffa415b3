//! Runs a case.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};

use super::cases::{Case, Check};
use super::names::Names;
use super::request::{Expected, Request, Seen};
use crate::wait::pause;

/// Requests of which a spread is made.
const SPREAD: u32 = 500;

/// How much a share may be off, in requests: five of a hundred, as in Gateway API's own tests.
const OFF: u32 = SPREAD / 20;

/// A spread is a matter of chance, so it may be drawn anew this often.
const DRAWS: u32 = 5;

/// Right answers in a row where the configuration comes some time after it was applied.
const IN_A_ROW: u32 = 3;

/// Between two tries.
const AGAIN: Duration = Duration::from_millis(250);

/// A place where cases run.
pub trait Driver {
    /// What things are called here.
    fn names(&self) -> &Names;

    /// Puts these routes and policies in the place of those before, and returns once they are in force, or about to be.
    ///
    /// # Errors
    /// When they are not accepted.
    fn apply(&mut self, routes: &str) -> Result<()>;

    /// Returns what comes of a request whose URL has all names filled in.
    ///
    /// # Errors
    /// When nobody could ask.
    fn ask(&self, request: &Request, url: &str) -> Result<Seen>;

    /// Makes many requests, and returns how many were answered by whom: by a backend's name, or else the status.
    ///
    /// # Errors
    /// When nobody could ask.
    fn spread(&self, request: &Request, url: &str, count: u32) -> Result<BTreeMap<String, u32>>;

    /// How long the first right answer may take. Zero: the first answer counts, and alone.
    fn patience(&self) -> Duration;
}

/// What became of a case.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Outcome {
    /// Checks that were made.
    pub checked: usize,
    /// Checks that were not, and for want of which name.
    pub left_out: Vec<String>,
}

/// Runs a case.
///
/// # Errors
/// What is not as it has to be.
pub fn run(case: &Case, driver: &mut dyn Driver) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    for step in &case.steps {
        let routes = driver.names().fill(&step.routes);
        let routes = routes.map_err(|name| anyhow!("no {name} here"))?;
        driver
            .apply(&routes)
            .with_context(|| format!("`{}`: not applied", case.name))?;
        for check in &step.checks {
            let url = match driver.names().fill(&check.request().url) {
                Ok(url) => url,
                Err(name) => {
                    outcome
                        .left_out
                        .push(format!("{}: no {name}", check.request().url));
                    continue;
                }
            };
            let checked = match check {
                Check::Once(request, expected) => once(driver, request, &url, expected),
                Check::Spread(request, parts) => spread(driver, request, &url, parts),
            };
            checked.with_context(|| format!("`{}`: {:?} {url}", case.name, check.request()))?;
            outcome.checked += 1;
        }
    }
    Ok(outcome)
}

fn once(driver: &dyn Driver, request: &Request, url: &str, expected: &Expected) -> Result<()> {
    let fill = |text: &str| {
        driver
            .names()
            .fill(text)
            .unwrap_or_else(|_| text.to_owned())
    };
    let patience = driver.patience();
    let end = Instant::now() + patience;
    let mut in_a_row = 0;
    loop {
        let seen = driver.ask(request, url)?;
        let differences = expected.differences(&seen, fill);
        match differences.is_empty() {
            true if patience.is_zero() => return Ok(()),
            true => in_a_row += 1,
            false => in_a_row = 0,
        }
        if in_a_row >= IN_A_ROW {
            return Ok(());
        }
        if !differences.is_empty() {
            if Instant::now() >= end {
                bail!("{}; {seen:?}", differences.join("; "));
            }
            pause(AGAIN);
        }
    }
}

fn spread(driver: &dyn Driver, request: &Request, url: &str, parts: &[(&str, u32)]) -> Result<()> {
    let end = Instant::now() + driver.patience();
    let mut draws = 0;
    loop {
        let seen = driver.spread(request, url, SPREAD)?;
        if is_near(&seen, parts) {
            return Ok(());
        }
        draws += 1;
        if draws >= DRAWS && Instant::now() >= end {
            bail!("spread {seen:?} and not {parts:?} of a hundred");
        }
    }
}

fn is_near(seen: &BTreeMap<String, u32>, parts: &[(&str, u32)]) -> bool {
    let near = |(who, part): &(&str, u32)| {
        let count = seen.get(*who).copied().unwrap_or(0);
        count > 0 && count.abs_diff(part * SPREAD / 100) <= OFF
    };
    seen.len() == parts.len() && parts.iter().all(near)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_may_be_off_by_five_of_a_hundred() {
        let seen = |counts: &[(&str, u32)]| {
            let counts = counts
                .iter()
                .map(|(who, count)| ((*who).to_owned(), *count));
            counts.collect::<BTreeMap<_, _>>()
        };
        let parts = [("v1", 70), ("v2", 30)];
        assert!(is_near(&seen(&[("v1", 350), ("v2", 150)]), &parts));
        assert!(is_near(&seen(&[("v1", 326), ("v2", 174)]), &parts));
        assert!(!is_near(&seen(&[("v1", 324), ("v2", 176)]), &parts));
        assert!(!is_near(
            &seen(&[("v1", 350), ("v2", 149), ("v3", 1)]),
            &parts
        ));
        assert!(!is_near(&seen(&[("v1", 500)]), &parts));
    }
}
