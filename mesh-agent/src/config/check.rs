//! `node-agent check DIR`: one reading of a directory, with nothing in force before.
#![forbid(unsafe_code)]

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use crate::config::dir::DirReader;
use crate::config::problem::{Finding, Problem, Severity};
use crate::config::resolve::Resolver;
use crate::model::policy::Policies;
use crate::model::route::Routes;
use crate::model::service::Services;
use crate::model::status::Statuses;
use crate::model::workload::{Acceleration, Workload, WorkloadName};

/// What a check found.
///
/// `Display` prints every problem and then how many there are of what. The JSON form is `{"workloads": N, "services": N,
/// "policies": N, "routes": N, "errors": N, "problems": [...]}`; see [`Problem`] for its fields.
#[derive(Clone, Debug)]
pub struct CheckReport {
    /// The workloads that the directory describes.
    pub workloads: Vec<Arc<Workload>>,
    /// The services that it describes, with their endpoints.
    pub services: Arc<Services>,
    /// The policies that it describes.
    pub policies: Arc<Policies>,
    /// The routes that services took.
    pub routes: Arc<Routes>,
    /// What became of each of Gateway API's objects.
    pub statuses: Arc<Statuses>,
    /// What is wrong, ordered by place.
    pub problems: Vec<Problem>,
    /// Whether the directory could be listed at all.
    pub readable: bool,
    resolver: Arc<Resolver>,
}

/// Reads a directory (or a single file) of manifests as the agent would at its start. Changes nothing.
pub fn check(dir: &Path, default: Acceleration) -> CheckReport {
    let contents = DirReader::default().read(dir);
    let contents = contents.as_deref().map_err(AsRef::as_ref);
    let mut resolver = Resolver::new(default);
    resolver.update(contents);
    CheckReport {
        workloads: resolver.resolved().workloads.clone(),
        services: resolver.resolved().services.clone(),
        policies: resolver.resolved().policies.clone(),
        routes: resolver.resolved().linked.routes.clone(),
        statuses: resolver.resolved().linked.statuses.clone(),
        problems: resolver.problems(),
        readable: contents.is_ok(),
        resolver: Arc::new(resolver),
    }
}

impl CheckReport {
    /// Adds a warning about a workload of this report: such as why it is not found on this machine.
    pub fn warn(&mut self, name: &WorkloadName, problem: &str, help: &str) {
        let Some((key, place)) = self.resolver.pod(name) else {
            return;
        };
        let finding = Finding::error(place.line, "", problem, help).with(Severity::Warning);
        self.problems.push(place.problem(Some(key), finding));
        self.problems.sort();
    }

    /// Returns the number of errors; warnings and notes do not count.
    pub fn errors(&self) -> usize {
        let is_error = |problem: &&Problem| problem.severity == Severity::Error;
        self.problems.iter().filter(is_error).count()
    }

    /// Returns the exit code of `node-agent check`: 0 valid, 1 errors, 2 directory unreadable.
    pub fn exit_code(&self) -> u8 {
        match (self.readable, self.errors()) {
            (false, _) => 2,
            (true, 0) => 0,
            (true, _) => 1,
        }
    }
}

impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.problems {
            writeln!(f, "{problem}")?;
        }
        f.write_str(&self.counted())?;
        let errors = self.errors();
        write!(f, ", {errors} error{}", if errors == 1 { "" } else { "s" })
    }
}

impl CheckReport {
    /// Returns how many valid objects there are: `2 workloads, 1 service`. What there is none of is left out, but workloads.
    pub fn counted(&self) -> String {
        let mut text = match self.workloads.len() {
            1 => "1 workload".to_owned(),
            count => format!("{count} workloads"),
        };
        let services = (self.services.len(), "service", "services");
        let policies = (self.policies.len(), "policy", "policies");
        let routes = (self.routes.len(), "route", "routes");
        for (count, one, more) in [services, policies, routes] {
            match count {
                0 => {}
                1 => text += &format!(", 1 {one}"),
                _ => text += &format!(", {count} {more}"),
            }
        }
        text
    }
}

impl Serialize for CheckReport {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Json<'a> {
            workloads: usize,
            services: usize,
            policies: usize,
            routes: usize,
            errors: usize,
            problems: &'a [Problem],
        }
        let json = Json {
            workloads: self.workloads.len(),
            services: self.services.len(),
            policies: self.policies.len(),
            routes: self.routes.len(),
            errors: self.errors(),
            problems: &self.problems,
        };
        json.serialize(serializer)
    }
}
