//! Routes of services: registering instances, and looking services up.
//!
//! Registering is for the admin socket, which only root reaches. Looking up is offered on the metrics listener as well where
//! that is on a loopback address: it tells what the name server tells every program of the machine anyway.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post, put};
use axum::{Json, Router};

use crate::admin::Admin;
use crate::admin::api::{Answer, Shared};
use crate::admin::error::ApiError;
use crate::admin::types::balancing::CLUSTER_IP;
use crate::admin::types::services::{
    EndpointView, InstanceState, PortView, REGISTRATION_SCHEMA, RegistrationAnswer,
    SERVICES_SCHEMA, ServiceList, ServiceView,
};
use crate::model::service::{Endpoint, Port, Service, ServiceKind, ServiceName};
use crate::source::registered::{
    InstanceView, Registered, Registration, RegistryError, limits, merge,
};

/// Adds the routes that look services up.
pub(super) fn lookup(routes: Router<Shared>) -> Router<Shared> {
    routes
        .route("/v1/services", get(get_services))
        .route("/v1/services/{namespace}/{name}", get(get_service))
}

/// Adds the routes that register instances.
pub(super) fn registry(routes: Router<Shared>) -> Router<Shared> {
    let instance = put(put_instance)
        .delete(delete_instance)
        .layer(DefaultBodyLimit::max(limits::BODY_BYTES));
    routes
        .route("/v1/services/{namespace}/{name}/instances/{id}", instance)
        .route(
            "/v1/services/{namespace}/{name}/instances/{id}/heartbeat",
            post(post_heartbeat),
        )
}

/// Namespace, name and instance.
type InstancePath = Path<(String, String, String)>;

impl From<RegistryError> for ApiError {
    fn from(error: RegistryError) -> Self {
        let status = match error {
            RegistryError::Invalid(_) => StatusCode::BAD_REQUEST,
            RegistryError::Conflict(_) => StatusCode::CONFLICT,
            RegistryError::Full(_) => StatusCode::INSUFFICIENT_STORAGE,
            RegistryError::NotFound(_) => StatusCode::NOT_FOUND,
        };
        Self::new(status, error.to_string())
    }
}

async fn put_instance(
    State(shared): State<Shared>,
    Path((namespace, name, id)): InstancePath,
    body: Result<Json<Registration>, JsonRejection>,
) -> Answer<RegistrationAnswer> {
    let Json(registration) = body?;
    let service = ServiceName { namespace, name };
    let registry = &shared.admin.sources.registered;
    let registered = registry.register(&service, &id, registration)?;
    let persisted = registry.is_kept(&registered).await;
    Ok(answer(service, id, registered, persisted))
}

async fn post_heartbeat(
    State(shared): State<Shared>,
    Path((namespace, name, id)): InstancePath,
) -> Answer<RegistrationAnswer> {
    let service = ServiceName { namespace, name };
    let registry = &shared.admin.sources.registered;
    let registered = registry.heartbeat(&service, &id)?;
    let persisted = registry.is_kept(&registered).await;
    Ok(answer(service, id, registered, persisted))
}

async fn delete_instance(
    State(shared): State<Shared>,
    Path((namespace, name, id)): InstancePath,
) -> Answer<RegistrationAnswer> {
    let service = ServiceName { namespace, name };
    let registry = &shared.admin.sources.registered;
    let revision = registry.deregister(&service, &id)?;
    let persisted = registry.kept(revision).await;
    let ServiceName { namespace, name } = service;
    Ok(Json(RegistrationAnswer {
        schema: REGISTRATION_SCHEMA.to_owned(),
        namespace,
        name,
        id,
        addresses: Vec::new(),
        ttl_seconds: 0,
        renewed: false,
        persisted,
    }))
}

fn answer(
    service: ServiceName,
    id: String,
    registered: Registered,
    persisted: bool,
) -> Json<RegistrationAnswer> {
    let ServiceName { namespace, name } = service;
    Json(RegistrationAnswer {
        schema: REGISTRATION_SCHEMA.to_owned(),
        namespace,
        name,
        id,
        addresses: registered.addresses,
        ttl_seconds: registered.ttl.as_secs(),
        renewed: registered.renewed,
        persisted,
    })
}

async fn get_services(State(shared): State<Shared>) -> Answer<ServiceList> {
    let list = |admin: &Admin| list(admin, None);
    Ok(Json(shared.admin.read(list).await?))
}

async fn get_service(
    State(shared): State<Shared>,
    Path((namespace, name)): Path<(String, String)>,
) -> Answer<ServiceList> {
    let wanted = ServiceName { namespace, name };
    let unknown = format!(
        "there is no service {}/{}",
        wanted.namespace.escape_debug(),
        wanted.name.escape_debug()
    );
    let found = shared
        .admin
        .read(move |admin| list(admin, Some(&wanted)))
        .await?;
    if found.services.is_empty() {
        return Err(ApiError::new(StatusCode::NOT_FOUND, unknown));
    }
    Ok(Json(found))
}

fn list(admin: &Admin, wanted: Option<&ServiceName>) -> ServiceList {
    let sources = &admin.sources;
    let manifests = sources.snapshot.load().services.clone();
    let (services, _) = merge(&manifests, &sources.registered.services());
    let found = services
        .iter()
        .filter(|(name, _)| wanted.is_none_or(|wanted| *name == wanted));
    ServiceList {
        schema: SERVICES_SCHEMA.to_owned(),
        services: found
            .map(|(name, service)| view(service, sources.registered.instances(name)))
            .collect(),
    }
}

fn view(service: &Service, instances: BTreeMap<String, InstanceView>) -> ServiceView {
    let external_name = match &service.kind {
        ServiceKind::ExternalName(name) => Some(name.clone()),
        ServiceKind::ClusterIp | ServiceKind::Headless => None,
    };
    let instance = |(id, view): (String, InstanceView)| {
        let state = InstanceState {
            registration: Registration::clone(&view.registration),
            expired: view.expired,
            expires_in_seconds: view.expires_in.as_secs(),
        };
        (id, state)
    };
    ServiceView {
        namespace: service.name.namespace.clone(),
        name: service.name.name.clone(),
        kind: kind(&service.kind).to_owned(),
        external_name,
        addresses: service.addresses.clone(),
        external_addresses: service.external_addresses.clone(),
        origin: service.origin.clone(),
        ports: service.ports.iter().map(port).collect(),
        instances: instances.into_iter().map(instance).collect(),
    }
}

/// Returns the word for what a service is dialled by.
pub(super) fn kind(kind: &ServiceKind) -> &'static str {
    match kind {
        ServiceKind::ClusterIp => CLUSTER_IP,
        ServiceKind::Headless => "Headless",
        ServiceKind::ExternalName(_) => "ExternalName",
    }
}

fn port(port: &Port) -> PortView {
    PortView {
        name: port.name.clone(),
        number: port.number,
        protocol: port.protocol,
        endpoints: port.endpoints.iter().map(endpoint).collect(),
    }
}

fn endpoint(endpoint: &Endpoint) -> EndpointView {
    EndpointView {
        address: endpoint.address,
        port: endpoint.port,
        ready: endpoint.ready,
        serving: endpoint.serving,
        terminating: endpoint.terminating,
        node: endpoint.node.as_deref().map(str::to_owned),
        zone: endpoint.zone.as_deref().map(str::to_owned),
        region: endpoint.region.as_deref().map(str::to_owned),
        weight: endpoint.weight,
        priority: endpoint.priority,
        workload: endpoint.workload.as_ref().map(ToString::to_string),
    }
}
