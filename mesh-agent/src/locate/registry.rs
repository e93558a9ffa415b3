//! Follows the workloads of a configuration as they come and go on the machine.
#![forbid(unsafe_code)]

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::locate::find::{self, By, Candidate, Lead, Process, Tie};
use crate::locate::inside::{Place, Places};
use crate::locate::kubepods::{self, Kubepods, Pods};
use crate::locate::linux::Linux;
use crate::locate::machine::Machine;
use crate::locate::released::Released;
use crate::locate::reset::{self, Connection};
use crate::locate::{Located, Outcome};
use crate::model::enrolment::Absent;
use crate::model::snapshot::Snapshot;
use crate::model::workload::{Location, Workload, WorkloadName};

/// Namespaces entered anew at each refresh although they look as before, in turn: it finds what a `stat` does not show, which
/// is an address that moved and a namespace whose inode number was given away. 0.1 ms each, so 0.2 % of a core at two refreshes
/// a second; 100 workloads have their turn every 6 s, up to 8 at every refresh.
const VERIFIED_EACH_TIME: usize = 8;

/// After a search through all namespaces that took `t`, the next one is this many times `t` away: searching takes at most
/// 0.5 % of a core, however large the machine is.
const SEARCH_PAUSE: u32 = 200;

/// But it is never further away than this.
const SEARCH_PAUSE_AT_MOST: Duration = Duration::from_secs(5);

/// For how long after a change a pod that was not found is one that starts. What has not started by then waits for something else.
const STARTING: Duration = Duration::from_secs(20);

/// The workloads of the configuration with what was found of each.
///
/// [`refresh`](Self::refresh) is meant to be called twice a second from a thread that may block for some milliseconds. A workload
/// whose process, path or cgroup goes, or is replaced by another of the same name, is noticed at the next refresh; a change
/// inside (addresses, another process in the cgroup) when its turn comes, see `VERIFIED_EACH_TIME`.
#[derive(Debug)]
pub struct Registry<M = Linux> {
    machine: M,
    /// Name of this node: workloads of others are not looked for.
    node: String,
    /// The workloads of the last look, as configured.
    workloads: Vec<Arc<Workload>>,
    held: BTreeMap<WorkloadName, Held>,
    released: Released,
    kubepods: Kubepods,
    /// When other workloads were wanted, or found, for the last time.
    changed_at: Duration,
    located: Vec<Located>,
    /// Whose turn to be verified comes next.
    turn: usize,
    /// When the next search may begin.
    search_at: Duration,
}

/// A workload with what leads to it.
#[derive(Debug)]
struct Held {
    workload: Arc<Workload>,
    /// The process that it was first found at: its PID never means another one.
    first: Option<Process>,
    state: Result<Tie, String>,
    /// Whether nothing but its addresses may lead to it.
    has_only_addresses: bool,
}

impl Held {
    fn new(workload: Arc<Workload>) -> Self {
        Self {
            has_only_addresses: workload.location == Location::Addresses,
            workload,
            first: None,
            state: Err("not looked for yet".to_owned()),
        }
    }

    fn settle(&mut self, state: Result<Tie, String>) {
        if let (Ok(tie), Location::Pid(_)) = (&state, &self.workload.location) {
            self.first = self.first.or(tie.lead.process);
        }
        self.state = state;
    }

    /// Returns whether it is looked for on this machine.
    fn is_wanted(&self) -> bool {
        self.workload.enrolled
    }

    /// Returns whether it is looked for by its addresses.
    fn is_sought(&self) -> bool {
        let has_addresses = !self.workload.addresses.is_empty();
        self.state.is_err() && self.has_only_addresses && has_addresses && self.is_wanted()
    }

    /// Returns whether it is looked for by its UID, and not found by that.
    fn is_missed(&self, holds: bool) -> bool {
        self.workload.location == Location::Kubelet && !(holds && self.is_found_by_uid())
    }

    fn is_found_by_uid(&self) -> bool {
        let tie = self.state.as_ref();
        tie.is_ok_and(|tie| matches!(tie.lead.by, By::Uid { .. }))
    }

    /// Returns whether another version of the workload is to be found in the same way.
    fn is_same_place(&self, other: &Workload) -> bool {
        let own = &*self.workload;
        let (uid, node) = (&other.uid, &other.node);
        (own.enrolled, &own.uid, &own.node, &own.location)
            == (other.enrolled, uid, node, &other.location)
            && (own.addresses == other.addresses || self.is_found_by_uid())
    }
}

impl<M: Machine> Registry<M> {
    /// Returns a registry without workloads, for the node of this name.
    pub fn new(machine: M, node: impl Into<String>) -> Self {
        Self {
            machine,
            node: node.into(),
            workloads: Vec::new(),
            held: BTreeMap::new(),
            released: Released::default(),
            kubepods: Kubepods::default(),
            changed_at: Duration::ZERO,
            located: Vec::new(),
            turn: 0,
            search_at: Duration::ZERO,
        }
    }

    /// Returns every workload of the last snapshot that is not on another node, ordered by name, as the last refresh found it.
    pub fn located(&self) -> &[Located] {
        &self.located
    }

    /// Returns where each workload is that the last refresh found.
    pub fn places(&self) -> Places {
        let place = |located: &Located| {
            let netns_cookie = cookie(located)?;
            let tie = self.held.get(&located.workload.name)?.state.as_ref().ok()?;
            debug_assert_eq!(tie.visit.cookie, netns_cookie);
            Some((located.workload.name.clone(), tie.place()))
        };
        self.located.iter().filter_map(place).collect()
    }

    /// Returns the workloads that were let go while they run, and whose connections through the agent may go on, for how long that
    /// has been so, and where they are.
    pub fn released(&self) -> impl Iterator<Item = (&Arc<Workload>, Duration, Place)> {
        self.released.all(self.machine.now())
    }

    /// Forgets one of these: nothing of it goes through the agent any more.
    pub fn forget_released(&mut self, name: &WorkloadName) {
        self.released.remove(name);
    }

    /// Returns whether a pod of this node that is in the mesh is about to be found by its cgroup: it starts.
    pub fn awaits_pods(&self) -> bool {
        if self.machine.now() - self.changed_at >= STARTING {
            return false;
        }
        let mut wanted = self.held.values().filter(|held| held.is_wanted());
        wanted.any(|held| held.workload.location == Location::Kubelet && held.state.is_err())
    }

    /// Resets a connection of the workload whose network namespace has this cookie.
    ///
    /// # Errors
    ///
    /// `NotFound` when no workload has it; those of entering the namespace; `Unsupported` where the kernel lacks `CONFIG_INET_DIAG_DESTROY`.
    pub fn reset(&self, netns_cookie: u64, connection: &Connection) -> io::Result<()> {
        reset::reset(&self.tie(netns_cookie)?.lead.handle, connection)
    }

    /// Returns the bytes that TCP holds for the owner of a connection's socket, as TCP itself counts them; 0 where there is no
    /// such connection any more.
    ///
    /// # Errors
    ///
    /// As [`reset`](Self::reset).
    pub fn unread(&self, netns_cookie: u64, connection: &Connection) -> io::Result<u32> {
        reset::unread(&self.tie(netns_cookie)?.lead.handle, connection)
    }

    /// Opens the network namespace with this cookie, of a workload that was found.
    ///
    /// # Errors
    ///
    /// `NotFound` when no workload has it, or another namespace is found in its place; those of opening it.
    pub fn open(&self, netns_cookie: u64) -> io::Result<File> {
        let tie = self.tie(netns_cookie)?;
        let file = File::open(&tie.lead.handle)?;
        if file.metadata()?.ino() != tie.visit.inode {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(file)
    }

    fn tie(&self, netns_cookie: u64) -> io::Result<&Tie> {
        let ties = self
            .held
            .values()
            .filter_map(|held| held.state.as_ref().ok());
        let tie = ties
            .chain(self.released.ties())
            .find(|tie| tie.visit.cookie == netns_cookie);
        tie.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Looks at the machine, and returns whether [`located`](Self::located) is different from before.
    ///
    /// Blocking. Costs some 10 µs for each workload, and entering a few namespaces.
    pub fn refresh(&mut self, snapshot: &Snapshot) -> bool {
        if !self.knows(snapshot) {
            self.take(snapshot);
        }
        self.released.check(&self.machine);
        self.follow_leads();
        self.search();
        let located = self.settle();
        let changed = located != self.located;
        if changed {
            self.located = located;
            self.changed_at = self.machine.now();
        }
        changed
    }

    /// Returns whether these are the workloads of the last look, whatever else changed in the configuration.
    pub fn knows(&self, snapshot: &Snapshot) -> bool {
        let mut pairs = self.workloads.iter().zip(&snapshot.workloads);
        self.workloads.len() == snapshot.workloads.len()
            && pairs.all(|(known, wanted)| Arc::ptr_eq(known, wanted) || known == wanted)
    }

    /// Takes over the workloads of another snapshot. What stays the same in the configuration keeps its tie.
    fn take(&mut self, snapshot: &Snapshot) {
        let mut before = std::mem::take(&mut self.held);
        let is_here = |it: &&Arc<Workload>| it.node.as_ref().is_none_or(|of| *of == self.node);
        for workload in snapshot.workloads.iter().filter(is_here) {
            if workload.enrolled {
                self.released.remove(&workload.name);
            }
            let held = match before.remove(&workload.name) {
                Some(held) if held.is_same_place(workload) => Held {
                    workload: workload.clone(),
                    ..held
                },
                Some(held) => {
                    if !workload.enrolled
                        && held.workload.uid == workload.uid
                        && let Ok(tie) = held.state
                    {
                        self.released.add(held.workload, tie, self.machine.now());
                    }
                    Held::new(workload.clone())
                }
                None => Held::new(workload.clone()),
            };
            self.held.insert(workload.name.clone(), held);
        }
        self.workloads.clone_from(&snapshot.workloads);
        // Somebody waits for the new ones.
        self.search_at = Duration::ZERO;
        self.changed_at = self.machine.now();
    }

    /// Checks every tie, and follows the leads of workloads that have none or whose turn it is.
    fn follow_leads(&mut self) {
        let machine = &self.machine;
        let here = self.held.values().filter(|held| held.is_wanted());
        let hold: Vec<bool> = here
            .clone()
            .map(|held| held.state.as_ref().is_ok_and(|tie| tie.holds(machine)))
            .collect();
        let missed = here
            .zip(&hold)
            .filter(|(held, holds)| held.is_missed(**holds));
        let missed: Vec<&str> = missed
            .filter_map(|(held, _)| held.workload.uid.as_deref())
            .collect();
        let pods = match missed.is_empty() {
            true => Pods::new(),
            false => self.kubepods.list(machine, |pods| {
                missed.iter().any(|uid| !pods.contains_key(*uid))
            }),
        };
        let count = hold.len().max(1);
        let first = self.turn % count;
        let has_turn = |index: usize| (index + count - first) % count < VERIFIED_EACH_TIME;
        self.turn = (first + VERIFIED_EACH_TIME) % count;
        let mut followed: Vec<(&mut Held, Lead)> = Vec::new();
        let here = self.held.values_mut().filter(|held| held.is_wanted());
        for (index, (held, holds)) in here.zip(hold).enumerate() {
            if holds && !has_turn(index) {
                continue;
            }
            let lead = match &held.state {
                Ok(tie) if holds && held.is_found_by_uid() => Ok(Some(tie.again(machine))),
                Ok(_) | Err(_) => find::lead(machine, &held.workload, held.first, &pods),
            };
            held.has_only_addresses = matches!(lead, Ok(None));
            match (lead, &held.state) {
                (Ok(Some(lead)), _) => followed.push((held, lead)),
                (Err(why), _) => held.settle(Err(why)),
                (Ok(None), Ok(tie)) if holds => {
                    let lead = tie.again(machine);
                    followed.push((held, lead));
                }
                (Ok(None), Err(_)) if held.workload.addresses.is_empty() => {
                    let why = "it has no address, and no cgroup on this machine bears its UID";
                    held.settle(Err(why.to_owned()));
                }
                (Ok(None), Ok(_)) => {
                    held.settle(Err("its network namespace is gone".to_owned()));
                    // It may only have lost the process that led to it: look at once.
                    self.search_at = Duration::ZERO;
                }
                (Ok(None), Err(_)) => {}
            }
        }
        let handles: Vec<PathBuf> = followed
            .iter()
            .map(|(_, lead)| lead.handle.clone())
            .collect();
        for ((held, lead), visit) in followed.into_iter().zip(visit(machine, &handles)) {
            let tie = find::follow(machine, &held.workload, lead, visit);
            held.settle(tie);
        }
    }

    /// Searches all namespaces for the addresses of workloads that are found by nothing else.
    fn search(&mut self) {
        let start = self.machine.now();
        if start < self.search_at || !self.held.values().any(Held::is_sought) {
            return;
        }
        let candidates = self.candidates();
        let owners = self.owners();
        for held in self.held.values_mut().filter(|held| held.is_sought()) {
            let tie = find::by_addresses(&self.machine, &held.workload, &candidates, &owners);
            held.settle(tie);
        }
        let end = self.machine.now();
        let pause = end.saturating_sub(start) * SEARCH_PAUSE;
        self.search_at = end + pause.min(SEARCH_PAUSE_AT_MOST);
    }

    /// Returns whose the namespaces of the machine's pods are, where that decides on anything.
    fn owners(&mut self) -> HashMap<u64, String> {
        let mut sought = self.held.values().filter(|held| held.is_sought());
        if !sought.any(|held| held.workload.location == Location::Kubelet) {
            return HashMap::new();
        }
        let pods = self.kubepods.list(&self.machine, |_| false);
        kubepods::namespaces(&self.machine, &pods)
    }

    /// Returns every namespace of the machine. Those of workloads that are found are not entered again.
    fn candidates(&self) -> Vec<Candidate> {
        let ties = self
            .held
            .values()
            .filter_map(|held| held.state.as_ref().ok());
        let known: HashMap<u64, &Tie> = ties.map(|tie| (tie.visit.inode, tie)).collect();
        let mut candidates = Vec::new();
        let mut unknown = Vec::new();
        for (handle, netns) in self.machine.namespaces() {
            match known.get(&netns.inode) {
                Some(tie) => candidates.push(Candidate {
                    handle,
                    netns,
                    visit: tie.visit.clone(),
                }),
                None => unknown.push((handle, netns)),
            }
        }
        let handles: Vec<PathBuf> = unknown.iter().map(|(handle, _)| handle.clone()).collect();
        for ((handle, netns), visit) in unknown.into_iter().zip(visit(&self.machine, &handles)) {
            // One that cannot be entered is gone, or somebody else's.
            if let Ok(visit) = visit
                && visit.inode == netns.inode
            {
                candidates.push(Candidate {
                    handle,
                    netns,
                    visit,
                });
            }
        }
        candidates
    }

    /// Returns the outcome of every workload. Of several in one namespace, the one that had it before gets it, else the first.
    fn settle(&self) -> Vec<Located> {
        let before: HashSet<(&WorkloadName, u64)> = self
            .located
            .iter()
            .filter_map(|located| Some((&located.workload.name, cookie(located)?)))
            .collect();
        let mut owners: HashMap<u64, &WorkloadName> = HashMap::new();
        let had = |name: &WorkloadName, tie: &Tie| before.contains(&(name, tie.visit.cookie));
        for round in [true, false] {
            for (name, held) in &self.held {
                if let Ok(tie) = &held.state
                    && had(name, tie) == round
                {
                    owners.entry(tie.visit.cookie).or_insert(name);
                }
            }
        }
        self.held
            .values()
            .map(|held| held.located(&owners))
            .collect()
    }
}

impl Held {
    fn located(&self, owners: &HashMap<u64, &WorkloadName>) -> Located {
        if !self.workload.enrolled {
            return Located {
                workload: self.workload.clone(),
                outcome: Outcome::NotEnrolled,
                note: None,
                outside: None,
            };
        }
        let (outcome, note) = match &self.state {
            Err(why) => {
                let reason = match self.workload.started {
                    true => Absent::NotFound,
                    false => Absent::NotStarted,
                };
                let why = why.clone();
                (Outcome::NotFound { reason, why }, None)
            }
            Ok(tie) => match owners.get(&tie.visit.cookie) {
                Some(owner) if **owner != self.workload.name => {
                    let inode = tie.visit.inode;
                    let why = format!(
                        "its network namespace net:[{inode}] is that of workload {owner} already"
                    );
                    let reason = Absent::Taken;
                    (Outcome::NotFound { reason, why }, None)
                }
                Some(_) | None => (
                    Outcome::Found {
                        netns_cookie: tie.visit.cookie,
                        netns_inode: tie.visit.inode,
                    },
                    note(&self.workload, tie),
                ),
            },
        };
        let outside = self.state.as_ref().ok().and_then(|it| it.outside.clone());
        Located {
            workload: self.workload.clone(),
            outside: outside.filter(|_| matches!(outcome, Outcome::Found { .. })),
            outcome,
            note,
        }
    }
}

fn note(workload: &Workload, tie: &Tie) -> Option<String> {
    let mut notes = Vec::new();
    match &tie.lead.by {
        By::Addresses if workload.location == Location::Kubelet => {
            notes
                .push("found by its addresses: no cgroup on this machine bears its UID".to_owned());
        }
        By::Uid { containers } => {
            let known = &workload.containers;
            if !known.is_empty() && !known.iter().any(|id| containers.contains(id)) {
                let words = "its cgroup holds no container that the API server knows";
                notes.push(words.to_owned());
            }
        }
        By::Addresses | By::Manifest => {}
    }
    let missing = find::missing(workload, &tie.visit.addresses);
    let missing: Vec<String> = missing.iter().map(ToString::to_string).collect();
    if !missing.is_empty() {
        let words = format!("its network namespace does not have {}", missing.join(", "));
        notes.push(words);
    }
    (!notes.is_empty()).then(|| notes.join("; "))
}

fn cookie(located: &Located) -> Option<u64> {
    match located.outcome {
        Outcome::Found { netns_cookie, .. } => Some(netns_cookie),
        Outcome::NotFound { .. } | Outcome::NotEnrolled => None,
    }
}

/// Enters namespaces, if there are any to enter.
fn visit(
    machine: &impl Machine,
    handles: &[PathBuf],
) -> Vec<io::Result<crate::locate::machine::Visit>> {
    if handles.is_empty() {
        return Vec::new();
    }
    machine.visit(handles)
}
