//! Random changes, half of them broken, while everything else breaks too: what is in force in the end is what the last valid version
//! of each object comes to.

use std::time::Duration;

use harness::apiserver::chaos::{self, Chaos};

use crate::world::{NODE, World, namespace, of_manifests, pod};

#[test]
fn random_changes_half_of_them_broken_come_to_the_last_valid_versions() {
    let world = World::new();
    let mut chaos = Chaos::new(&world.server, 20_261_121, NODE);
    world.server.set(namespace("shop"));
    let watched = world.source();
    watched.until_synced().unwrap();
    let time = chaos::time(Duration::from_secs(20));
    let steps = chaos.run(&world.server, time, |_| {});
    world.server.set(pod("the-end", NODE, "10.0.0.9"));
    let mut objects = chaos.valid();
    objects.extend([namespace("shop"), pod("the-end", NODE, "10.0.0.9")]);
    watched.until_shape(&of_manifests(&objects)).unwrap();
    println!(
        "{steps} changes, {} snapshots, {} requests, {} objects in force",
        watched.snapshot().generation,
        watched.status().requests,
        objects.len()
    );
}
