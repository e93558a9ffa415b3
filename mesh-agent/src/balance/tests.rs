//! Whole passes: what is kept, what is decided anew, and against an obvious model.

use std::time::Instant;

use mesh_common::balance::Algorithm;
use proptest::prelude::*;

use super::*;
use crate::level::{Level, PANIC_PERCENT, loads};
use crate::model::balanced::Candidate;
use crate::model::endpoint::{Checked, EndpointHealth, EndpointState, Sign, Why};
use crate::model::service::{
    Balance, Distribution, Drain, Endpoint, HealthCheck, Port, Probe, Protocol,
};

pub(crate) fn here() -> Here {
    Here {
        node: "n1".into(),
        zone: Some("a".into()),
        region: Some("r".into()),
    }
}

pub(crate) fn endpoint(number: u8) -> Endpoint {
    Endpoint {
        address: [10, 0, 0, number].into(),
        port: 8080,
        ready: true,
        serving: true,
        terminating: false,
        node: None,
        zone: None,
        region: None,
        hints: None,
        weight: 1,
        priority: 0,
        workload: None,
        hostname: None,
        checked_elsewhere: false,
    }
}

pub(crate) fn service(endpoints: Vec<Endpoint>) -> Service {
    named("web", endpoints)
}

fn named(name: &str, endpoints: Vec<Endpoint>) -> Service {
    Service {
        name: ServiceName {
            namespace: "shop".into(),
            name: name.into(),
        },
        kind: ServiceKind::ClusterIp,
        addresses: vec![[10, 96, 0, 1].into()],
        external_addresses: Vec::new(),
        ports: vec![Port {
            name: None,
            number: 80,
            protocol: Protocol::Tcp,
            node_port: None,
            app_protocol: None,
            endpoints,
        }],
        portless: Vec::new(),
        affinity: None,
        local_only: false,
        distribution: Distribution::Any,
        publish_not_ready: false,
        balance: Balance::default(),
        origin: "test".into(),
    }
}

fn checked(mut service: Service) -> Service {
    service.balance.health_check = Some(HealthCheck {
        probe: Probe::Tcp,
        interval: Duration::from_secs(5),
        timeout: Duration::from_secs(1),
        unhealthy: 3,
        healthy: 2,
    });
    service
}

fn address(number: u8) -> SocketAddr {
    ([10, 0, 0, number], 8080).into()
}

/// A balancer with its inputs.
struct World {
    balancer: Balancer,
    services: Arc<Services>,
    health: Health,
    now: Duration,
}

impl World {
    fn new(services: impl IntoIterator<Item = Service>) -> Self {
        let mut world = Self {
            balancer: Balancer::new(Chance::seeded(7)),
            services: Arc::default(),
            health: Health::new(),
            now: Duration::from_secs(1000),
        };
        services.into_iter().for_each(|service| world.put(service));
        world
    }

    fn put(&mut self, service: Service) {
        let name = service.name.clone();
        Arc::make_mut(&mut self.services).insert(name, Arc::new(service));
    }

    fn check(&mut self, results: &[(u8, bool)]) {
        let checks = results.iter().map(|(number, healthy)| {
            let error = (!healthy).then(|| "refused".into());
            let healthy = *healthy;
            (address(*number), Checked { healthy, error })
        });
        let name = service(Vec::new()).name;
        self.health.insert(name, Arc::new(checks.collect()));
    }

    fn pass(&mut self) -> Arc<Ports> {
        let before = self.balancer.ports();
        let changed = self.balancer.pass(&Input {
            services: &self.services,
            health: &self.health,
            here: &here(),
            now: self.now,
        });
        let after = self.balancer.ports();
        let mut pairs = before.iter().zip(after.iter());
        let same = before.len() == after.len() && pairs.all(|(a, b)| Arc::ptr_eq(a.1, b.1));
        assert_eq!(changed, !same);
        after
    }

    /// Passes and returns the weight of each target by the last byte of its address.
    fn weights(&mut self) -> Vec<(u8, u32)> {
        let ports = self.pass();
        let balanced = ports.values().next().unwrap();
        let number = |address: SocketAddr| match address.ip() {
            IpAddr::V4(ip) => ip.octets()[3],
            IpAddr::V6(ip) => ip.octets()[15],
        };
        let targets = balanced.targets.iter();
        targets.map(|it| (number(it.address), it.weight)).collect()
    }

    fn states(&self) -> Vec<EndpointState> {
        self.balancer.states(self.now, None)
    }

    fn whys(&self) -> Vec<Option<Why>> {
        self.states().into_iter().map(|state| state.why).collect()
    }

    /// One second later, with these numbers of picked and failed connects for each endpoint of the first service.
    fn second(&mut self, counters: &[(u8, u64, u32)]) {
        self.now += Duration::from_secs(1);
        let counters = counters.iter().map(|(number, picked, failed)| {
            let counters = BackendCounters {
                picked: *picked,
                failed: *failed,
                ..BackendCounters::default()
            };
            (address(*number), counters)
        });
        let id = self.pass().keys().next().unwrap().clone();
        self.balancer
            .observe(self.now, &[(Arc::new(id), counters.collect())]);
    }
}

#[test]
fn a_plain_service_is_balanced_by_its_weights() {
    let mut heavy = endpoint(2);
    heavy.weight = 3;
    let mut world = World::new([service(vec![endpoint(1), heavy])]);
    assert_eq!(world.weights(), [(1, 1), (2, 3)]);
    let ports = world.pass();
    let balanced = ports.values().next().unwrap();
    assert_eq!(balanced.frontends, ["10.96.0.1:80".parse().unwrap()]);
    assert_eq!(balanced.algorithm, Algorithm::Random);
    assert_eq!(balanced.drain, Drain::Keep);
    assert!(balanced.resting.is_empty() && !balanced.drops);
    let shares: Vec<f64> = world.states().iter().map(|state| state.share).collect();
    assert_eq!(shares, [0.25, 0.75]);
}

#[test]
fn headless_services_have_endpoints_and_nothing_to_dial_and_external_ones_neither() {
    let mut headless = service(vec![endpoint(1), endpoint(2)]);
    headless.kind = ServiceKind::Headless;
    headless.addresses.clear();
    let mut external = named("ext", vec![]);
    external.kind = ServiceKind::ExternalName("example.org".into());
    let ports = World::new([headless, external]).pass();
    let all: Vec<_> = ports.values().collect();
    assert_eq!(all.len(), 1);
    assert_eq!((all[0].targets.len(), all[0].frontends.len()), (2, 0));
}

#[test]
fn what_does_not_change_keeps_its_pointer() {
    let mut world = World::new([service(vec![endpoint(1)]), named("b", vec![endpoint(2)])]);
    let before = world.pass();
    let again = world.pass();
    assert!(
        before
            .iter()
            .zip(again.iter())
            .all(|(a, b)| Arc::ptr_eq(a.1, b.1))
    );
    world.put(named("b", vec![endpoint(2), endpoint(3)]));
    world.put(service(vec![endpoint(1)]));
    let after = world.pass();
    let kept: Vec<bool> = before
        .iter()
        .map(|(id, it)| Arc::ptr_eq(it, &after[id]))
        .collect();
    assert_eq!(
        kept,
        [false, true],
        "the second is another object, but equal"
    );
    world.services = Arc::default();
    assert!(world.pass().is_empty());
}

#[test]
fn active_checks_take_out_and_bring_back_by_slow_start() {
    let mut slow = checked(service(vec![endpoint(1), endpoint(2)]));
    slow.balance.slow_start = Some(Duration::from_secs(10));
    let mut world = World::new([slow]);
    assert_eq!(
        world.weights(),
        [(1, 1), (2, 1)],
        "no result yet, and no slow start at first"
    );
    world.check(&[(1, true), (2, false)]);
    assert_eq!(world.weights(), [(1, 1)]);
    let refused = Why::Unhealthy {
        error: "refused".into(),
    };
    assert_eq!(world.whys(), [None, Some(refused)]);
    assert_eq!(world.pass().values().next().unwrap().resting, [address(2)]);
    world.check(&[(1, true), (2, true)]);
    assert_eq!(world.weights(), [(1, 10), (2, 1)]);
    assert!(world.states()[1].slow_start);
    world.now += Duration::from_secs(5);
    assert_eq!(world.weights(), [(1, 2), (2, 1)]);
    world.now += Duration::from_secs(5);
    assert_eq!(world.weights(), [(1, 1), (2, 1)]);
    assert_eq!(world.balancer.wake(), None);
}

#[test]
fn a_good_answer_does_not_make_ready() {
    let mut expired = endpoint(2);
    expired.ready = false;
    let mut world = World::new([checked(service(vec![endpoint(1), expired]))]);
    world.check(&[(1, true), (2, true)]);
    assert_eq!(world.weights(), [(1, 1)]);
    assert_eq!(world.whys(), [None, Some(Why::NotReady)]);
    assert_eq!(world.states()[1].health, EndpointHealth::NotReady);
    // Not even when all others fail.
    world.check(&[(1, false), (2, true)]);
    assert_eq!(world.weights(), [(1, 1)]);
}

#[test]
fn when_too_few_are_healthy_all_get_connections() {
    let mut world = World::new([checked(service((1..=3).map(endpoint).collect()))]);
    world.check(&[(1, false), (2, false), (3, true)]);
    assert_eq!(world.weights(), [(1, 1), (2, 1), (3, 1)]);
    assert!(
        world
            .states()
            .iter()
            .all(|state| state.panic && state.why.is_none())
    );
    world.check(&[(1, false), (2, false), (3, false)]);
    assert_eq!(world.weights().len(), 3, "the last resort");
    world.check(&[(1, false), (2, true), (3, true)]);
    assert_eq!(world.weights(), [(2, 1), (3, 1)]);
}

#[test]
fn priorities_and_zones_spill_over() {
    let at = |number, priority, zone: &str| Endpoint {
        priority,
        zone: Some(zone.into()),
        ..endpoint(number)
    };
    let mut both = checked(service(vec![
        at(1, 0, "a"),
        at(2, 0, "a"),
        at(3, 0, "b"),
        at(4, 1, "a"),
    ]));
    both.distribution = Distribution::SameZone;
    let mut world = World::new([both]);
    assert_eq!(world.weights(), [(1, 1), (2, 1)]);
    let listed = |world: &mut World| -> Vec<_> {
        let ports = world.pass();
        let listed = ports.values().flat_map(|port| &port.candidates);
        let shown = |it: &Candidate| (it.level, it.target.weight, it.is_healthy);
        listed.map(shown).collect()
    };
    let all = [(0, 1, true), (0, 1, true), (1, 1, true), (2, 1, true)];
    assert_eq!(listed(&mut world), all);
    let (zone, lower) = (Some(Why::OtherZone), Some(Why::LowerPriority));
    assert_eq!(world.whys(), [None, None, zone, lower.clone()]);
    // Half of the zone: 70 % stay, 30 % go to the other zone, none to the next priority.
    world.check(&[(2, false)]);
    assert_eq!(world.weights(), [(1, 233), (3, 100)]);
    assert_eq!(world.whys()[3], lower);
    assert_eq!(listed(&mut world)[..2], [(0, 1, true), (0, 1, false)]);
    world.check(&[(1, false), (2, false), (3, false)]);
    assert_eq!(world.weights(), [(4, 1)]);
}

#[test]
fn each_family_is_balanced_by_itself() {
    let six = Endpoint {
        address: "fd00::9".parse().unwrap(),
        priority: 5,
        ..endpoint(9)
    };
    let mut world = World::new([service(vec![endpoint(1), six.clone()])]);
    assert_eq!(world.weights(), [(1, 1)]);
    assert_eq!(world.whys()[1], Some(Why::OtherFamily));
    let mut dual = service(vec![endpoint(1), six]);
    dual.addresses.push("fd00:96::1".parse().unwrap());
    world.put(dual);
    assert_eq!(
        world.weights(),
        [(1, 1), (9, 1)],
        "priority 5 is the first of its family"
    );
}

#[test]
fn a_dead_endpoint_is_ejected_and_comes_back() {
    let mut world = World::new([service((1..=4).map(endpoint).collect())]);
    world.second(&[(1, 0, 0), (2, 0, 0)]);
    world.second(&[(1, 5, 5), (2, 5, 0)]);
    assert_eq!(world.weights(), [(2, 1), (3, 1), (4, 1)]);
    let state = &world.states()[0];
    assert_eq!(state.health, EndpointHealth::Ejected);
    let Some(Why::Ejected { sign, for_s }) = state.why else {
        panic!("{:?}", state.why);
    };
    assert_eq!(sign, Sign::ConnectFailures);
    assert!((30..=33).contains(&for_s), "{for_s}");
    // One at a time of so few.
    world.second(&[(2, 20, 10)]);
    assert_eq!(world.weights().len(), 3);
    world.now = world.balancer.wake().unwrap();
    assert_eq!(world.weights().len(), 4);
    // Again, for longer; and a new snapshot changes nothing about it.
    world.second(&[(1, 5, 5), (2, 25, 10)]);
    world.second(&[(1, 10, 10), (2, 30, 10)]);
    world.put(service((1..=5).map(endpoint).collect()));
    assert_eq!(world.weights().len(), 4);
    let until = world.balancer.wake().unwrap() - world.now;
    assert!(until >= Duration::from_secs(60), "{until:?}");
    // It goes with the endpoint.
    world.put(service((2..=5).map(endpoint).collect()));
    world.pass();
    world.put(service((1..=5).map(endpoint).collect()));
    assert_eq!(world.weights().len(), 5);
}

#[test]
fn an_endpoint_that_nobody_dials_has_no_signs_and_its_first_failures_count() {
    let mut world = World::new([service(vec![endpoint(1), endpoint(2)])]);
    let kept = |world: &World| -> Vec<bool> {
        let ports = world.balancer.services.values().flat_map(|it| &it.ports);
        let tracks = ports.flat_map(|port| &port.tracks);
        tracks.map(|track| track.passive.is_some()).collect()
    };
    world.second(&[(1, 0, 0), (2, 0, 0)]);
    assert_eq!(kept(&world), [false, false]);
    world.second(&[(1, 5, 5), (2, 0, 0)]);
    assert_eq!(kept(&world), [true, false]);
    assert_eq!(world.weights(), [(2, 1)]);
}

#[test]
fn without_outlier_detection_nobody_is_ejected() {
    let mut calm = service((1..=4).map(endpoint).collect());
    calm.balance.outlier_detection = false;
    let mut world = World::new([calm]);
    world.second(&[(1, 0, 0)]);
    world.second(&[(1, 500, 500)]);
    assert_eq!(world.weights().len(), 4);
}

fn any_endpoint() -> impl Strategy<Value = Endpoint> {
    let zone = prop::option::of(prop::sample::select(vec!["a", "b"]));
    let flags = (any::<bool>(), any::<bool>(), prop::bool::weighted(0.2));
    (flags, zone, 0u32..3, 0u32..4).prop_map(
        |((ready, serving, terminating), zone, priority, weight)| Endpoint {
            ready: ready && !terminating,
            serving,
            terminating,
            zone: zone.map(Into::into),
            priority,
            weight,
            ..endpoint(0)
        },
    )
}

/// Returns what each candidate gets.
fn by_level(candidates: &[Candidate]) -> Vec<(SocketAddr, f64)> {
    let levels: Vec<_> = candidates
        .chunk_by(|one, other| one.level == other.level)
        .collect();
    let of = |level: &&[Candidate]| Level {
        total: u32::try_from(level.len()).unwrap(),
        healthy: u32::try_from(level.iter().filter(|it| it.is_healthy).count()).unwrap(),
    };
    let loads = loads(&levels.iter().map(of).collect::<Vec<_>>(), PANIC_PERCENT);
    let mut shares = Vec::new();
    for (level, load) in levels.iter().zip(loads) {
        let gets = |it: &Candidate| load.panic || it.is_healthy;
        let weight = |it: &Candidate| f64::from(it.target.weight) * f64::from(u8::from(gets(it)));
        let sum: f64 = level.iter().map(weight).sum();
        let share = |it: &Candidate| match sum > 0.0 {
            true => load.share * weight(it) / sum,
            false => 0.0,
        };
        shares.extend(level.iter().map(|it| (it.target.address, share(it))));
    }
    shares
}

proptest! {
    /// Somebody answers exactly when Kubernetes' rules leave somebody with a weight; and nobody gets connections without them.
    #[test]
    fn somebody_answers_if_anybody_could(mut endpoints in prop::collection::vec(any_endpoint(), 0..12), ill in prop::collection::btree_set(0u8..12, 0..12)) {
        for (endpoint, number) in endpoints.iter_mut().zip(0..) {
            endpoint.address = [10, 0, 0, number].into();
        }
        let any_ready = endpoints.iter().any(|it| it.ready);
        let could = |it: &Endpoint| it.weight > 0 && if any_ready { it.ready } else { it.serving && it.terminating };
        let expected: BTreeSet<SocketAddr> = endpoints.iter().filter(|it| could(it)).map(|it| SocketAddr::new(it.address, it.port)).collect();
        let mut it = checked(service(endpoints.clone()));
        it.distribution = Distribution::SameZone;
        let mut world = World::new([it]);
        world.check(&ill.iter().map(|number| (*number, false)).collect::<Vec<_>>());
        let ports = world.pass();
        let balanced = ports.values().next().unwrap();
        let got: BTreeSet<SocketAddr> = balanced.targets.iter().map(|it| it.address).collect();
        prop_assert!(got.is_subset(&expected));
        prop_assert_eq!(got.is_empty(), expected.is_empty());
        prop_assert!(balanced.targets.iter().all(|it| it.weight > 0));
        // Every endpoint is accounted for, once.
        prop_assert_eq!(balanced.targets.len() + balanced.resting.len(), endpoints.len());
        let states = world.states();
        prop_assert!(states.iter().all(|state| (state.weight > 0) == state.why.is_none()));
        // Requests go by the same shares, as long as no endpoint is ejected for its answers.
        prop_assert_eq!(by_level(&balanced.candidates).is_empty(), balanced.candidates.is_empty());
        let sum: f64 = balanced.targets.iter().map(|it| f64::from(it.weight)).sum();
        for (address, share) in by_level(&balanced.candidates) {
            let target = balanced.targets.iter().find(|it| it.address == address);
            let has = target.map_or(0.0, |it| f64::from(it.weight) / sum);
            prop_assert!((has - share).abs() < 0.01, "{address}: {has} instead of {share}");
        }
        // A healthy one with nothing to do means that one as good or better is used.
        let share: f64 = states.iter().map(|state| state.share).sum();
        prop_assert!(got.is_empty() || (share - 1.0).abs() < 1e-9);
    }
}

/// A first pass over as much as Kubernetes supports is quick, and one changed service costs next to nothing beside it. Printed,
/// with a bound that only a mistake in the order of growth exceeds.
#[test]
fn ten_thousand_services_are_settled_at_once() {
    let services = (0..10_000u32).map(|number| {
        let endpoint = |n: u8| Endpoint {
            address: IpAddr::from((number * 10 + u32::from(n)).to_be_bytes()),
            ..endpoint(n)
        };
        named(&format!("s{number:05}"), (0..10).map(endpoint).collect())
    });
    let mut world = World::new(services);
    let start = Instant::now();
    assert_eq!(world.pass().len(), 10_000);
    let first = start.elapsed();
    world.put(named("s05000", vec![endpoint(1)]));
    let start = Instant::now();
    world.pass();
    let one = start.elapsed();
    println!("first pass {first:?}, one changed service {one:?}");
    assert!(first < Duration::from_secs(10) && one < Duration::from_secs(1));
}
