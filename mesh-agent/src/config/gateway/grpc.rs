//! Rules of a `GRPCRoute`.
#![forbid(unsafe_code)]

use crate::config::gateway::http::{filtered, too_many};
use crate::config::gateway::{matches, session};
use crate::config::known::gateway as names;
use crate::config::reader::{Fields, Reader, Unknown};
use crate::model::route::{GrpcMatch, RouteName, Rule};

/// Reads one rule.
pub(crate) fn rule(
    reader: &mut Reader,
    fields: &Fields<'_>,
    route: &RouteName,
    index: usize,
) -> Rule<GrpcMatch> {
    reader.only(fields, names::GRPC_RULE, Unknown::Error);
    let given = reader.mappings(fields, "matches");
    too_many(reader, fields, given.len());
    let mut matches: Vec<GrpcMatch> = Vec::new();
    for one in &given {
        matches.push(matches::grpc(reader, one));
    }
    if given.is_empty() {
        matches.push(GrpcMatch {
            method: None,
            headers: Vec::new(),
        });
    }
    let (filters, backends) = filtered(reader, fields, route, false);
    Rule {
        index,
        name: reader.text(fields, "name").map(str::to_owned),
        matches,
        filters,
        backends,
        request_timeout: None,
        backend_timeout: None,
        retry: None,
        session: session::read(reader, fields),
    }
}
