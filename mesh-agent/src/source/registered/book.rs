//! Who is registered: pure state, which is told the time.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::model::service::{HealthCheck, Service, ServiceName, Services};
use crate::source::registered::range::ServiceRange;
use crate::source::registered::registration::{Registration, check_names};
use crate::source::registered::{RegistryError, limits, service};

/// All registered services with their instances and addresses.
#[derive(Debug)]
pub(super) struct Book {
    range: ServiceRange,
    manifests: Arc<Services>,
    /// Addresses that manifests use, which are given to nobody.
    foreign: HashSet<IpAddr>,
    pub(super) entries: BTreeMap<ServiceName, Entry>,
    /// Addresses of services that are gone, with when they went.
    pub(super) resting: BTreeMap<ServiceName, (Vec<IpAddr>, Instant)>,
    /// Addresses that are given out or rest.
    taken: HashSet<IpAddr>,
    /// Counts what has to be written to the state file.
    pub(super) revision: u64,
    /// Counts changes of the services.
    pub(super) version: u64,
}

/// A registered service.
#[derive(Debug)]
pub(super) struct Entry {
    /// Its own addresses, one of each family that its instances have or had.
    pub(super) addresses: Vec<IpAddr>,
    pub(super) instances: BTreeMap<String, Instance>,
    pub(super) check: Option<HealthCheck>,
    pub(super) service: Arc<Service>,
}

/// An instance of a service.
#[derive(Clone, Debug)]
pub(super) struct Instance {
    pub(super) registration: Arc<Registration>,
    /// When its time runs out; or ran out, if it is expired.
    pub(super) deadline: Instant,
    pub(super) expired: bool,
}

/// What came of a registration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Registered {
    /// The service's addresses.
    pub addresses: Vec<IpAddr>,
    /// How long the instance lives from now on.
    pub ttl: Duration,
    /// Whether it was registered before.
    pub renewed: bool,
    /// What has to be written for it to survive the agent.
    pub(super) revision: u64,
}

impl Book {
    pub(super) fn new(range: ServiceRange) -> Self {
        Self {
            range,
            manifests: Arc::default(),
            foreign: HashSet::new(),
            entries: BTreeMap::new(),
            resting: BTreeMap::new(),
            taken: HashSet::new(),
            revision: 0,
            version: 0,
        }
    }

    /// Takes over what an earlier agent knew. Each instance has its whole time again.
    pub(super) fn restore(
        &mut self,
        name: ServiceName,
        addresses: Vec<IpAddr>,
        instances: Vec<(String, Registration, bool)>,
        now: Instant,
    ) {
        let addresses = self.claim(addresses);
        let instance = |(id, registration, expired): (String, Registration, bool)| {
            let deadline = now + registration.ttl();
            let registration = Arc::new(registration);
            let instance = Instance {
                registration,
                deadline,
                expired,
            };
            (id, instance)
        };
        let mut entry = Entry::new(&name, addresses);
        entry.instances = instances.into_iter().map(instance).collect();
        let checks = entry
            .instances
            .values()
            .filter_map(|i| i.registration.health_check.as_ref());
        entry.check = checks.last().map(HealthCheck::from);
        let families: Vec<IpAddr> = entry
            .instances
            .values()
            .map(|i| i.registration.address)
            .collect();
        self.entries.insert(name.clone(), entry);
        // Only where the range is another one than before.
        for family in families {
            if let Ok(addresses) = self.addresses_for(&name, family)
                && let Some(entry) = self.entries.get_mut(&name)
            {
                self.taken.extend(addresses.iter().copied());
                entry.addresses = addresses;
            }
        }
        if let Some(entry) = self.entries.get_mut(&name) {
            entry.rebuild(&name);
        }
        self.version += 1;
    }

    /// Takes over the address of a service that was gone already.
    pub(super) fn restore_resting(
        &mut self,
        name: ServiceName,
        addresses: Vec<IpAddr>,
        since: Instant,
    ) {
        let addresses = self.claim(addresses);
        self.resting.insert(name, (addresses, since));
    }

    /// Returns those of `addresses` that are in the range, which may be another than before, and nobody's yet.
    fn claim(&mut self, mut addresses: Vec<IpAddr>) -> Vec<IpAddr> {
        addresses.retain(|address| self.range.contains(*address) && self.taken.insert(*address));
        addresses
    }

    /// Takes over the services of the manifests, which a registered one may not be called like.
    pub(super) fn set_manifests(&mut self, manifests: Arc<Services>) {
        self.foreign = manifests
            .values()
            .flat_map(|service| service.addresses.iter().chain(&service.external_addresses))
            .copied()
            .collect();
        self.manifests = manifests;
    }

    /// Registers an instance, or renews it.
    pub(super) fn register(
        &mut self,
        name: &ServiceName,
        id: &str,
        registration: Registration,
        now: Instant,
    ) -> Result<Registered, RegistryError> {
        check_names(name, id)
            .and_then(|()| registration.check())
            .map_err(RegistryError::Invalid)?;
        if let Some(service) = self.manifests.get(name) {
            return Err(RegistryError::Conflict(format!(
                "service {name} is in the manifests ({}); register under another name",
                service.origin
            )));
        }
        self.check_room(name, id)?;
        let before = self.entries.get(name);
        before.map_or(Ok(()), |entry| entry.check_names(id, &registration))?;
        let addresses = self.addresses_for(name, registration.address)?;
        let entry = self
            .entries
            .entry(name.clone())
            .or_insert_with(|| Entry::new(name, Vec::new()));
        let moved = entry.addresses != addresses;
        entry.addresses.clone_from(&addresses);
        self.resting.remove(name);
        let ttl = registration.ttl();
        let registration = Arc::new(registration);
        let instance = Instance {
            registration: registration.clone(),
            deadline: now + ttl,
            expired: false,
        };
        let old = entry.instances.insert(id.to_owned(), instance);
        let same = old
            .as_ref()
            .is_some_and(|old| !old.expired && old.registration == registration);
        let renewed = old.is_some();
        if moved || !same {
            entry.replace_others(name, id);
            if let Some(check) = &registration.health_check {
                entry.check = Some(check.into());
            }
            entry.rebuild(name);
            self.taken.extend(addresses.iter().copied());
            self.revision += 1;
            self.version += 1;
            tracing::info!(service = %name, id, address = %registration.address, renewed, "an instance was registered");
        }
        Ok(Registered {
            addresses,
            ttl,
            renewed,
            revision: self.revision,
        })
    }

    /// Gives an instance its whole time again.
    pub(super) fn heartbeat(
        &mut self,
        name: &ServiceName,
        id: &str,
        now: Instant,
    ) -> Result<Registered, RegistryError> {
        let Some(entry) = self.entries.get_mut(name) else {
            return Err(not_registered(name, id));
        };
        let Some(instance) = entry.instances.get_mut(id) else {
            return Err(not_registered(name, id));
        };
        let ttl = instance.registration.ttl();
        instance.deadline = now + ttl;
        if std::mem::take(&mut instance.expired) {
            entry.rebuild(name);
            self.revision += 1;
            self.version += 1;
            tracing::info!(service = %name, id, "an instance is back");
        }
        Ok(Registered {
            addresses: entry.addresses.clone(),
            ttl,
            renewed: true,
            revision: self.revision,
        })
    }

    /// Takes an instance out.
    pub(super) fn deregister(
        &mut self,
        name: &ServiceName,
        id: &str,
        now: Instant,
    ) -> Result<u64, RegistryError> {
        let entry = self.entries.get_mut(name);
        let removed = entry.and_then(|entry| entry.instances.remove(id));
        if removed.is_none() {
            return Err(not_registered(name, id));
        }
        tracing::info!(service = %name, id, "an instance was deregistered");
        self.changed(name, now);
        Ok(self.revision)
    }

    /// Does what time brings; returns when to be called again.
    pub(super) fn expire(&mut self, now: Instant) -> Option<Instant> {
        let mut changed = BTreeSet::new();
        for (name, entry) in &mut self.entries {
            for (id, instance) in &mut entry.instances {
                if !instance.expired && instance.deadline <= now {
                    instance.expired = true;
                    changed.insert(name.clone());
                    tracing::warn!(service = %name, id, "an instance gave no sign of life: it gets nothing from now on");
                }
            }
            let before = entry.instances.len();
            entry.instances.retain(|id, instance| {
                let stays = instance.removal() > now;
                if !stays {
                    tracing::warn!(service = %name, id, "an instance was away for too long and is removed");
                }
                stays
            });
            if entry.instances.len() != before {
                changed.insert(name.clone());
            }
        }
        for name in changed {
            self.changed(&name, now);
        }
        let taken = &mut self.taken;
        self.resting.retain(|_, (addresses, since)| {
            let stays = now.saturating_duration_since(*since) < limits::REST;
            if !stays {
                addresses.iter().for_each(|address| {
                    taken.remove(address);
                });
            }
            stays
        });
        let instances = self
            .entries
            .values()
            .flat_map(|entry| entry.instances.values());
        instances.map(Instance::next).min()
    }

    /// Returns the services as they stand.
    pub(super) fn services(&self) -> Services {
        self.entries
            .iter()
            .map(|(name, entry)| (name.clone(), entry.service.clone()))
            .collect()
    }

    /// Builds a service anew, or lets it go with its last instance.
    fn changed(&mut self, name: &ServiceName, now: Instant) {
        self.revision += 1;
        self.version += 1;
        let Some(entry) = self.entries.get_mut(name) else {
            return;
        };
        if !entry.instances.is_empty() {
            entry.rebuild(name);
            return;
        }
        if let Some(entry) = self.entries.remove(name) {
            tracing::info!(service = %name, "the last instance is gone, and the service with it");
            self.resting.insert(name.clone(), (entry.addresses, now));
        }
    }

    fn check_room(&self, name: &ServiceName, id: &str) -> Result<(), RegistryError> {
        let entry = self.entries.get(name);
        if entry.is_none() && self.entries.len() >= limits::SERVICES {
            let most = limits::SERVICES;
            return Err(RegistryError::Full(format!(
                "{most} services are registered, and that is the most"
            )));
        }
        let known = entry.is_some_and(|entry| entry.instances.contains_key(id));
        let all: usize = self
            .entries
            .values()
            .map(|entry| entry.instances.len())
            .sum();
        if !known && all >= limits::INSTANCES {
            let most = limits::INSTANCES;
            return Err(RegistryError::Full(format!(
                "{most} instances are registered, and that is the most"
            )));
        }
        Ok(())
    }

    /// Returns the addresses that the service has with an instance of this family: those that it has or had, and a new one of
    /// the family if it has none yet and there is a range for it.
    fn addresses_for(
        &self,
        name: &ServiceName,
        instance: IpAddr,
    ) -> Result<Vec<IpAddr>, RegistryError> {
        let rested = self.resting.get(name).map(|(addresses, _)| addresses);
        let own = self.entries.get(name).map(|entry| &entry.addresses);
        let mut addresses = own.or(rested).cloned().unwrap_or_default();
        let has = addresses
            .iter()
            .any(|address| address.is_ipv4() == instance.is_ipv4());
        if has {
            return Ok(addresses);
        }
        let range = self.range.of_family(instance).ok_or_else(|| {
            RegistryError::Invalid(format!(
                "address: {instance} is of a family that --service-range has no range of"
            ))
        })?;
        let full = || {
            let rest = self.resting.len();
            RegistryError::Full(format!(
                "no address is left in {range} (--service-range) for service {name}; those of {rest} services that are gone come \
                 free an hour after"
            ))
        };
        if self.resting.len() >= limits::RESTING {
            return Err(full());
        }
        let taken =
            |address: &IpAddr| self.taken.contains(address) || self.foreign.contains(address);
        addresses.push(range.allot(name, taken).ok_or_else(full)?);
        addresses.sort();
        Ok(addresses)
    }
}

impl Entry {
    fn new(name: &ServiceName, addresses: Vec<IpAddr>) -> Self {
        Self {
            addresses,
            instances: BTreeMap::new(),
            check: None,
            service: Arc::new(service::empty(name)),
        }
    }

    fn rebuild(&mut self, name: &ServiceName) {
        self.service = Arc::new(service::build(name, self));
    }

    /// Makes sure that a port's name means the same port to all instances.
    fn check_names(&self, id: &str, registration: &Registration) -> Result<(), RegistryError> {
        for (other, instance) in self.instances.iter().filter(|(other, _)| *other != id) {
            for theirs in &instance.registration.ports {
                let conflict = registration.ports.iter().find(|ours| {
                    let same_port = ours.dialled() == theirs.dialled();
                    let same_name = ours.name == theirs.name;
                    same_port != same_name && (same_port || ours.name.is_some())
                });
                if let Some(ours) = conflict {
                    let name = |name: &Option<String>| name.clone().unwrap_or_default();
                    return Err(RegistryError::Conflict(format!(
                        "instance `{other}` calls port {} `{}`, and this one calls port {} `{}`",
                        theirs.dialled().0,
                        name(&theirs.name),
                        ours.dialled().0,
                        name(&ours.name)
                    )));
                }
            }
        }
        Ok(())
    }

    /// Removes other instances with an address and port of this one: it was started again under another id.
    fn replace_others(&mut self, name: &ServiceName, id: &str) {
        let Some(new) = self.instances.get(id).map(|new| new.registration.clone()) else {
            return;
        };
        self.instances.retain(|other, instance| {
            let old = &instance.registration;
            let shares = old.address == new.address
                && old.ports.iter().any(|a| {
                    let same = |b: &&_| is_same(a, b);
                    new.ports.iter().any(|b| same(&b))
                });
            let stays = other == id || !shares;
            if !stays {
                tracing::info!(service = %name, id = other, by = id, "an instance at the same address replaces another");
            }
            stays
        });
    }
}

fn is_same(
    a: &super::registration::RegisteredPort,
    b: &super::registration::RegisteredPort,
) -> bool {
    (a.number, a.protocol) == (b.number, b.protocol)
}

impl Instance {
    /// Returns when it is removed if nothing is heard of it.
    fn removal(&self) -> Instant {
        self.deadline + self.registration.ttl() * limits::REMOVED_AFTER
    }

    /// Returns when something happens to it if nothing is heard of it.
    fn next(&self) -> Instant {
        if self.expired {
            self.removal()
        } else {
            self.deadline
        }
    }
}

fn not_registered(name: &ServiceName, id: &str) -> RegistryError {
    RegistryError::NotFound(format!(
        "service {name} has no registered instance `{}`; register it (again)",
        id.escape_debug()
    ))
}

#[cfg(test)]
mod tests;
