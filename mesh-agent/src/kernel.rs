//! The kernel side: loading and attaching programs, keeping maps in line with the snapshot, reading what was counted.
//!
//! The only module that imports aya. [`Kernel::start`] takes over what an earlier agent left pinned; dropping a [`Kernel`]
//! leaves everything in place, and [`uninstall`] removes it.

mod admission;
mod attach;
mod briefs;
mod btf;
mod captured;
mod flags;
mod gone;
mod identity;
mod iterate;
mod judge;
mod leave;
pub mod loader;
mod lock;
mod lost;
pub mod maps;
pub mod mounts;
mod observer;
mod offsets;
mod own;
mod plan;
mod policies;
mod probe;
#[cfg(test)]
mod reach;
mod records;
mod registry;
mod rights;
mod services;
mod stall;
mod sys;
mod uninstall;
mod view;
mod wake;
mod words;

use std::collections::BTreeSet;
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use mesh_common::ABI_VERSION;
use mesh_common::addr::PortBe;
use mesh_common::behaviour;
use mesh_common::flow::FlowRecord;
use mesh_common::sock::SockKey;
use mesh_common::stats;
use mesh_common::workload::{
    Control, REDIRECT_ALLOWED, REDIRECT_KILLED, REDIRECT_UNFIT, WORKLOAD_DNS,
};

use crate::kernel::admission::Terms;
use crate::kernel::attach::Attacher;
use crate::kernel::iterate::Iterators;
use crate::kernel::leave::Leaving;
use crate::kernel::lock::Lock;
use crate::kernel::maps::Maps;
use crate::kernel::observer::Observer;
pub use crate::kernel::policies::OpenNetns;
use crate::kernel::policies::Policies;
use crate::kernel::probe::Findings;
pub use crate::kernel::records::Records;
use crate::kernel::registry::Registry;
use crate::kernel::stall::{StallGuard, Watch};
pub use crate::kernel::uninstall::uninstall;
pub use crate::kernel::wake::Wakes;
use crate::model::observed::{Hook, Level};
use crate::model::workload::Placed;

/// What the kernel side needs to know.
#[derive(Clone, Debug)]
pub struct KernelSettings {
    /// The cgroup (v2) whose processes, and those below it, the hooks see.
    pub cgroup: PathBuf,
    /// Directory in the bpf file system that everything is pinned under.
    pub bpf_dir: PathBuf,
    /// How long a workload in mode `auto` is observed.
    pub observation_window: Duration,
    /// How long bytes may lie unread in a flow that takes part in redirect.
    pub stall_timeout: Duration,
}

/// A flow that the stall guard found; to be reset by whoever can enter its namespace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StalledFlow {
    /// The socket that does not read, as itself sees the connection.
    pub reader: SockKey,
    /// Whether the bytes came by TCP: then TCP knows for sure whether any lie unread, and is to be asked.
    pub by_tcp: bool,
    /// The reader's workload.
    id: u32,
}

/// The running kernel side. Shared by reference between the control thread and the readers.
#[derive(Debug)]
pub struct Kernel {
    maps: Maps,
    hooks: Vec<Hook>,
    findings: Findings,
    terms: Terms,
    stall_timeout: Duration,
    iterators: Iterators,
    registry: Mutex<Registry>,
    policies: Mutex<Policies>,
    observer: Mutex<Observer>,
    stall_guard: Mutex<StallGuard>,
    leaving: Mutex<Leaving>,
    wakes: Mutex<Option<Wakes>>,
    services: Mutex<services::State>,
    /// Names of service ports, without waiting for `services`.
    names: services::Names,
    generation: AtomicU64,
    _lock: Lock,
}

/// Makes sure that the agent may do what it cannot do without.
///
/// # Errors
///
/// Names what is missing.
pub fn check_rights() -> anyhow::Result<()> {
    rights::check().map(drop)
}

impl Kernel {
    /// Probes the kernel, loads the programs, takes over or makes the maps, and attaches.
    ///
    /// A program that this kernel does not take is left out; [`crate::model::observed::KernelView::hooks`] and the probe
    /// report say which, and what is lost by it.
    ///
    /// # Errors
    ///
    /// Where nothing can be done at all: no bpf file system, no type information, no such cgroup.
    pub fn start(settings: &KernelSettings) -> anyhow::Result<(Self, Records)> {
        let lacking = rights::check()?;
        mounts::ensure_bpf(&settings.bpf_dir)
            .context("failed to find a place for the pins (--bpf-dir)")?;
        let cgroup = mounts::open_cgroup(&settings.cgroup)
            .context("failed to open the cgroup (--cgroup)")?;
        make_dir(&settings.bpf_dir)?;
        let lock = Lock::take(&settings.bpf_dir)?;
        let mut findings = probe::run();
        for (missing, level) in lacking {
            probe::without(&mut findings, missing, level);
        }
        retire_other_versions(&settings.bpf_dir)?;
        let version_dir = version_dir(&settings.bpf_dir);
        let (map_dir, link_dir) = (map_dir(&settings.bpf_dir), version_dir.join("links"));
        for dir in [&map_dir, &link_dir] {
            make_dir(dir)?;
        }
        let mut loaded = loader::load(&map_dir).context("failed to load the kernel programs")?;
        let mut maps = Maps::open(&map_dir).context("failed to open the pinned maps")?;
        let records = Records::take(&mut loaded.ebpf)?;
        let wakes = Wakes::take(&mut loaded.ebpf)?;
        let iterators = Iterators::of(&loaded.ebpf);
        let attacher = Attacher {
            link_dir: link_dir.clone(),
            cgroup: cgroup.as_fd(),
            sockets: maps.sockets.as_fd(),
        };
        let hooks = attacher.attach_all(&loaded.ebpf, &loaded.failed);
        let policies = Policies::adopt(&maps, link_dir, &loaded.ebpf, &loaded.failed)
            .context("failed to take over what is there of policy")?;
        let observer = Observer::new(loaded.ebpf, &loaded.failed);
        lost::judge_hooks(&mut findings, &hooks, &observer);
        let terms = Terms {
            level: findings.report.level,
            forbidden: findings.forbidden,
            window: settings.observation_window,
        };
        let registry = Registry::adopt(&maps).context("failed to read the pinned maps")?;
        let services = services::adopt(&maps).context("failed to read the pinned maps")?;
        let names = services.names.clone();
        // It has looked at all of them.
        maps.services.let_go();
        maps.backends.let_go();
        maps.chunks.let_go();
        let kernel = Self {
            maps,
            hooks,
            findings,
            terms,
            stall_timeout: settings.stall_timeout,
            iterators,
            registry: Mutex::new(registry),
            policies: Mutex::new(policies),
            observer: Mutex::new(observer),
            stall_guard: Mutex::default(),
            leaving: Mutex::default(),
            wakes: Mutex::new(wakes),
            services: Mutex::new(services),
            names,
            generation: AtomicU64::new(0),
            _lock: lock,
        };
        kernel
            .write_control()
            .context("failed to write the settings of the kernel programs")?;
        sys::trim_heap();
        Ok((kernel, records))
    }

    /// Brings the maps in line with the workloads of a snapshot and where they were found.
    ///
    /// # Errors
    ///
    /// Where a map cannot be written; what was written stays, and the next call goes on from there.
    pub fn apply(&self, generation: u64, placed: &[Placed]) -> io::Result<()> {
        let flows = || self.live().map_err(io::Error::other);
        let outcome = lock(&self.registry).apply(&self.maps, placed, flows);
        self.decide_admissions()?;
        outcome?;
        self.generation.store(generation, Ordering::Relaxed);
        Ok(())
    }

    /// Counts the sockets that listened in workloads before these were known. To be called after [`Kernel::apply`]; it looks into each
    /// namespace once. Of one that cannot be looked into, which is logged, ports with such a socket stay unknown, or count as closed
    /// when every other socket there has closed.
    pub fn find_listeners(&self, open: OpenNetns<'_>) {
        let unsearched = lock(&self.registry).unsearched();
        for workload in unsearched {
            let outcome = open(workload.0).and_then(|netns| self.iterators.find_listeners(&netns));
            match outcome {
                // Gone; if it is not, it is met again when its workload is found anew.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    tracing::error!(%error, "failed to look for a workload's listening sockets")
                }
                Ok(()) => {}
            }
            lock(&self.registry).searched(workload);
        }
    }

    /// Does what time brings: ends observation windows, attaches the observer while it is needed, forgets workloads that
    /// are long gone and what services no longer use, and looks now and then for stalled flows, each of which the caller is to pass to
    /// [`Kernel::note_stalled`] and to reset. To be called about twice a second.
    ///
    /// # Errors
    ///
    /// Where a map cannot be read or written.
    pub fn tick(&self) -> io::Result<Vec<StalledFlow>> {
        self.decide_admissions()?;
        let now = Instant::now();
        self.reclaim_services(now)?;
        lock(&self.registry).forget(&self.maps, now)?;
        let mut guard = lock(&self.stall_guard);
        if !guard.due(self.stall_timeout, now) {
            return Ok(Vec::new());
        }
        let watch = Watch {
            limit: self.stall_timeout,
            tcp: self.terms.forbidden & behaviour::FIONREAD != 0,
        };
        let flows = self.maps.flow_cells()?;
        let marked = flows
            .iter()
            .filter(|(.., cell)| cell.client.leaving | cell.server.leaving != 0);
        // Those whose record found no room, or came while no agent ran.
        marked.for_each(|(_, number, _)| lock(&self.leaving).ask(*number));
        let flows = flows.into_iter().map(|(client, _, cell)| (client, cell));
        let stalled = guard.check(flows, watch, now);
        let registry = lock(&self.registry);
        let found = stalled.iter().filter_map(|stalled| {
            let (reader, id) = registry.reader(stalled)?;
            let by_tcp = stalled.by_tcp;
            Some(StalledFlow { reader, by_tcp, id })
        });
        Ok(found.collect())
    }

    /// Counts a flow that stalled, and notes it of its reader's workload: in mode `auto` that costs it its admission, at once
    /// and for all its flows; in mode `on` the operator's word stands.
    pub fn note_stalled(&self, flow: &StalledFlow) {
        let registry = lock(&self.registry);
        registry.mark_stalled(&self.maps, flow.id);
        if let Err(error) = self.maps.count(stats::STALLS) {
            tracing::error!(%error, "failed to count a flow that stalled");
        }
    }

    /// Hands over who reads in which network namespaces readers are to be woken. Once; `None` afterwards, and where the kernel does not allow it.
    pub fn wakes(&self) -> Option<Wakes> {
        lock(&self.wakes).take()
    }

    /// Takes a record out of the ring buffer: returns it if it is of a flow that ended. A live flow's asks that the flow leave
    /// the socket map, which [`Kernel::let_leave`] sees to.
    pub fn take(&self, record: FlowRecord) -> Option<FlowRecord> {
        if record.end_ns != 0 {
            return Some(record);
        }
        lock(&self.leaving).ask(record.cell);
        None
    }

    /// Lets bulk streams leave the socket map, where that is safe. To be called after each look at the ring buffer.
    ///
    /// # Errors
    ///
    /// Where a map cannot be read or written, or the kernel offers no grace period; the flows stay in the map.
    pub fn let_leave(&self) -> io::Result<()> {
        let server_netns = |client: &SockKey| lock(&self.registry).server_netns(client);
        lock(&self.leaving).step(&self.maps, server_netns)
    }

    /// Returns whether redirect is allowed, as far as the operator is concerned.
    pub fn redirect_allowed(&self) -> bool {
        // Without an answer from the map nothing is redirected either.
        self.control()
            .is_ok_and(|control| control.redirect != REDIRECT_KILLED)
    }

    /// Allows redirect or stops all of it at once (the kill switch). Stays so when the agent restarts.
    ///
    /// # Errors
    ///
    /// Where the map cannot be written, or the kernel failed the probe and redirect is asked for.
    pub fn set_redirect(&self, allowed: bool) -> io::Result<()> {
        if allowed && self.terms.level == Level::Off {
            return Err(io::Error::other(
                "the kernel failed the start-up probe; `node-agent status` says why",
            ));
        }
        let redirect = if allowed {
            REDIRECT_ALLOWED
        } else {
            REDIRECT_KILLED
        };
        // Whoever else changes the settings holds this as well: each reads and writes all of them.
        let _registry = lock(&self.registry);
        self.maps.control.set(
            &0,
            &Control {
                redirect,
                ..self.control()?
            },
        )
    }

    /// Has these ports, from first to last, looked up as node ports.
    fn set_node_ports(&self, node_ports: [u16; 2]) -> io::Result<()> {
        let _registry = lock(&self.registry);
        let control = self.control()?;
        if control.node_ports == node_ports {
            return Ok(());
        }
        self.maps.control.set(
            &0,
            &Control {
                node_ports,
                ..control
            },
        )
    }

    /// Lets the name queries of the workloads in these network namespaces go to `port` on their loopback address, and those of
    /// all others where they were sent. There has to be a listener in each; fails open.
    ///
    /// # Errors
    ///
    /// Where a map cannot be read or written.
    pub fn set_dns(&self, port: u16, netns: BTreeSet<u64>) -> io::Result<()> {
        let mut registry = lock(&self.registry);
        let dns_port = PortBe::new(port);
        let control = self.control()?;
        if control.dns_port != dns_port {
            self.maps.control.set(
                &0,
                &Control {
                    dns_port,
                    ..control
                },
            )?;
        }
        registry.set_flag(&self.maps, WORKLOAD_DNS, netns)
    }

    /// Returns the live flows; none where the kernel did not take the iterator.
    fn live(&self) -> io::Result<Vec<FlowRecord>> {
        self.iterators.live_flows(&self.maps)
    }

    fn control(&self) -> io::Result<Control> {
        Ok(self.maps.control.get(&0)?.unwrap_or_default())
    }

    /// Writes the settings that follow from the probe. A kill switch that an earlier agent left on stays on.
    fn write_control(&self) -> io::Result<()> {
        let before = self.control()?;
        // A fresh map is all zeros, which reads as killed; `forbidden` is never zero once an agent wrote it.
        let killed = before.redirect == REDIRECT_KILLED && before.forbidden != 0;
        let redirect = match self.terms.level {
            Level::Off => REDIRECT_UNFIT,
            _ if killed => REDIRECT_KILLED,
            Level::OwnSockets | Level::Applications => REDIRECT_ALLOWED,
        };
        let counts_calls =
            u32::from(self.hook_attached("mesh_recv") && self.hook_attached("mesh_send"));
        self.maps.control.set(
            &0,
            &Control {
                redirect,
                counts_calls,
                forbidden: self.terms.forbidden,
                agent_tgid: own::tgid().unwrap_or(0),
                ..before
            },
        )
    }

    fn hook_attached(&self, program: &str) -> bool {
        self.hooks
            .iter()
            .any(|hook| hook.program == program && hook.attached == Some(true))
    }

    fn decide_admissions(&self) -> io::Result<()> {
        let observed = lock(&self.registry).decide(&self.maps, &self.terms, Instant::now())?;
        lock(&self.observer).set(observed);
        Ok(())
    }
}

fn make_dir(dir: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("failed to make `{}`", dir.display()))
}

/// Returns the directory in which the maps of this ABI version are pinned.
pub fn map_dir(bpf_dir: &Path) -> PathBuf {
    version_dir(bpf_dir).join("maps")
}

/// Returns the directory of this ABI version's pins.
fn version_dir(bpf_dir: &Path) -> PathBuf {
    bpf_dir.join(format!("v{ABI_VERSION}"))
}

/// Takes down what agents with another ABI left. Their flows go on by TCP: their programs stay with the sockets they are
/// on, and find the kill switch.
fn retire_other_versions(bpf_dir: &Path) -> anyhow::Result<()> {
    let own = version_dir(bpf_dir);
    for path in uninstall::versions(bpf_dir)? {
        if path != own {
            tracing::info!(path = %path.display(), "taking down the pins of another ABI version");
            uninstall::remove_version(&path)
                .with_context(|| format!("failed to take down `{}`", path.display()))?;
        }
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every holder leaves the value whole at each step; a panic in one must not take the others with it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
