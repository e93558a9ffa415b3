//! Random changes, half of them broken, while the server itself breaks down in every way, too.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::objects::{gateway, pod, policies, policy, route, service, slice};
use super::{ApiServer, Chunks};
use crate::wait::pause;

/// Changes a second.
pub const RATE: u32 = 200;

/// Different objects of each of the five kinds: a thousand together.
const OBJECTS: u32 = 200;

/// Says for how many seconds, instead of those that a test asks for.
pub const SECONDS_VARIABLE: &str = "UNDERPASS_CHAOS_SECONDS";

/// Returns for how long: what the environment says, or else this.
pub fn time(otherwise: Duration) -> Duration {
    let said = std::env::var(SECONDS_VARIABLE).ok();
    let seconds = said.and_then(|text| text.parse().ok());
    seconds.map_or(otherwise, Duration::from_secs)
}

/// An object's kind and name.
type Name = (String, String);

/// Random changes. The same seed gives the same ones.
#[derive(Debug)]
pub struct Chaos {
    seed: u64,
    /// The agent's node.
    node: String,
    /// Last valid version of what is there.
    valid: BTreeMap<Name, Value>,
    /// Changes so far.
    steps: u32,
}

impl Chaos {
    /// Defines what is needed on a server that is to be changed.
    pub fn new(server: &ApiServer, seed: u64, node: &str) -> Self {
        server.change(|state| {
            state.define(&[policies()]);
            state.define(&gateway());
        });
        Self {
            seed,
            node: node.to_owned(),
            valid: BTreeMap::new(),
            steps: 0,
        }
    }

    /// Returns the last valid version of every object that is there.
    pub fn valid(&self) -> Vec<Value> {
        self.valid.values().cloned().collect()
    }

    /// Returns a random number below a limit.
    pub fn below(&mut self, limit: u32) -> u32 {
        // SplitMix64.
        self.seed = self.seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.seed;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^= bits >> 31;
        let high = u32::try_from(bits >> 32).unwrap_or(0);
        u32::try_from((u64::from(high) * u64::from(limit)) >> 32).unwrap_or(0)
    }

    /// Changes the server for a time, then mends it; returns the changes so far. `also` is called all the time in between, for changes of
    /// the caller's own.
    pub fn run(
        &mut self,
        server: &ApiServer,
        time: Duration,
        mut also: impl FnMut(&mut Self),
    ) -> u32 {
        let (begun, before) = (Instant::now(), self.steps);
        while begun.elapsed() < time {
            let due = begun.elapsed().as_secs_f64() * f64::from(RATE);
            while f64::from(self.steps - before) < due {
                self.step(server);
                self.steps += 1;
            }
            also(self);
            pause(Duration::from_millis(5));
        }
        server.change(|state| state.faults = super::Faults::default());
        self.steps
    }

    /// Returns a valid object.
    fn object(&mut self) -> Value {
        let n = self.below(OBJECTS);
        // An object's address is its own: who has it first would depend on the order of the watches.
        let address = format!("10.1.0.{}", 1 + n);
        let other = self.below(OBJECTS);
        match self.below(5) {
            0 => {
                // A pod stays where it is: on another node it is another pod, and the last version of the one before is gone.
                let node = if n.is_multiple_of(3) {
                    self.node.clone()
                } else {
                    "node-2".to_owned()
                };
                let mut pod = pod(&format!("pod-{n}"), &node, &address);
                pod["metadata"]["labels"]["color"] = format!("c{}", self.below(5)).into();
                pod
            }
            1 => service(&format!("svc-{n}"), &format!("10.96.1.{}", 1 + n)),
            2 => {
                let to = format!("10.9.0.{}", 1 + other);
                slice(&format!("svc-{n}"), &self.node, &[("pod-1", &to)])
            }
            3 => policy(&format!("policy-{n}"), &format!("app-{}", self.below(5))),
            _ => route(
                &format!("route-{n}"),
                &format!("svc-{}", n / 2),
                &format!("svc-{other}"),
            ),
        }
    }

    /// Spoils an object in one of many ways.
    fn spoil(&mut self, object: &mut Value) {
        match (self.below(4), object["kind"].as_str()) {
            // Of a route a bad rule costs itself alone.
            (0, _) | (_, Some("HTTPRoute")) => {
                object["metadata"]["labels"] = json!(["not", "a", "mapping"]);
            }
            (1, _) => object["metadata"]["annotations"] = json!({"underpass.dev/nonsense": "x"}),
            (_, Some("Pod")) => object["status"]["podIPs"] = json!([{"ip": "10.0.0.999"}]),
            (_, Some("Service")) => object["spec"]["ports"] = json!([{"port": 700_000}]),
            (_, Some("EndpointSlice")) => object["addressType"] = "carrier pigeon".into(),
            (_, _) => object["spec"]["action"] = "Maybe".into(),
        }
    }

    fn step(&mut self, server: &ApiServer) {
        let mut object = self.object();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let name = (text(&object["kind"]), text(&object["metadata"]["name"]));
        match self.below(10) {
            0 => {
                server.delete(&name.0, "shop", &name.1);
                self.valid.remove(&name);
            }
            1..=5 => {
                self.spoil(&mut object);
                // What was valid before counts on.
                server.set(object);
            }
            _ => {
                self.valid.insert(name, object.clone());
                server.set(object);
            }
        }
        self.breakdown(server);
    }

    fn breakdown(&mut self, server: &ApiServer) {
        match self.below(400) {
            0 => server.change(|state| state.end_watches()),
            1 => server.change(|state| state.faults.fail(3, 500, None)),
            2 => server.change(|state| state.faults.cut_after = Some(5000)),
            3 | 4 => server.change(|state| state.faults.cut_after = None),
            5 => server.change(|state| {
                state.faults.chunks = Chunks::Small(100, Duration::ZERO);
            }),
            6 => server.change(|state| state.bookmark()),
            _ => {}
        }
    }
}
