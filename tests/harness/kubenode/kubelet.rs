//! A stand-in for kubelet: runs the pods that are bound to its node, by CRI, and says what became of them.
//!
//! Of what a kubelet does it has what a mesh's own pods and those of its tests ask for. There are no init containers, no evictions, no images to
//! pull, and no devices.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::cri::Cri;
use super::machine::Machine;
use super::probes::Probe;
use super::spec::{self, items, text};
use super::volumes::{self, Volumes};
use super::{NODE, node_address};
use crate::apiserver::Exec;
use crate::wait::pause;
use crate::{ApiServer, Node, apiserver};

/// How often a pod's containers are looked at.
const LOOK: Duration = Duration::from_millis(100);

/// How long a container that ended has to wait, at first; kubelet begins with ten seconds.
const BACK_OFF: Duration = Duration::from_millis(500);

/// Seconds that what is executed may take; the suite asks for 500 requests at once.
const EXEC: i64 = 80;

/// States of CRI's containers.
const RUNNING: i32 = 1;
const EXITED: i32 = 2;

/// What pods of a node share.
#[derive(Debug)]
pub(super) struct Kubelet {
    pub(super) api: Arc<ApiServer>,
    pub(super) node: Node,
    pub(super) machine: Machine,
    pub(super) cri: Cri,
    pub(super) ends: AtomicBool,
    /// Containers that run, by namespace, pod and container.
    running: Mutex<BTreeMap<(String, String, String), String>>,
    execs: AtomicU64,
}

impl Kubelet {
    pub(super) fn new(api: Arc<ApiServer>, node: Node, machine: Machine, cri: Cri) -> Self {
        Self {
            api,
            node,
            machine,
            cri,
            ends: AtomicBool::new(false),
            running: Mutex::default(),
            execs: AtomicU64::new(0),
        }
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<(String, String, String), String>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns what executes words in a container of a pod; in its first where none is named.
    pub(super) fn exec(
        self: &Arc<Self>,
        (namespace, pod, container): (&str, &str, &str),
        words: &[String],
        reads: bool,
    ) -> Option<Exec> {
        let running = self.running();
        let mut found = running.iter();
        let found = found.find(|((of, name, it), _)| {
            of == namespace && name == pod && (container.is_empty() || it == container)
        });
        let id = found?.1.clone();
        drop(running);
        if !reads {
            let (kubelet, words) = (self.clone(), words.to_vec());
            let call = move || {
                let output = kubelet.cri.exec(&id, &words, EXEC);
                output.map_err(std::io::Error::other)
            };
            return Some(Exec::Call(Box::new(call)));
        }
        // What CRI has for input is a server of streams that speaks SPDY; this says the same to the same runtime.
        let number = self.execs.fetch_add(1, Ordering::Relaxed);
        let mut ctr = self.machine.ctr();
        ctr.args(["tasks", "exec", "--exec-id", &format!("e{number}"), &id]);
        ctr.args(words);
        Some(Exec::Run(ctr))
    }

    /// Returns what a pod's containers wrote, runs that have ended included.
    pub(super) fn log(&self, pod: &Value, container: &str) -> String {
        let dir = self.dir(pod).join("logs");
        let mut all = String::new();
        for of in items(&pod["spec"]["containers"]) {
            let name = text(&of["name"]);
            if !container.is_empty() && container != name {
                continue;
            }
            for attempt in 0..100 {
                let file = dir.join(&name).join(format!("{attempt}.log"));
                let Ok(text) = std::fs::read_to_string(file) else {
                    break;
                };
                // A time, a stream, and whether the line is whole.
                for line in text.lines() {
                    all.push_str(line.splitn(4, ' ').nth(3).unwrap_or_default());
                    all.push('\n');
                }
            }
        }
        all
    }

    fn dir(&self, pod: &Value) -> PathBuf {
        let uid = text(&pod["metadata"]["uid"]);
        self.node.files().join("pods").join(uid)
    }

    /// Runs pods until it ends; then ends them.
    pub(super) fn run(self: &Arc<Self>) {
        let mut known: BTreeMap<String, JoinHandle<()>> = BTreeMap::new();
        let mut seen = 0;
        while !self.ends.load(Ordering::Relaxed) {
            for pod in self.api.look(|state| state.all("Pod")) {
                let uid = text(&pod["metadata"]["uid"]);
                if pod["spec"]["nodeName"] == NODE && !known.contains_key(&uid) {
                    let kubelet = self.clone();
                    let running = thread::spawn(move || Run::new(&kubelet, pod).run());
                    known.insert(uid, running);
                }
            }
            seen = self.api.changed_since(seen, LOOK);
        }
        for (_, thread) in known {
            // One that panicked has said so.
            thread.join().ok();
        }
    }
}

/// A container of a pod that runs here.
#[derive(Debug)]
struct Container {
    spec: Value,
    id: Option<String>,
    attempt: u32,
    /// How it ended, where it did.
    ended: Option<i32>,
    not_before: Instant,
    startup: Option<Probe>,
    readiness: Option<Probe>,
    liveness: Option<Probe>,
}

impl Container {
    fn is_ready(&self) -> bool {
        let done = |probe: &Option<Probe>| {
            let probe = probe.as_ref();
            probe.is_none_or(|it| it.succeeded == Some(true))
        };
        self.id.is_some() && self.ended.is_none() && done(&self.startup) && done(&self.readiness)
    }

    fn begin_probing(&mut self) {
        self.startup = Probe::of(&self.spec, "startupProbe");
        self.readiness = Probe::of(&self.spec, "readinessProbe");
        self.liveness = Probe::of(&self.spec, "livenessProbe");
    }
}

/// A pod that runs here.
struct Run<'k> {
    kubelet: &'k Kubelet,
    pod: Value,
    addresses: Vec<String>,
    containers: Vec<Container>,
    since: String,
    told: BTreeSet<String>,
}

impl<'k> Run<'k> {
    fn new(kubelet: &'k Kubelet, pod: Value) -> Self {
        let containers = items(&pod["spec"]["containers"]).map(|spec| Container {
            spec: spec.clone(),
            id: None,
            attempt: 0,
            ended: None,
            not_before: Instant::now(),
            startup: None,
            readiness: None,
            liveness: None,
        });
        Self {
            kubelet,
            containers: containers.collect(),
            addresses: Vec::new(),
            since: apiserver::now(),
            told: BTreeSet::new(),
            pod,
        }
    }

    fn name(&self) -> (String, String) {
        let metadata = &self.pod["metadata"];
        (text(&metadata["namespace"]), text(&metadata["name"]))
    }

    /// Says what went wrong, once.
    fn tell(&mut self, error: &anyhow::Error) {
        let (namespace, name) = self.name();
        let text = format!("{namespace}/{name}: {error:#}");
        if self.told.insert(text.clone()) {
            eprintln!("kubelet: {text}");
        }
    }

    /// Returns the pod as the API server has it, while it is to run.
    fn wanted(&self) -> Option<Value> {
        if self.kubelet.ends.load(Ordering::Relaxed) {
            return None;
        }
        let (namespace, name) = self.name();
        let now = self.kubelet.api.get("Pod", &namespace, &name)?;
        let is_it = now["metadata"]["uid"] == self.pod["metadata"]["uid"];
        (is_it && now["metadata"]["deletionTimestamp"].is_null()).then_some(now)
    }

    fn run(&mut self) {
        let sandbox = loop {
            if self.wanted().is_none() {
                break None;
            }
            match self.sandbox() {
                Ok(id) => break Some(id),
                Err(error) => self.tell(&error),
            }
            pause(BACK_OFF);
        };
        if let Some(id) = &sandbox {
            while self.wanted().is_some() {
                if let Err(error) = self.step(id) {
                    self.tell(&error);
                    pause(BACK_OFF);
                }
                self.report();
                pause(LOOK);
            }
        }
        if let Err(error) = self.end(sandbox.as_deref()) {
            self.tell(&error);
        }
    }

    /// Makes the pod's cgroup, its sandbox, and its network.
    fn sandbox(&mut self) -> Result<String> {
        let kubelet = self.kubelet;
        let logs = kubelet.dir(&self.pod).join("logs");
        std::fs::create_dir_all(&logs)?;
        kubelet.machine.make_cgroup(&spec::cgroup(&self.pod))?;
        let config = spec::sandbox(&self.pod, &logs);
        let id = kubelet.cri.run_sandbox(config)?;
        let is_on_host = self.pod["spec"]["hostNetwork"].as_bool() == Some(true);
        self.addresses = match is_on_host {
            true => vec![node_address().to_string()],
            false => kubelet.cri.addresses(&id)?,
        };
        self.report();
        Ok(id)
    }

    fn restarts(&self) -> &str {
        self.pod["spec"]["restartPolicy"]
            .as_str()
            .unwrap_or("Always")
    }

    /// Looks at each container, starts those that are to run, and probes those that do.
    fn step(&mut self, sandbox: &str) -> Result<()> {
        let address = self.addresses.first().cloned().unwrap_or_default();
        for index in 0..self.containers.len() {
            let restarts = self.restarts().to_owned();
            let kubelet = self.kubelet;
            let container = &mut self.containers[index];
            match &container.id {
                None => self.start(index, sandbox)?,
                Some(id) => {
                    let status = kubelet.cri.container(id)?;
                    if status.state == EXITED && container.ended.is_none() {
                        container.ended = Some(status.exit_code);
                        container.not_before = Instant::now() + BACK_OFF;
                    }
                    let again = restarts == "Always"
                        || restarts == "OnFailure" && container.ended.is_some_and(|it| it != 0);
                    if container.ended.is_some() && again && Instant::now() >= container.not_before
                    {
                        container.attempt += 1;
                        self.start(index, sandbox)?;
                    } else if status.state == RUNNING {
                        let id = id.clone();
                        probe(kubelet, container, &address, &id)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn start(&mut self, index: usize, sandbox: &str) -> Result<()> {
        let kubelet = self.kubelet;
        let dir = kubelet.dir(&self.pod);
        let mut pod = self.pod.clone();
        pod["status"] = self.status();
        let volumes: Volumes = volumes::make(&kubelet.api, &pod, &dir.join("volumes"))?;
        let container = &mut self.containers[index];
        let name = text(&container.spec["name"]);
        let mounts = volumes::mounts(&pod, &container.spec, &volumes, &dir.join(&name))?;
        let config = spec::container(&pod, &container.spec, container.attempt, mounts)?;
        let of = spec::sandbox(&pod, &dir.join("logs"));
        let id = match kubelet.cri.run_container(sandbox, config, of) {
            Ok(id) => id,
            Err(error) => {
                // A name is taken once it was used.
                container.attempt += 1;
                return Err(error);
            }
        };
        container.id = Some(id.clone());
        container.ended = None;
        container.begin_probing();
        let (namespace, pod) = self.name();
        kubelet.running().insert((namespace, pod, name), id);
        Ok(())
    }

    fn phase(&self) -> &'static str {
        let is_over = self.containers.iter().all(|it| it.ended.is_some());
        let has_begun = self.containers.iter().all(|it| it.id.is_some());
        let succeeded = self.containers.iter().all(|it| it.ended == Some(0));
        match (is_over && self.restarts() == "Never", has_begun) {
            (true, _) if succeeded => "Succeeded",
            (true, _) => "Failed",
            (false, true) => "Running",
            (false, false) => "Pending",
        }
    }

    fn status(&self) -> Value {
        let is_ready = self.containers.iter().all(Container::is_ready);
        let condition = |sort: &str, is_so: bool| json!({"type": sort, "status": if is_so { "True" } else { "False" }, "lastTransitionTime": self.since});
        let containers = self.containers.iter().map(|it| {
            let state = match (it.ended, &it.id) {
                (Some(code), _) => {
                    let reason = if code == 0 { "Completed" } else { "Error" };
                    json!({"terminated": {"exitCode": code, "reason": reason}})
                }
                (None, Some(_)) => json!({"running": {"startedAt": self.since}}),
                (None, None) => json!({"waiting": {"reason": "ContainerCreating"}}),
            };
            let id = it.id.as_ref().map(|id| format!("containerd://{id}"));
            json!({"name": it.spec["name"], "image": it.spec["image"], "imageID": it.spec["image"], "containerID": id,
                "ready": it.is_ready(), "started": it.id.is_some(), "restartCount": it.attempt, "state": state})
        });
        let addresses = self.addresses.iter().map(|ip| json!({"ip": ip}));
        json!({"phase": self.phase(), "qosClass": spec::quality(&self.pod), "startTime": self.since,
            "hostIP": node_address().to_string(), "podIP": self.addresses.first(), "podIPs": addresses.collect::<Vec<_>>(),
            "conditions": [condition("PodScheduled", true), condition("Initialized", true),
                condition("ContainersReady", is_ready), condition("Ready", is_ready)],
            "containerStatuses": containers.collect::<Vec<_>>()})
    }

    /// Tells the API server what became of the pod, where it is something else than before.
    fn report(&self) {
        let status = self.status();
        let Some(now) = self.wanted() else {
            return;
        };
        if now["status"] == status {
            return;
        }
        let (namespace, name) = self.name();
        self.kubelet.api.change(|state| {
            let now = state.get("Pod", &namespace, &name);
            let now = now.filter(|it| it["metadata"]["uid"] == self.pod["metadata"]["uid"]);
            if let Some(mut now) = now {
                now["status"] = status;
                state.set(now);
            }
        });
    }

    /// Ends everything of the pod within its time, removes it, and says so.
    fn end(&mut self, sandbox: Option<&str>) -> Result<()> {
        let (namespace, name) = self.name();
        let kubelet = self.kubelet;
        let now = kubelet
            .api
            .get("Pod", &namespace, &name)
            .unwrap_or_default();
        let seconds = now["metadata"]["deletionGracePeriodSeconds"].as_i64();
        for container in &self.containers {
            if let Some(id) = &container.id {
                kubelet.cri.stop(id, seconds.unwrap_or(1))?;
            }
        }
        kubelet
            .running()
            .retain(|(of, pod, _), _| (of, pod) != (&namespace, &name));
        if let Some(sandbox) = sandbox {
            kubelet.cri.remove_sandbox(sandbox)?;
        }
        kubelet.machine.remove_cgroup(&spec::cgroup(&self.pod))?;
        if now["metadata"]["uid"] == self.pod["metadata"]["uid"] {
            kubelet.api.delete("Pod", &namespace, &name);
        }
        let dir = kubelet.dir(&self.pod);
        std::fs::remove_dir_all(&dir).with_context(|| format!("`{}`", dir.display()))
    }
}

/// Probes a container that runs; one that is not alive is ended, and so begins anew.
fn probe(kubelet: &Kubelet, container: &mut Container, address: &str, id: &str) -> Result<()> {
    let Container {
        spec,
        startup,
        readiness,
        liveness,
        ..
    } = container;
    let exec = |words: &[String], seconds: i64| {
        let output = kubelet.cri.exec(id, words, seconds);
        output.is_ok_and(|it| it.status.success())
    };
    if let Some(startup) = startup.as_mut().filter(|it| it.succeeded != Some(true)) {
        startup.look(&kubelet.node, spec, address, &exec);
        if startup.has_failed() {
            kubelet.cri.stop(id, 1)?;
        }
        return Ok(());
    }
    if let Some(readiness) = readiness {
        readiness.look(&kubelet.node, spec, address, &exec);
    }
    if let Some(liveness) = liveness {
        liveness.look(&kubelet.node, spec, address, &exec);
        if liveness.has_failed() {
            kubelet.cri.stop(id, 1)?;
        }
    }
    Ok(())
}
