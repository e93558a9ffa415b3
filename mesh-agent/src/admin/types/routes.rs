//! The JSON of answers about routes.

use serde::{Deserialize, Serialize};

use crate::model::service::Protocol;
use crate::model::status::{ObjectStatus, ParentStatus};
use crate::telemetry::flow::ServiceRef;

/// Schema of [`RouteList`].
pub const ROUTES_SCHEMA: &str = "underpass.dev/routes/v1";
/// Schema of [`RouteExplanation`].
pub const ROUTE_EXPLAIN_SCHEMA: &str = "underpass.dev/route-explain/v1";

/// Every route and policy of Gateway API, and what became of it: `GET /v1/routes`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct RouteList {
    /// [`ROUTES_SCHEMA`].
    pub schema: String,
    /// Routes that name a service as a parent, by kind, namespace and name.
    pub routes: Vec<ShownRoute>,
    /// Policies.
    pub policies: Vec<ObjectStatus>,
}

/// One route.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ShownRoute {
    /// Its kind.
    pub kind: String,
    /// Kubernetes namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The manifest it comes from; `null` where no service took it.
    pub origin: Option<String>,
    /// `metadata.generation`.
    pub generation: Option<i64>,
    /// Its parents with their conditions.
    pub parents: Vec<ShownParent>,
    /// What is wrong with rules that do not count.
    pub problems: Vec<String>,
}

/// A parent of a route.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ShownParent {
    /// As Kubernetes keeps it.
    #[serde(flatten)]
    pub status: ParentStatus,
    /// Whether the route is for clients of its own namespace only (a consumer route).
    pub consumer: bool,
    /// The ports that took it, and who carries their connections.
    pub ports: Vec<CarriedPort>,
}

/// A service port with who carries its connections.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CarriedPort {
    /// The port.
    pub port: u16,
    /// Who carries them.
    #[serde(flatten)]
    pub carrier: Carrier,
}

/// Who carries connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum By {
    /// The kernel alone.
    Kernel,
    /// The agent.
    Agent,
}

/// Who carries connections, and why.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Carrier {
    /// Who.
    pub by: By,
    /// Why the kernel alone will not do; empty for the kernel.
    pub why: Vec<String>,
}

/// Query of `GET /v1/routes/explain`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteQuery {
    /// Who asks: `NAMESPACE/POD` or `NAMESPACE`.
    pub from: String,
    /// What is asked for.
    pub url: String,
    /// The method; `GET` where not given, `POST` for `grpc://`.
    pub method: Option<String>,
    /// Fields, one `name: value` on each line.
    pub headers: Option<String>,
}

/// Which rule a request would go by: `GET /v1/routes/explain`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct RouteExplanation {
    /// [`ROUTE_EXPLAIN_SCHEMA`].
    pub schema: String,
    /// The namespace of the client.
    pub from: String,
    /// The service port that is dialled.
    pub service: ServiceRef,
    /// `TCP` or `UDP`.
    pub protocol: Protocol,
    /// What is spoken there, as the port says.
    pub speaks: String,
    /// Who carries the connection.
    pub carrier: Carrier,
    /// `producer` or `consumer`: whose routes hold; `null`: there are none, and the service's own endpoints answer.
    pub routes_of: Option<String>,
    /// The method.
    pub method: String,
    /// The path in the form that routes look at.
    pub path: String,
    /// The rule that it goes by.
    pub decision: Option<Decision>,
    /// What the agent answers by itself, where no backend is asked.
    pub answer: Option<String>,
    /// Matches that come earlier and do not fit, in the order in which they are tried.
    pub passed_over: Vec<PassedOver>,
    /// How many more there are.
    pub passed_over_more: usize,
}

/// The rule that a request goes by.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Decision {
    /// The route.
    pub route: String,
    /// Its rule, by name or place.
    pub rule: String,
    /// What it asks of the path.
    pub path: String,
    /// What it does on the way, in words.
    pub does: Vec<String>,
    /// Who answers, with what share.
    pub backends: Vec<DecidedBackend>,
}

/// A backend of a decision.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct DecidedBackend {
    /// The service port; `null` where the reference leads nowhere.
    pub service: Option<ServiceRef>,
    /// Its share, from 0 to 1.
    pub share: f64,
    /// Why it leads nowhere.
    pub invalid: Option<String>,
    /// Endpoints that get new requests; `null` where that is not known.
    pub endpoints: Option<usize>,
}

/// A match that does not fit.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PassedOver {
    /// The route.
    pub route: String,
    /// Its rule, by name or place.
    pub rule: String,
    /// What it asks of the path.
    pub path: String,
    /// Why it does not fit.
    pub why: String,
}
