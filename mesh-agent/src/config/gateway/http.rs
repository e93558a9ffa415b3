//! Rules of an `HTTPRoute`.
#![forbid(unsafe_code)]

use http::StatusCode;

use crate::config::gateway::filter::{self, At};
use crate::config::gateway::session::{self, duration};
use crate::config::gateway::{backend, matches};
use crate::config::known::gateway as names;
use crate::config::limits;
use crate::config::reader::{Fields, Reader, Unknown};
use crate::model::route::{Backend, Filter, HttpMatch, PathMatch, Retry, RouteName, Rule};

/// Retries of one request: each endpoint that was tried is remembered.
const ATTEMPTS: u32 = 100;

/// Reads one rule.
pub(crate) fn rule(
    reader: &mut Reader,
    fields: &Fields<'_>,
    route: &RouteName,
    index: usize,
) -> Rule<HttpMatch> {
    reader.only(fields, names::RULE, Unknown::Error);
    let given = reader.mappings(fields, "matches");
    too_many(reader, fields, given.len());
    let mut matches: Vec<HttpMatch> = Vec::new();
    for one in &given {
        matches.extend(matches::http(reader, one));
    }
    if given.is_empty() {
        matches.push(everything());
    }
    let prefix = matches!(matches.as_slice(), [only] if matches!(only.path, PathMatch::Prefix(_)));
    let (filters, backends) = filtered(reader, fields, route, prefix);
    let timeouts = reader.child(fields, "timeouts");
    let (mut request_timeout, mut backend_timeout) = (None, None);
    if let Some(timeouts) = timeouts {
        reader.only(&timeouts, names::TIMEOUTS, Unknown::Error);
        request_timeout = duration(reader, &timeouts, "request");
        backend_timeout = duration(reader, &timeouts, "backendRequest");
        if let (Some(whole), Some(one)) = (request_timeout, backend_timeout)
            && one > whole
        {
            let line = timeouts.line_of("backendRequest");
            let path = timeouts.path_of("backendRequest");
            let help = "one attempt cannot take longer than all of them";
            reader.error(line, path, "is longer than `request`", help);
        }
    }
    Rule {
        index,
        name: reader.text(fields, "name").map(str::to_owned),
        matches,
        filters,
        backends,
        request_timeout,
        backend_timeout,
        retry: reader
            .child(fields, "retry")
            .and_then(|it| retry(reader, &it)),
        session: session::read(reader, fields),
    }
}

/// Returns the one rule of a route that gives none: Gateway API's default, which fits everything and leads nowhere.
pub(super) fn default_rule() -> Rule<HttpMatch> {
    Rule {
        index: 0,
        name: None,
        matches: vec![everything()],
        filters: Vec::new(),
        backends: Vec::new(),
        request_timeout: None,
        backend_timeout: None,
        retry: None,
        session: None,
    }
}

fn everything() -> HttpMatch {
    HttpMatch {
        path: PathMatch::Prefix(String::new()),
        method: None,
        headers: Vec::new(),
        query: Vec::new(),
    }
}

pub(super) fn too_many(reader: &mut Reader, fields: &Fields<'_>, count: usize) {
    if count > limits::MATCHES {
        let most = limits::MATCHES;
        let problem = format!("holds {count} matches, more than {most}");
        let line = fields.line_of("matches");
        reader.error(
            line,
            fields.path_of("matches"),
            problem,
            "make several rules of it",
        );
    }
}

/// Reads filters and backends of a rule.
pub(super) fn filtered(
    reader: &mut Reader,
    fields: &Fields<'_>,
    route: &RouteName,
    prefix: bool,
) -> (Vec<Filter>, Vec<Backend>) {
    let mut backends = Vec::new();
    for (one, weight) in backend::references(reader, fields, names::BACKEND) {
        backends.push(Backend {
            weight,
            to: backend::target(reader, &one, route),
            filters: filter::read(reader, &one, route, At::Backend { prefix }),
        });
    }
    let at = At::Rule {
        prefix,
        backends: !backends.is_empty(),
    };
    (filter::read(reader, fields, route, at), backends)
}

/// Reads `retry`.
pub(crate) fn retry(reader: &mut Reader, fields: &Fields<'_>) -> Option<Retry> {
    reader.only(fields, names::RETRY, Unknown::Error);
    let mut codes = Vec::new();
    for (index, node) in reader.list(fields, "codes").iter().enumerate() {
        let code = node.number().and_then(|text| text.parse::<u16>().ok());
        match code.filter(|code| (400..600).contains(code)) {
            Some(code) => codes.extend(StatusCode::from_u16(code)),
            None => {
                let path = format!("{}[{index}]", fields.path_of("codes"));
                let problem = format!("is {}, not a status from 400 to 599", node.what());
                reader.error(node.line, path, problem, "write a status such as 503");
            }
        }
    }
    let attempts = match fields.entry("attempts") {
        None => 1,
        Some(_) => reader.number(fields, "attempts", 1..=i32::MAX.unsigned_abs())?,
    };
    if attempts > ATTEMPTS {
        let problem = format!("is more than {ATTEMPTS}: no more are made");
        let help = "with pauses that double, nobody waits for that many";
        let line = fields.line_of("attempts");
        reader.note(line, fields.path_of("attempts"), problem, help);
    }
    Some(Retry {
        codes,
        attempts: attempts.min(ATTEMPTS),
        backoff: duration(reader, fields, "backoff"),
    })
}
