//! `matches` of `HTTPRoute` and `GRPCRoute`.
#![forbid(unsafe_code)]

use http::{HeaderName, Method};

use crate::config::known::gateway as names;
use crate::config::reader::{Fields, Reader, Unknown};
use crate::l7::route::path;
use crate::model::route::{
    GrpcMatch, GrpcMethodMatch, HeaderMatch, HttpMatch, PathMatch, Pattern, QueryMatch, ValueMatch,
};

/// Methods that a match may name (Gateway API's list).
const METHODS: [&str; 9] = [
    "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
];

/// What no path of a match may hold, and why.
const NOT_IN_PATHS: [&str; 6] = ["//", "/./", "/../", "%2f", "%2F", "#"];
/// What none may end with.
const NOT_AT_ENDS: [&str; 2] = ["/.", "/.."];

/// Reads one match of an `HTTPRoute`.
pub(crate) fn http(reader: &mut Reader, fields: &Fields<'_>) -> Option<HttpMatch> {
    reader.only(fields, names::HTTP_MATCH, Unknown::Error);
    let path = match reader.child(fields, "path") {
        Some(path) => path_match(reader, &path),
        None => Some(PathMatch::Prefix(String::new())),
    };
    let method = match fields.entry("method") {
        Some(_) => reader.word(fields, "method", &METHODS),
        None => None,
    };
    Some(HttpMatch {
        path: path?,
        method: method.and_then(|it| Method::from_bytes(it.as_bytes()).ok()),
        headers: headers(reader, fields),
        query: query(reader, fields),
    })
}

fn path_match(reader: &mut Reader, fields: &Fields<'_>) -> Option<PathMatch> {
    reader.only(fields, names::PATH, Unknown::Error);
    let words = ["PathPrefix", "Exact", "RegularExpression"];
    let sort = reader.word(fields, "type", &words)?;
    let value = match fields.entry("value") {
        Some(_) => reader.text(fields, "value")?,
        None => "/",
    };
    let at = (fields.line_of("value"), fields.path_of("value"));
    if sort == "RegularExpression" {
        return pattern(reader, value, at).map(PathMatch::Regex);
    }
    // Dots may be written as escapes, too.
    let dots = value.replace("%2e", ".").replace("%2E", ".");
    let mut inside = NOT_IN_PATHS.into_iter().filter(|it| dots.contains(it));
    let mut ends = NOT_AT_ENDS.into_iter().filter(|it| dots.ends_with(it));
    if let Some(bad) = inside.next().or_else(|| ends.next()) {
        let problem = format!("`{value}` holds `{bad}`");
        reader.error(at.0, at.1, problem, "no such path is ever matched");
        return None;
    }
    let canonical = match path::canonical(value) {
        Ok(canonical) if canonical != "*" => canonical.into_owned(),
        _ => {
            let problem = format!("`{value}` is not a path");
            reader.error(at.0, at.1, problem, "begin with `/`");
            return None;
        }
    };
    Some(match sort {
        "Exact" => PathMatch::Exact(canonical),
        _ => PathMatch::Prefix(canonical.trim_end_matches('/').to_owned()),
    })
}

fn pattern(reader: &mut Reader, text: &str, (line, path): (u64, String)) -> Option<Pattern> {
    match Pattern::new(text) {
        Ok(pattern) => Some(pattern),
        Err(error) => {
            let why = error.to_string();
            let why = why.lines().last().unwrap_or_default().trim();
            let problem = format!("`{text}` is no regular expression: {why}");
            let help = "write one without look-around and back references (syntax of RE2)";
            reader.error(line, path, problem, help);
            None
        }
    }
}

fn value(reader: &mut Reader, fields: &Fields<'_>) -> Option<ValueMatch> {
    reader.only(fields, names::VALUE, Unknown::Error);
    let sort = reader.word(fields, "type", &["Exact", "RegularExpression"])?;
    if fields.entry("value").is_none() {
        let help = "say what it has to be";
        reader.error(fields.line, fields.path_of("value"), "is missing", help);
    }
    let text = reader.text(fields, "value")?;
    value_match(reader, fields, "value", sort, text)
}

fn value_match(
    reader: &mut Reader,
    fields: &Fields<'_>,
    field: &str,
    sort: &str,
    text: &str,
) -> Option<ValueMatch> {
    if sort == "Exact" {
        return Some(ValueMatch::Exact(text.to_owned()));
    }
    let at = (fields.line_of(field), fields.path_of(field));
    pattern(reader, text, at).map(ValueMatch::Regex)
}

fn headers(reader: &mut Reader, fields: &Fields<'_>) -> Vec<HeaderMatch> {
    let mut found: Vec<HeaderMatch> = Vec::new();
    for fields in reader.mappings(fields, "headers") {
        let value = value(reader, &fields);
        let name = header_name(reader, &fields, "name");
        if let (Some(name), Some(value)) = (name, value)
            && found.iter().all(|known| known.name != name)
        {
            found.push(HeaderMatch { name, value });
        }
    }
    found
}

fn query(reader: &mut Reader, fields: &Fields<'_>) -> Vec<QueryMatch> {
    let mut found: Vec<QueryMatch> = Vec::new();
    for fields in reader.mappings(fields, "queryParams") {
        let value = value(reader, &fields);
        if fields.entry("name").is_none() {
            let help = "name the parameter";
            reader.error(fields.line, fields.path_of("name"), "is missing", help);
        }
        let name = reader.text(&fields, "name").map(str::to_owned);
        if let (Some(name), Some(value)) = (name, value)
            && found.iter().all(|known| known.name != name)
        {
            found.push(QueryMatch { name, value });
        }
    }
    found
}

/// Returns the name of a field, in lower case.
pub(crate) fn header_name(
    reader: &mut Reader,
    fields: &Fields<'_>,
    field: &str,
) -> Option<HeaderName> {
    if fields.entry(field).is_none() {
        let help = "name the field";
        reader.error(fields.line, fields.path_of(field), "is missing", help);
    }
    let text = reader.text(fields, field)?;
    named(reader, text, fields.path_of(field), fields.line_of(field))
}

/// Returns a field's name, in lower case.
pub(crate) fn named(
    reader: &mut Reader,
    text: &str,
    path: String,
    line: u64,
) -> Option<HeaderName> {
    let name = HeaderName::from_bytes(text.as_bytes()).ok();
    if name.is_none() {
        let problem = format!("`{text}` is not the name of a field");
        reader.error(line, path, problem, "write letters, digits and `-`");
    }
    name
}

/// Reads one match of a `GRPCRoute`.
pub(crate) fn grpc(reader: &mut Reader, fields: &Fields<'_>) -> GrpcMatch {
    reader.only(fields, names::GRPC_MATCH, Unknown::Error);
    let method = reader.child(fields, "method");
    let method = method.and_then(|method| grpc_method(reader, &method));
    GrpcMatch {
        method,
        headers: headers(reader, fields),
    }
}

fn grpc_method(reader: &mut Reader, fields: &Fields<'_>) -> Option<GrpcMethodMatch> {
    reader.only(fields, names::GRPC_METHOD, Unknown::Error);
    let sort = reader.word(fields, "type", &["Exact", "RegularExpression"])?;
    let mut part = |field: &str| {
        let text = reader.text(fields, field).filter(|text| !text.is_empty())?;
        if sort == "Exact" && text.contains('/') {
            let problem = format!("`{text}` holds a slash");
            let help = "give service and method apart";
            reader.error(fields.line_of(field), fields.path_of(field), problem, help);
        }
        value_match(reader, fields, field, sort, text)
    };
    let (service, method) = (part("service"), part("method"));
    if service.is_none() && method.is_none() {
        let help = "give `service`, `method` or both";
        reader.error(fields.line, fields.path.clone(), "names nothing", help);
    }
    Some(GrpcMethodMatch { service, method })
}
