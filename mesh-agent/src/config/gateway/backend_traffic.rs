//! `XBackendTrafficPolicy`: how often requests to a service may be tried again, and what binds its clients to endpoints.
#![forbid(unsafe_code)]

use std::time::Duration;

use crate::config::gateway::session::{self, positive};
use crate::config::gateway::{RawTraffic, tls};
use crate::config::known::gateway as names;
use crate::config::metadata::Metadata;
use crate::config::reader::{Fields, Reader, Unknown};
use crate::model::traffic::{RetryBudget, Traffic};

/// Reads an `XBackendTrafficPolicy`. The result counts only if `reader` recorded no error.
pub(crate) fn read(
    reader: &mut Reader,
    object: &Fields<'_>,
    metadata: Metadata,
) -> Option<RawTraffic> {
    let (spec, mut policy) = tls::policy(reader, object, metadata)?;
    let (traffic, refused) = reader.softly(|reader| {
        reader.only(&spec, names::BACKEND_TRAFFIC_SPEC, Unknown::Error);
        policy.targets = tls::targets(reader, &spec);
        let constraint = reader.child(&spec, "retryConstraint");
        Traffic {
            from: vec![format!(
                "XBackendTrafficPolicy {}/{}",
                policy.namespace, policy.name
            )],
            budget: constraint.and_then(|it| budget(reader, &it)),
            session: session::read(reader, &spec),
            ..Traffic::default()
        }
    });
    policy.refused = refused;
    Some(RawTraffic { policy, traffic })
}

/// Reads `retryConstraint`; what is not given is Gateway API's default.
fn budget(reader: &mut Reader, fields: &Fields<'_>) -> Option<RetryBudget> {
    reader.only(fields, names::RETRY_CONSTRAINT, Unknown::Error);
    let mut found = RetryBudget {
        percent: 20,
        interval: Duration::from_secs(10),
        min_count: 10,
        min_interval: Duration::from_secs(1),
    };
    if let Some(budget) = reader.child(fields, "budget") {
        reader.only(&budget, names::BUDGET, Unknown::Error);
        if budget.entry("percent").is_some() {
            found.percent = reader.number(&budget, "percent", 0..=100)?;
        }
        found.interval = interval(reader, &budget)?.unwrap_or(found.interval);
    }
    if let Some(rate) = reader.child(fields, "minRetryRate") {
        reader.only(&rate, names::RATE, Unknown::Error);
        if rate.entry("count").is_some() {
            found.min_count = reader.number(&rate, "count", 1..=1_000_000)?;
        }
        found.min_interval = interval(reader, &rate)?.unwrap_or(found.min_interval);
    }
    Some(found)
}

/// Returns `interval`, which is from a second to an hour; `None`: it is wrong.
fn interval(reader: &mut Reader, fields: &Fields<'_>) -> Option<Option<Duration>> {
    if fields.entry("interval").is_none() {
        return Some(None);
    }
    let given = positive(reader, fields, "interval")?;
    if (1..=3600).contains(&given.as_secs()) {
        return Some(Some(given));
    }
    let line = fields.line_of("interval");
    let problem = "is not from 1s to 1h";
    reader.error(
        line,
        fields.path_of("interval"),
        problem,
        "write such as `10s`",
    );
    None
}
