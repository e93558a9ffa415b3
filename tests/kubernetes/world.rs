//! A source on a server, and what it is to come to.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use harness::apiserver::{ApiServer, State};
use harness::wait_for;
use mesh_agent::model::api::{ApiState, ApiStatus, WatchState};
use mesh_agent::model::snapshot::Snapshot;
use mesh_agent::model::workload::{Acceleration, Location, Workload};
use mesh_agent::source::Loaded;
use mesh_agent::source::kubernetes::{KubernetesSettings, KubernetesSource};
use mesh_agent::source::manifests::ManifestSource;
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::watch;

/// Longer than anything here takes, also on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// Name of the agent's node.
pub(crate) const NODE: &str = "node-1";

/// A server, a directory for what is kept, and sources on it.
pub(crate) struct World {
    pub(crate) server: ApiServer,
    pub(crate) dir: TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        Self {
            server: ApiServer::start().unwrap(),
            dir: tempfile::tempdir().unwrap(),
        }
    }

    /// Starts a source, as an agent does.
    pub(crate) fn source(&self) -> Watched {
        let kubeconfig = self.server.kubeconfig(self.dir.path()).unwrap();
        start(kubeconfig, &self.dir.path().join("state"))
    }

    /// Returns what the server's objects come to when a directory of manifests holds them.
    pub(crate) fn as_manifests(&self) -> Snapshot {
        of_manifests(&self.server.change(|state| manifests(state)))
    }
}

/// Starts a source on the server that a kubeconfig names.
pub(crate) fn start(kubeconfig: PathBuf, state_dir: &Path) -> Watched {
    let settings = KubernetesSettings {
        kubeconfig: Some(kubeconfig),
        node: NODE.to_owned(),
        state_dir: state_dir.to_owned(),
        acceleration: Acceleration::Auto,
    };
    let source = KubernetesSource::start(settings).unwrap();
    Watched {
        loaded: source.subscribe(),
        status: source.status(),
        source,
    }
}

const KINDS: [&str; 14] = [
    "Namespace",
    "Node",
    "Pod",
    "Service",
    "EndpointSlice",
    "ConfigMap",
    "NetworkPolicy",
    "AuthorizationPolicy",
    "HTTPRoute",
    "GRPCRoute",
    "TCPRoute",
    "TLSRoute",
    "ReferenceGrant",
    "BackendTLSPolicy",
];

fn manifests(state: &State) -> Vec<Value> {
    KINDS.iter().flat_map(|kind| state.all(kind)).collect()
}

/// Returns what objects come to as manifests: one file for each, as a directory is read.
pub(crate) fn of_manifests(objects: &[Value]) -> Snapshot {
    let dir = tempfile::tempdir().unwrap();
    for (index, object) in objects.iter().enumerate() {
        fs::write(file(dir.path(), index), object.to_string()).unwrap();
    }
    let source = ManifestSource::start(dir.path(), Acceleration::Auto).unwrap();
    Snapshot::clone(&source.snapshot())
}

fn file(dir: &Path, index: usize) -> PathBuf {
    dir.join(format!("{index:06}.json"))
}

/// Returns what of a snapshot counts, as text: all but its number, its errors, where objects come from, and how a pod of a cluster is
/// found and comes to be in the mesh.
pub(crate) fn shape(snapshot: &Snapshot) -> String {
    let mut snapshot = snapshot.clone();
    // A manifest without an address and a place is no workload; a pod of a cluster will be found.
    snapshot.workloads.retain(|it| !it.addresses.is_empty());
    for workload in &mut snapshot.workloads {
        *workload = Arc::new(Workload {
            location: Location::Addresses,
            enrolled: true,
            containers: Vec::new(),
            ..Workload::clone(workload)
        });
    }
    snapshot.host_pods = Arc::default();
    snapshot.rejected_pods = Arc::default();
    snapshot.generation = 0;
    snapshot.made = None;
    snapshot.errors.clear();
    let text = format!("{snapshot:#?}");
    let is_place = |line: &&str| line.trim_start().starts_with("origin: ");
    let lines: Vec<&str> = text.lines().filter(|line| !is_place(line)).collect();
    lines.join("\n")
}

/// A source that is being looked at.
pub(crate) struct Watched {
    loaded: watch::Receiver<Loaded>,
    status: watch::Receiver<Arc<ApiStatus>>,
    pub(crate) source: KubernetesSource,
}

impl Watched {
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.loaded.borrow().snapshot.clone()
    }

    pub(crate) fn status(&self) -> Arc<ApiStatus> {
        self.status.borrow().clone()
    }

    /// Waits until the snapshot is as it has to be.
    pub(crate) fn until(&self, what: &str, is_so: impl Fn(&Snapshot) -> bool) -> Result<()> {
        let waited = wait_for(what, DEADLINE, || is_so(&self.snapshot()));
        waited.map_err(|error| {
            let (status, snapshot) = (self.status(), self.snapshot());
            error.context(format!("{status:#?}\n{:#?}", snapshot.errors))
        })
    }

    /// Waits until the status is as it has to be.
    pub(crate) fn until_status(
        &self,
        what: &str,
        is_so: impl Fn(&ApiStatus) -> bool,
    ) -> Result<()> {
        let waited = wait_for(what, DEADLINE, || is_so(&self.status()));
        waited.map_err(|error| error.context(format!("{:#?}", self.status())))
    }

    /// Waits until everything was told and is watched.
    pub(crate) fn until_synced(&self) -> Result<()> {
        self.until_status("the source to be synced", |status| {
            status.state == ApiState::Synced
        })
    }

    /// Waits until the snapshot is what the server's objects come to.
    pub(crate) fn until_equal(&self, world: &World) -> Result<()> {
        self.until_shape(&world.as_manifests())
    }

    /// Waits until the snapshot is as another one, but for where its objects come from.
    pub(crate) fn until_shape(&self, expected: &Snapshot) -> Result<()> {
        let expected = shape(expected);
        let is_so = |snapshot: &Snapshot| shape(snapshot) == expected;
        let waited = self.until("the same snapshot as from manifests", is_so);
        waited.map_err(|error| {
            let found = shape(&self.snapshot());
            let lines = found.lines().zip(expected.lines()).enumerate();
            let other = lines
                .into_iter()
                .find(|(_, (found, expected))| found != expected);
            error.context(format!("first other line: {other:?}"))
        })
    }

    /// Returns whether there is a workload.
    pub(crate) fn has(&self, name: &str) -> bool {
        has(&self.snapshot(), name)
    }
}

/// Returns whether there is a workload.
pub(crate) fn has(snapshot: &Snapshot, name: &str) -> bool {
    snapshot.workloads.iter().any(|it| it.name.name == name)
}

/// Returns how a kind is watched.
pub(crate) fn watching(status: &ApiStatus, kind: &str) -> Option<WatchState> {
    let found = status.kinds.iter().find(|it| it.kind == kind)?;
    Some(found.state)
}

pub(crate) use harness::apiserver::objects::{gateway, namespace, pod, policies, policy, service};

/// Returns a slice of a service, of pods on the agent's node.
pub(crate) fn slice(of: &str, pods: &[(&str, &str)]) -> Value {
    harness::apiserver::objects::slice(of, NODE, pods)
}
