//! The name server: services by their names, and everything else from the machine's own name servers.
//!
//! It runs on a thread of its own, so that a flood of queries keeps nothing else waiting. `zone` knows the names, `message` reads
//! queries and writes answers, both without I/O; `serve` bounds what each client takes; `forward` asks others.
//!
//! hickory-proto for the wire format alone: its server starts a task for every query of anybody, and here each client has a
//! share of its own.

#![forbid(unsafe_code)]

mod forward;
mod limits;
mod listeners;
mod message;
mod serve;
mod upstream;
mod zone;

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::{Builder, Handle};
use tokio::sync::{Semaphore, oneshot};

pub use crate::dns::listeners::Listeners;

use crate::dns::forward::Forwarder;
use crate::dns::serve::{Asker, Server, Sockets, serve};
use crate::dns::upstream::Upstreams;
use crate::dns::zone::Zone;
use crate::model::service::Services;
use crate::telemetry::dns::DnsCounters;

/// Name servers at most; the C library knows three.
pub const UPSTREAMS_MAX: usize = 3;

/// Where the machine's own name servers are named.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// What the name server needs to know.
#[derive(Clone, Debug)]
pub struct DnsSettings {
    /// Domain that services' names end with.
    pub domain: String,
    /// Where others than workloads are answered.
    pub address: Option<SocketAddr>,
    /// Port in workloads' namespaces.
    pub port: u16,
    /// Whom to ask about everything else; `None`: whom /etc/resolv.conf names.
    pub upstream: Option<Vec<SocketAddr>>,
}

/// The running name server. Dropping it ends it.
#[derive(Debug)]
pub struct Dns {
    server: Arc<Server>,
    domain: String,
    port: u16,
    runtime: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Dns {
    /// Binds the address for others than workloads, if any, and starts the thread.
    ///
    /// # Errors
    ///
    /// When the address cannot be bound, or the thread not be started.
    pub fn start(settings: &DnsSettings, counters: Arc<DnsCounters>) -> anyhow::Result<Self> {
        raise_descriptors();
        let mut sockets = Sockets::default();
        if let Some(address) = settings.address {
            let bound = sockets.bind(address);
            bound.with_context(|| {
                format!("failed to listen for name queries on `{address}` (--dns-address)")
            })?;
        }
        let own = settings.address.into_iter().collect();
        let upstreams = Upstreams::new(settings.upstream.clone(), RESOLV_CONF.into(), own);
        let server = Arc::new(Server {
            zone: ArcSwap::from_pointee(Zone::new(&settings.domain, serial(), Arc::default())),
            forwarder: Forwarder::new(upstreams),
            counters,
            connections: Arc::new(Semaphore::new(limits::CONNECTIONS)),
        });
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let serving = serve(server.clone(), Asker::Outside, sockets);
        let thread = std::thread::Builder::new()
            .name("dns".to_owned())
            .spawn(move || {
                runtime.spawn(serving);
                // It only ever ends by its sender being dropped.
                runtime.block_on(stopped).ok();
            })?;
        Ok(Self {
            server,
            domain: settings.domain.clone(),
            port: settings.port,
            runtime: handle,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Answers from these services from now on.
    pub fn set_services(&self, services: Arc<Services>) {
        let zone = Zone::new(&self.domain, serial(), services);
        self.server.zone.store(Arc::new(zone));
    }

    /// Returns the listeners inside of workloads; none is open yet.
    pub fn listeners(&self) -> Listeners {
        Listeners::new(self.server.clone(), self.runtime.clone(), self.port)
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        drop(self.stop.take());
        if self
            .thread
            .take()
            .is_some_and(|thread| thread.join().is_err())
        {
            tracing::error!("the thread of the name server had panicked");
        }
    }
}

/// Lets the process have as many descriptors as it may: four sockets for each of some hundred workloads are more than the 1,024
/// that most start with.
fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let most = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, most) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

/// Grows with time, as serial numbers of zones do.
fn serial() -> u32 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let seconds = now.map_or(0, |now| now.as_secs() % (1 << 32));
    u32::try_from(seconds).unwrap_or(0)
}
