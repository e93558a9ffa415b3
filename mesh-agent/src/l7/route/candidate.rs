//! One match of one rule, in the total order in which matches are tried.
//!
//! Gateway API orders matches, not rules or routes: exact path, longest prefix, method, most fields, most parameters, age, name,
//! place; for gRPC service, method, most fields, age, name, place. Where it leaves the order to us, a regular expression counts as
//! a path (service, method) of as many characters as it is written with, after an exact one and before a prefix.

use std::cmp::Reverse;
use std::fmt;

use http::Method;

use crate::l7::route::view::RequestView;
use crate::model::route::{
    GrpcMatch, GrpcMethodMatch, HeaderMatch, HttpMatch, PathMatch, Pattern, QueryMatch, Route,
    ValueMatch,
};

/// What a match asks of the path.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum PathTest {
    Exact(Box<str>),
    /// Without a slash at its end; empty for `/`.
    Prefix(Box<str>),
    Regex(Pattern),
    /// Of gRPC.
    Call(GrpcMethodMatch),
}

/// A match, with the number of the rule that it is of.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Candidate {
    pub(super) rule: usize,
    pub(super) path: PathTest,
    pub(super) method: Option<Method>,
    pub(super) headers: Vec<HeaderMatch>,
    pub(super) query: Vec<QueryMatch>,
}

/// Why a match does not fit, the first reason that was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Misfit<'t> {
    /// The path, or service and method of gRPC.
    Path,
    /// The method.
    Method,
    /// The field of this name.
    Header(&'t str),
    /// The parameter of this name.
    Query(&'t str),
}

impl fmt::Display for Misfit<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path => f.write_str("another path"),
            Self::Method => f.write_str("another method"),
            Self::Header(name) => write!(f, "field `{name}` is not as it has to be"),
            Self::Query(name) => write!(f, "query parameter `{name}` is not as it has to be"),
        }
    }
}

impl Candidate {
    pub(super) fn http(rule: usize, of: &HttpMatch) -> Self {
        Self {
            rule,
            path: match &of.path {
                PathMatch::Exact(path) => PathTest::Exact(path.as_str().into()),
                PathMatch::Prefix(path) => PathTest::Prefix(path.as_str().into()),
                PathMatch::Regex(pattern) => PathTest::Regex(pattern.clone()),
            },
            method: of.method.clone(),
            headers: of.headers.clone(),
            query: of.query.clone(),
        }
    }

    pub(super) fn grpc(rule: usize, of: &GrpcMatch) -> Self {
        Self {
            rule,
            path: match &of.method {
                None => PathTest::Prefix("".into()),
                Some(call) => PathTest::Call(call.clone()),
            },
            method: None,
            headers: of.headers.clone(),
            query: Vec::new(),
        }
    }

    /// Returns what it asks of the path, for people.
    pub(super) fn path_words(&self) -> String {
        let text = |value: &Option<ValueMatch>| match value {
            None => "*".to_owned(),
            Some(ValueMatch::Exact(text)) => text.clone(),
            Some(ValueMatch::Regex(pattern)) => format!("~{}", pattern.as_str()),
        };
        match &self.path {
            PathTest::Exact(path) => format!("= {path}"),
            PathTest::Prefix(path) if path.is_empty() => "/*".to_owned(),
            PathTest::Prefix(path) => format!("{path}/*"),
            PathTest::Regex(pattern) => format!("~ {}", pattern.as_str()),
            PathTest::Call(call) => format!("{}/{}", text(&call.service), text(&call.method)),
        }
    }

    /// Returns how many bytes of a path a prefix takes, where that is what it asks for.
    pub(super) fn prefix(&self) -> Option<usize> {
        match &self.path {
            PathTest::Prefix(path) => Some(path.len()),
            PathTest::Exact(_) | PathTest::Regex(_) | PathTest::Call(_) => None,
        }
    }

    /// Returns whether all of it fits.
    pub(super) fn fits(&self, request: &RequestView<'_>) -> bool {
        self.test(request).is_ok()
    }

    /// Returns why it does not fit.
    pub(super) fn test(&self, request: &RequestView<'_>) -> Result<(), Misfit<'_>> {
        if !self.path_fits(request.path) {
            return Err(Misfit::Path);
        }
        if self.method.as_ref().is_some_and(|it| it != request.method) {
            return Err(Misfit::Method);
        }
        for header in &self.headers {
            let value = request.header(header.name.as_str());
            if !value.is_some_and(|value| value_fits(&header.value, &value)) {
                return Err(Misfit::Header(header.name.as_str()));
            }
        }
        for query in &self.query {
            let value = request.parameter(&query.name);
            if !value.is_some_and(|value| value_fits(&query.value, value.as_bytes())) {
                return Err(Misfit::Query(&query.name));
            }
        }
        Ok(())
    }

    fn path_fits(&self, path: &str) -> bool {
        match &self.path {
            PathTest::Exact(wanted) => **wanted == *path,
            PathTest::Prefix(prefix) if prefix.is_empty() => true,
            PathTest::Prefix(prefix) => {
                let rest = path.strip_prefix(&**prefix);
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            PathTest::Regex(pattern) => pattern.is_match(path),
            PathTest::Call(call) => {
                let Some((service, method)) = call_of(path) else {
                    return false;
                };
                let fits = |wanted: &Option<ValueMatch>, given: &str| {
                    let wanted = wanted.as_ref();
                    wanted.is_none_or(|wanted| value_fits(wanted, given.as_bytes()))
                };
                fits(&call.service, service) && fits(&call.method, method)
            }
        }
    }
}

/// Returns service and method of a call of gRPC.
fn call_of(path: &str) -> Option<(&str, &str)> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    (!method.contains('/')).then_some((service, method))
}

fn value_fits(wanted: &ValueMatch, given: &[u8]) -> bool {
    match wanted {
        ValueMatch::Exact(wanted) => wanted.as_bytes() == given,
        ValueMatch::Regex(pattern) => {
            std::str::from_utf8(given).is_ok_and(|given| pattern.is_match(given))
        }
    }
}

/// Where a match stands among all others: what is less is tried first.
#[derive(PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Rank {
    /// Exact paths before all others.
    inexact: bool,
    characters: [Reverse<usize>; 2],
    /// Prefixes after regular expressions, those after what is exact.
    vague: [u8; 2],
    method: Reverse<bool>,
    headers: Reverse<usize>,
    query: Reverse<usize>,
    /// One without a time is the youngest.
    created: i64,
    /// `namespace/name`, by its characters.
    name: String,
    rule: usize,
    at: usize,
}

impl Rank {
    /// Returns the rank of the match `at` of the rule `rule`.
    pub(super) fn new(route: &Route, rule: usize, at: usize, candidate: &Candidate) -> Self {
        let measure = |value: Option<&ValueMatch>| match value {
            None => (0, 2),
            Some(ValueMatch::Exact(text)) => (text.chars().count(), 0),
            Some(ValueMatch::Regex(pattern)) => (pattern.as_str().chars().count(), 1),
        };
        let none = (0, 2);
        let (first, second) = match &candidate.path {
            PathTest::Exact(path) => ((path.chars().count(), 0), none),
            PathTest::Prefix(path) => ((path.chars().count(), 2), none),
            PathTest::Regex(pattern) => ((pattern.as_str().chars().count(), 1), none),
            PathTest::Call(call) => (
                measure(call.service.as_ref()),
                measure(call.method.as_ref()),
            ),
        };
        Self {
            inexact: !matches!(candidate.path, PathTest::Exact(_)),
            characters: [Reverse(first.0), Reverse(second.0)],
            vague: [first.1, second.1],
            method: Reverse(candidate.method.is_some()),
            headers: Reverse(candidate.headers.len()),
            query: Reverse(candidate.query.len()),
            created: route.created.unwrap_or(i64::MAX),
            name: format!("{}/{}", route.name.namespace, route.name.name),
            rule,
            at,
        }
    }
}
