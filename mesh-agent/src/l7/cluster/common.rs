//! What all endpoints of one family share: who is ejected.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex};

use super::Now;
use super::breaker::Shared;

/// What all endpoints of one family share.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) shared: Arc<Shared>,
    /// Endpoints.
    pub(super) hosts: AtomicU32,
    /// Length of `ejections`.
    pub(super) ejected: AtomicU32,
    /// Requests in flight that algorithms with bounded load picked for.
    pub(super) bounded: AtomicU32,
    /// When `ejections` is to be looked at again.
    pub(super) wake: AtomicU64,
    pub(super) ejections: Mutex<Ejections>,
    /// How often who is ejected may have changed.
    pub(super) changes: AtomicU64,
}

/// Who is ejected. Written seldom.
#[derive(Debug, Default)]
pub(super) struct Ejections {
    /// Endpoints and until when.
    pub(super) list: Vec<(SocketAddr, Now)>,
    /// How many there have been so far.
    pub(super) count: u64,
    /// When endpoints are compared again.
    pub(super) sweep_at: Now,
}

impl Core {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        Self {
            shared: shared.clone(),
            hosts: AtomicU32::default(),
            ejected: AtomicU32::default(),
            bounded: AtomicU32::default(),
            wake: AtomicU64::default(),
            ejections: Mutex::default(),
            changes: AtomicU64::default(),
        }
    }
}
