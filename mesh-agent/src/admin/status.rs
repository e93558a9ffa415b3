//! How everything stands, and whether that is well.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::PoisonError;

use jiff::{SignedDuration, Timestamp};
use mesh_common::behaviour;
use mesh_common::flow::FlowRecord;
use mesh_common::reason::Reason;
use tokio::time::Instant;

use crate::admin::pairs::totals;
use crate::admin::types::balancing::CLUSTER_IP;
use crate::admin::types::{
    Agent, Config, DataPathSummary, DnsSummary, FlowCount, LossCounts, Losses, ReasonCount,
    STATUS_SCHEMA, ServiceSummary, StateCount, Status, Workload, WorkloadSummary,
};
use crate::admin::{Admin, ServiceSources, balancing};
use crate::model::api::{ApiState, ApiStatus};
use crate::model::balanced::Unbalanced;
use crate::model::endpoint::EndpointHealth;
use crate::model::enrolment::{self, Enrolment};
use crate::model::observed::{WorkloadState, WorkloadStatus};
use crate::telemetry::dns::{DnsCounters, DnsOutcome};
use crate::telemetry::flow::{UNKNOWN, path_label};
use crate::telemetry::metrics::services::ServiceState;

/// A map this full has room for minutes, not for hours.
const MAP_FULL_PERCENT: u64 = 90;

/// Service ports that are not balanced, told one by one: a screen of them. Where there are more, they have one cause.
const PROBLEMS_MAX: usize = 20;

/// Watches end and begin anew all the time.
const API_PATIENCE: SignedDuration = SignedDuration::from_secs(10);

/// Returns how everything stands. What cannot be read is left empty and makes the agent degraded.
pub(super) fn status(admin: &Admin) -> Status {
    let sources = &admin.sources;
    let kernel = &sources.kernel;
    let mut degraded = Vec::new();
    // Live flows first: reading them brings the pairs up to date.
    let live = read(&mut degraded, kernel.live_flows());
    let pairs = read(&mut degraded, kernel.pairs());
    let counters = read(&mut degraded, kernel.counters());
    let maps = read(&mut degraded, kernel.map_fill());
    let snapshot = sources.snapshot.load();
    let workloads = workloads(admin);
    let mut status = Status {
        schema: STATUS_SCHEMA.to_owned(),
        degraded,
        agent: agent(admin),
        kernel: kernel.probe().as_ref().clone(),
        hooks: kernel.hooks(),
        redirect_allowed: sources.control.redirect_allowed(),
        config: Config {
            generation: snapshot.generation,
            kernel_generation: kernel.generation(),
            errors: snapshot.errors.clone(),
        },
        kubernetes: sources
            .api
            .as_ref()
            .map(|api| ApiStatus::clone(&api.borrow())),
        enrolment: Enrolment::of(&workloads),
        workloads: summary(workloads),
        services: services(&sources.services),
        dns: dns(&sources.dns),
        data_path: data_path(admin, counters.captured.open),
        live_flows: live_counts(&live),
        totals: totals(&pairs),
        maps,
        losses: losses(admin, LossCounts::from(&counters)),
    };
    for error in kernel.policy_errors() {
        let closed = format!("policy is not in force as configured, and closed by that: {error}");
        status.degraded.push(closed);
    }
    let found = faults(&status);
    status.degraded.extend(found);
    status
}

/// Returns every workload as it stands, by name, with those that the kernel is not asked about.
pub(super) fn workloads(admin: &Admin) -> Vec<WorkloadStatus> {
    let sources = &admin.sources;
    let mut workloads = sources.kernel.workloads();
    let beside = enrolment::beside(&sources.snapshot.load(), &sources.node);
    if !beside.is_empty() {
        workloads.extend(beside);
        workloads.sort_by(|one, other| one.name.cmp(&other.name));
    }
    workloads
}

/// Returns a workload as JSON shows it.
pub(super) fn workload(status: WorkloadStatus) -> Workload {
    let seen = behaviour::ALL
        .iter()
        .filter(|(bit, ..)| status.behaviours & bit != 0);
    Workload {
        namespace: status.name.namespace,
        name: status.name.name,
        addresses: status.addresses,
        mode: status.acceleration.word().to_owned(),
        state: status.state,
        why: status.why,
        note: status.note,
        absent: status.absent,
        behaviours: seen.map(|(_, label, _)| (*label).to_owned()).collect(),
        id: status.id,
        netns: status.netns,
    }
}

/// Returns what is wrong, the worst first.
///
/// What the operator asked for (the kill switch) and what nobody can help (the kernel's level) is shown, but no fault.
fn faults(status: &Status) -> Vec<String> {
    let mut faults = Vec::new();
    for hook in status.hooks.iter().filter(|h| h.attached == Some(false)) {
        let why = hook.error.as_deref().unwrap_or("no error was given");
        faults.push(format!("`{}` is not attached: {why}", hook.program));
    }
    if !status.agent.pending.is_empty() {
        faults.push(format!("waiting for {}", status.agent.pending.join(", ")));
    }
    let config = &status.config;
    if !config.errors.is_empty() {
        faults.push(format!("configuration errors: {}", config.errors.len()));
    }
    faults.extend(status.kubernetes.as_ref().and_then(api_fault));
    if config.kernel_generation < config.generation {
        faults.push(format!(
            "the kernel maps are behind: generation {} of {}",
            config.kernel_generation, config.generation
        ));
    }
    let missed = &status.enrolment.not_captured;
    let missed = missed.iter().filter(|it| it.reason.is_fault()).count();
    if missed > 0 {
        let pods = if missed == 1 { "pod" } else { "pods" };
        faults.push(format!("in the mesh and not captured: {missed} {pods}"));
    }
    for problem in &status.services.problems {
        faults.push(format!("not balanced as configured: {problem}"));
    }
    if let Some(problem) = &status.data_path.problem {
        faults.push(format!("no connection can be led to the agent: {problem}"));
    }
    for map in &status.maps {
        if map.max > 0 && map.used * 100 >= map.max * MAP_FULL_PERCENT {
            let percent = map.used * 100 / map.max;
            faults.push(format!("map `{}` is {percent}% full", map.map));
        }
    }
    let lost = &status.losses.recent;
    for (count, what) in [
        (lost.flow_records, "flow records lost"),
        (lost.pairs_overflowed, "pair counters in the overflow row"),
        (lost.socket_state, "sockets not counted"),
        (lost.stalls, "stalled flows reset"),
        (lost.spurious_eagain, "spurious EAGAINs"),
    ] {
        if count > 0 {
            faults.push(format!("{what} lately: {count}"));
        }
    }
    faults
}

/// Returns what is wrong with the API server, if it is for longer than a watch takes to begin anew.
fn api_fault(api: &ApiStatus) -> Option<String> {
    let why = api.why.as_deref().unwrap_or("it is still being listed");
    let age = Timestamp::now().duration_since(api.since);
    match api.state {
        ApiState::Synced => None,
        ApiState::Starting => Some(match api.from_disk {
            Some(at) => format!("running what was kept on disk at {at}: {why}"),
            None => format!("not everything was told by the Kubernetes API server: {why}"),
        }),
        ApiState::Behind if age <= API_PATIENCE => None,
        ApiState::Behind => Some(format!("behind the Kubernetes API server: {why}")),
    }
}

fn services(sources: &ServiceSources) -> ServiceSummary {
    let mut summary = ServiceSummary::default();
    balancing::each(sources, |service| {
        summary.total += 1;
        summary.balanced += usize::from(service.balanced);
        if service.kind == CLUSTER_IP {
            match balancing::state(&service) {
                ServiceState::NotInForce => summary.not_in_force += 1,
                ServiceState::WithoutBackend => summary.without_backend += 1,
                ServiceState::Panic => summary.in_panic += 1,
                ServiceState::Balanced => {}
            }
        }
        let backends = service.ports.iter().flat_map(|port| &port.backends);
        let ejected = backends.filter(|backend| backend.health == EndpointHealth::Ejected);
        summary.ejected_endpoints += ejected.count();
    });
    let unbalanced = sources.unbalanced.borrow();
    let problem = |Unbalanced { id, why }: &Unbalanced| {
        format!(
            "{} port {}/{}: {why}",
            id.service,
            id.port,
            id.protocol.word()
        )
    };
    let problems = unbalanced.iter().take(PROBLEMS_MAX).map(problem);
    summary.problems = problems.collect();
    summary
}

fn dns(counters: &DnsCounters) -> DnsSummary {
    let count = |(outcome, word): (DnsOutcome, &str)| (word.to_owned(), counters.get(outcome));
    DnsSummary {
        listening_workloads: counters.listening(),
        queries: DnsOutcome::ALL.map(count).into(),
    }
}

fn data_path(admin: &Admin, connections: u64) -> DataPathSummary {
    let state = &admin.sources.data_path;
    DataPathSummary {
        ports: admin.sources.services.proxied.borrow().len(),
        threads: state.threads(),
        listening_workloads: state.listening(),
        connections,
        problem: state.problem(),
    }
}

fn agent(admin: &Admin) -> Agent {
    let uptime = Timestamp::now().as_second() - admin.started.as_second();
    let pending = admin.sources.readiness.pending();
    Agent {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        node: admin.sources.node.clone(),
        started: admin.started,
        uptime_seconds: u64::try_from(uptime).unwrap_or(0),
        pending,
    }
}

fn losses(admin: &Admin, total: LossCounts) -> Losses {
    let samples = admin.losses.lock().unwrap_or_else(PoisonError::into_inner);
    let (recent, window) = samples.recent(Instant::now(), total);
    Losses {
        recent_seconds: window.as_secs(),
        recent,
        total,
        by_followers: admin.sources.hub.lost_by_followers(),
    }
}

fn summary(workloads: Vec<WorkloadStatus>) -> WorkloadSummary {
    let mut states = BTreeMap::<WorkloadState, usize>::new();
    let mut reasons = BTreeMap::<(WorkloadState, String), usize>::new();
    for workload in &workloads {
        *states.entry(workload.state).or_default() += 1;
        if matches!(
            workload.state,
            WorkloadState::NotAccelerated | WorkloadState::NotFound | WorkloadState::Rejected
        ) {
            let reason = (workload.state, workload.why.clone());
            *reasons.entry(reason).or_default() += 1;
        }
    }
    let mut reasons: Vec<_> = reasons
        .into_iter()
        .map(|((state, why), count)| ReasonCount { state, why, count })
        .collect();
    reasons.sort_by_key(|reason| std::cmp::Reverse(reason.count));
    WorkloadSummary {
        total: workloads.len(),
        states: states
            .into_iter()
            .map(|(state, count)| StateCount { state, count })
            .collect(),
        reasons,
        not_accelerated: workloads
            .into_iter()
            .filter(|workload| {
                // Those on other nodes are many, and nothing is wrong with them.
                !matches!(
                    workload.state,
                    WorkloadState::Accelerated
                        | WorkloadState::Elsewhere
                        | WorkloadState::NotEnrolled
                        | WorkloadState::HostNetwork
                )
            })
            .map(workload)
            .collect(),
    }
}

fn live_counts(live: &[FlowRecord]) -> Vec<FlowCount> {
    let mut counts = BTreeMap::<(u8, u8), usize>::new();
    for flow in live {
        *counts.entry((flow.path, flow.reason)).or_default() += 1;
    }
    let mut counts: Vec<_> = counts
        .into_iter()
        .map(|((path, reason), count)| {
            let reason = Reason::from_number(reason);
            FlowCount {
                path: path_label(path).to_owned(),
                reason: reason.map_or(UNKNOWN, Reason::label).to_owned(),
                reason_text: reason.map_or(UNKNOWN, Reason::words).to_owned(),
                count,
            }
        })
        .collect();
    counts.sort_by_key(|count| std::cmp::Reverse(count.count));
    counts
}

fn read<T: Default>(degraded: &mut Vec<String>, result: anyhow::Result<T>) -> T {
    result.unwrap_or_else(|error| {
        degraded.push(format!("{error:#}"));
        T::default()
    })
}
