//! The controller of the large cluster: what it keeps, and what it takes to write the status of every route.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use harness::apiserver::{Account, ApiServer, Asked, Rule, large};
use harness::controller::Controller;
use harness::wait::{PATIENCE, pause};
use harness::{Node, memory, wait_for};
use serde_json::{Value, json};

use super::{BOOKMARK, round};

/// Who the controller is to the server.
const ACCOUNT: &str = "underpass-controller";

/// What was measured of the controller.
#[derive(Debug)]
pub(super) struct Written {
    /// From its start to the last status, in seconds.
    seconds: f64,
    /// Requests until then: all, and those that wrote a status.
    requests: usize,
    writes: usize,
    resident: u64,
    anonymous: u64,
    peak: u64,
    /// Requests while nothing happened: for the lease, and others.
    quiet_lease: usize,
    quiet_others: usize,
}

/// Starts a controller, waits until every route has its status, and then for as long as `quiet`.
pub(super) fn measure(node: &Node, api: &ApiServer, quiet: Duration) -> Result<Written> {
    let rights = vec![Rule::new("*", "*", "*")];
    api.change(|state| {
        state.accounts.push(Account::new(ACCOUNT, rights));
        let system = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "underpass-system"}});
        state.set(system);
    });
    let kubeconfig = api.kubeconfig_of(node.files(), ACCOUNT)?;
    let begun = Instant::now();
    let controller =
        node.enter(|| Controller::start("controller", &kubeconfig, node.files(), &[]))??;
    // A status that comes twice would be one request too many, and is counted as such.
    let waited = wait_for("a status of every route", 6 * PATIENCE, || {
        let written: BTreeSet<String> = writes(api).into_iter().map(|it| it.path).collect();
        written.len() >= large::ROUTES
    });
    waited.with_context(|| controller.log())?;
    let seconds = begun.elapsed().as_secs_f64();
    let requests = asked(api).len();
    let end = Instant::now() + quiet;
    while Instant::now() < end {
        pause(BOOKMARK.min(end.saturating_duration_since(Instant::now())));
        api.change(|state| state.bookmark());
    }
    let is_lease = |it: &&Asked| it.path.contains("/leases");
    let later = asked(api).split_off(requests);
    let quiet_lease = later.iter().filter(is_lease).count();
    let pid = controller.pid();
    Ok(Written {
        seconds,
        requests,
        writes: writes(api).len(),
        resident: memory::resident_bytes(pid)?,
        anonymous: memory::anonymous_bytes(pid)?,
        peak: memory::peak_bytes(pid)?,
        quiet_lease,
        quiet_others: later.len() - quiet_lease,
    })
}

/// Returns what the controller asked for.
fn asked(api: &ApiServer) -> Vec<Asked> {
    let asked = api.asked().into_iter();
    asked.filter(|it| it.user.ends_with(ACCOUNT)).collect()
}

fn writes(api: &ApiServer) -> Vec<Asked> {
    let is_write = |it: &Asked| it.path.ends_with("/status") && it.method == "PATCH";
    asked(api).into_iter().filter(is_write).collect()
}

impl Written {
    pub(super) fn lines(&self, text: &mut String) -> std::fmt::Result {
        writeln!(
            text,
            "controller: statuses  {:>8.1} s, {} of them written, {} requests in all",
            self.seconds, self.writes, self.requests
        )?;
        let memory = [self.resident, self.anonymous, self.peak];
        super::memory(text, "controller: resident", memory)?;
        writeln!(
            text,
            "controller: quiet     {:>8} requests for the lease, {} others",
            self.quiet_lease, self.quiet_others
        )
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "written_s": round(self.seconds), "requests": self.requests, "status_writes": self.writes,
            "resident_bytes": self.resident, "anonymous_bytes": self.anonymous, "peak_bytes": self.peak,
            "quiet_lease_requests": self.quiet_lease, "quiet_other_requests": self.quiet_others,
        })
    }
}
