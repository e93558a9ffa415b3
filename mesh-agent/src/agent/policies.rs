//! Policy from snapshot to kernel, and to the flows that live.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use mesh_common::flow::FlowRecord;
use mesh_common::service::UDP;

use crate::kernel::Kernel;
use crate::locate::datagrams::close_connected;
use crate::locate::own_addresses;
use crate::locate::registry::Registry;
use crate::locate::reset::Connection;
use crate::model::observed::KernelView as _;
use crate::model::policy as policy_model;
use crate::model::snapshot::Snapshot;
use crate::model::workload::{Placed, Workload};
use crate::policy::{self, Compiler, PolicyTables, enforced};
use crate::telemetry::applied::{ApplyTimes, Part};

/// When live flows are judged after a change: at once, and again for those that were judged just before and established only
/// later, the last by the last SYN that a client sends (tcp_syn_retries, tcp(7): 127 s).
const JUDGED_AFTER: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_secs(130),
];

/// A live flow's socket that is to be reset, and the cookie of its network namespace.
type ToReset = (u64, Connection);

/// Keeps what the kernel judges by in line with the configuration.
#[derive(Debug)]
pub(super) struct Policies {
    compiler: Compiler,
    tables: Arc<ArcSwap<PolicyTables>>,
    /// What of the snapshot the maps are in line with.
    applied: Option<Sources>,
    host: Vec<IpAddr>,
    /// When live flows are to be judged, soonest last.
    due: Vec<Instant>,
    errors: Vec<String>,
    times: Arc<ApplyTimes>,
}

/// What policy is made from, and the last generation that has it.
#[derive(Debug)]
struct Sources {
    generation: u64,
    policies: Arc<policy_model::Policies>,
    namespaces: Arc<BTreeMap<String, BTreeMap<String, String>>>,
    workloads: Vec<Arc<Workload>>,
}

impl Sources {
    fn of(snapshot: &Snapshot) -> Self {
        Self {
            generation: snapshot.generation,
            policies: snapshot.policies.clone(),
            namespaces: snapshot.namespaces.clone(),
            workloads: snapshot.workloads.clone(),
        }
    }

    /// Returns whether this snapshot has the same, whatever else is different.
    fn are(&self, snapshot: &Snapshot) -> bool {
        let mut workloads = self.workloads.iter().zip(&snapshot.workloads);
        Arc::ptr_eq(&self.policies, &snapshot.policies)
            && Arc::ptr_eq(&self.namespaces, &snapshot.namespaces)
            && self.workloads.len() == snapshot.workloads.len()
            && workloads.all(|(own, other)| Arc::ptr_eq(own, other))
    }
}

impl Policies {
    pub(super) fn new(kernel: &Kernel, times: Arc<ApplyTimes>) -> Self {
        let (table, class) = kernel.last_policy_numbers();
        Self {
            compiler: Compiler::after(table, class),
            tables: Arc::default(),
            applied: None,
            host: Vec::new(),
            due: Vec::new(),
            errors: Vec::new(),
            times,
        }
    }

    /// Returns the tables as they are at any moment, for whoever is asked who may talk to whom.
    pub(super) fn tables(&self) -> Arc<ArcSwap<PolicyTables>> {
        Arc::clone(&self.tables)
    }

    /// Returns whether the maps are in line with this snapshot but for its number: most changes are of services, and those need
    /// no look at any policy.
    pub(super) fn knows(&self, snapshot: &Snapshot) -> bool {
        self.applied
            .as_ref()
            .is_some_and(|applied| applied.are(snapshot))
    }

    /// Closes workloads that are new, before they are.
    pub(super) fn close(
        &mut self,
        kernel: &Kernel,
        registry: &Registry,
        snapshot: &Snapshot,
        placed: &[Placed],
    ) {
        let enforced = placed.iter().filter_map(|placed| {
            let netns = *placed.netns.as_ref().ok()?;
            Some((netns, enforced(&snapshot.policies, &placed.workload)))
        });
        let enforced: Vec<(u64, u32)> = enforced.collect();
        let errors = kernel.close(&enforced, &|netns| registry.open(netns));
        self.tell(errors);
        self.applied = None;
    }

    /// Compiles and writes what has changed since the last time, and ends live flows that are denied by it.
    pub(super) fn follow(
        &mut self,
        kernel: &Kernel,
        registry: &Registry,
        snapshot: &Snapshot,
        placed: &[Placed],
    ) {
        let host = own_addresses().map(host).unwrap_or_else(|error| {
            tracing::error!(%error, "failed to read this machine's addresses");
            self.host.clone()
        });
        if self.knows(snapshot) && host == self.host {
            let is_new = |applied: &&mut Sources| applied.generation != snapshot.generation;
            if let Some(applied) = self.applied.as_mut().filter(is_new) {
                applied.generation = snapshot.generation;
                self.times.note(Part::Policies, snapshot);
            }
        } else {
            let subjects = kernel.subjects(placed);
            let tables = self.compiler.compile(snapshot, &subjects, &host);
            let mut errors = kernel.enforce(&tables, placed, &|netns| registry.open(netns));
            if errors.is_empty() {
                self.applied = Some(Sources::of(snapshot));
                self.times.note(Part::Policies, snapshot);
            } else {
                self.applied = None;
            }
            self.host = host;
            errors.splice(0..0, tables.errors.iter().cloned());
            self.tell(errors);
            self.tables.store(Arc::new(tables));
            let now = Instant::now();
            self.due = JUDGED_AFTER
                .iter()
                .rev()
                .map(|after| now + *after)
                .collect();
        }
        self.judge_live(kernel, registry);
    }

    /// Resets live flows that the tables deny, and closes connected UDP sockets, when it is time to look.
    fn judge_live(&mut self, kernel: &Kernel, registry: &Registry) {
        let now = Instant::now();
        let before = self.due.len();
        while self.due.pop_if(|due| *due <= now).is_some() {}
        let tables = self.tables.load();
        if self.due.len() == before || tables.is_empty() {
            return;
        }
        let flows = match kernel.live_flows() {
            Ok(flows) => flows,
            Err(error) => {
                return tracing::error!(%error, "failed to judge live flows by new policies");
            }
        };
        for (flow, (netns, connection)) in tables.denied(&flows).map(|flow| (flow, to_reset(flow)))
        {
            let outcome = registry.reset(netns, &connection);
            let rule = tables.judge(&policy::Connection::of(flow)).rule;
            let rule = tables
                .rule(rule)
                .map_or("none allows it".to_owned(), ToString::to_string);
            match outcome {
                Ok(()) => tracing::info!(
                    src.addr = %flow.source, src.port = %flow.source_port, dst.addr = %flow.destination, dst.port = %flow.destination_port, rule,
                    "a live connection is denied by policy: reset"
                ),
                Err(error) => {
                    tracing::error!(%error, "failed to reset a connection that is denied by policy")
                }
            }
        }
        close_datagrams(&tables, registry);
    }

    /// Logs what goes wrong, once while it does.
    fn tell(&mut self, errors: Vec<String>) {
        for error in errors.iter().filter(|error| !self.errors.contains(error)) {
            tracing::error!(error, "policy");
        }
        self.errors = errors;
    }
}

/// Closes connected UDP sockets whose `connect` the tables deny. The kernel judges that call alone, and these make no flow.
fn close_datagrams(tables: &PolicyTables, registry: &Registry) {
    let is_denied = |socket: &Connection| {
        let dialled = policy::Connection {
            source: socket.local.ip().into(),
            destination: socket.remote.ip().into(),
            port: socket.remote.port(),
            protocol: UDP,
        };
        !tables.judge(&dialled).allowed
    };
    for (workload, place) in registry.places() {
        match close_connected(&place, &is_denied) {
            Ok(closed) => closed.iter().for_each(|Connection { local, remote }| {
                tracing::info!(%workload, src.addr = %local, dst.addr = %remote, "a connected UDP socket is denied by policy: closed");
            }),
            // Gone, and its sockets with it.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => {
                tracing::error!(%workload, %error, "failed to close UDP sockets that are denied by policy");
            }
        }
    }
}

/// Returns what others know this machine by.
fn host(mut addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    addresses.retain(|address| !address.is_loopback());
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

/// Returns the end of a flow that reports it: one that is on this node for sure.
fn to_reset(flow: &FlowRecord) -> ToReset {
    let source = SocketAddr::new(flow.source.into(), flow.source_port.number());
    let destination = SocketAddr::new(flow.destination.into(), flow.destination_port.number());
    let (local, remote) = if flow.from_source != 0 {
        (source, destination)
    } else {
        (destination, source)
    };
    (flow.netns, Connection { local, remote })
}
