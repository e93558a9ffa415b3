//! What tells one object from all others, and where it stands: for the errors that name it.
#![forbid(unsafe_code)]

use std::fmt;
use std::sync::Arc;

use crate::config::problem::{Finding, Problem};
use crate::model::route::RouteKind;

/// Kinds that are objects of their own.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) enum Kind {
    Namespace,
    Node,
    Pod,
    Service,
    EndpointSlice,
    NetworkPolicy,
    AuthorizationPolicy,
    HTTPRoute,
    GRPCRoute,
    TLSRoute,
    TCPRoute,
    UDPRoute,
    BackendTLSPolicy,
    ReferenceGrant,
    XBackendTrafficPolicy,
    TrafficPolicy,
    ConfigMap,
    XMesh,
}

impl Kind {
    pub(crate) const ALL: [Self; 18] = [
        Self::Pod,
        Self::Namespace,
        Self::Node,
        Self::Service,
        Self::EndpointSlice,
        Self::NetworkPolicy,
        Self::AuthorizationPolicy,
        Self::HTTPRoute,
        Self::GRPCRoute,
        Self::TLSRoute,
        Self::TCPRoute,
        Self::UDPRoute,
        Self::BackendTLSPolicy,
        Self::ReferenceGrant,
        Self::XBackendTrafficPolicy,
        Self::TrafficPolicy,
        Self::ConfigMap,
        Self::XMesh,
    ];

    /// Returns the word for it, as in `kind`.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::Node => "Node",
            Self::Pod => "Pod",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::AuthorizationPolicy => "AuthorizationPolicy",
            Self::HTTPRoute => "HTTPRoute",
            Self::GRPCRoute => "GRPCRoute",
            Self::TLSRoute => "TLSRoute",
            Self::TCPRoute => "TCPRoute",
            Self::UDPRoute => "UDPRoute",
            Self::BackendTLSPolicy => "BackendTLSPolicy",
            Self::ReferenceGrant => "ReferenceGrant",
            Self::XBackendTrafficPolicy => "XBackendTrafficPolicy",
            Self::TrafficPolicy => "TrafficPolicy",
            Self::ConfigMap => "ConfigMap",
            Self::XMesh => "XMesh",
        }
    }

    /// Returns the kind that a word means.
    pub(crate) fn of_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.word() == word)
    }

    /// Returns its `apiVersion`.
    pub(crate) fn version(self) -> &'static str {
        match self {
            Self::Namespace | Self::Node | Self::Pod | Self::Service | Self::ConfigMap => "v1",
            Self::EndpointSlice => "discovery.k8s.io/v1",
            Self::NetworkPolicy => "networking.k8s.io/v1",
            Self::AuthorizationPolicy | Self::TrafficPolicy => "underpass.dev/v1alpha1",
            Self::HTTPRoute
            | Self::GRPCRoute
            | Self::TLSRoute
            | Self::TCPRoute
            | Self::UDPRoute
            | Self::BackendTLSPolicy
            | Self::ReferenceGrant => "gateway.networking.k8s.io/v1",
            Self::XBackendTrafficPolicy | Self::XMesh => "gateway.networking.x-k8s.io/v1alpha1",
        }
    }

    /// Returns an older `apiVersion` in which its objects look the same.
    pub(crate) fn old_version(self) -> Option<&'static str> {
        let old = [
            (Self::TCPRoute, "gateway.networking.k8s.io/v1alpha2"),
            (Self::UDPRoute, "gateway.networking.k8s.io/v1alpha2"),
            (Self::ReferenceGrant, "gateway.networking.k8s.io/v1beta1"),
        ];
        let found = old.into_iter().find(|(kind, _)| *kind == self);
        found.map(|(_, version)| version)
    }

    /// Returns which route it is, if it is one.
    pub(crate) fn route(self) -> Option<RouteKind> {
        let routes = [
            (Self::HTTPRoute, RouteKind::Http),
            (Self::GRPCRoute, RouteKind::Grpc),
            (Self::TLSRoute, RouteKind::Tls),
            (Self::TCPRoute, RouteKind::Tcp),
            (Self::UDPRoute, RouteKind::Udp),
        ];
        let found = routes.into_iter().find(|(kind, _)| *kind == self);
        found.map(|(_, route)| route)
    }

    /// Returns whether the API server itself knows the kind: whatever such an object holds, the server understood.
    pub(crate) fn is_built_in(self) -> bool {
        let version = self.version();
        version == "v1" || version.contains(".k8s.io/") && !version.starts_with("gateway.")
    }

    /// Returns whether its objects stand in a namespace.
    pub(crate) fn is_namespaced(self) -> bool {
        !matches!(self, Self::Namespace | Self::Node | Self::XMesh)
    }
}

/// What tells one object from all others.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) struct Key {
    pub(crate) kind: Kind,
    /// Empty for a kind that stands in no namespace.
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kind,
            namespace,
            name,
        } = self;
        match kind.is_namespaced() {
            true => write!(f, "{} {namespace}/{name}", kind.word()),
            false => write!(f, "{} {name}", kind.word()),
        }
    }
}

/// Where an object stands.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Place {
    /// A file, or for an object of an API server its key after [`API`].
    pub(crate) file: Arc<str>,
    /// Counted from 1; 0 where the object stands in no document, but in an API server.
    pub(crate) document: usize,
    pub(crate) line: u64,
    /// Path of the object in the document: `items[3]`, or nothing.
    pub(crate) path: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.is_api() {
            return Ok(());
        }
        write!(f, ": document {}", self.document)?;
        if self.path.is_empty() {
            return Ok(());
        }
        write!(f, ": {}", self.path)
    }
}

/// What stands for a file's name in problems of objects that an API server has.
pub(crate) const API: &str = "kubernetes";

impl Place {
    /// Returns the place of an object in an API server.
    pub(crate) fn of_api(key: &Key) -> Self {
        Self {
            file: format!("{API}: {key}").into(),
            document: 0,
            line: 0,
            path: String::new(),
        }
    }

    /// Returns whether the object is in an API server.
    pub(crate) fn is_api(&self) -> bool {
        self.document == 0
    }

    /// Returns a finding with this place.
    pub(crate) fn problem(&self, key: Option<&Key>, finding: Finding) -> Problem {
        if self.is_api() {
            return Problem {
                object: key.map(Key::to_string),
                path: finding.path,
                severity: finding.severity,
                ..Problem::of_file(API, finding.problem, finding.help)
            };
        }
        Problem {
            file: self.file.to_string(),
            document: Some(self.document),
            line: Some(finding.line),
            object: key.map(Key::to_string),
            path: finding.path,
            problem: finding.problem,
            help: finding.help,
            severity: finding.severity,
        }
    }

    /// Returns the path in the document of a field of the object.
    pub(crate) fn path_of(&self, field: &str) -> String {
        if self.path.is_empty() {
            return field.to_owned();
        }
        format!("{}.{field}", self.path)
    }
}
