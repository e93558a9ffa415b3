//! A small kernel for tests: the same trait over values that a test sets.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use mesh_common::addr::{Addr, PortBe};
use mesh_common::flow::FlowRecord;
use mesh_common::histogram::{BUCKETS, bucket};
use mesh_common::pair::{PairCounters, PairKey};
use mesh_common::path::Path;
use mesh_common::policy::RuleHits;
use mesh_common::reason::Reason;

use crate::model::balanced::PortId;
use crate::model::labels::Labels;
use crate::model::observed::{
    Defect, Hook, KernelView, Level, MapFill, Missing, NodeCounters, ProbeReport, WorkloadState,
    WorkloadStatus,
};
use crate::model::policy::{PolicyKind, PolicyName, RuleName};
use crate::model::service::{Protocol, ServiceName};
use crate::model::workload::{Acceleration, Location, Workload, WorkloadName};
use crate::telemetry::clock::Now;

/// The moment at which tests look at the clocks: 2026-01-02 03:04:05 UTC, 1,000 s after boot.
pub(crate) const NOW: Now = Now {
    monotonic_ns: 1_000_000_000_000,
    wall: Timestamp::constant(1_767_323_045, 0),
};

/// Returns a name.
pub(crate) fn name(namespace: &str, name: &str) -> WorkloadName {
    WorkloadName {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    }
}

/// Returns the name of a policy's rule.
pub(crate) fn rule() -> RuleName {
    RuleName {
        policy: PolicyName {
            kind: PolicyKind::NetworkPolicy,
            namespace: "shop".to_owned(),
            name: "cart".to_owned(),
        },
        direction: "ingress".to_owned(),
        rule: "spec.ingress[0]".to_owned(),
    }
}

fn hits() -> RuleHits {
    RuleHits {
        allowed: 5,
        denied: 0,
        would_deny: 1,
    }
}

/// Returns a TCP port of a service.
pub(crate) fn service(namespace: &str, name: &str, port: u16) -> PortId {
    PortId {
        service: ServiceName {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        },
        port,
        protocol: Protocol::Tcp,
    }
}

/// Returns a flow from `shop/web` (1) to `shop/cart` (2) that was redirected and ended half a second before `NOW`.
pub(crate) fn record(cookie: u64) -> FlowRecord {
    let mut turn_histogram = [0; BUCKETS];
    turn_histogram[bucket(45)] = 4;
    FlowRecord {
        cookie,
        netns: 4_026_531_840,
        start_ns: NOW.monotonic_ns - 2_000_000_000,
        end_ns: NOW.monotonic_ns - 500_000_000,
        tx_bytes: 1_200,
        rx_bytes: 3_400_000,
        tx_messages: 4,
        rx_messages: 120,
        redirect_tx_bytes: 1_200,
        redirect_rx_bytes: 3_400_000,
        turn_sum_us: 180,
        source: Addr::v4([10, 0, 0, 1]),
        destination: Addr::v4([10, 0, 0, 2]),
        source_port: PortBe::new(40_000),
        destination_port: PortBe::new(8080),
        source_id: 1,
        destination_id: 2,
        connect_us: 180,
        srtt_us: 32,
        retransmits: 0,
        turns: 4,
        turn_max_us: 50,
        path: Path::Redirect as u8,
        reason: Reason::None as u8,
        close: 1,
        from_source: 1,
        service: 0,
        rule: 0,
        would_deny: 0,
        protocol: mesh_common::service::TCP,
        _pad: [0; 2],
        _pad2: 0,
        cell: 0,
        turn_histogram,
    }
}

/// Returns a workload of `shop` with these labels.
pub(crate) fn workload(of: &str, labels: Labels) -> Workload {
    Workload {
        name: name("shop", of),
        uid: None,
        labels,
        service_account: "default".to_owned(),
        addresses: Vec::new(),
        node: None,
        ready: true,
        terminating: false,
        ports: Vec::new(),
        location: Location::Addresses,
        enrolled: true,
        started: true,
        containers: Vec::new(),
        acceleration: Acceleration::Off,
        origin: "a test".to_owned(),
    }
}

/// Returns the key of a pair.
pub(crate) fn pair(source_id: u32, destination_id: u32, port: u16, path: Path) -> PairKey {
    PairKey {
        source_id,
        destination_id,
        service: 0,
        destination_port: PortBe::new(port),
        path: path as u8,
        requests: 0,
    }
}

/// Returns counters of some traffic, `scale` times.
pub(crate) fn traffic(scale: u64) -> PairCounters {
    let mut counters = PairCounters {
        tx_bytes: 1_000 * scale,
        rx_bytes: 50_000 * scale,
        tx_messages: 10 * scale,
        rx_messages: 20 * scale,
        opened: 2 * scale,
        closed: scale,
        rtt_sum_us: 90 * scale,
        rtt_samples: scale,
        connect_sum_us: 300 * scale,
        turn_sum_us: 450 * scale,
        ..PairCounters::ZERO
    };
    counters.connect_histogram[bucket(150)] = 2 * scale;
    counters.turn_histogram[bucket(45)] = 10 * scale;
    counters
}

/// What the fake kernel says.
#[derive(Clone, Debug)]
pub(crate) struct FakeState {
    pub(crate) probe: ProbeReport,
    pub(crate) hooks: Vec<Hook>,
    pub(crate) live: Vec<FlowRecord>,
    pub(crate) pairs: BTreeMap<PairKey, PairCounters>,
    pub(crate) counters: NodeCounters,
    pub(crate) maps: Vec<MapFill>,
    pub(crate) workloads: Vec<WorkloadStatus>,
    pub(crate) generation: u64,
    pub(crate) names: BTreeMap<u32, WorkloadName>,
    pub(crate) services: BTreeMap<u32, Arc<PortId>>,
    pub(crate) rules: BTreeMap<u32, (RuleName, RuleHits)>,
    pub(crate) policy_errors: Vec<String>,
    pub(crate) broken: bool,
}

/// A kernel that says what a test wants.
#[derive(Debug)]
pub(crate) struct FakeKernel(Mutex<FakeState>);

impl FakeKernel {
    /// Changes what it says.
    pub(crate) fn change(&self, f: impl FnOnce(&mut FakeState)) {
        f(&mut self.0.lock().unwrap());
    }

    fn state(&self) -> FakeState {
        self.0.lock().unwrap().clone()
    }

    fn read(&self) -> anyhow::Result<FakeState> {
        let state = self.state();
        anyhow::ensure!(!state.broken, "failed to read map `pairs`");
        Ok(state)
    }
}

impl Default for FakeKernel {
    fn default() -> Self {
        Self(Mutex::new(FakeState {
            probe: probe(),
            hooks: hooks(),
            live: vec![FlowRecord {
                end_ns: 0,
                close: 0,
                ..record(99)
            }],
            pairs: BTreeMap::from([
                (pair(1, 2, 8080, Path::Redirect), traffic(10)),
                (pair(1, 2, 8080, Path::Tcp), traffic(1)),
                (pair(0, 1, 443, Path::Tcp), traffic(2)),
            ]),
            counters: NodeCounters {
                messages_redirected: 300,
                flows_ended: vec![
                    (Path::Redirect, Reason::None, 10),
                    (Path::Tcp, Reason::PeerElsewhere, 3),
                ],
                ..NodeCounters::default()
            },
            maps: vec![
                MapFill {
                    map: "sockets".into(),
                    used: 1_234,
                    max: 65_536,
                },
                MapFill {
                    map: "pairs".into(),
                    used: 3,
                    max: 8_192,
                },
            ],
            workloads: workloads(),
            generation: 7,
            names: BTreeMap::from([(1, name("shop", "web")), (2, name("shop", "cart"))]),
            services: BTreeMap::from([(1, Arc::new(service("shop", "cart", 80)))]),
            rules: BTreeMap::from([(7, (rule(), hits()))]),
            policy_errors: Vec::new(),
            broken: false,
        }))
    }
}

fn probe() -> ProbeReport {
    ProbeReport {
        kernel: "6.12.9-amd64".into(),
        level: Level::Applications,
        why: vec![],
        defects: vec![Defect {
            name: "fionread-zero".into(),
            words: "ioctl(FIONREAD) says 0 while redirected bytes wait".into(),
            forbids: vec!["fionread".into()],
        }],
        missing: vec![Missing {
            feature: "tracepoint sock_recv_length (kernel 6.3)".into(),
            lost: "messages received are not counted".into(),
        }],
        took_ms: 142,
    }
}

fn hooks() -> Vec<Hook> {
    let hook = |program: &str, hook: &str, attached| Hook {
        program: program.into(),
        hook: hook.into(),
        attached,
        error: None,
    };
    vec![
        hook("mesh_established", "sock_ops /sys/fs/cgroup", Some(true)),
        hook("mesh_redirect", "sk_msg sockets", Some(true)),
        hook("mesh_observe_splice", "tracepoint sys_enter_splice", None),
    ]
}

fn workloads() -> Vec<WorkloadStatus> {
    let workload = |id, pod: &str, state, why: &str, behaviours| WorkloadStatus {
        name: name("shop", pod),
        id,
        netns: 4_026_532_000 + u64::from(id),
        addresses: vec![std::net::IpAddr::from([
            10,
            0,
            0,
            u8::try_from(id).unwrap(),
        ])],
        acceleration: Acceleration::Auto,
        state,
        why: why.into(),
        note: String::new(),
        absent: None,
        behaviours,
    };
    vec![
        workload(2, "cart", WorkloadState::Accelerated, "", 0),
        workload(
            3,
            "db",
            WorkloadState::NotAccelerated,
            "splice(2) from a TCP socket",
            mesh_common::behaviour::SPLICE,
        ),
        workload(1, "web", WorkloadState::Accelerated, "", 0),
        workload(4, "worker", WorkloadState::Observing, "12 s of 30 s", 0),
    ]
}

impl KernelView for FakeKernel {
    fn probe(&self) -> Arc<ProbeReport> {
        Arc::new(self.state().probe)
    }

    fn hooks(&self) -> Vec<Hook> {
        self.state().hooks
    }

    fn live_flows(&self) -> anyhow::Result<Vec<FlowRecord>> {
        Ok(self.read()?.live)
    }

    fn pairs(&self) -> anyhow::Result<Vec<(PairKey, PairCounters)>> {
        Ok(self.read()?.pairs.into_iter().collect())
    }

    fn counters(&self) -> anyhow::Result<NodeCounters> {
        Ok(self.read()?.counters)
    }

    fn map_fill(&self) -> anyhow::Result<Vec<MapFill>> {
        Ok(self.read()?.maps)
    }

    fn workloads(&self) -> Vec<WorkloadStatus> {
        self.state().workloads
    }

    fn generation(&self) -> u64 {
        self.state().generation
    }

    fn service(&self, number: u32) -> Option<Arc<PortId>> {
        self.state().services.get(&number).cloned()
    }

    fn rule(&self, number: u32) -> Option<RuleName> {
        self.state()
            .rules
            .get(&number)
            .map(|(name, _)| name.clone())
    }

    fn rule_hits(&self) -> anyhow::Result<Vec<(Option<RuleName>, RuleHits)>> {
        let state = self.state();
        let named = state.rules.values();
        let named = named.map(|(name, hits)| (Some(name.clone()), *hits));
        Ok(std::iter::once((None, RuleHits::default()))
            .chain(named)
            .collect())
    }

    fn policy_errors(&self) -> Vec<String> {
        self.state().policy_errors.clone()
    }

    fn name(&self, id: u32) -> Option<WorkloadName> {
        self.state().names.get(&id).cloned()
    }
}
