//! `filters` of rules and of backends.
#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::num::NonZeroU16;
use std::time::Duration;

use http::header::HOST;
use http::{HeaderName, HeaderValue, Method, StatusCode};

use crate::config::gateway::{backend, matches};
use crate::config::known::gateway as names;
use crate::config::name::is_subdomain;
use crate::config::reader::{Fields, Reader, Unknown};
use crate::l7::route::edit::is_editable;
use crate::l7::route::path::canonical;
use crate::model::route::{
    Cors, Filter, HeaderEdit, Mirror, PathEdit, Redirect, RedirectScheme, Rewrite, RouteKind,
    RouteName,
};

/// Filters of an `HTTPRoute`.
const HTTP: [&str; 7] = [
    "RequestHeaderModifier",
    "ResponseHeaderModifier",
    "RequestMirror",
    "RequestRedirect",
    "URLRewrite",
    "ExtensionRef",
    "CORS",
];
/// Filters of a `GRPCRoute`.
const GRPC: [&str; 4] = [
    "RequestHeaderModifier",
    "ResponseHeaderModifier",
    "RequestMirror",
    "ExtensionRef",
];

/// Where filters stand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum At {
    /// In a rule; `prefix`: its only match is a path prefix.
    Rule { prefix: bool, backends: bool },
    /// In a backend.
    Backend { prefix: bool },
}

/// Reads `filters`.
pub(crate) fn read(
    reader: &mut Reader,
    parent: &Fields<'_>,
    route: &RouteName,
    at: At,
) -> Vec<Filter> {
    let mut found = Vec::new();
    let all = reader.mappings(parent, "filters");
    for fields in &all {
        reader.only(fields, names::FILTER, Unknown::Error);
        if let Some(filter) = one(reader, fields, route, at) {
            found.push((filter, fields.clone()));
        }
    }
    together(reader, &found, at);
    found.into_iter().map(|(filter, _)| filter).collect()
}

/// Records filters that do not go together.
fn together(reader: &mut Reader, found: &[(Filter, Fields<'_>)], at: At) {
    let place = |filter: &Filter| std::mem::discriminant(filter);
    let mut clash = |fields: &Fields<'_>, problem: &str, help: &str| {
        reader.incompatible = true;
        reader.error(fields.line, fields.path.clone(), problem, help);
    };
    let is_redirect = |filter: &Filter| matches!(filter, Filter::Redirect(_));
    let is_rewrite = |filter: &Filter| matches!(filter, Filter::Rewrite(_));
    let has_rewrite = found.iter().any(|(it, _)| is_rewrite(it));
    for (index, (filter, fields)) in found.iter().enumerate() {
        let may_repeat = matches!(filter, Filter::Mirror(_) | Filter::Invalid(_));
        let mut earlier = found[..index].iter();
        if !may_repeat && earlier.any(|(other, _)| place(other) == place(filter)) {
            clash(fields, "stands there twice", "put both into one filter");
        }
        if is_redirect(filter) && has_rewrite {
            let help = "a redirect is answered at once, so nothing is left to rewrite";
            clash(fields, "does not go with URLRewrite", help);
        }
        if is_redirect(filter) && matches!(at, At::Rule { backends: true, .. }) {
            let help = "leave the backends out: nobody is asked";
            clash(fields, "does not go with backendRefs", help);
        }
        if matches!(at, At::Backend { .. })
            && (is_redirect(filter) || matches!(filter, Filter::Cors(_)))
        {
            clash(fields, "does not work on a backend", "put it on the rule");
        }
    }
}

fn one(reader: &mut Reader, fields: &Fields<'_>, route: &RouteName, at: At) -> Option<Filter> {
    if fields.entry("type").is_none() {
        let help = "say which filter it is";
        reader.error(fields.line, fields.path_of("type"), "is missing", help);
        return None;
    }
    let words: &[&str] = match route.kind {
        RouteKind::Grpc => &GRPC,
        RouteKind::Http | RouteKind::Tls | RouteKind::Tcp | RouteKind::Udp => &HTTP,
    };
    let sort = reader.word(fields, "type", words)?;
    let field = match sort {
        "RequestHeaderModifier" => "requestHeaderModifier",
        "ResponseHeaderModifier" => "responseHeaderModifier",
        "RequestMirror" => "requestMirror",
        "RequestRedirect" => "requestRedirect",
        "URLRewrite" => "urlRewrite",
        "ExtensionRef" => "extensionRef",
        _ => "cors",
    };
    let others = names::FILTER
        .iter()
        .filter(|it| **it != field && **it != "type");
    for other in others.filter(|other| fields.entry(other).is_some()) {
        let problem = format!("does not belong to a filter of the type {sort}");
        let help = format!("write `{field}`, or another type");
        reader.error(fields.line_of(other), fields.path_of(other), problem, help);
    }
    if fields.entry(field).is_none() {
        let help = format!("a filter of the type {sort} needs it");
        reader.error(fields.line, fields.path_of(field), "is missing", help);
    }
    let of = reader.child(fields, field)?;
    let prefix = match at {
        At::Rule { prefix, .. } | At::Backend { prefix } => prefix,
    };
    Some(match sort {
        "RequestHeaderModifier" => Filter::RequestHeaders(headers(reader, &of, true)),
        "ResponseHeaderModifier" => Filter::ResponseHeaders(headers(reader, &of, false)),
        "RequestMirror" => Filter::Mirror(mirror(reader, &of, route)?),
        "RequestRedirect" => Filter::Redirect(redirect(reader, &of, prefix)?),
        "URLRewrite" => Filter::Rewrite(rewrite(reader, &of, prefix)),
        "CORS" => Filter::Cors(Box::new(cors(reader, &of))),
        _ => {
            let kind = reader.text(&of, "kind").unwrap_or("?");
            let name = reader.text(&of, "name").unwrap_or("?");
            Filter::Invalid(format!("there is no filter {kind} {name} here"))
        }
    })
}

fn headers(reader: &mut Reader, fields: &Fields<'_>, is_request: bool) -> HeaderEdit {
    reader.only(fields, names::HEADER_FILTER, Unknown::Error);
    let mut edit = HeaderEdit::default();
    let mut seen: Vec<HeaderName> = Vec::new();
    for list in ["set", "add"] {
        for header in reader.mappings(fields, list) {
            reader.only(&header, names::HEADER, Unknown::Error);
            let name = matches::header_name(reader, &header, "name");
            if header.entry("value").is_none() {
                let help = "say what it is to be";
                reader.error(header.line, header.path_of("value"), "is missing", help);
            }
            let value = reader.text(&header, "value").unwrap_or_default();
            if HeaderValue::from_str(value).is_err() {
                let line = header.line_of("value");
                let problem = "holds what no field may hold";
                let help = "write printable characters, spaces and tabs";
                reader.error(line, header.path_of("value"), problem, help);
            }
            let Some(name) = name else { continue };
            if is_request && name == HOST {
                host(reader, &header, list, value);
            }
            may_edit(
                reader,
                &mut seen,
                &name,
                header.line,
                header.path_of("name"),
            );
            match list {
                "set" => edit.set.push((name, value.to_owned())),
                _ => edit.add.push((name, value.to_owned())),
            }
        }
    }
    for (text, path, line) in reader.strings(fields, "remove") {
        if let Some(name) = matches::named(reader, text, path.clone(), line) {
            if is_request && name == HOST {
                reader.error(line, path.clone(), "`host` cannot be removed", ONLY_SET);
            }
            may_edit(reader, &mut seen, &name, line, path);
            edit.remove.push(name);
        }
    }
    edit
}

/// What can be done with `Host`, which every request has once.
const ONLY_SET: &str = "give it under `set`, with the value that it is to have";

/// Checks what is to be done with a request's `Host`, which is the authority of its target.
fn host(reader: &mut Reader, header: &Fields<'_>, list: &str, value: &str) {
    if list != "set" {
        let path = header.path_of("name");
        reader.error(header.line, path, "`host` cannot be added to", ONLY_SET);
    }
    if !is_authority(value) {
        let problem = format!("`{value}` is not the name of a host");
        let line = header.line_of("value");
        let help = "write a DNS name or an address, and a port if need be";
        reader.error(line, header.path_of("value"), problem, help);
    }
}

/// Returns whether this may be the authority of a request: a host and perhaps a port, without a user.
fn is_authority(text: &str) -> bool {
    let Ok(authority) = http::uri::Authority::try_from(text) else {
        return false;
    };
    let port = text.strip_prefix(authority.host());
    !authority.host().is_empty()
        && port.is_some_and(|it| it.is_empty() || authority.port().is_some())
}

fn may_edit(
    reader: &mut Reader,
    seen: &mut Vec<HeaderName>,
    name: &HeaderName,
    line: u64,
    path: String,
) {
    if !is_editable(name.as_str()) {
        let help = "it frames the message or belongs to one connection";
        reader.error(line, path, format!("`{name}` cannot be changed"), help);
    } else if seen.contains(name) {
        let problem = format!("`{name}` is named twice");
        reader.error(line, path, problem, "one filter does one thing to a field");
    } else {
        seen.push(name.clone());
    }
}

fn path(reader: &mut Reader, parent: &Fields<'_>, prefix: bool) -> Option<PathEdit> {
    let fields = reader.child(parent, "path")?;
    reader.only(&fields, names::PATH_MODIFIER, Unknown::Error);
    let words = ["ReplaceFullPath", "ReplacePrefixMatch"];
    let sort = reader.word(&fields, "type", &words)?;
    let field = match sort {
        "ReplaceFullPath" => "replaceFullPath",
        _ => "replacePrefixMatch",
    };
    let text = reader.text(&fields, field);
    if text.is_none() && fields.entry(field).is_none() {
        let help = "say what takes the place";
        reader.error(fields.line, fields.path_of(field), "is missing", help);
    }
    let text = text?;
    let is_prefix = sort != "ReplaceFullPath";
    let text = match replacement(text, is_prefix) {
        Some(path) => path,
        None => {
            let problem = format!("`{}` is not a path", text.escape_debug());
            let help = "write one such as `/a/b`, without a query, with anything else than printable ASCII escaped";
            reader.error(fields.line_of(field), fields.path_of(field), problem, help);
            return None;
        }
    };
    if !is_prefix {
        return Some(PathEdit::Full(text));
    }
    if !prefix {
        reader.incompatible = true;
        let problem = "is for rules with exactly one match, of the type PathPrefix";
        let help = "make a rule of its own for it";
        reader.error(
            fields.line_of("type"),
            fields.path_of("type"),
            problem,
            help,
        );
    }
    Some(PathEdit::Prefix(text))
}

/// Returns the path that takes another one's place, as it goes into requests and `Location`; `None`: it is none. What replaces a
/// prefix may be empty.
fn replacement(text: &str, is_prefix: bool) -> Option<String> {
    if text.is_empty() && is_prefix {
        return Some(String::new());
    }
    let slash = if text.starts_with('/') { "" } else { "/" };
    let path = format!("{slash}{text}");
    // In a path that a client sends, it would have ended it.
    if path.contains('?') {
        return None;
    }
    canonical(&path).ok().map(Cow::into_owned)
}

fn hostname(reader: &mut Reader, fields: &Fields<'_>) -> Option<String> {
    let text = reader.text(fields, "hostname")?;
    if !is_subdomain(text) {
        let problem = format!("`{text}` is not the name of a host");
        let line = fields.line_of("hostname");
        reader.error(
            line,
            fields.path_of("hostname"),
            problem,
            "write a DNS name",
        );
    }
    Some(text.to_owned())
}

fn redirect(reader: &mut Reader, fields: &Fields<'_>, prefix: bool) -> Option<Redirect> {
    reader.only(fields, names::REDIRECT, Unknown::Error);
    let scheme = match fields.entry("scheme") {
        None => None,
        Some(_) => match reader.word(fields, "scheme", &["http", "https"])? {
            "http" => Some(RedirectScheme::Http),
            _ => Some(RedirectScheme::Https),
        },
    };
    let status = match fields.entry("statusCode") {
        None => 302,
        Some(_) => reader.number(fields, "statusCode", 300..=399)?,
    };
    if ![301, 302, 303, 307, 308].contains(&status) {
        reader.unknown = true;
        let line = fields.line_of("statusCode");
        let help = "write 301, 302, 303, 307 or 308";
        reader.error(
            line,
            fields.path_of("statusCode"),
            format!("is {status}"),
            help,
        );
    }
    let status = u16::try_from(status).ok()?;
    Some(Redirect {
        scheme,
        hostname: hostname(reader, fields),
        path: path(reader, fields, prefix),
        port: reader.port(fields, "port").and_then(NonZeroU16::new),
        status: StatusCode::from_u16(status).ok()?,
    })
}

fn rewrite(reader: &mut Reader, fields: &Fields<'_>, prefix: bool) -> Rewrite {
    reader.only(fields, names::REWRITE, Unknown::Error);
    Rewrite {
        hostname: hostname(reader, fields),
        path: path(reader, fields, prefix),
    }
}

fn mirror(reader: &mut Reader, fields: &Fields<'_>, route: &RouteName) -> Option<Mirror> {
    reader.only(fields, names::MIRROR, Unknown::Error);
    let to = backend::mirrored(reader, fields, route);
    let (mut share, mut of) = (100, 100);
    if fields.entry("percent").is_some() {
        share = reader.number(fields, "percent", 0..=100)?;
    }
    if let Some(fraction) = reader.child(fields, "fraction") {
        reader.only(&fraction, names::FRACTION, Unknown::Error);
        if fields.entry("percent").is_some() {
            let help = "keep one of the two";
            reader.error(
                fraction.line,
                fraction.path.clone(),
                "stands beside `percent`",
                help,
            );
        }
        of = match fraction.entry("denominator") {
            Some(_) => reader.number(&fraction, "denominator", 1..=i32::MAX.unsigned_abs())?,
            None => 100,
        };
        share = reader.number(&fraction, "numerator", 0..=of)?;
    }
    Some(Mirror { to: to?, share, of })
}

fn cors(reader: &mut Reader, fields: &Fields<'_>) -> Cors {
    reader.only(fields, names::CORS, Unknown::Error);
    let mut list = |field: &str, may: fn(&str) -> bool, help: &str| -> Vec<String> {
        let mut found = Vec::new();
        for (text, path, line) in reader.strings(fields, field) {
            if !may(text) {
                let problem = format!("`{}` does not belong there", text.escape_debug());
                reader.error(line, path, problem, help);
            }
            found.push(text.to_owned());
        }
        found
    };
    // Tokens: `*` is one, too.
    let is_method = |text: &str| Method::from_bytes(text.as_bytes()).is_ok();
    let is_name = |text: &str| HeaderName::from_bytes(text.as_bytes()).is_ok();
    let origins = list(
        "allowOrigins",
        is_origin,
        "write `*`, or such as `https://a.example`",
    );
    let methods = list("allowMethods", is_method, "write such as `GET`");
    let headers = list("allowHeaders", is_name, "write the name of a field");
    let expose = list("exposeHeaders", is_name, "write the name of a field");
    let age = match fields.entry("maxAge") {
        // What browsers take where nothing is said.
        None => Some(5),
        Some(_) => reader.number(fields, "maxAge", 1..=i32::MAX.unsigned_abs()),
    };
    Cors {
        origins,
        credentials: reader.boolean(fields, "allowCredentials").unwrap_or(false),
        methods,
        headers,
        expose,
        max_age: Duration::from_secs(age.unwrap_or_default().into()),
    }
}

/// Returns whether this is `*`, or an origin as Gateway API writes them: a scheme, a host that may begin with `*`, and perhaps a port.
fn is_origin(text: &str) -> bool {
    if text == "*" {
        return true;
    }
    let bare = text.strip_prefix("https://");
    let Some(bare) = bare.or_else(|| text.strip_prefix("http://")) else {
        return false;
    };
    let (host, port) = match bare.split_once(':') {
        Some((host, port)) => (host, port.parse::<u16>().is_ok()),
        None => (bare, true),
    };
    let host = match host.strip_prefix('*') {
        Some("") => return port,
        Some(rest) => rest.strip_prefix('.').unwrap_or_default(),
        None => host,
    };
    port && is_subdomain(&host.to_ascii_lowercase())
}
