//! What telemetry and the admin API see of the kernel.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use mesh_common::flow::FlowRecord;
use mesh_common::pair::{PairCounters, PairKey};
use mesh_common::path::Path;
use mesh_common::policy::RuleHits;
use mesh_common::reason::Reason;
use mesh_common::stats;

use crate::kernel::{Kernel, lock};
use crate::model::balanced::PortId;
use crate::model::observed::{
    Hook, KernelView, MapFill, NodeCounters, ProbeReport, WorkloadStatus,
};
use crate::model::policy::RuleName;
use crate::model::workload::WorkloadName;

impl KernelView for Kernel {
    fn probe(&self) -> Arc<ProbeReport> {
        Arc::new(self.findings.report.clone())
    }

    fn hooks(&self) -> Vec<Hook> {
        let mut hooks = self.hooks.clone();
        hooks.extend(lock(&self.observer).hooks());
        hooks
    }

    fn live_flows(&self) -> anyhow::Result<Vec<FlowRecord>> {
        Ok(self.live()?)
    }

    fn pairs(&self) -> anyhow::Result<Vec<(PairKey, PairCounters)>> {
        let mut pairs = Vec::new();
        self.maps.pairs.for_each(|key, cpus| {
            let mut sum = PairCounters::ZERO;
            cpus.iter().for_each(|cpu| sum.add(cpu));
            pairs.push((*key, sum));
        })?;
        Ok(pairs)
    }

    fn counters(&self) -> anyhow::Result<NodeCounters> {
        let mut flows_ended = Vec::new();
        for path in Path::ALL {
            for reason in Reason::ALL {
                let ended = self.maps.stat(stats::flows_ended(*path, *reason))?;
                if ended > 0 {
                    flows_ended.push((*path, *reason, ended));
                }
            }
        }
        Ok(NodeCounters {
            records_lost: self.maps.stat(stats::RECORDS_LOST)?,
            pairs_overflowed: self.maps.stat(stats::PAIRS_OVERFLOWED)?,
            state_failed: self.maps.stat(stats::STATE_FAILED)?,
            messages_redirected: self.maps.stat(stats::MESSAGES_REDIRECTED)?,
            demotions: self.maps.stat(stats::DEMOTIONS)?,
            stalls: self.maps.stat(stats::STALLS)?,
            spurious_eagain: self.maps.stat(stats::SPURIOUS_EAGAIN)?,
            denials_unrecorded: self.maps.stat(stats::DENIALS_UNRECORDED)?,
            captured: self.capture_counters()?,
            flows_ended,
        })
    }

    fn map_fill(&self) -> anyhow::Result<Vec<MapFill>> {
        let cells = self.maps.flow_cells()?;
        let ends = cells
            .iter()
            .flat_map(|(.., cell)| [&cell.client, &cell.server]);
        let joined = ends.filter(|end| end.tcp_read != 0 && end.closed == 0);
        let sockets = joined.count() as u64;
        let fill = self.maps.fill(sockets)?;
        let services = lock(&self.services).fill();
        let policies = lock(&self.policies).fill();
        Ok(fill
            .into_iter()
            .chain(services)
            .chain(policies)
            .map(|(map, used, max)| MapFill {
                map: map.to_owned(),
                used,
                max,
            })
            .collect())
    }

    fn workloads(&self) -> Vec<WorkloadStatus> {
        lock(&self.registry).statuses()
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    fn service(&self, number: u32) -> Option<Arc<PortId>> {
        self.service_name(number)
    }

    fn rule(&self, number: u32) -> Option<RuleName> {
        self.rules().get(&number).cloned()
    }

    fn rule_hits(&self) -> anyhow::Result<Vec<(Option<RuleName>, RuleHits)>> {
        let rules = self.rules();
        let named = rules
            .iter()
            .map(|(number, name)| (*number, Some(name.clone())));
        let hits = |(number, name)| Ok((name, self.hits(number)?));
        std::iter::once((0, None)).chain(named).map(hits).collect()
    }

    fn policy_errors(&self) -> Vec<String> {
        self.errors_of_policy()
    }

    fn name(&self, id: u32) -> Option<WorkloadName> {
        lock(&self.registry).name(id)
    }
}
