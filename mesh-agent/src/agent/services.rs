//! Everything that has to do with services in the running agent: who answers, whether they are well, and the kernel's balancing.

use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::Context as _;
use tokio::sync::watch;

use crate::admin::ServiceSources;
use crate::admin::readiness::Block;
use crate::agent::balancing::{BalancingThread, Channels};
use crate::agent::data_path::Guide;
use crate::balance::live::Live;
use crate::balance::{Balancer, Balancing, Here};
use crate::chance::Chance;
use crate::health;
use crate::locate::inside::Places;
use crate::model::service::Services;
use crate::source::Loaded;
use crate::telemetry::applied::ApplyTimes;

/// What services are made from.
#[derive(Debug)]
pub(super) struct From {
    /// The configuration.
    pub(super) manifests: watch::Receiver<Loaded>,
    /// What programs registered.
    pub(super) registered: watch::Receiver<Arc<Services>>,
    /// Where this node is, as far as no Node manifest says otherwise.
    pub(super) here: Here,
    /// Where it is noted how long a change took.
    pub(super) times: Arc<ApplyTimes>,
    /// By what the data path is led.
    pub(super) guide: Guide,
}

/// Balancing and health checks of a running agent.
#[derive(Debug)]
pub(super) struct ServiceController {
    looks: ServiceSources,
    places: watch::Sender<Option<Arc<Places>>>,
    balancing: BalancingThread,
    checks: Checks,
}

impl ServiceController {
    /// Starts balancing and checking.
    ///
    /// # Errors
    ///
    /// When a thread cannot be had.
    pub(super) fn start(
        kernel: Arc<dyn Balancing>,
        from: From,
        block: Block,
    ) -> anyhow::Result<Self> {
        let live = Arc::new(Live::new(Balancer::new(Chance::random())));
        let (places, places_seen) = watch::channel(None);
        let (services, services_seen) = watch::channel(Arc::default());
        let (unbalanced, unbalanced_seen) = watch::channel(Vec::new());
        let (published, health) = watch::channel(Arc::default());
        let checks = Checks::start(
            health::Inputs {
                node: from.here.node.clone(),
                services: services_seen.clone(),
                places: places_seen.clone(),
            },
            published,
        )
        .context("failed to start the thread of health checks")?;
        let proxied_seen = from.guide.proxied.subscribe();
        let channels = Channels {
            proxied: from.guide.proxied,
            manifests: from.manifests,
            registered: from.registered,
            health,
            places: places_seen,
            services,
            unbalanced,
            listening: from.guide.listening,
            times: from.times,
        };
        let looks = ServiceSources {
            services: services_seen,
            live: live.clone(),
            unbalanced: unbalanced_seen,
            proxied: proxied_seen,
            kernel: kernel.clone(),
        };
        let balancing = BalancingThread::start(
            kernel,
            live,
            from.here,
            channels,
            from.guide.requests,
            block,
        )
        .context("failed to start the thread that balances")?;
        Ok(Self {
            looks,
            places,
            balancing,
            checks,
        })
    }

    /// Returns what is known of services, for those that look.
    pub(super) fn looks(&self) -> ServiceSources {
        self.looks.clone()
    }

    /// Tells where the workloads are.
    pub(super) fn set_places(&self, places: Places) {
        self.places.send_if_modified(|known| {
            let changed = known.as_deref() != Some(&places);
            if changed {
                *known = Some(Arc::new(places));
            }
            changed
        });
    }

    /// Ends both. What the kernel was told goes on.
    pub(super) fn stop(self) {
        self.balancing.stop();
        self.checks.stop();
    }
}

/// The thread of active health checks.
#[derive(Debug)]
struct Checks {
    stop: watch::Sender<bool>,
    thread: JoinHandle<()>,
}

impl Checks {
    fn start(
        inputs: health::Inputs,
        published: watch::Sender<Arc<crate::model::endpoint::Health>>,
    ) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (stop, mut stopping) = watch::channel(false);
        let thread = std::thread::Builder::new()
            .name("health".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        _ = stopping.wait_for(|stop| *stop) => {}
                        () = health::run(inputs, published) => {}
                    }
                });
                // A check in progress is nobody's any more.
                runtime.shutdown_background();
            })?;
        Ok(Self { stop, thread })
    }

    fn stop(self) {
        self.stop.send_replace(true);
        if self.thread.join().is_err() {
            tracing::error!("the thread of health checks had panicked");
        }
    }
}
