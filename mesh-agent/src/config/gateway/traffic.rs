//! `TrafficPolicy` (`underpass.dev/v1alpha1`): what Gateway API has no field for. Each part is off, or at its default, where it is not given.
#![forbid(unsafe_code)]

use ::http::StatusCode;

use crate::config::gateway::session::positive;
use crate::config::gateway::{RawTraffic, http, matches, tls};
use crate::config::known::gateway as names;
use crate::config::metadata::Metadata;
use crate::config::reader::{Fields, Reader, Unknown};
use crate::model::traffic::{
    AdaptiveConcurrency, Algorithm, Balancing, CircuitBreaker, Fault, FaultStatus, HashOn, LimitBy,
    LimitKey, OutlierDetection, RateLimit, Traffic, WhenAway,
};

/// A count that somebody may write: what is more is no limit.
const COUNT: std::ops::RangeInclusive<u32> = 1..=10_000_000;

/// Rate limits of one policy: each is asked for each request.
const RATE_LIMITS: usize = 16;

/// Reads a `TrafficPolicy`. The result counts only if `reader` recorded no error.
pub(crate) fn read(
    reader: &mut Reader,
    object: &Fields<'_>,
    metadata: Metadata,
) -> Option<RawTraffic> {
    let (spec, mut policy) = tls::policy(reader, object, metadata)?;
    let (traffic, refused) = reader.softly(|reader| {
        reader.only(&spec, names::TRAFFIC_SPEC, Unknown::Error);
        policy.targets = tls::targets(reader, &spec);
        Traffic {
            from: vec![format!(
                "TrafficPolicy {}/{}",
                policy.namespace, policy.name
            )],
            ..settings(reader, &spec)
        }
    });
    policy.refused = refused;
    Some(RawTraffic { policy, traffic })
}

fn settings(reader: &mut Reader, spec: &Fields<'_>) -> Traffic {
    let balancing = reader.child(spec, "balancing");
    let outlier = reader.child(spec, "outlierDetection");
    let breaker = reader.child(spec, "circuitBreaker");
    let fault = reader.child(spec, "fault");
    let adaptive = reader.child(spec, "adaptiveConcurrency");
    let retry = reader.child(spec, "retry");
    let away = match spec.entry("whenAgentIsAway") {
        None => None,
        Some(_) => reader.word(spec, "whenAgentIsAway", &["Fail", "Continue"]),
    };
    Traffic {
        from: Vec::new(),
        balancing: balancing.and_then(|it| self::balancing(reader, &it)),
        outlier: outlier.map(|it| self::outlier(reader, &it)),
        breaker: breaker.map(|it| self::breaker(reader, &it)),
        limits: limits(reader, spec),
        fault: fault.map(|it| self::fault(reader, &it)),
        adaptive: adaptive.map(|it| self::adaptive(reader, &it)),
        retry: retry.and_then(|it| http::retry(reader, &it)),
        budget: None,
        session: None,
        away: away.map(|word| match word {
            "Fail" => WhenAway::Fail,
            _ => WhenAway::Continue,
        }),
        request_metrics: reader.boolean(spec, "requestMetrics").unwrap_or(false),
    }
}

/// Returns `percent`, which has to be there.
fn percent(reader: &mut Reader, fields: &Fields<'_>) -> Option<u32> {
    if fields.entry("percent").is_none() {
        let help = "say of how many in a hundred";
        reader.error(fields.line, fields.path_of("percent"), "is missing", help);
    }
    reader.number(fields, "percent", 0..=100)
}

fn balancing(reader: &mut Reader, fields: &Fields<'_>) -> Option<Balancing> {
    reader.only(fields, names::BALANCING, Unknown::Error);
    let words = Algorithm::ALL.map(|(_, word)| word);
    let word = reader.word(fields, "algorithm", &words)?;
    let mut all = Algorithm::ALL.into_iter();
    let (algorithm, _) = all.find(|(_, known)| *known == word)?;
    let mut hash = None;
    if let Some(on) = reader.child(fields, "hash") {
        reader.only(&on, names::HASH, Unknown::Error);
        if on.entries.len() != 1 {
            let help = "give one of `header`, `cookie` and `source`";
            reader.error(on.line, on.path.clone(), "needs one thing to hash", help);
        }
        if on.entry("header").is_some() {
            hash = matches::header_name(reader, &on, "header").map(HashOn::Header);
        } else if let Some(cookie) = reader.text(&on, "cookie") {
            hash = Some(HashOn::Cookie(cookie.to_owned()));
        } else if reader.boolean(&on, "source") == Some(true) {
            hash = Some(HashOn::Source);
        }
        if !algorithm.hashes() {
            let problem = format!("does nothing for {word}");
            let help = "leave it out, or take RingHash, Maglev or Rendezvous";
            reader.warn(on.line, on.path.clone(), problem, help);
        }
    }
    Some(Balancing { algorithm, hash })
}

fn outlier(reader: &mut Reader, fields: &Fields<'_>) -> OutlierDetection {
    reader.only(fields, names::OUTLIER, Unknown::Error);
    OutlierDetection {
        consecutive: reader.number(fields, "consecutiveErrors", COUNT),
        interval: positive(reader, fields, "interval"),
        ejection: positive(reader, fields, "baseEjection"),
        max_percent: reader.number(fields, "maxEjectionPercent", 0..=100),
        success_rate: reader.boolean(fields, "successRate").unwrap_or(true),
    }
}

fn breaker(reader: &mut Reader, fields: &Fields<'_>) -> CircuitBreaker {
    reader.only(fields, names::BREAKER, Unknown::Error);
    CircuitBreaker {
        connections: reader.number(fields, "maxConnections", COUNT),
        pending: reader.number(fields, "maxPending", 0..=*COUNT.end()),
        requests: reader.number(fields, "maxRequests", COUNT),
        retries: reader.number(fields, "maxRetries", 0..=*COUNT.end()),
    }
}

fn limits(reader: &mut Reader, spec: &Fields<'_>) -> Vec<RateLimit> {
    let all = reader.mappings(spec, "rateLimits");
    if all.len() > RATE_LIMITS {
        let problem = format!("holds more than {RATE_LIMITS} limits");
        let line = spec.line_of("rateLimits");
        reader.error(
            line,
            spec.path_of("rateLimits"),
            problem,
            "keep those that matter",
        );
    }
    let mut found = Vec::new();
    for fields in &all {
        reader.only(fields, names::RATE_LIMIT, Unknown::Error);
        for field in ["requests", "per"] {
            if fields.entry(field).is_none() {
                let help = "write such as `requests: 100` and `per: 1s`";
                reader.error(fields.line, fields.path_of(field), "is missing", help);
            }
        }
        let requests = reader.number(fields, "requests", COUNT);
        let per = positive(reader, fields, "per");
        let by = reader.word(fields, "algorithm", &["TokenBucket", "SlidingWindow"]);
        let burst = reader.number(fields, "burst", COUNT);
        let mut key = Vec::new();
        for part in reader.mappings(fields, "key") {
            reader.only(&part, names::LIMIT_KEY, Unknown::Error);
            let workload = reader.boolean(&part, "workload");
            match (part.entry("header").is_some(), workload == Some(true)) {
                (true, false) if workload.is_none() => {
                    key.extend(matches::header_name(reader, &part, "header").map(LimitKey::Header));
                }
                (false, true) => key.push(LimitKey::Workload),
                _ => {
                    let help = "give one of `header: NAME` and `workload: true`";
                    reader.error(
                        part.line,
                        part.path.clone(),
                        "needs one thing to tell apart",
                        help,
                    );
                }
            }
        }
        if let (Some(requests), Some(per)) = (requests, per) {
            found.push(RateLimit {
                name: reader.text(fields, "name").map(str::to_owned),
                requests,
                per,
                burst,
                by: match by {
                    Some("SlidingWindow") => LimitBy::SlidingWindow,
                    _ => LimitBy::TokenBucket,
                },
                key,
                route: reader.text(fields, "route").map(str::to_owned),
            });
        }
    }
    found
}

fn fault(reader: &mut Reader, fields: &Fields<'_>) -> Fault {
    reader.only(fields, names::FAULT, Unknown::Error);
    let mut fault = Fault::default();
    if fields.entry("delay").is_none() && fields.entry("abort").is_none() {
        let help = "give `delay`, `abort` or both";
        reader.error(fields.line, fields.path.clone(), "does nothing", help);
    }
    if let Some(delay) = reader.child(fields, "delay") {
        reader.only(&delay, names::DELAY, Unknown::Error);
        let percent = percent(reader, &delay);
        if delay.entry("duration").is_none() {
            let help = "say for how long: `duration: 100ms`";
            reader.error(delay.line, delay.path_of("duration"), "is missing", help);
        }
        fault.delay = positive(reader, &delay, "duration").zip(percent);
    }
    if let Some(abort) = reader.child(fields, "abort") {
        reader.only(&abort, names::ABORT, Unknown::Error);
        let percent = percent(reader, &abort);
        let http = reader.number(&abort, "httpStatus", 200..=599);
        let grpc = match abort.entry("grpcStatus") {
            Some(_) => reader.number(&abort, "grpcStatus", 0..=16),
            None => None,
        };
        let http = http.and_then(|code| u16::try_from(code).ok());
        let http = http.and_then(|code| StatusCode::from_u16(code).ok());
        let grpc = grpc.and_then(|code| u8::try_from(code).ok());
        if http.is_some() == grpc.is_some() {
            let help = "give one of `httpStatus` and `grpcStatus`";
            reader.error(abort.line, abort.path.clone(), "needs one status", help);
        }
        let status = http.map(FaultStatus::Http).or(grpc.map(FaultStatus::Grpc));
        fault.abort = status.zip(percent);
    }
    fault
}

fn adaptive(reader: &mut Reader, fields: &Fields<'_>) -> AdaptiveConcurrency {
    reader.only(fields, names::ADAPTIVE, Unknown::Error);
    AdaptiveConcurrency {
        min: reader.number(fields, "min", COUNT),
        max: reader.number(fields, "max", COUNT),
    }
}
