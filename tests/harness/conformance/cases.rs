//! All cases.

use super::request::{Expected, Request};
use super::{filters, grpc, matching, selecting, shares};

/// A case: configurations, one after the other, and what has to come while each is in force.
#[derive(Clone, Debug)]
pub struct Case {
    /// Its name, unique.
    pub name: &'static str,
    /// In order.
    pub steps: Vec<Step>,
}

/// A configuration.
#[derive(Clone, Debug)]
pub struct Step {
    /// Routes and policies, as documents of YAML, with names in angle brackets.
    pub routes: String,
    /// What has to come.
    pub checks: Vec<Check>,
}

/// What has to come.
#[derive(Clone, Debug)]
pub enum Check {
    /// Of one request.
    Once(Request, Expected),
    /// Of many: backends by name, or statuses, with their parts of a hundred.
    Spread(Request, Vec<(&'static str, u32)>),
}

impl Check {
    /// Returns what is asked.
    pub fn request(&self) -> &Request {
        match self {
            Self::Once(request, _) | Self::Spread(request, _) => request,
        }
    }
}

/// Returns a case with one configuration.
pub(super) fn case(name: &'static str, routes: String, checks: Vec<Check>) -> Case {
    Case {
        name,
        steps: vec![Step { routes, checks }],
    }
}

/// Returns every case.
pub fn all() -> Vec<Case> {
    let mut all = selecting::cases();
    all.extend(matching::cases());
    all.extend(filters::cases());
    all.extend(shares::cases());
    all.extend(grpc::cases());
    all
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_everything_is_known_somewhere() {
        let mut names = super::super::Names::default();
        for name in ["mesh", "guest"] {
            names.set(name, name);
        }
        for (service, _) in super::super::SERVICES {
            names.set(service, "10.0.0.1");
            names.set(&format!("{service}/6"), "[fd00::1]");
        }
        for backend in super::super::BACKENDS {
            names.set(&format!("pod {backend}"), "10.1.0.1");
            names.set(&format!("pod {backend}/6"), "[fd01::1]");
        }
        let mut seen = BTreeSet::new();
        for case in all() {
            assert!(seen.insert(case.name), "{} twice", case.name);
            for step in &case.steps {
                names.fill(&step.routes).unwrap();
                for check in &step.checks {
                    names.fill(&check.request().url).unwrap();
                }
                assert!(!step.checks.is_empty(), "{} checks nothing", case.name);
            }
        }
    }
}
