//! What serves requests: a task for each of those that are served at the same time, which stays for the next one.

use std::sync::Arc;

use crate::proxy::exchange::Service;
use crate::proxy::h2::body::Body;
use crate::proxy::h2::respond::Respond;
use crate::proxy::h2::session::{Job, Lane, Shared};

/// Serves requests, one after the other.
pub(super) async fn work<S: Service>(
    shared: Arc<Shared>,
    service: Arc<S>,
    lane: Lane,
    most: usize,
) {
    let mut scratch = service.scratch();
    while let Some(job) = std::future::poll_fn(|cx| shared.lock().poll_job(lane, most, cx)).await {
        let Job {
            slot,
            mut head,
            size,
            to_head,
        } = job;
        let _served = Served {
            shared: &shared,
            slot,
        };
        let tunnel = head.protocol.is_some();
        let mut respond = Respond::new(&shared, slot, tunnel, to_head);
        let mut body = Body::new(&shared, slot, size);
        service
            .call(&mut scratch, &mut head, &mut body, &mut respond)
            .await;
        shared.lock().give_back_request(head);
    }
}

/// A stream that is served, until dropped.
struct Served<'s> {
    shared: &'s Shared,
    slot: usize,
}

impl Drop for Served<'_> {
    fn drop(&mut self) {
        let mut session = self.shared.lock();
        session.served(self.slot);
        session.serving -= 1;
        if session.serving == 0 {
            session.wake();
        }
    }
}
