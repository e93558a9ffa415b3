//! Which rule a request or connection goes by, and what rules do to heads. Pure: compiled from the configuration, asked by the data
//! path.
//!
//! [`Tables`] hold a [`PortTable`] for each service port that has a route or a policy. Gateway API's producer routes (in the service's namespace)
//! hold for all clients but those in whose own namespace there are routes for that port (consumer routes); these replace them.
//! The two are never merged, and routes of a backend are never looked at.

mod candidate;
mod compile;
pub mod edit;
mod index;
pub mod kernel;
mod opaque;
pub mod path;
mod protocol;
mod rule;
mod table;
#[cfg(test)]
mod tests;
mod view;

use std::collections::HashMap;
use std::sync::Arc;

use crate::model::balanced::PortId;
use crate::model::traffic::{BackendTls, Traffic};

pub use candidate::Misfit;
pub use compile::{Input, concerned};
pub use opaque::{OpaqueRule, TlsTable};
pub use protocol::AppProtocol;
pub use rule::{Backend, Backends, CompiledRule, Invalid, is_sampled};
pub use table::{Selected, Table, Tried};
pub use view::{RequestView, is_grpc};

/// All compiled routes. Immutable; what did not change keeps its `Arc` from one to the next.
#[derive(Debug, Default)]
pub struct Tables {
    /// Generation of the snapshot that it is of.
    pub generation: u64,
    ports: HashMap<PortId, Arc<PortTable>>,
}

/// What holds for one service port.
#[derive(Debug)]
pub struct PortTable {
    /// Which. An un-routed request goes to the port's own endpoints, the cluster of this very number.
    pub id: PortId,
    /// What is spoken there.
    pub protocol: AppProtocol,
    /// Routes for all clients that have none of their own.
    pub producer: Option<Routed>,
    /// Routes for the clients of one namespace.
    pub consumers: HashMap<String, Routed>,
    /// What else holds.
    pub policy: Arc<PortPolicy>,
}

/// Routes of one kind, the one that won the port.
#[derive(Clone, Debug)]
pub enum Routed {
    /// `GRPCRoute` or `HTTPRoute`.
    Http(Arc<Table>),
    /// `TLSRoute`.
    Tls(Arc<TlsTable>),
    /// `TCPRoute` or `UDPRoute`.
    Opaque(Arc<OpaqueRule>),
}

/// Settings of one service port, whether requests come by a route or not.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct PortPolicy {
    /// `TrafficPolicy`, `XBackendTrafficPolicy`.
    pub traffic: Option<Arc<Traffic>>,
    /// `BackendTLSPolicy`.
    pub tls: Option<Arc<BackendTls>>,
}

impl Tables {
    /// Returns what holds for a service port; `None`: nothing does, and its connections go to its endpoints.
    pub fn port(&self, id: &PortId) -> Option<&Arc<PortTable>> {
        self.ports.get(id)
    }

    /// Returns all ports, in no order.
    pub fn ports(&self) -> impl Iterator<Item = &Arc<PortTable>> {
        self.ports.values()
    }
}

impl PortTable {
    /// Returns the routes for a client of this namespace; `None`: there are none, pass on to the port's own endpoints.
    pub fn routed(&self, client_namespace: &str) -> Option<&Routed> {
        let own = self.consumers.get(client_namespace);
        own.or(self.producer.as_ref())
    }

    /// Returns the routes of HTTP for a client of this namespace, as [`routed`](Self::routed).
    pub fn table(&self, client_namespace: &str) -> Option<&Arc<Table>> {
        match self.routed(client_namespace)? {
            Routed::Http(table) => Some(table),
            Routed::Tls(_) | Routed::Opaque(_) => None,
        }
    }
}
