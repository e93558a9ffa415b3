//! Which flows somebody asked for.

#![forbid(unsafe_code)]

use std::time::Duration;

use jiff::Timestamp;

use crate::telemetry::flow::{Flow, FlowEnd, WorkloadRef};

/// Which flows are wanted; a field that is `None` asks for nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FlowFilter {
    /// Either end is this workload.
    pub workload: Option<WorkloadRef>,
    /// Either end is a workload in this namespace.
    pub namespace: Option<String>,
    /// The destination's port.
    pub port: Option<u16>,
    /// The service that was dialled; its name has the same form as a workload's.
    pub service: Option<WorkloadRef>,
    /// The label of the path.
    pub path: Option<String>,
    /// It lives, or ended at this time or later.
    pub since: Option<Timestamp>,
}

impl FlowFilter {
    /// Returns whether `flow` is wanted.
    pub fn matches(&self, flow: &Flow) -> bool {
        let either = |wanted: &dyn Fn(&WorkloadRef) -> bool| {
            let is = |end: &FlowEnd| end.workload.as_ref().is_some_and(wanted);
            is(&flow.source) || is(&flow.destination)
        };
        let Self {
            workload,
            namespace,
            port,
            service,
            path,
            since,
        } = self;
        workload.as_ref().is_none_or(|w| either(&|have| have == w))
            && namespace
                .as_ref()
                .is_none_or(|n| either(&|have| have.namespace == *n))
            && port.is_none_or(|p| flow.destination.port == p)
            && service.as_ref().is_none_or(|wanted| {
                let have = flow.service.as_ref();
                have.is_some_and(|s| s.namespace == wanted.namespace && s.name == wanted.name)
            })
            && path.as_ref().is_none_or(|p| flow.path == *p)
            && since.is_none_or(|s| flow.end.is_none_or(|end| end >= s))
    }
}

/// Longest `since`: flows are kept for minutes, and a number beyond is a slip of the hand.
const SINCE_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

/// Returns the duration that `text` says, such as `30s`, `5m` or `1h30m`.
///
/// # Errors
///
/// When it is not a duration, negative, or longer than a year.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let parsed: jiff::SignedDuration = text
        .parse()
        .map_err(|_| format!("`{text}` is not a duration such as 30s, 5m or 1h30m"))?;
    let duration = Duration::try_from(parsed).map_err(|_| format!("`{text}` is negative"))?;
    if duration > SINCE_MAX {
        return Err(format!("`{text}` is longer than a year"));
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::fake::{FakeKernel, NOW, record};

    fn flow() -> Flow {
        let kernel = FakeKernel::default();
        let mut record = record(1);
        record.service = 1;
        Flow::of(&record, &NOW, &kernel)
    }

    #[test]
    fn each_field_narrows() {
        let matches = |change: &dyn Fn(&mut FlowFilter)| {
            let mut filter = FlowFilter::default();
            change(&mut filter);
            filter.matches(&flow())
        };
        assert!(matches(&|_| ()));
        assert!(matches(&|f| f.workload = "shop/cart".parse().ok()));
        assert!(!matches(&|f| f.workload = "shop/db".parse().ok()));
        assert!(matches(&|f| f.namespace = Some("shop".into())));
        assert!(!matches(&|f| f.namespace = Some("sho".into())));
        assert!(matches(&|f| f.port = Some(8080)));
        assert!(!matches(&|f| f.port = Some(40_000)));
        assert!(matches(&|f| f.service = "shop/cart".parse().ok()));
        assert!(!matches(&|f| f.service = "shop/web".parse().ok()));
        assert!(matches(&|f| f.path = Some("redirect".into())));
        assert!(!matches(&|f| f.path = Some("tcp".into())));
        assert!(matches(&|f| f.since = flow().end));
        assert!(!matches(&|f| f.since = Some(Timestamp::MAX)));
    }

    #[test]
    fn a_live_flow_is_always_since() {
        let mut live = flow();
        live.end = None;
        let filter = FlowFilter {
            since: Some(Timestamp::MAX),
            ..FlowFilter::default()
        };
        assert!(filter.matches(&live));
    }

    #[test]
    fn durations_are_words_of_a_person() {
        assert_eq!(parse_duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(parse_duration("1h30m"), Ok(Duration::from_secs(5400)));
        for bad in ["", "5", "-5m", "five", "99999999h"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}
