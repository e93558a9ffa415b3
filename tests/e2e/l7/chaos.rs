//! One backend does wrong in every way while requests come at a fixed rate: what retries cover nobody sees, and each failure has
//! its flag.

use std::collections::BTreeMap;

use harness::wait::PATIENCE;
use serde_json::Value;

use super::scene::{CHAOS, Scene, Server, route};

/// Requests a second; a debug build serves them on two cores that have other work. `UNDERPASS_CHAOS_RATE` asks for another.
fn rate() -> u64 {
    let asked = std::env::var("UNDERPASS_CHAOS_RATE");
    asked.map_or(2000, |it| it.parse().unwrap())
}

/// For how long they come.
const SECONDS: u64 = 3;

/// The rule: everything that came back wrong is tried again. The time of an attempt is long enough for the backend that does well on a
/// machine with much else to do: all attempts may go wrong where that one, too, is cut off.
const RETRY: &str = "      retry: {codes: [500, 502, 503, 504], attempts: 3, backoff: 1ms}
      timeouts: {request: 20s, backendRequest: 3s}\n";

/// What keeps every second request going to the backend that does wrong, and lets each of them be tried again: otherwise it is
/// ejected or avoided after the first few, which is how the agent is used and nothing that could be seen here. Bounds are out of
/// the way: a slow machine has more requests in flight at this rate than the breakers' 1,024.
const POLICY: &str = "---
apiVersion: gateway.networking.x-k8s.io/v1alpha1
kind: XBackendTrafficPolicy
metadata: {name: budget, namespace: default}
spec:
  targetRefs: [{group: \"\", kind: Service, name: shop}]
  retryConstraint: {budget: {percent: 100, interval: 10s}, minRetryRate: {count: 1000, interval: 1s}}
---
apiVersion: underpass.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: even, namespace: default}
spec:
  targetRefs: [{group: \"\", kind: Service, name: shop}]
  balancing: {algorithm: RoundRobin}
  outlierDetection: {consecutiveErrors: 1000000, successRate: false}
  circuitBreaker: {maxConnections: 10000, maxPending: 10000, maxRequests: 10000, maxRetries: 10000}
";

/// What is done, and whether a client may see anything of it: a response that has begun cannot be tried again.
const WRONGS: [(&str, bool); 10] = [
    ("slow 20", false),
    ("error", false),
    ("reset", false),
    ("close", false),
    ("half-close", false),
    ("reset-head", false),
    ("garbage", false),
    ("hang", false),
    ("close-after", false),
    ("truncate", true),
];

fn load(scene: &Scene, name: &str, then: impl FnOnce()) -> Value {
    let (rate, seconds) = (rate().to_string(), SECONDS.to_string());
    let words = [
        "load",
        "--connect",
        CHAOS,
        "--rate",
        &rate,
        "--seconds",
        &seconds,
        // Longer than any of these requests may take.
        "--patience",
        "25000",
    ];
    let mut running = scene.start(name, &words);
    running.line("begins", PATIENCE).unwrap();
    then();
    let said = Scene::heard(&mut running);
    // At this rate, or as fast as it could: none is left out.
    assert_eq!(said["sent"], self::rate() * SECONDS, "{said}");
    println!("{name}: {} requests in {} s", said["sent"], said["lasted"]);
    said
}

#[test]
fn no_request_is_lost_that_may_be_tried_again() {
    let routes = route(83, RETRY) + &route(80, "") + POLICY;
    let Some(scene) = Scene::new(&["curl"], &[Server::Chaos, Server::Echo], &routes) else {
        return;
    };
    scene.wait_for_route("all");
    for (wrong, shows) in WRONGS {
        let before = scene.heard_by(1);
        let name = format!("load-{}", wrong.replace(' ', "-"));
        let said = load(&scene, &name, || scene.tell(1, wrong));
        let heard = scene.heard_by(1) - before;
        println!("{wrong}: {heard} times: {said}");
        assert!(heard > 100, "{wrong}: it was hardly asked: {heard} times");
        let answers = said["answers"].as_object().unwrap();
        let lost: Vec<_> = answers.iter().filter(|(word, _)| *word != "200").collect();
        assert!(
            shows || lost.is_empty(),
            "{wrong}: {said}, {:?}",
            scene.flags()
        );
        scene.tell(1, "ok");
    }
    println!("{:?}", scene.flags());
}

#[test]
fn a_backend_that_is_killed_and_comes_back_loses_nothing() {
    let routes = route(83, RETRY) + &route(80, "") + POLICY;
    let Some(mut scene) = Scene::new(&["curl"], &[Server::Echo], &routes) else {
        return;
    };
    scene.wait_for_route("all");
    let one = scene.serve(Server::Chaos, 0);
    scene.servers.push(one);
    let mut two = scene.serve(Server::Chaos, 1);
    let said = load(&scene, "load-killed", || {
        two.kill().unwrap();
        two = scene.serve(Server::Chaos, 1);
    });
    let answers = said["answers"].as_object().unwrap();
    assert_eq!(answers.keys().collect::<Vec<_>>(), ["200"], "{said}");
}

/// What is done, what clients get of it, and by which flags it is counted: a kept connection that ends unused is another thing than
/// one that was asked. Without any it is the backend's own answer.
const FAILURES: [(&str, &str, &[&str]); 10] = [
    ("error", "503", &[]),
    ("reset", "503", &["UR", "UC"]),
    ("close", "503", &["UR", "UC"]),
    ("half-close", "503", &["UR", "UC"]),
    ("reset-head", "503", &["UR", "UC"]),
    ("garbage", "502", &["UPE"]),
    ("hang", "504", &["UT"]),
    ("truncate", "broken off", &["UC"]),
    ("reset-body", "broken off", &["UC"]),
    // Whose connections nobody knows to be closed: those that meet one are tried again.
    ("close-after", "200", &["UR", "UC"]),
];

/// Returns how many requests each flag was raised for since then.
fn raised(scene: &Scene, before: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let now = scene.flags().into_iter().filter(|(flag, _)| flag != "-");
    let more = now.map(|(flag, count)| {
        let more = count - before.get(&flag).copied().unwrap_or(0);
        (flag, more)
    });
    more.filter(|(_, more)| *more > 0).collect()
}

#[test]
fn without_retries_each_failure_has_its_flag() {
    let timeout = "      timeouts: {request: 500ms}\n";
    let Some(scene) = Scene::new(
        &["curl"],
        &[Server::Chaos, Server::Echo],
        &(route(83, timeout) + &route(80, "") + POLICY),
    ) else {
        return;
    };
    scene.wait_for_route("all");
    for (wrong, word, flags) in FAILURES {
        let before = scene.flags();
        let said = load(&scene, &format!("plain-{wrong}"), || scene.tell(1, wrong));
        println!("{wrong}: {said}");
        let answers = said["answers"].as_object().unwrap();
        let sum = |wanted: &dyn Fn(&str) -> bool| -> u64 {
            let wanted = answers.iter().filter(|(word, _)| wanted(word));
            wanted.filter_map(|(_, count)| count.as_u64()).sum()
        };
        let (failed, lost) = (sum(&|it| it.contains(word)), sum(&|it| it != "200"));
        assert!(failed > 0, "{wrong}: {said}");
        let told = || flags.is_empty() || raised(&scene, &before).values().sum::<u64>() >= lost;
        harness::wait_for("each failure to have a flag", PATIENCE, told)
            .unwrap_or_else(|error| panic!("{error:#}: {wrong}: {said}, {:?}", scene.flags()));
        let raised = raised(&scene, &before);
        // A machine that has other work may be late with anything.
        let is_right = |flag: &String| flag == "UT" || flags.contains(&flag.as_str());
        assert!(raised.keys().all(is_right), "{wrong}: {said}, {raised:?}");
        let right = raised
            .iter()
            .filter(|(flag, _)| flags.contains(&flag.as_str()));
        let right: u64 = right.map(|(_, count)| count).sum();
        if word != "200" && !flags.is_empty() {
            assert!(right >= failed, "{wrong}: {said}, {raised:?}");
        }
        scene.tell(1, "ok");
    }
}
