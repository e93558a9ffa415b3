//! What policies do with a request beside its rule, in words.

#![forbid(unsafe_code)]

use crate::l7::route::CompiledRule;
use crate::model::balanced::PortId;
use crate::model::traffic::{Fault, FaultStatus, LimitKey, RateLimit, TrafficPolicies};

/// Returns what policies of the port that was dialled, and of the backends, do with a request that goes by a rule.
pub(super) fn does(rule: &CompiledRule, port: &PortId, traffic: &TrafficPolicies) -> Vec<String> {
    let mut words = Vec::new();
    if let Some(policy) = traffic.get(port) {
        let of = |limit: &&RateLimit| match &limit.route {
            Some(route) => rule.is_of(route),
            None => true,
        };
        words.extend(policy.limits.iter().filter(of).map(limit));
        words.extend(policy.fault.iter().flat_map(fault));
        if let (None, Some(retry)) = (&rule.retry, &policy.retry) {
            words.push(format!("tries again up to {} times", retry.attempts));
        }
        for word in &mut words {
            *word += &format!(" ({})", policy.from.join(", "));
        }
    }
    if rule.session.is_some() {
        return words;
    }
    for id in rule
        .backends
        .all()
        .iter()
        .filter_map(|it| it.to.as_ref().ok())
    {
        if let Some(policy) = traffic.get(&**id).filter(|it| it.session.is_some()) {
            let from = policy.from.join(", ");
            let text = format!(
                "binds clients to endpoints of {}:{} ({from})",
                id.service, id.port
            );
            if !words.contains(&text) {
                words.push(text);
            }
        }
    }
    words
}

fn limit(limit: &RateLimit) -> String {
    let mut text = format!(
        "takes {} requests in {:?} at most",
        limit.requests, limit.per
    );
    let keys = limit.key.iter().map(|key| match key {
        LimitKey::Workload => "workload".to_owned(),
        LimitKey::Header(name) => format!("`{name}`"),
    });
    let keys: Vec<String> = keys.collect();
    if !keys.is_empty() {
        text += &format!(", for each {}", keys.join(" and "));
    }
    text
}

fn fault(fault: &Fault) -> Vec<String> {
    let delay = fault
        .delay
        .map(|(time, percent)| format!("delays {percent} of 100 requests by {time:?}"));
    let abort = fault.abort.map(|(status, percent)| match status {
        FaultStatus::Http(status) => {
            format!(
                "aborts {percent} of 100 requests with status {}",
                status.as_u16()
            )
        }
        FaultStatus::Grpc(code) => {
            format!("aborts {percent} of 100 requests with grpc-status {code}")
        }
    });
    delay.into_iter().chain(abort).collect()
}
