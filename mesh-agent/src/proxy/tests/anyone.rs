//! Who connects to the data threads of a test.

use std::net::SocketAddr;
use std::sync::Arc;

use super::port;
use crate::model::workload::WorkloadName;
use crate::proxy::record::Client;
use crate::proxy::worker::Introduce;

/// Whoever connects is one client, of one service.
pub(in crate::proxy) struct Anyone;

impl Introduce for Anyone {
    fn netns(&self) -> u64 {
        1
    }

    fn client(&self, peer: SocketAddr) -> Option<Client> {
        Some(Client {
            workload: Arc::new(WorkloadName::default()),
            netns: 1,
            address: peer,
            port: Arc::new(port("cart")),
            dialled: peer,
        })
    }
}
