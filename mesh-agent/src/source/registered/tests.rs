//! Tests of the source with its thread and its file.

use std::os::unix::fs::PermissionsExt as _;

use super::*;
use registration::tests::registration;

fn cart() -> ServiceName {
    ServiceName {
        namespace: "shop".into(),
        name: "cart".into(),
    }
}

fn start(dir: &Path) -> RegisteredSource {
    RegisteredSource::start(dir, ServiceRange::default()).unwrap()
}

#[tokio::test]
async fn what_is_kept_is_there_after_a_sudden_end() {
    let dir = tempfile::tempdir().unwrap();
    let source = start(dir.path());
    let mut changed = source.changed();
    let registered = source
        .register(&cart(), "a", registration("10.0.0.1", 80))
        .unwrap();
    assert!(changed.has_changed().unwrap());
    assert_eq!(
        changed.borrow_and_update()[&cart()].addresses,
        registered.addresses
    );
    assert!(source.is_kept(&registered).await);
    // As `kill -9` leaves it: nothing is dropped.
    std::mem::forget(source);
    let next = start(dir.path());
    assert_eq!(next.services()[&cart()].addresses, registered.addresses);
    assert_eq!(next.instances(&cart()).len(), 1);
    let revision = next.deregister(&cart(), "a").unwrap();
    assert!(next.kept(revision).await);
    assert!(start(dir.path()).services().is_empty());
}

#[tokio::test]
async fn an_instance_expires_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let source = start(dir.path());
    let mut changed = source.changed();
    let mut short = registration("10.0.0.1", 80);
    short.ttl_seconds = 1;
    source.register(&cart(), "a", short).unwrap();
    let expired = changed.wait_for(|services| {
        let cart = services.get(&cart());
        cart.is_some_and(|cart| !cart.ports[0].endpoints[0].ready)
    });
    let expired = tokio::time::timeout(Duration::from_secs(10), expired).await;
    assert!(expired.is_ok());
    assert!(source.instances(&cart())["a"].expired);
}

#[tokio::test]
async fn a_broken_file_is_moved_aside() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("registry"), "rubbish").unwrap();
    let source = start(dir.path());
    assert!(source.services().is_empty());
    let aside = std::fs::read_to_string(dir.path().join("registry.broken"));
    assert_eq!(aside.unwrap(), "rubbish");
    let registered = source.register(&cart(), "a", registration("10.0.0.1", 80));
    assert!(source.is_kept(&registered.unwrap()).await);
}

#[tokio::test]
async fn a_directory_that_cannot_be_made_costs_persistence_only() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let source = start(&file.join("state"));
    let registered = source.register(&cart(), "a", registration("10.0.0.1", 80));
    assert!(!source.is_kept(&registered.unwrap()).await);
    assert_eq!(source.services().len(), 1);
}

#[test]
fn the_directory_is_private() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("underpass");
    drop(start(&state));
    let mode = std::fs::metadata(&state).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}
