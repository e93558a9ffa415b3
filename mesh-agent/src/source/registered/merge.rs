//! Services from manifests and registered ones, put together.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::model::service::{ServiceName, Services};

/// All services, and a message for each registered one that is left out: manifests win, by name and by address.
pub fn merge(
    manifests: &Arc<Services>,
    registered: &Arc<Services>,
) -> (Arc<Services>, Vec<String>) {
    if registered.is_empty() {
        return (manifests.clone(), Vec::new());
    }
    let addresses: BTreeMap<IpAddr, &ServiceName> = manifests
        .values()
        .flat_map(|service| {
            let all = service.addresses.iter().chain(&service.external_addresses);
            all.map(|address| (*address, &service.name))
        })
        .collect();
    let mut merged = Services::clone(manifests);
    let mut warnings = Vec::new();
    for (name, service) in registered.iter() {
        if let Some(manifest) = manifests.get(name) {
            warnings.push(format!(
                "service {name} was registered and is in the manifests too ({}): the manifests' counts, and what is registered does \
                 not; register under another name",
                manifest.origin
            ));
            continue;
        }
        let shared = service
            .addresses
            .iter()
            .find_map(|address| Some((address, addresses.get(address)?)));
        if let Some((address, owner)) = shared {
            warnings.push(format!(
                "registered service {name} has the address {address}, which the manifests give to service {owner}: the manifests' \
                 counts, and what is registered does not; let `--service-range` be of no other use"
            ));
            continue;
        }
        merged.insert(name.clone(), service.clone());
    }
    (Arc::new(merged), warnings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::service::Service;
    use crate::source::registered::service::empty;

    fn service(name: &str, address: &str, origin: &str) -> Arc<Service> {
        let name = ServiceName {
            namespace: "shop".into(),
            name: name.into(),
        };
        Arc::new(Service {
            addresses: vec![address.parse().unwrap()],
            origin: origin.into(),
            ..empty(&name)
        })
    }

    fn services(all: &[&Arc<Service>]) -> Arc<Services> {
        let named = all
            .iter()
            .map(|service| (service.name.clone(), (*service).clone()));
        Arc::new(named.collect())
    }

    #[test]
    fn manifests_win_by_name_and_by_address() {
        let cart = service("cart", "10.0.0.1", "a.yaml");
        let shadowed = service("cart", "240.96.0.1", "registered");
        let clash = service("clash", "10.0.0.1", "registered");
        let other = service("other", "240.96.0.2", "registered");
        let manifests = services(&[&cart]);
        let (merged, warnings) = merge(&manifests, &services(&[&shadowed, &clash, &other]));
        assert_eq!(merged, services(&[&cart, &other]));
        assert!(
            warnings[0].contains("service shop/cart") && warnings[0].contains("a.yaml"),
            "{warnings:?}"
        );
        assert!(
            warnings[1].contains("shop/clash") && warnings[1].contains("10.0.0.1"),
            "{warnings:?}"
        );
        assert_eq!(warnings.len(), 2);
    }

    #[test]
    fn nothing_registered_costs_nothing() {
        let manifests = services(&[&service("cart", "10.0.0.1", "a.yaml")]);
        let (merged, warnings) = merge(&manifests, &Arc::default());
        assert!(Arc::ptr_eq(&merged, &manifests) && warnings.is_empty());
    }

    #[test]
    fn what_did_not_change_keeps_its_pointer() {
        let cart = service("cart", "10.0.0.1", "a.yaml");
        let other = service("other", "240.96.0.2", "registered");
        let (merged, _) = merge(&services(&[&cart]), &services(&[&other]));
        assert!(Arc::ptr_eq(&merged[&cart.name], &cart));
        assert!(Arc::ptr_eq(&merged[&other.name], &other));
    }
}
