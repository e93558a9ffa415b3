//! Random changes, half of them broken, while everything else breaks too: what is in force in the end is what the last valid version
//! of each object comes to.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use harness::apiserver::Chunks;
use harness::wait::pause;
use mesh_agent::chance::Chance;
use serde_json::{Value, json};

use crate::world::{NODE, World, namespace, of_manifests, pod, policies, policy, service, slice};

/// Changes a second.
const RATE: u32 = 200;

/// For how long.
const TIME: Duration = Duration::from_secs(20);

/// Different objects of each kind.
const OBJECTS: u32 = 250;

/// An object's kind, namespace and name.
type Name = (String, String);

struct Chaos {
    chance: Chance,
    /// Last valid version of what is there.
    valid: BTreeMap<Name, Value>,
}

impl Chaos {
    fn below(&mut self, limit: u32) -> u32 {
        self.chance.below(limit)
    }

    /// Returns a valid object.
    fn object(&mut self) -> Value {
        let n = self.below(OBJECTS);
        // An object's address is its own: who has it first would depend on the order of the watches.
        let address = format!("10.1.{}.{}", n / 200, 1 + n % 200);
        // A pod stays where it is: on another node it is another pod, and the last version of the one before is gone.
        let node = if n.is_multiple_of(3) { NODE } else { "node-2" };
        match self.below(4) {
            0 => {
                let mut pod = pod(&format!("pod-{n}"), node, &address);
                pod["metadata"]["labels"]["color"] = format!("c{}", self.below(5)).into();
                pod
            }
            1 => service(
                &format!("svc-{n}"),
                &format!("10.96.{}.{}", n / 200, 1 + n % 200),
            ),
            2 => {
                let to = format!("10.9.0.{}", 1 + self.below(200));
                slice(&format!("svc-{n}"), &[("pod-1", &to)])
            }
            _ => policy(&format!("policy-{n}"), &format!("app-{}", self.below(5))),
        }
    }

    /// Spoils an object in one of many ways.
    fn spoil(&mut self, object: &mut Value) {
        match (self.below(4), object["kind"].as_str()) {
            (0, _) => object["metadata"]["labels"] = json!(["not", "a", "mapping"]),
            (1, _) => object["metadata"]["annotations"] = json!({"underpass.dev/nonsense": "x"}),
            (_, Some("Pod")) => object["status"]["podIPs"] = json!([{"ip": "10.0.0.999"}]),
            (_, Some("Service")) => object["spec"]["ports"] = json!([{"port": 700_000}]),
            (_, Some("EndpointSlice")) => object["addressType"] = "carrier pigeon".into(),
            (_, _) => object["spec"]["action"] = "Maybe".into(),
        }
    }

    fn step(&mut self, world: &World) {
        let mut object = self.object();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let name = (text(&object["kind"]), text(&object["metadata"]["name"]));
        match self.below(10) {
            0 => {
                world.server.delete(&name.0, "shop", &name.1);
                self.valid.remove(&name);
            }
            1..=5 => {
                self.spoil(&mut object);
                // What was valid before counts on.
                world.server.set(object);
            }
            _ => {
                self.valid.insert(name, object.clone());
                world.server.set(object);
            }
        }
        match self.below(400) {
            0 => world.server.change(|state| state.end_watches()),
            1 => world.server.change(|state| state.faults.fail(3, 500, None)),
            2 => world
                .server
                .change(|state| state.faults.cut_after = Some(5000)),
            3 | 4 => world.server.change(|state| state.faults.cut_after = None),
            5 => world.server.change(|state| {
                state.faults.chunks = Chunks::Small(100, Duration::ZERO);
            }),
            6 => world.server.change(|state| state.bookmark()),
            _ => {}
        }
    }
}

#[test]
fn random_changes_half_of_them_broken_come_to_the_last_valid_versions() {
    let world = World::new();
    world.server.change(|state| state.define(&[policies()]));
    world.server.set(namespace("shop"));
    let watched = world.source();
    watched.until_synced().unwrap();
    let seed = 20_261_121;
    let mut chaos = Chaos {
        chance: Chance::seeded(seed),
        valid: BTreeMap::new(),
    };
    let begun = Instant::now();
    let mut steps = 0;
    while begun.elapsed() < TIME {
        let due = begun.elapsed().as_secs_f64() * f64::from(RATE);
        while f64::from(steps) < due {
            chaos.step(&world);
            steps += 1;
        }
        pause(Duration::from_millis(5));
    }
    world.server.change(|state| {
        state.faults = Default::default();
    });
    world.server.set(pod("the-end", NODE, "10.0.0.9"));
    let mut objects: Vec<Value> = chaos.valid.into_values().collect();
    objects.extend([namespace("shop"), pod("the-end", NODE, "10.0.0.9")]);
    watched.until_shape(&of_manifests(&objects)).unwrap();
    println!(
        "{steps} changes, {} snapshots, {} requests, {} objects in force",
        watched.snapshot().generation,
        watched.status().requests,
        objects.len()
    );
}
