//! The JSON of services: registering instances, and looking services up.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::model::service::Protocol;
pub use crate::source::registered::{CheckKind, RegisteredCheck, RegisteredPort, Registration};

/// Schema of [`RegistrationAnswer`].
pub const REGISTRATION_SCHEMA: &str = "underpass.dev/registration/v1";
/// Schema of [`ServiceList`].
pub const SERVICES_SCHEMA: &str = "underpass.dev/services/v1";

/// What a registration came to: the answer to `PUT /v1/services/{namespace}/{name}/instances/{id}` (whose body is a
/// [`Registration`]), to `POST .../heartbeat` and to `DELETE`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RegistrationAnswer {
    /// [`REGISTRATION_SCHEMA`].
    pub schema: String,
    /// Namespace of the service.
    pub namespace: String,
    /// Name of the service.
    pub name: String,
    /// Id of the instance.
    pub id: String,
    /// The service's own addresses, which clients dial; empty after `DELETE`.
    pub addresses: Vec<IpAddr>,
    /// For how many seconds the instance lives from now on; 0 after `DELETE`.
    pub ttl_seconds: u64,
    /// Whether it was registered before.
    pub renewed: bool,
    /// Whether this outlives the agent.
    pub persisted: bool,
}

/// Services: `GET /v1/services`, `GET /v1/services/{namespace}/{name}`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ServiceList {
    /// [`SERVICES_SCHEMA`].
    pub schema: String,
    /// The services, by name.
    pub services: Vec<ServiceView>,
}

/// One service.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ServiceView {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Service name.
    pub name: String,
    /// `ClusterIP`, `Headless` or `ExternalName`.
    pub kind: String,
    /// The name that an `ExternalName` stands for.
    pub external_name: Option<String>,
    /// Its own addresses.
    pub addresses: Vec<IpAddr>,
    /// Further addresses that lead to it.
    pub external_addresses: Vec<IpAddr>,
    /// The manifest that it comes from, or `registered`.
    pub origin: String,
    /// Its ports.
    pub ports: Vec<PortView>,
    /// Registered instances by their ids; also where a manifest's service of the same name counts instead.
    pub instances: BTreeMap<String, InstanceState>,
}

/// One port of a service.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PortView {
    /// Its name.
    pub name: Option<String>,
    /// The port that is dialled.
    pub number: u16,
    /// Its protocol.
    pub protocol: Protocol,
    /// Who may answer.
    pub endpoints: Vec<EndpointView>,
}

/// One address and port that answers for a service's port.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EndpointView {
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Whether it is ready, as its manifest or its registration tells.
    pub ready: bool,
    /// Whether it answers, also while it terminates.
    pub serving: bool,
    /// Whether it terminates.
    pub terminating: bool,
    /// The node it is on.
    pub node: Option<String>,
    /// The zone it is in.
    pub zone: Option<String>,
    /// The region it is in.
    pub region: Option<String>,
    /// Its weight among the others of its priority.
    pub weight: u32,
    /// 0 is used first.
    pub priority: u32,
    /// The pod behind it, as `namespace/name`.
    pub workload: Option<String>,
}

/// A registered instance.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct InstanceState {
    /// What it said of itself.
    pub registration: Registration,
    /// Whether it gave no sign of life for its TTL.
    pub expired: bool,
    /// How many seconds are left of its time.
    pub expires_in_seconds: u64,
}
