//! Routes as the configuration describes them, valid by now: what a request or a connection to a service port is to meet.
//!
//! Names and meaning are Gateway API's (v1.6): each type says which field it comes from.

use std::fmt;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, Method, StatusCode};
use regex::Regex;

use crate::model::balanced::PortId;
use crate::model::service::ServiceName;

/// Kind of a route, in the order in which kinds win a service port that several want (GEP-1294).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum RouteKind {
    /// `GRPCRoute`.
    Grpc,
    /// `HTTPRoute`.
    Http,
    /// `TLSRoute`.
    Tls,
    /// `TCPRoute`.
    Tcp,
    /// `UDPRoute`, which shares a port's number with the others and no traffic.
    Udp,
}

impl RouteKind {
    /// Returns the kind as manifests write it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Grpc => "GRPCRoute",
            Self::Http => "HTTPRoute",
            Self::Tls => "TLSRoute",
            Self::Tcp => "TCPRoute",
            Self::Udp => "UDPRoute",
        }
    }
}

/// What tells a route from all others.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct RouteName {
    /// Its kind.
    pub kind: RouteKind,
    /// Kubernetes namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for RouteName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind.word(), self.namespace, self.name)
    }
}

/// One valid route with the parents that took it.
#[derive(Clone, PartialEq, Debug)]
pub struct Route {
    /// Its name.
    pub name: Arc<RouteName>,
    /// `metadata.creationTimestamp`, seconds since 1970; where none is given it is the youngest.
    pub created: Option<i64>,
    /// Services that it is bound to.
    pub parents: Vec<Parent>,
    /// Its rules in their order.
    pub rules: Rules,
    /// The manifest it comes from, as `file: path in it`.
    pub origin: String,
}

/// `parentRefs[]` that names a service which took the route.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Parent {
    /// The service. In the route's own namespace: for all clients (producer). In another: for clients of the route's namespace
    /// only, for whom it takes the place of the producer's routes (consumer).
    pub service: ServiceName,
    /// The ports that it is for: the one that the reference names, or all; less those that routes of another kind won. Never
    /// empty.
    pub ports: Vec<u16>,
}

/// Rules by kind.
#[derive(Clone, PartialEq, Debug)]
pub enum Rules {
    /// Of an `HTTPRoute`.
    Http(Vec<Rule<HttpMatch>>),
    /// Of a `GRPCRoute`.
    Grpc(Vec<Rule<GrpcMatch>>),
    /// Of a `TLSRoute`: names of servers in `ClientHello`, exact or `*.suffix`, and who answers for them.
    Tls(Vec<String>, Vec<Backend>),
    /// Of a `TCPRoute` or `UDPRoute`: who answers.
    Opaque(Vec<Backend>),
}

/// `rules[]` of an `HTTPRoute` or `GRPCRoute`.
#[derive(Clone, PartialEq, Debug)]
pub struct Rule<M> {
    /// Its place in the manifest, where others may stand that are not valid.
    pub index: usize,
    /// `name`.
    pub name: Option<String>,
    /// `matches`: one that fits is enough. Never empty: none at all is one that fits everything.
    pub matches: Vec<M>,
    /// `filters`, in their order.
    pub filters: Vec<Filter>,
    /// `backendRefs`.
    pub backends: Vec<Backend>,
    /// `timeouts.request`: the whole of it, retries and all.
    pub request_timeout: Option<Duration>,
    /// `timeouts.backendRequest`: each attempt.
    pub backend_timeout: Option<Duration>,
    /// `retry`.
    pub retry: Option<Retry>,
    /// `sessionPersistence`.
    pub session: Option<SessionPersistence>,
}

/// `HTTPRouteMatch`: all that is given has to fit.
#[derive(Clone, PartialEq, Debug)]
pub struct HttpMatch {
    /// `path`; without one, the prefix `/`.
    pub path: PathMatch,
    /// `method`.
    pub method: Option<Method>,
    /// `headers`; of names given twice only the first counts, and is here.
    pub headers: Vec<HeaderMatch>,
    /// `queryParams`; as above.
    pub query: Vec<QueryMatch>,
}

/// `HTTPPathMatch`.
#[derive(Clone, PartialEq, Debug)]
pub enum PathMatch {
    /// `Exact`.
    Exact(String),
    /// `PathPrefix`, by whole elements; without a `/` at its end, but for `/` itself, which is empty here.
    Prefix(String),
    /// `RegularExpression`, which has to fit the whole path.
    Regex(Pattern),
}

/// `HTTPHeaderMatch`, `GRPCHeaderMatch`.
#[derive(Clone, PartialEq, Debug)]
pub struct HeaderMatch {
    /// Name of the field.
    pub name: HeaderName,
    /// What its value, lines joined by commas, has to be.
    pub value: ValueMatch,
}

/// `HTTPQueryParamMatch`.
#[derive(Clone, PartialEq, Debug)]
pub struct QueryMatch {
    /// Name of the parameter, decoded; of several in a request the first counts.
    pub name: String,
    /// What its value, decoded, has to be.
    pub value: ValueMatch,
}

/// A regular expression that has to fit the whole of a text. In the syntax of the crate `regex`: no look-around and no
/// references back, so that the time of a match is linear in the text.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: String,
    regex: Regex,
}

/// Bytes that one compiled pattern may take: as much as a pattern of some thousand characters, and little enough for thousands.
const PATTERN_BYTES: usize = 1 << 20;

impl Pattern {
    /// Compiles a pattern.
    ///
    /// # Errors
    ///
    /// Where it is none, or becomes too large.
    pub fn new(text: &str) -> Result<Self, regex::Error> {
        let compiled = |text: &str| {
            let mut builder = regex::RegexBuilder::new(text);
            builder
                .size_limit(PATTERN_BYTES)
                .dfa_size_limit(PATTERN_BYTES);
            builder.build()
        };
        // By itself first: it is not to end the group that is put around it.
        compiled(text)?;
        Ok(Self {
            text: text.to_owned(),
            regex: compiled(&format!("^(?:{text})$"))?,
        })
    }

    /// Returns it as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns whether it fits the whole of `text`.
    pub fn is_match(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

/// `Exact` or `RegularExpression`.
#[derive(Clone, PartialEq, Debug)]
pub enum ValueMatch {
    /// This, with regard to case.
    Exact(String),
    /// One that fits as a whole.
    Regex(Pattern),
}

/// `GRPCRouteMatch`.
#[derive(Clone, PartialEq, Debug)]
pub struct GrpcMatch {
    /// `method`; `None`: every one.
    pub method: Option<GrpcMethodMatch>,
    /// `headers`.
    pub headers: Vec<HeaderMatch>,
}

/// `GRPCMethodMatch`; at least one is given.
#[derive(Clone, PartialEq, Debug)]
pub struct GrpcMethodMatch {
    /// `service`, as `package.Service`.
    pub service: Option<ValueMatch>,
    /// `method`.
    pub method: Option<ValueMatch>,
}

/// `backendRefs[]`.
#[derive(Clone, PartialEq, Debug)]
pub struct Backend {
    /// `weight`: its share is this by the sum of all, of invalid ones too.
    pub weight: u32,
    /// Who answers.
    pub to: BackendTarget,
    /// `filters`, which run after the rule's.
    pub filters: Vec<Filter>,
}

/// Where a backend reference leads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BackendTarget {
    /// A port of a service that exists; whether anybody answers is another matter.
    Port(PortId),
    /// Nowhere, and why: its share is answered with 500, or for gRPC `UNAVAILABLE`, or with a reset.
    Invalid(BadRef, String),
}

/// Why a reference leads nowhere, as the condition `ResolvedRefs` has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadRef {
    /// Nothing that could answer.
    InvalidKind,
    /// No such service, or no such port.
    BackendNotFound,
    /// What the port says that it speaks does not go with the route.
    UnsupportedProtocol,
}

impl BadRef {
    /// Returns it as the reason of a condition.
    pub fn word(self) -> &'static str {
        match self {
            Self::InvalidKind => "InvalidKind",
            Self::BackendNotFound => "BackendNotFound",
            Self::UnsupportedProtocol => "UnsupportedProtocol",
        }
    }
}

/// `HTTPRouteFilter`, `GRPCRouteFilter`.
#[derive(Clone, PartialEq, Debug)]
pub enum Filter {
    /// `RequestHeaderModifier`.
    RequestHeaders(HeaderEdit),
    /// `ResponseHeaderModifier`.
    ResponseHeaders(HeaderEdit),
    /// `RequestRedirect`.
    Redirect(Redirect),
    /// `URLRewrite`.
    Rewrite(Rewrite),
    /// `RequestMirror`.
    Mirror(Mirror),
    /// `CORS`.
    Cors(Box<Cors>),
    /// One that cannot be carried out, and why: requests are answered with 500 rather than served without it.
    Invalid(String),
}

/// `HTTPHeaderFilter`: set, then added, then removed; no name stands in two of them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct HeaderEdit {
    /// `set`.
    pub set: Vec<(HeaderName, String)>,
    /// `add`.
    pub add: Vec<(HeaderName, String)>,
    /// `remove`.
    pub remove: Vec<HeaderName>,
}

/// `HTTPRequestRedirectFilter`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Redirect {
    /// `scheme`: `http` or `https`.
    pub scheme: Option<RedirectScheme>,
    /// `hostname`.
    pub hostname: Option<String>,
    /// `path`.
    pub path: Option<PathEdit>,
    /// `port`.
    pub port: Option<NonZeroU16>,
    /// `statusCode`: 301, 302, 303, 307 or 308.
    pub status: StatusCode,
}

/// `scheme` of a redirect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RedirectScheme {
    /// `http`.
    Http,
    /// `https`.
    Https,
}

/// `HTTPURLRewriteFilter`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rewrite {
    /// `hostname`.
    pub hostname: Option<String>,
    /// `path`.
    pub path: Option<PathEdit>,
}

/// `HTTPPathModifier`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PathEdit {
    /// `ReplaceFullPath`.
    Full(String),
    /// `ReplacePrefixMatch`; only in rules whose one match is a prefix.
    Prefix(String),
}

/// `HTTPRequestMirrorFilter`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mirror {
    /// `backendRef`; an invalid one mirrors nothing.
    pub to: BackendTarget,
    /// `percent` or `fraction`: this many requests of [`of`](Self::of).
    pub share: u32,
    /// Never 0.
    pub of: u32,
}

/// `HTTPCORSFilter`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Cors {
    /// `allowOrigins`: `*`, an origin, or one with `*` at the beginning of its host.
    pub origins: Vec<String>,
    /// `allowCredentials`.
    pub credentials: bool,
    /// `allowMethods`, or `*`.
    pub methods: Vec<String>,
    /// `allowHeaders`, or `*`.
    pub headers: Vec<String>,
    /// `exposeHeaders`, or `*`.
    pub expose: Vec<String>,
    /// `maxAge`.
    pub max_age: Duration,
}

/// `HTTPRouteRetry`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Retry {
    /// `codes`.
    pub codes: Vec<StatusCode>,
    /// `attempts`: how many retries, beside the first attempt.
    pub attempts: u32,
    /// `backoff`: the least time between two attempts.
    pub backoff: Option<Duration>,
}

/// `SessionPersistence` (GEP-1619).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionPersistence {
    /// `sessionName`: name of the cookie or field; `None`: each rule has one of its own.
    pub name: Option<String>,
    /// `type`.
    pub by: SessionBy,
    /// `absoluteTimeout`.
    pub timeout: Option<Duration>,
}

/// What carries a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SessionBy {
    /// `Cookie`; a permanent one (`cookieConfig.lifetimeType`) outlives the browser.
    Cookie {
        /// Whether it does.
        permanent: bool,
    },
    /// `Header`.
    Header,
}

/// All routes of a configuration, ordered by name. Shared by pointer: what did not change keeps its `Arc`.
pub type Routes = std::collections::BTreeMap<Arc<RouteName>, Arc<Route>>;
