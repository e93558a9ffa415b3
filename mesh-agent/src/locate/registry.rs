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

use crate::locate::find::{self, Candidate, Lead, Process, Tie};
use crate::locate::inside::{Place, Places};
use crate::locate::linux::Linux;
use crate::locate::machine::Machine;
use crate::locate::reset::{self, Connection};
use crate::locate::{Located, Outcome};
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
    is_elsewhere: bool,
}

impl Held {
    fn new(workload: Arc<Workload>, node: &str) -> Self {
        Self {
            is_elsewhere: workload.node.as_deref().is_some_and(|own| own != node),
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

    fn is_sought(&self) -> bool {
        self.state.is_err() && self.workload.location == Location::Addresses && !self.is_elsewhere
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
            located: Vec::new(),
            turn: 0,
            search_at: Duration::ZERO,
        }
    }

    /// Returns every workload of the last snapshot, ordered by name, as the last refresh found it.
    pub fn located(&self) -> &[Located] {
        &self.located
    }

    /// Returns where each workload is that the last refresh found.
    pub fn places(&self) -> Places {
        let place = |located: &Located| {
            let tie = self.held.get(&located.workload.name)?.state.as_ref().ok()?;
            let netns_cookie = cookie(located)?;
            let handle = tie.lead.handle.clone();
            let place = Place {
                handle,
                netns_cookie,
                addresses: tie.visit.addresses.clone(),
            };
            Some((located.workload.name.clone(), place))
        };
        self.located.iter().filter_map(place).collect()
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
            .into_iter()
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
        self.follow_leads();
        self.search();
        let located = self.settle();
        let changed = located != self.located;
        if changed {
            self.located = located;
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
        for workload in &snapshot.workloads {
            let held = match before.remove(&workload.name) {
                Some(held) if is_same_place(&held.workload, workload) => Held {
                    workload: workload.clone(),
                    ..held
                },
                Some(_) | None => Held::new(workload.clone(), &self.node),
            };
            self.held.insert(workload.name.clone(), held);
        }
        self.workloads.clone_from(&snapshot.workloads);
        // Somebody waits for the new ones.
        self.search_at = Duration::ZERO;
    }

    /// Checks every tie, and follows the leads of workloads that have none or whose turn it is.
    fn follow_leads(&mut self) {
        let machine = &self.machine;
        let here = self.held.values().filter(|held| !held.is_elsewhere);
        let count = here.count().max(1);
        let first = self.turn % count;
        let has_turn = |index: usize| (index + count - first) % count < VERIFIED_EACH_TIME;
        self.turn = (first + VERIFIED_EACH_TIME) % count;
        let mut followed: Vec<(&mut Held, Lead)> = Vec::new();
        let here = self.held.values_mut().filter(|held| !held.is_elsewhere);
        for (index, held) in here.enumerate() {
            let holds = held.state.as_ref().is_ok_and(|tie| tie.holds(machine));
            if holds && !has_turn(index) {
                continue;
            }
            match (find::lead(machine, &held.workload, held.first), &held.state) {
                (Ok(Some(lead)), _) => followed.push((held, lead)),
                (Err(why), _) => held.settle(Err(why)),
                (Ok(None), Ok(tie)) if holds => {
                    let lead = tie.again();
                    followed.push((held, lead));
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
        for held in self.held.values_mut().filter(|held| held.is_sought()) {
            let tie = find::by_addresses(&self.machine, &held.workload, &candidates);
            held.settle(tie);
        }
        let end = self.machine.now();
        let pause = end.saturating_sub(start) * SEARCH_PAUSE;
        self.search_at = end + pause.min(SEARCH_PAUSE_AT_MOST);
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
        if let (true, Some(node)) = (self.is_elsewhere, &self.workload.node) {
            return Located {
                workload: self.workload.clone(),
                outcome: Outcome::Elsewhere { node: node.clone() },
                note: None,
            };
        }
        let (outcome, note) = match &self.state {
            Err(why) => (Outcome::NotFound { why: why.clone() }, None),
            Ok(tie) => match owners.get(&tie.visit.cookie) {
                Some(owner) if **owner != self.workload.name => {
                    let inode = tie.visit.inode;
                    let why = format!(
                        "its network namespace net:[{inode}] is that of workload {owner} already"
                    );
                    (Outcome::NotFound { why }, None)
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
        Located {
            workload: self.workload.clone(),
            outcome,
            note,
        }
    }
}

fn note(workload: &Workload, tie: &Tie) -> Option<String> {
    let missing = find::missing(workload, &tie.visit.addresses);
    let missing: Vec<String> = missing.iter().map(ToString::to_string).collect();
    (!missing.is_empty())
        .then(|| format!("its network namespace does not have {}", missing.join(", ")))
}

fn cookie(located: &Located) -> Option<u64> {
    match located.outcome {
        Outcome::Found { netns_cookie, .. } => Some(netns_cookie),
        Outcome::NotFound { .. } | Outcome::Elsewhere { .. } => None,
    }
}

/// Returns whether two versions of a workload are to be found in the same way.
fn is_same_place(one: &Workload, other: &Workload) -> bool {
    (&one.uid, &one.node, &one.location, &one.addresses)
        == (&other.uid, &other.node, &other.location, &other.addresses)
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
