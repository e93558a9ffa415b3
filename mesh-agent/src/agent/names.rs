//! The name server in the running agent: what it answers from, and in which workloads it listens.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::cli::discovery::DnsCapture;
use crate::dns::{Dns, DnsSettings, Listeners};
use crate::kernel::Kernel;
use crate::locate::inside::Place;
use crate::locate::registry::Registry;
use crate::model::service::Services;
use crate::settings::discovery::DiscoverySettings;
use crate::telemetry::dns::DnsCounters;

/// Keeps the name server in line with services and workloads.
#[derive(Debug)]
pub(super) struct Names {
    // Before the server, whose thread they run on.
    listeners: Listeners,
    dns: Dns,
    counters: Arc<DnsCounters>,
    capture: DnsCapture,
    /// What it answers from.
    known: Arc<Services>,
    /// Where queries are captured, as the kernel knows it.
    captured: Option<BTreeSet<u64>>,
}

impl Names {
    /// Starts the name server, with no names yet.
    pub(super) fn start(
        settings: &DiscoverySettings,
        counters: Arc<DnsCounters>,
    ) -> anyhow::Result<Self> {
        let dns = Dns::start(
            &DnsSettings {
                domain: settings.dns_domain.clone(),
                address: settings.dns_address,
                port: settings.dns_port,
                upstream: settings.dns_upstream.clone(),
            },
            counters.clone(),
        )?;
        Ok(Self {
            listeners: dns.listeners(),
            dns,
            counters,
            capture: settings.dns_capture,
            known: Arc::default(),
            captured: None,
        })
    }

    /// Brings names, listeners and the kernel's capture in line. To be called after the maps have the workloads.
    pub(super) fn step(&mut self, services: &Arc<Services>, registry: &Registry, kernel: &Kernel) {
        if !Arc::ptr_eq(&self.known, services) {
            self.known = services.clone();
            self.dns.set_services(services.clone());
        }
        let captures = match self.capture {
            DnsCapture::On => true,
            DnsCapture::Off => false,
            DnsCapture::Auto => !self.known.is_empty(),
        };
        let wanted: Vec<Place> = if captures {
            // Of those that were let go, for queries that are on their way.
            let released = registry.released().map(|(_, _, place)| place);
            registry.places().into_values().chain(released).collect()
        } else {
            Vec::new()
        };
        let open = self.listeners.set(&wanted);
        self.counters.set_listening(open.len());
        if self.captured.as_ref() == Some(&open) {
            return;
        }
        let port = if open.is_empty() {
            0
        } else {
            self.listeners.port()
        };
        match kernel.set_dns(port, open.clone()) {
            Ok(()) => self.captured = Some(open),
            Err(error) => {
                tracing::error!(%error, "failed to write which workloads' name queries are captured; trying again");
            }
        }
    }
}
