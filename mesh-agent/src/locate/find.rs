//! The rules by which one workload is found. No I/O of its own.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashMap};
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::locate::inside::Place;
use crate::locate::kubepods::{self, Pods};
use crate::locate::machine::{Machine, Stamp, Visit, handle_of, pid_of};
use crate::model::workload::{Location, Workload};

/// A process, told from every other by its start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Process {
    pub(super) pid: u32,
    pub(super) start: u64,
}

/// By what a workload was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum By {
    /// What its manifest names.
    Manifest,
    /// The cgroup that is named after its UID, which holds containers with these IDs.
    Uid {
        /// IDs.
        containers: Vec<String>,
    },
    /// Its addresses.
    Addresses,
}

/// What leads to a namespace that is still to be entered.
#[derive(Clone, Debug)]
pub(super) struct Lead {
    /// Path to open it at.
    pub(super) handle: PathBuf,
    pub(super) netns: Stamp,
    /// The process that the handle leads through.
    pub(super) process: Option<Process>,
    pub(super) cgroup: Option<(PathBuf, Stamp)>,
    pub(super) by: By,
}

/// A lead that was followed, and what was seen at its end.
#[derive(Clone, Debug)]
pub(super) struct Tie {
    pub(super) lead: Lead,
    pub(super) visit: Visit,
    /// The cgroup of its process, where the agent's programs do not see that.
    pub(super) outside: Option<PathBuf>,
}

impl Tie {
    /// Returns whether everything still looks as it did. Cheap: two `stat`s and at most one small read.
    pub(super) fn holds(&self, machine: &impl Machine) -> bool {
        let Lead {
            handle,
            netns,
            process,
            cgroup,
            by: _,
        } = &self.lead;
        let netns_holds = machine.stat(handle).is_ok_and(|now| match process {
            // The kernel makes the inode anew when nobody looked for a while, with another time.
            Some(_) => now.is_same_inode(netns),
            None => now == *netns,
        });
        let cgroup_holds = cgroup
            .as_ref()
            .is_none_or(|(dir, stamp)| machine.stat(dir).is_ok_and(|now| now.is_same_inode(stamp)));
        netns_holds && cgroup_holds && process.is_none_or(|process| is_running(machine, process))
    }

    /// Returns where it leads to.
    pub(super) fn place(&self) -> Place {
        Place {
            handle: self.lead.handle.clone(),
            netns_cookie: self.visit.cookie,
            addresses: self.visit.addresses.clone(),
        }
    }

    /// Returns a lead to the same namespace, to enter it once more.
    pub(super) fn again(&self, machine: &impl Machine) -> Lead {
        let mut lead = self.lead.clone();
        if let (By::Uid { containers }, Some((dir, _))) = (&mut lead.by, &lead.cgroup) {
            *containers = kubepods::containers(machine, dir);
        }
        lead
    }
}

fn is_running(machine: &impl Machine, process: Process) -> bool {
    machine
        .start_time(process.pid)
        .is_ok_and(|start| start == process.start)
}

/// Returns what leads to a workload, or `None` when only its addresses do.
///
/// `known` is the process that this workload was found at before: a PID never means another one. `pods` are the cgroups of the
/// machine's pods.
///
/// # Errors
///
/// When it is not there, with the reason in words.
pub(super) fn lead(
    machine: &impl Machine,
    workload: &Workload,
    known: Option<Process>,
    pods: &Pods,
) -> Result<Option<Lead>, String> {
    match &workload.location {
        Location::Kubelet => {
            let uid = workload.uid.as_ref();
            let dirs = uid.and_then(|uid| pods.get(uid));
            dirs.map(|dirs| kubepods::lead(machine, dirs)).transpose()
        }
        Location::Pid(pid) => by_pid(machine, *pid, known).map(Some),
        Location::Netns(path) => by_path(machine, path).map(Some),
        Location::Cgroup(path) => by_cgroup(machine, path).map(Some),
        Location::Addresses => Ok(None),
    }
}

fn by_pid(machine: &impl Machine, pid: u32, known: Option<Process>) -> Result<Lead, String> {
    let start = machine
        .start_time(pid)
        .map_err(|_| format!("no process {pid}"))?;
    if known.is_some_and(|known| known.pid == pid && known.start != start) {
        return Err(format!(
            "process {pid} ended, and another process has its ID now"
        ));
    }
    let handle = handle_of(pid);
    let netns = machine.stat(&handle).map_err(|error| {
        // A process that ended and is still to be waited for has no namespaces.
        let gone = format!("process {pid} ended");
        let what = format!("the network namespace of process {pid}");
        unseen(&error, gone, &what)
    })?;
    Ok(Lead {
        handle,
        netns,
        process: Some(Process { pid, start }),
        cgroup: None,
        by: By::Manifest,
    })
}

fn by_path(machine: &impl Machine, path: &Path) -> Result<Lead, String> {
    let shown = path.display();
    let netns = machine.stat(path).map_err(|error| {
        let gone = format!("no network namespace at `{shown}`");
        unseen(&error, gone, &format!("`{shown}`"))
    })?;
    Ok(Lead {
        handle: path.to_owned(),
        netns,
        process: None,
        cgroup: None,
        by: By::Manifest,
    })
}

fn by_cgroup(machine: &impl Machine, path: &Path) -> Result<Lead, String> {
    let dir = machine.cgroup_dir(path);
    let shown = dir.display();
    let failed = |error: io::Error| {
        let gone = format!("no cgroup `{shown}`");
        unseen(&error, gone, &format!("cgroup `{shown}`"))
    };
    let stamp = machine.stat(&dir).map_err(failed)?;
    let mut namespaces: BTreeMap<u64, Lead> = BTreeMap::new();
    for pid in machine.cgroup_pids(&dir).map_err(failed)? {
        // One that ended meanwhile does not count.
        if let Ok(mut lead) = by_pid(machine, pid, None) {
            lead.cgroup = Some((dir.clone(), stamp));
            namespaces.entry(lead.netns.inode).or_insert(lead);
        }
    }
    let mut leads = namespaces.into_values();
    let (first, second) = (leads.next(), leads.next());
    match (first, second) {
        (None, _) => Err(format!("cgroup `{shown}` has no processes")),
        (Some(lead), None) => Ok(lead),
        (Some(one), Some(other)) => Err(format!(
            "the processes of cgroup `{shown}` are in different network namespaces: {} in net:[{}], {} in net:[{}]",
            place(&one.handle),
            one.netns.inode,
            place(&other.handle),
            other.netns.inode,
        )),
    }
}

fn unseen(error: &io::Error, gone: String, what: &str) -> String {
    if error.kind() == ErrorKind::NotFound {
        return gone;
    }
    format!("{what} cannot be seen: {error}")
}

fn unentered(shown: &str, error: &io::Error) -> String {
    if error.kind() == ErrorKind::InvalidInput {
        return format!("{shown} is not a network namespace");
    }
    let cause = if error.kind() == ErrorKind::PermissionDenied {
        "; the agent must run as root"
    } else {
        ""
    };
    format!("the network namespace of {shown} cannot be entered: {error}{cause}")
}

/// Returns what a visit means for the workload that `lead` was followed for.
///
/// # Errors
///
/// When the namespace cannot be that of the workload, with the reason in words.
pub(super) fn follow(
    machine: &impl Machine,
    workload: &Workload,
    lead: Lead,
    visit: io::Result<Visit>,
) -> Result<Tie, String> {
    let shown = place(&lead.handle);
    let visit = visit.map_err(|error| unentered(&shown, &error))?;
    let other_process = lead
        .process
        .is_some_and(|process| !is_running(machine, process));
    if visit.inode != lead.netns.inode || other_process {
        return Err(format!("{shown} changed while it was looked at"));
    }
    if machine.node_cookies().contains(&visit.cookie) {
        return Err(format!(
            "{shown} is in the node's own network namespace, which is no workload's"
        ));
    }
    let dir = lead.cgroup.as_ref().map(|(dir, _)| dir.as_path());
    let outside = lead
        .process
        .and_then(|process| machine.outside(process.pid, dir));
    let tie = Tie {
        lead,
        visit,
        outside,
    };
    if tie.lead.by == By::Addresses
        && let Some(missing) = missing(workload, &tie.visit.addresses).first()
    {
        return Err(format!("{shown} does not have {missing}"));
    }
    Ok(tie)
}

/// Returns the addresses of the workload that are not among `present`.
pub(super) fn missing(workload: &Workload, present: &[IpAddr]) -> Vec<IpAddr> {
    let wanted = workload.addresses.iter().copied();
    wanted
        .filter(|address| !present.contains(address))
        .collect()
}

/// A namespace that may have the addresses that are looked for.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) handle: PathBuf,
    pub(super) netns: Stamp,
    pub(super) visit: Visit,
}

/// Returns the tie to the one namespace that has all addresses of a workload. `owners` are the UIDs of pods whose namespaces, by
/// inode number, their cgroups tell.
///
/// # Errors
///
/// When none has, or more than one has any of them, with the reason in words.
pub(super) fn by_addresses(
    machine: &impl Machine,
    workload: &Workload,
    candidates: &[Candidate],
    owners: &HashMap<u64, String>,
) -> Result<Tie, String> {
    // An address that was another pod's a moment ago may still be seen there.
    let may_be_its = |candidate: &&Candidate| {
        let owner = owners.get(&candidate.netns.inode);
        owner.is_none_or(|uid| Some(uid) == workload.uid.as_ref())
    };
    let has_any = |candidate: &&Candidate| {
        let present = &candidate.visit.addresses;
        workload
            .addresses
            .iter()
            .any(|address| present.contains(address))
    };
    let mut found = candidates.iter().filter(has_any).filter(may_be_its);
    let Some(candidate) = found.next() else {
        let wanted: Vec<String> = workload.addresses.iter().map(IpAddr::to_string).collect();
        let wanted = wanted.join(", ");
        return Err(format!("no network namespace on this machine has {wanted}"));
    };
    if let Some(other) = found.next() {
        let shared = workload.addresses.iter().find(|address| {
            [candidate, other]
                .iter()
                .all(|one| one.visit.addresses.contains(address))
        });
        let what = shared.map_or("some of the addresses".to_owned(), IpAddr::to_string);
        return Err(format!(
            "more than one network namespace has {what}: {} and {}",
            place(&candidate.handle),
            place(&other.handle),
        ));
    }
    let process = match pid_of(&candidate.handle) {
        None => None,
        Some(pid) => Some(Process {
            pid,
            start: machine
                .start_time(pid)
                .map_err(|_| format!("process {pid} ended while it was looked at"))?,
        }),
    };
    let lead = Lead {
        handle: candidate.handle.clone(),
        netns: candidate.netns,
        process,
        cgroup: None,
        by: By::Addresses,
    };
    follow(machine, workload, lead, Ok(candidate.visit.clone()))
}

/// Returns a handle in words.
fn place(handle: &Path) -> String {
    match pid_of(handle) {
        Some(pid) => format!("process {pid}"),
        None => format!("`{}`", handle.display()),
    }
}
