//! Keeps the kernel's balancing in line with configuration, health and time: a thread of its own, so that nothing else that the
//! agent does is between a change and the map.
//!
//! It wakes for a new snapshot, a registration and a change of health, and once a second for what time brings: slow start,
//! ejections and their ends, connections to drain.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};

use crate::admin::readiness::Block;
use crate::agent::requests::Requests;
use crate::balance::live::Live;
use crate::balance::split::{self, Splitter};
use crate::balance::{Balancing, Here, Input, Ports};
use crate::health::changed_or_never;
use crate::l7::route;
use crate::l7::route::kernel::needs;
use crate::locate::inside::Places;
use crate::locate::reset::{self, ConnectedSocket, Connection};
use crate::model::balanced::{Balanced, ProxiedPorts, Splits, Unbalanced};
use crate::model::endpoint::Health;
use crate::model::route::Routes;
use crate::model::service::Services;
use crate::model::snapshot::Snapshot;
use crate::model::traffic::{BackendTlsPolicies, TrafficPolicies};
use crate::source::Loaded;
use crate::source::registered::merge;
use crate::telemetry::applied::{ApplyTimes, Part};

/// Time between two looks at what time brings: the step of slow start, and what an ejection takes at most to be seen.
const TICK: Duration = Duration::from_secs(1);

/// Ticks between two looks at the machine's own addresses, which hardly ever change.
const ADDRESSES_TICKS: u32 = 10;

/// What is followed, and what is told to others.
#[derive(Debug)]
pub struct Channels {
    /// The configuration.
    pub manifests: watch::Receiver<Loaded>,
    /// Services that were registered. Where both have one of the same name, the configuration's counts.
    pub registered: watch::Receiver<Arc<Services>>,
    /// What active checks find.
    pub health: watch::Receiver<Arc<Health>>,
    /// Where workloads are; `None` before the first look.
    pub places: watch::Receiver<Option<Arc<Places>>>,
    /// Told: all services.
    pub services: watch::Sender<Arc<Services>>,
    /// Told: service ports that are not balanced as configured.
    pub unbalanced: watch::Sender<Vec<Unbalanced>>,
    /// Told: which service ports need the agent.
    pub proxied: watch::Sender<Arc<ProxiedPorts>>,
    /// Whether workloads have listeners for what needs the agent.
    pub listening: watch::Receiver<bool>,
    /// Told: how long a change took to reach the kernel.
    pub times: Arc<ApplyTimes>,
}

/// The thread that balances.
#[derive(Debug)]
pub struct BalancingThread {
    stop: watch::Sender<bool>,
    thread: JoinHandle<()>,
}

impl BalancingThread {
    /// Starts the thread. `here` is where this node is as far as no Node manifest says otherwise; `block` goes when every service
    /// is balanced for the first time.
    ///
    /// # Errors
    ///
    /// When the thread or its runtime cannot be had.
    pub fn start(
        kernel: Arc<dyn Balancing>,
        live: Arc<Live>,
        here: Here,
        channels: Channels,
        requests: Requests,
        block: Block,
    ) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()?;
        let (stop, mut stopping) = watch::channel(false);
        let follower = Follower {
            kernel,
            live,
            configured: here.clone(),
            here,
            channels,
            block: Some(block),
            sources: None,
            services: Arc::default(),
            routed: None,
            splits: Splits::new(),
            splitter: Splitter::default(),
            proxied: BTreeMap::new(),
            listening: false,
            requests,
            own: BTreeSet::new(),
            addresses: None,
            is_behind: true,
            ticks: 0,
            draining: None,
        };
        let thread = thread::Builder::new()
            .name("balancing".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        _ = stopping.wait_for(|stop| *stop) => {}
                        () = follower.run() => {}
                    }
                });
                // A reset in progress takes no longer than a second.
                runtime.shutdown_background();
            })?;
        Ok(Self { stop, thread })
    }

    /// Ends the thread. What it wrote goes on.
    pub fn stop(self) {
        self.stop.send_replace(true);
        if self.thread.join().is_err() {
            tracing::error!("the thread that balances had panicked");
        }
    }
}

/// Routes, and what else says who carries a service port's connections, and how they are spoken to.
type Routed = (
    Arc<Routes>,
    Arc<TrafficPolicies>,
    Arc<BackendTlsPolicies>,
    Arc<Services>,
);

#[derive(Debug)]
struct Follower {
    kernel: Arc<dyn Balancing>,
    live: Arc<Live>,
    /// Where this node is by its settings.
    configured: Here,
    here: Here,
    channels: Channels,
    block: Option<Block>,
    /// What `services` were made from.
    sources: Option<(Arc<Services>, Arc<Services>)>,
    services: Arc<Services>,
    /// What `splits` were made from.
    routed: Option<Routed>,
    splits: Splits,
    splitter: Splitter,
    /// Service ports whose connections go to the agent.
    proxied: ProxiedPorts,
    /// Whether workloads have listeners for them.
    listening: bool,
    requests: Requests,
    /// The machine's own addresses.
    own: BTreeSet<IpAddr>,
    /// The nodes' addresses that the kernel knows.
    addresses: Option<BTreeSet<IpAddr>>,
    /// Whether the kernel is still to be told of ports.
    is_behind: bool,
    ticks: u32,
    draining: Option<tokio::task::JoinHandle<()>>,
}

impl Follower {
    async fn run(mut self) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.step();
            tokio::select! {
                biased;
                () = changed_or_never(&mut self.channels.manifests) => {}
                () = changed_or_never(&mut self.channels.registered) => {}
                () = changed_or_never(&mut self.channels.health) => {}
                () = changed_or_never(&mut self.channels.listening) => {}
                _ = ticks.tick() => self.tick(),
            }
        }
    }

    /// Brings the kernel in line with what is known now.
    fn step(&mut self) {
        let snapshot = self.channels.manifests.borrow_and_update().snapshot.clone();
        if snapshot.generation == 0 {
            // Nothing is known yet. What an earlier agent left in the kernel goes on.
            return;
        }
        self.take(&snapshot);
        let health = self.channels.health.borrow_and_update().clone();
        self.is_behind |= self.spread(&snapshot);
        let (changed, ports) = self.live.with(|balancer, now| {
            let input = Input {
                services: &self.services,
                health: &health,
                here: &self.here,
                now,
            };
            (balancer.pass(&input), balancer.ports())
        });
        self.requests.publish(&ports);
        self.is_behind |= changed;
        let listening = *self.channels.listening.borrow_and_update();
        self.is_behind |= std::mem::replace(&mut self.listening, listening) != listening;
        if self.is_behind {
            let captured = match self.captures() {
                true => &self.proxied,
                false => &BTreeMap::new(),
            };
            let ports = dialled(self.splitter.apply(&ports, &self.splits, captured));
            match self.kernel.balance(&ports) {
                Ok(unbalanced) => {
                    self.is_behind = !unbalanced.is_empty();
                    self.block = None;
                    self.tell(unbalanced);
                    self.drain();
                }
                Err(error) => {
                    tracing::error!(error = %format!("{error:#}"), "failed to balance services; trying again");
                }
            }
        }
        if !self.is_behind {
            self.channels.times.note(Part::Services, &snapshot);
        }
        self.tell_addresses(&snapshot);
    }

    /// Takes over services and this node's place.
    fn take(&mut self, snapshot: &Snapshot) {
        let registered = self.channels.registered.borrow_and_update().clone();
        let is_same = self.sources.as_ref().is_some_and(|(one, other)| {
            Arc::ptr_eq(one, &snapshot.services) && Arc::ptr_eq(other, &registered)
        });
        if !is_same {
            self.services = merge(&snapshot.services, &registered).0;
            self.sources = Some((snapshot.services.clone(), registered));
            self.channels.services.send_replace(self.services.clone());
        }
        let node = snapshot.nodes.get(&self.configured.node);
        let zone = node.and_then(|node| node.zone.clone());
        let region = node.and_then(|node| node.region.clone());
        self.here.zone = zone.or_else(|| self.configured.zone.clone());
        self.here.region = region.or_else(|| self.configured.region.clone());
    }

    /// Takes over how routes spread service ports, where the kernel alone does that; returns whether any of it is different.
    fn spread(&mut self, snapshot: &Snapshot) -> bool {
        let now = (
            snapshot.routes.clone(),
            snapshot.traffic.clone(),
            snapshot.backend_tls.clone(),
            self.services.clone(),
        );
        let is_same = self.routed.as_ref().is_some_and(|before| {
            Arc::ptr_eq(&before.0, &now.0)
                && Arc::ptr_eq(&before.1, &now.1)
                && Arc::ptr_eq(&before.2, &now.2)
                // Their endpoints are no concern of this.
                && (Arc::ptr_eq(&before.3, &now.3) || !self.requests.is_said_otherwise(&now.3))
        });
        if is_same {
            self.routed = Some(now);
            return false;
        }
        let input = route::Input {
            generation: snapshot.generation,
            services: &self.services,
            routes: &now.0,
            traffic: &now.1,
            tls: &now.2,
        };
        let needs = needs(&input);
        self.requests.compile(&input);
        self.routed = Some(now);
        let proxied = self.requests.proxied(&needs);
        self.channels.proxied.send_if_modified(|known| {
            let changed = **known != proxied;
            if changed {
                *known = Arc::new(proxied.clone());
            }
            changed
        });
        let splits = needs.iter().filter_map(|(id, needs)| {
            let split = needs.split()?.clone();
            Some((id.clone(), split))
        });
        let splits: Splits = splits.collect();
        let changed = splits != self.splits || proxied != self.proxied;
        self.splits = splits;
        self.proxied = proxied;
        changed
    }

    /// Returns whether the kernel is to lead connections to the agent. The first time, whoever needs the agent waits for it: what an
    /// earlier agent left in force is not to be passed by. From then on the listeners come first.
    fn captures(&self) -> bool {
        self.block.is_some() || self.listening
    }

    /// Tells the kernel the addresses of all nodes, if they changed.
    fn tell_addresses(&mut self, snapshot: &Snapshot) {
        let nodes = snapshot.nodes.values().flat_map(|node| &node.addresses);
        let wanted: BTreeSet<IpAddr> = nodes.chain(&self.own).copied().collect();
        if self.addresses.as_ref() == Some(&wanted) {
            return;
        }
        match self.kernel.set_node_addresses(&wanted) {
            Ok(()) => self.addresses = Some(wanted),
            Err(error) => {
                tracing::error!(error = %format!("{error:#}"), "failed to tell the kernel the nodes' addresses; trying again");
            }
        }
    }

    /// Takes in what happened in the last second; the step that follows acts on it.
    fn tick(&mut self) {
        if self.ticks.is_multiple_of(ADDRESSES_TICKS) {
            match crate::locate::own_addresses() {
                Ok(own) => self.own = own.into_iter().filter(is_dialled).collect(),
                Err(error) => tracing::warn!(%error, "failed to look at the machine's addresses"),
            }
        }
        self.ticks = self.ticks.wrapping_add(1);
        let counters = self.kernel.backend_counters();
        self.live.with(|balancer, now| {
            let counters = split::attributed(counters, &self.splits, &balancer.ports());
            balancer.observe(now, &counters);
        });
        self.drain();
    }

    /// Says which service ports are not balanced, once for as long as that is so.
    fn tell(&mut self, unbalanced: Vec<Unbalanced>) {
        if *self.channels.unbalanced.borrow() == unbalanced {
            return;
        }
        for Unbalanced { id, why } in &unbalanced {
            tracing::error!(service = %id.service, port = id.port, "not balanced as configured: {why}");
        }
        self.channels.unbalanced.send_replace(unbalanced);
    }

    /// Closes connections whose time is up, beside everything else: each takes a visit to a namespace.
    fn drain(&mut self) {
        let is_busy = |task: &tokio::task::JoinHandle<()>| !task.is_finished();
        if self.draining.as_ref().is_some_and(is_busy) {
            return;
        }
        let kernel = self.kernel.clone();
        let places = self.channels.places.borrow().clone().unwrap_or_default();
        self.draining = Some(spawn_blocking(move || drain(kernel.as_ref(), &places)));
    }
}

fn drain(kernel: &dyn Balancing, places: &Places) {
    let flows = match kernel.flows_to_drain() {
        Ok(flows) => flows,
        Err(error) => {
            tracing::error!(error = %format!("{error:#}"), "failed to look for connections to drain; trying again");
            return;
        }
    };
    for flow in flows {
        let place = places
            .values()
            .find(|place| place.netns_cookie == flow.netns);
        let Some(place) = place else {
            // Its workload is gone, and so is the connection.
            continue;
        };
        let socket = ConnectedSocket {
            connection: Connection {
                local: flow.local,
                remote: flow.remote,
            },
            protocol: flow.protocol,
            cookie: flow.cookie,
            interface: flow.interface,
        };
        match reset::close(&place.handle, &socket) {
            Ok(()) => {
                tracing::info!(src.addr = %flow.local, dst.addr = %flow.remote, "drained: its endpoint was removed");
            }
            Err(error) => tracing::warn!(%error, "failed to drain a connection"),
        }
    }
}

/// Returns whether others can dial this address: not the loopback, which every namespace has for itself, nor a link's own.
fn is_dialled(address: &IpAddr) -> bool {
    let is_link_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !address.is_loopback() && !address.is_unspecified() && !is_link_local
}

/// Returns those that somebody dials: a headless service is only a backend of routes, whose ports have its endpoints already.
fn dialled(ports: Arc<Ports>) -> Arc<Ports> {
    let is_dialled = |port: &Balanced| !port.frontends.is_empty() || port.node_port.is_some();
    if ports.values().all(|port| is_dialled(port)) {
        return ports;
    }
    let kept = ports.iter().filter(|(_, port)| is_dialled(port));
    Arc::new(kept.map(|(id, port)| (id.clone(), port.clone())).collect())
}

#[cfg(test)]
mod tests;
