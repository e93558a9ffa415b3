//! What belongs to one node, by its name alone: so that it can be removed by its owner, by a signal, or by a later run.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, Once, PoisonError};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

use crate::{cgroup, command, machine, mounts, netns};

/// One directory for each scope, with whatever files it needs. In `/run`, so that a restart of the machine empties it.
const DIRECTORY: &str = "/run/underpass-tests";
/// Names the owner in a scope's directory: `PID START`.
const OWNER: &str = "owner";
/// The agent's own removal, one argument a line; written by `Agent`.
const UNINSTALL: &str = "uninstall";

/// The scopes of this process that stand.
static STANDING: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Names and places of everything that belongs to one node. Removes all of it when dropped.
#[derive(Debug)]
pub(crate) struct Scope {
    id: String,
    directory: PathBuf,
}

impl Scope {
    /// Makes an empty scope. The first one of a process also removes what dead processes left behind.
    pub(crate) fn new() -> Result<Self> {
        static FIRST: Once = Once::new();
        static COUNT: AtomicU32 = AtomicU32::new(0);
        FIRST.call_once(prepare_process);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let pid = std::process::id();
        let id = format!("up{pid}-{number}");
        let directory = Path::new(DIRECTORY).join(&id);
        lock().insert(id.clone());
        fs::create_dir_all(&directory)
            .with_context(|| format!("failed to make `{}`", directory.display()))?;
        let start = machine::start_time(pid).unwrap_or_default();
        fs::write(directory.join(OWNER), format!("{pid} {start}"))
            .context("failed to write the owner of a scope")?;
        Ok(Self { id, directory })
    }

    /// Returns the name that everything in this scope starts with.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Returns a directory for any files of this scope.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Returns the scope's cgroup in the cgroup2 tree.
    pub(crate) fn cgroup(&self) -> Result<PathBuf> {
        Ok(cgroup::unified_mount()?.join(&self.id))
    }

    /// Returns the scope's cgroup in the memory controller's own tree, where there is one.
    pub(crate) fn memory_cgroup(&self) -> Result<Option<PathBuf>> {
        Ok(cgroup::memory_v1_mount()?.map(|mount| mount.join(&self.id)))
    }

    /// Returns the scope's directory for pinned BPF objects.
    pub(crate) fn bpf_directory(&self) -> Result<PathBuf> {
        let mount = mounts::find("bpf", "")?.unwrap_or_else(|| PathBuf::from("/sys/fs/bpf"));
        Ok(mount.join(&self.id))
    }

    /// Remembers the command that uninstalls the agent, for whoever removes this scope.
    pub(crate) fn remember_uninstall(&self, arguments: &[String]) -> Result<()> {
        fs::write(self.directory.join(UNINSTALL), arguments.join("\n"))
            .context("failed to write the agent's removal")
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        report(&self.id, remove(&self.id));
        lock().remove(&self.id);
    }
}

fn lock() -> std::sync::MutexGuard<'static, BTreeSet<String>> {
    STANDING.lock().unwrap_or_else(PoisonError::into_inner)
}

fn report(id: &str, errors: Vec<anyhow::Error>) {
    for error in errors {
        eprintln!("{id}: {error:#}");
    }
}

/// Sweeps, and starts the thread that removes this process's scopes when a signal ends it.
fn prepare_process() {
    for id in dead_scopes() {
        eprintln!("{id}: removing what a dead run left behind");
        report(&id, remove(&id));
    }
    let signals = Signals::new([SIGINT, SIGTERM, SIGHUP]);
    let Ok(mut signals) = signals.inspect_err(|error| eprintln!("no clean-up on Ctrl-C: {error}"))
    else {
        return;
    };
    std::thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            eprintln!("\ninterrupted: removing everything");
            // Held to the end, so that no thread makes another scope meanwhile.
            let standing = lock();
            for id in standing.iter() {
                report(id, remove(id));
            }
            if let Err(error) = emulate_default_handler(signal) {
                eprintln!("failed to end by signal {signal}: {error}");
            }
        }
    });
}

/// Returns the scopes whose owner is dead.
fn dead_scopes() -> Vec<String> {
    let entries = fs::read_dir(DIRECTORY).into_iter().flatten().flatten();
    entries
        .filter(|entry| {
            let owner = fs::read_to_string(entry.path().join(OWNER)).unwrap_or_default();
            let mut words = owner.split(' ');
            let pid = words.next().and_then(|pid| pid.parse().ok());
            // A scope without owner is being made at this moment, or is a ruin that its name still tells of.
            let alive = match pid {
                Some(pid) => machine::start_time(pid).as_deref() == words.next(),
                None => owner_in_name(&entry.file_name().to_string_lossy())
                    .is_some_and(|pid| machine::start_time(pid).is_some()),
            };
            !alive
        })
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

fn owner_in_name(id: &str) -> Option<u32> {
    id.strip_prefix("up")?.split('-').next()?.parse().ok()
}

/// Removes everything of scope `id`, going on after an error.
fn remove(id: &str) -> Vec<anyhow::Error> {
    let directory = Path::new(DIRECTORY).join(id);
    let mut errors = Vec::new();
    let mut note = |result: Result<()>| errors.extend(result.err());
    let scope = std::mem::ManuallyDrop::new(Scope {
        id: id.to_owned(),
        directory: directory.clone(),
    });
    // The agent first, with everything else that runs: it keeps others from removing its pins.
    note(scope.cgroup().and_then(|path| cgroup::remove(&path)));
    note(uninstall(&directory));
    // Those of version 1; the memory controller's for every pod, the others' where a container runtime made them.
    for tree in mounts::cgroups().unwrap_or_default() {
        if !tree.options.is_empty() {
            note(cgroup::remove(&tree.mount.join(id)));
        }
    }
    note(
        scope
            .bpf_directory()
            .and_then(|path| remove_directory(&path)),
    );
    for name in netns::names(&format!("{id}-")) {
        note(netns::remove(&name));
    }
    note(remove_directory(&directory));
    errors
}

/// Takes the programs of this scope's agent out.
fn uninstall(directory: &Path) -> Result<()> {
    let Ok(arguments) = fs::read_to_string(directory.join(UNINSTALL)) else {
        return Ok(());
    };
    let mut words = arguments.lines();
    let program = words.next().context("the agent's removal is empty")?;
    command::output_of(Command::new(program).args(words)).map(drop)
}

fn remove_directory(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("failed to remove `{}`", path.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}
