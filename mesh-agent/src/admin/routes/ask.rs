//! Which rule a request would go by, and which ones were passed over.

#![forbid(unsafe_code)]

use axum::http::StatusCode;
use http::{Method, Uri};

use super::{View, carrier, policy};
use crate::admin::Admin;
use crate::admin::error::ApiError;
use crate::admin::types::ServiceRef;
use crate::admin::types::routes::{
    By, DecidedBackend, Decision, PassedOver, ROUTE_EXPLAIN_SCHEMA, RouteExplanation, RouteQuery,
};
use crate::balance::Ports;
use crate::l7::message::Fields;
use crate::l7::route::edit::Cause;
use crate::l7::route::{
    AppProtocol, Backends, CompiledRule, OpaqueRule, PortTable, RequestView, Routed, Table, Tables,
    Tried, path,
};
use crate::model::balanced::PortId;
use crate::model::route::Filter;
use crate::model::service::{Protocol, ServiceName, Services};
use crate::model::traffic::TrafficPolicies;

/// Matches that are listed: what a person may still look through. The answer says how many more there are.
const LISTED: usize = 100;

/// A request that somebody asks after.
struct Asked {
    namespace: String,
    id: PortId,
    method: Method,
    authority: String,
    path: String,
    query: Option<String>,
    fields: Fields,
}

impl Asked {
    fn view(&self) -> RequestView<'_> {
        RequestView {
            method: &self.method,
            authority: &self.authority,
            path: &self.path,
            query: self.query.as_deref(),
            fields: &self.fields,
        }
    }
}

pub(super) fn explain(admin: &Admin, query: &RouteQuery) -> Result<RouteExplanation, ApiError> {
    let view = View::new(admin);
    let asked = asked(query, &view.services)?;
    let routes = view.routes_of(&asked.id);
    let input = view.input(&routes);
    let tables = Tables::compile(&input, &Tables::default());
    let port = view.services[&asked.id.service].ports.iter();
    let mut port = port.filter(|it| (it.number, it.protocol) == (asked.id.port, asked.id.protocol));
    let speaks = port.next().map_or(AppProtocol::Detect, AppProtocol::of);
    let needs = view.needs(&asked.id, &asked.namespace);
    let mut answer = RouteExplanation {
        schema: ROUTE_EXPLAIN_SCHEMA.to_owned(),
        from: asked.namespace.clone(),
        service: reference(&asked.id),
        protocol: asked.id.protocol,
        speaks: speaks.word().to_owned(),
        carrier: carrier(needs.as_ref()),
        routes_of: None,
        method: asked.method.to_string(),
        path: asked.path.clone(),
        decision: None,
        answer: None,
        passed_over: Vec::new(),
        passed_over_more: 0,
    };
    let live = &admin.sources.services.live;
    let ports = live.with(|balancer, _| balancer.ports());
    if let Some(table) = tables.port(&asked.id) {
        let known = Known {
            ports: &ports,
            traffic: input.traffic,
        };
        decide(&asked, table, &known, &mut answer);
    }
    if answer.routes_of.is_none() && endpoints(&asked.id, &ports) == Some(0) {
        let is_http = !matches!(speaks, AppProtocol::Tcp | AppProtocol::Tls);
        let cause = is_http.then_some(Cause::NoEndpoint);
        let why = "the service has no endpoint";
        nobody(&asked, why, cause, &mut answer);
    }
    Ok(answer)
}

/// What an answer goes by, beside the routes.
struct Known<'k> {
    ports: &'k Ports,
    traffic: &'k TrafficPolicies,
}

/// Returns how many endpoints of a service port get new requests.
fn endpoints(id: &PortId, ports: &Ports) -> Option<usize> {
    ports.get(id).map(|port| port.targets.len())
}

fn decide(asked: &Asked, port: &PortTable, known: &Known<'_>, answer: &mut RouteExplanation) {
    let Some(routed) = port.routed(&asked.namespace) else {
        return;
    };
    let is_consumer = port.consumers.contains_key(&asked.namespace);
    let of = if is_consumer { "consumer" } else { "producer" };
    answer.routes_of = Some(of.to_owned());
    match routed {
        Routed::Http(table) => decide_http(asked, table, known, answer),
        Routed::Tls(table) => {
            let host = asked.authority.split(':').next();
            match table.select(host) {
                Some(rule) => opaque(
                    asked,
                    rule,
                    "by the name of the server",
                    known.ports,
                    answer,
                ),
                None => {
                    let words = "no route is for this name: the connection is reset";
                    answer.answer = Some(words.to_owned());
                }
            }
        }
        Routed::Opaque(rule) => opaque(asked, rule, "every connection", known.ports, answer),
    }
}

fn decide_http(asked: &Asked, table: &Table, known: &Known<'_>, answer: &mut RouteExplanation) {
    let view = asked.view();
    let mut tried = table.explain(&view);
    let fits = |it: &Tried<'_>| it.misfit.is_none();
    let last = tried.pop_if(|it| fits(it));
    answer.passed_over_more = tried.len().saturating_sub(LISTED);
    let listed = tried.iter().take(LISTED).map(|it| PassedOver {
        route: it.rule.route.to_string(),
        rule: rule_name(it.rule),
        path: it.path(),
        why: it
            .misfit
            .map(|misfit| misfit.to_string())
            .unwrap_or_default(),
    });
    answer.passed_over = listed.collect();
    let Some(last) = last else {
        answer.answer = Some(own_answer("no rule fits", Cause::NoRoute, &view));
        return;
    };
    let backends = decided(&last.rule.backends, known.ports);
    let redirects = last
        .rule
        .filters
        .iter()
        .any(|it| matches!(it, Filter::Redirect(_)));
    let broken = last
        .rule
        .filters
        .iter()
        .any(|it| matches!(it, Filter::Invalid(_)));
    if broken || leads_to(&backends, Answers::Nobody) && !redirects {
        let why = "the rule leads to nobody";
        answer.answer = Some(own_answer(why, Cause::NoBackend, &view));
    } else if leads_to(&backends, Answers::NoEndpoint) && !redirects {
        nobody(asked, NO_ENDPOINTS, Some(Cause::NoEndpoint), answer);
    }
    answer.decision = Some(Decision {
        route: last.rule.route.to_string(),
        rule: rule_name(last.rule),
        path: last.path(),
        does: [
            does(last.rule),
            policy::does(last.rule, &asked.id, known.traffic),
        ]
        .concat(),
        backends,
    });
}

const NO_ENDPOINTS: &str = "no backend of the rule has an endpoint";

/// Who answers for a backend.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answers {
    /// The reference leads nowhere, or it has no share.
    Nobody,
    /// It may, and has no endpoint.
    NoEndpoint,
}

/// Returns whether nobody does for any of them, for this reason or the one before.
fn leads_to(backends: &[DecidedBackend], answers: Answers) -> bool {
    backends.iter().all(|it| {
        let is_nobody = it.invalid.is_some() || it.share == 0.0;
        is_nobody || (answers == Answers::NoEndpoint && it.endpoints == Some(0))
    })
}

/// Says that nobody answers, as the client hears it: of the kernel, or of the agent, which has words only for HTTP.
fn nobody(asked: &Asked, why: &str, cause: Option<Cause>, answer: &mut RouteExplanation) {
    answer.answer = Some(match (answer.carrier.by, cause) {
        (By::Kernel, _) => format!("{why}: the connection is refused"),
        (By::Agent, Some(cause)) => own_answer(why, cause, &asked.view()),
        (By::Agent, None) => format!("{why}: the connection is reset"),
    });
}

fn own_answer(why: &str, cause: Cause, view: &RequestView<'_>) -> String {
    match view.is_grpc() {
        true => format!("{why}: grpc-status {}", cause.grpc()),
        false => format!("{why}: status {}", cause.status().as_u16()),
    }
}

fn opaque(
    asked: &Asked,
    rule: &OpaqueRule,
    path: &str,
    ports: &Ports,
    answer: &mut RouteExplanation,
) {
    let backends = decided(&rule.backends, ports);
    if leads_to(&backends, Answers::Nobody) {
        answer.answer = Some("the rule leads to nobody: the connection is refused".to_owned());
    } else if leads_to(&backends, Answers::NoEndpoint) {
        nobody(asked, NO_ENDPOINTS, None, answer);
    }
    answer.decision = Some(Decision {
        route: rule.route.to_string(),
        rule: "0".to_owned(),
        path: path.to_owned(),
        does: Vec::new(),
        backends,
    });
}

fn rule_name(rule: &CompiledRule) -> String {
    rule.name.clone().unwrap_or_else(|| rule.index.to_string())
}

fn reference(id: &PortId) -> ServiceRef {
    ServiceRef {
        namespace: id.service.namespace.clone(),
        name: id.service.name.clone(),
        port: id.port,
    }
}

fn decided(backends: &Backends, ports: &Ports) -> Vec<DecidedBackend> {
    let total: f64 = backends.all().iter().map(|it| f64::from(it.weight)).sum();
    let one = |it: &crate::l7::route::Backend| DecidedBackend {
        service: it.to.as_ref().ok().map(|id| reference(id)),
        share: if total > 0.0 {
            f64::from(it.weight) / total
        } else {
            0.0
        },
        invalid: it.to.as_ref().err().map(|it| it.0.clone()),
        endpoints: it.to.as_ref().ok().and_then(|id| endpoints(id, ports)),
    };
    backends.all().iter().map(one).collect()
}

/// Returns what a rule does on the way, in words.
fn does(rule: &CompiledRule) -> Vec<String> {
    let mut words: Vec<String> = rule.filters.iter().map(filter).collect();
    for backend in rule.backends.all() {
        let of = match &backend.to {
            Ok(id) => format!("{}:{}", id.service, id.port),
            Err(_) => continue,
        };
        words.extend(
            backend
                .filters
                .iter()
                .map(|it| format!("for {of}: {}", filter(it))),
        );
    }
    if let Some(time) = rule.request_timeout {
        words.push(format!("takes {time:?} at most"));
    }
    if let Some(time) = rule.backend_timeout {
        words.push(format!("each attempt takes {time:?} at most"));
    }
    if let Some(retry) = &rule.retry {
        words.push(format!("tries again up to {} times", retry.attempts));
    }
    if let Some(session) = &rule.session {
        words.push(match &session.name {
            Some(name) => format!("binds clients to endpoints by `{name}`"),
            None => "binds clients to endpoints".to_owned(),
        });
    }
    words
}

fn filter(filter: &Filter) -> String {
    match filter {
        Filter::RequestHeaders(_) => "edits fields of the request".to_owned(),
        Filter::ResponseHeaders(_) => "edits fields of the response".to_owned(),
        Filter::Redirect(redirect) => format!("redirects with status {}", redirect.status.as_u16()),
        Filter::Rewrite(_) => "rewrites host or path".to_owned(),
        Filter::Mirror(mirror) => format!("mirrors {} of {} requests", mirror.share, mirror.of),
        Filter::Cors(_) => "answers for origins (CORS)".to_owned(),
        Filter::Invalid(why) => format!("cannot be carried out: {why}"),
    }
}

/// Reads what is asked for.
fn asked(query: &RouteQuery, services: &Services) -> Result<Asked, ApiError> {
    let bad = |error: String| ApiError::new(StatusCode::BAD_REQUEST, error);
    let namespace = query.from.split('/').next().unwrap_or_default();
    let text = match query.url.contains("://") {
        true => query.url.clone(),
        false => format!("http://{}", query.url),
    };
    let wrong = || {
        bad(format!(
            "`{}` is not a URL such as http://cart.shop:80/path",
            query.url
        ))
    };
    let uri: Uri = text.parse().map_err(|_| wrong())?;
    let scheme = uri.scheme_str().unwrap_or("http");
    let authority = uri.authority().ok_or_else(wrong)?;
    let port = match (authority.port_u16(), scheme) {
        (Some(port), _) => port,
        (None, "https" | "tls") => 443,
        (None, _) => 80,
    };
    let protocol = match scheme {
        "udp" => Protocol::Udp,
        _ => Protocol::Tcp,
    };
    let service = service(authority.host(), namespace, services).ok_or_else(|| {
        let error = format!(
            "`{}` is not a service: write NAME.NAMESPACE or its address",
            authority.host()
        );
        ApiError::new(StatusCode::NOT_FOUND, error)
    })?;
    let id = PortId {
        service: service.clone(),
        port,
        protocol,
    };
    let mut ports = services.get(&service).into_iter().flat_map(|it| &it.ports);
    if !ports.any(|it| (it.number, it.protocol) == (port, protocol)) {
        let error = format!("service {service} has no port {port}/{}", protocol.word());
        return Err(ApiError::new(StatusCode::NOT_FOUND, error));
    }
    let mut fields = Fields::default();
    if scheme == "grpc" {
        fields.append("content-type", b"application/grpc");
    }
    let host = headers(query, &mut fields).map_err(bad)?;
    // Whom a client means by that is not always whom it dials.
    let host = host.unwrap_or_else(|| authority.as_str().to_ascii_lowercase());
    let method = match (&query.method, scheme) {
        (Some(method), _) => method.clone(),
        (None, "grpc") => "POST".to_owned(),
        (None, _) => "GET".to_owned(),
    };
    let canonical = path::canonical(uri.path()).map_err(|error| bad(error.to_string()))?;
    Ok(Asked {
        namespace: namespace.to_owned(),
        id,
        method: Method::from_bytes(method.as_bytes()).map_err(|error| bad(error.to_string()))?,
        authority: host,
        path: canonical.into_owned(),
        query: uri.query().map(str::to_owned),
        fields,
    })
}

/// Adds the fields that are given; returns the host, if that is among them.
fn headers(query: &RouteQuery, fields: &mut Fields) -> Result<Option<String>, String> {
    let mut host = None;
    for line in query.headers.iter().flat_map(|it| it.lines()) {
        let (name, value) = line
            .split_once(':')
            .ok_or_else(|| format!("`{line}` is not `name: value`"))?;
        match name.trim().eq_ignore_ascii_case("host") {
            true => host = Some(value.trim().to_ascii_lowercase()),
            false => fields.append(name.trim(), value.trim().as_bytes()),
        }
    }
    Ok(host)
}

/// Returns the service that a host is: an address, `name`, `name.namespace`, or longer names that begin so.
fn service(host: &str, namespace: &str, services: &Services) -> Option<ServiceName> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = bare.parse::<std::net::IpAddr>() {
        let has = |it: &&std::sync::Arc<crate::model::service::Service>| {
            it.addresses.contains(&address) || it.external_addresses.contains(&address)
        };
        return services.values().find(has).map(|it| it.name.clone());
    }
    let mut labels = host.split('.');
    let name = labels.next()?;
    let found = ServiceName {
        namespace: labels.next().unwrap_or(namespace).to_owned(),
        name: name.to_owned(),
    };
    services.contains_key(&found).then_some(found)
}
