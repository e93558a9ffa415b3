//! Routes: every one with its conditions and who carries its connections, and which one a request would go by.

#![forbid(unsafe_code)]

mod ask;
mod policy;

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::routing::get;
use axum::{Json, Router};

use crate::admin::Admin;
use crate::admin::api::{Answer, Shared};
use crate::admin::types::routes::{
    By, CarriedPort, Carrier, ROUTES_SCHEMA, RouteExplanation, RouteList, RouteQuery, ShownParent,
    ShownRoute,
};
use crate::l7::route::Input;
use crate::l7::route::kernel::{Needs, PortNeeds, needs};
use crate::model::balanced::PortId;
use crate::model::route::{Route, RouteKind, Routes};
use crate::model::service::{Protocol, Services};
use crate::model::snapshot::Snapshot;
use crate::model::status::{ObjectStatus, ParentStatus};

/// Adds the routes.
pub(super) fn routes(routes: Router<Shared>) -> Router<Shared> {
    routes
        .route("/v1/routes", get(get_routes))
        .route("/v1/routes/explain", get(get_explain))
}

async fn get_routes(State(shared): State<Shared>) -> Answer<RouteList> {
    Ok(Json(shared.admin.read(list).await?))
}

async fn get_explain(
    State(shared): State<Shared>,
    query: Result<Query<RouteQuery>, QueryRejection>,
) -> Answer<RouteExplanation> {
    let Query(query) = query?;
    let explain = move |admin: &Admin| ask::explain(admin, &query);
    Ok(Json(shared.admin.read(explain).await??))
}

/// The configuration, with registered services.
pub(super) struct View {
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) services: Arc<Services>,
}

impl View {
    pub(super) fn new(admin: &Admin) -> Self {
        Self {
            snapshot: admin.sources.snapshot.load_full(),
            services: admin.sources.services.services.borrow().clone(),
        }
    }

    /// Returns what tables are made of, with these routes.
    pub(super) fn input<'a>(&'a self, routes: &'a Routes) -> Input<'a> {
        Input {
            generation: self.snapshot.generation,
            services: &self.services,
            routes,
            traffic: &self.snapshot.traffic,
            tls: &self.snapshot.backend_tls,
        }
    }

    /// Returns the routes that hold for a service port.
    pub(super) fn routes_of(&self, id: &PortId) -> Routes {
        let is_for = |route: &&Arc<Route>| {
            let is_udp = route.name.kind == RouteKind::Udp;
            let mut parents = route.parents.iter();
            is_udp == (id.protocol == Protocol::Udp)
                && parents.any(|it| it.service == id.service && it.ports.contains(&id.port))
        };
        let all = self.snapshot.routes.values().filter(is_for);
        all.map(|route| (route.name.clone(), route.clone()))
            .collect()
    }

    /// Returns who carries the connections to a service port of a client in this namespace.
    pub(super) fn needs(&self, id: &PortId, client_namespace: &str) -> Option<Needs> {
        let routes = self.routes_of(id);
        let all = needs(&self.input(&routes));
        Some(all.get(id)?.of(client_namespace).clone())
    }
}

/// Returns who carries connections, and why.
pub(super) fn carrier(needs: Option<&Needs>) -> Carrier {
    match needs {
        None | Some(Needs::Kernel(_)) => Carrier {
            by: By::Kernel,
            why: Vec::new(),
        },
        Some(Needs::Agent(why)) => Carrier {
            by: By::Agent,
            why: why.clone(),
        },
    }
}

fn list(admin: &Admin) -> RouteList {
    let view = View::new(admin);
    let needs = needs(&view.input(&view.snapshot.routes));
    let mut list = RouteList {
        schema: ROUTES_SCHEMA.to_owned(),
        routes: Vec::new(),
        policies: Vec::new(),
    };
    let by_name: BTreeMap<(&str, &str, &str), &Arc<Route>> = view
        .snapshot
        .routes
        .values()
        .map(|route| {
            let name = &route.name;
            let key = (name.kind.word(), &*name.namespace, &*name.name);
            (key, route)
        })
        .collect();
    for status in view.snapshot.statuses.values() {
        let object = &status.object;
        if !object.kind.ends_with("Route") {
            list.policies.push(ObjectStatus::clone(status));
            continue;
        }
        let key = (&*object.kind, &*object.namespace, &*object.name);
        let route = by_name.get(&key).copied();
        let parents = status.parents.iter();
        list.routes.push(ShownRoute {
            kind: object.kind.clone(),
            namespace: object.namespace.clone(),
            name: object.name.clone(),
            origin: route.map(|route| route.origin.clone()),
            generation: status.generation,
            parents: parents
                .map(|it| parent(it, route, &needs, &object.namespace))
                .collect(),
            problems: status.problems.clone(),
        });
    }
    list
}

fn parent(
    status: &ParentStatus,
    route: Option<&Arc<Route>>,
    needs: &BTreeMap<PortId, PortNeeds>,
    namespace: &str,
) -> ShownParent {
    let of = &status.parent;
    let consumer = of.namespace != namespace;
    let mut ports = Vec::new();
    let is_accepted = status.condition("Accepted").is_some_and(|it| it.is_true());
    for bound in route
        .iter()
        .flat_map(|route| &route.parents)
        .filter(|_| is_accepted)
    {
        if (&bound.service.namespace, &bound.service.name) != (&of.namespace, &of.name) {
            continue;
        }
        for port in bound
            .ports
            .iter()
            .filter(|port| of.port.is_none_or(|it| it == **port))
        {
            let is_udp = route.is_some_and(|it| it.name.kind == RouteKind::Udp);
            let id = PortId {
                service: bound.service.clone(),
                port: *port,
                protocol: if is_udp { Protocol::Udp } else { Protocol::Tcp },
            };
            let client = if consumer { namespace } else { "" };
            let needs = needs.get(&id).map(|needs| needs.of(client));
            let carried = CarriedPort {
                port: *port,
                carrier: carrier(needs),
            };
            if !ports.contains(&carried) {
                ports.push(carried);
            }
        }
    }
    ShownParent {
        status: status.clone(),
        consumer,
        ports,
    }
}
