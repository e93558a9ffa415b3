//! Takes in what watches tell, makes snapshots of it, and keeps it on disk.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{Duration, Instant, MissedTickBehavior, interval, sleep_until};

use super::backoff::Backoff;
use super::client::Api;
use super::discovery::Found;
use super::disk::{Disk, Head};
use super::follow::{Follower, What};
use super::keep::Keep;
use super::kinds::{Kinds, Looker};
use super::mirror::Mirror;
use super::references::References;
use super::report::Report;
use super::role::Role;
use super::store::{Change, Store, Watch};
use super::target::{Scope, Target};
use super::trouble::{Sort, Trouble};
use super::{Handles, limits};
use crate::chance::Chance;
use crate::config::content::Content;
use crate::config::key::Kind;
use crate::config::resolve::Resolver;
use crate::heap;
use crate::model::api::{ApiStatus, WatchState};
use crate::model::service::Services;
use crate::model::workload::Acceleration;
use crate::source::Loaded;
use crate::source::outcome::Outcome;

/// Time between two looks at what only time brings: the status, a write to disk.
const TICK: Duration = Duration::from_secs(1);

/// One that is followed.
#[derive(Debug)]
pub(super) struct Followed {
    pub(super) target: Target,
    pub(super) state: WatchState,
    pub(super) trouble: Option<Trouble>,
    /// Whether its list ended once.
    told: bool,
    /// Since when it is followed.
    since: Instant,
    /// Since when it may not be listed.
    forbidden: Option<Instant>,
    task: AbortHandle,
}

impl Followed {
    /// Returns whether the first configuration needs not wait for it any longer.
    fn is_settled(&self) -> bool {
        let time_is_over = |since: Instant| since.elapsed() >= limits::FORBIDDEN;
        self.told || !self.target.is_essential() && self.forbidden.is_some_and(time_is_over)
    }

    /// Returns whether the next configuration is to wait for it.
    fn is_worth_a_wait(&self) -> bool {
        let is_named = matches!(self.target.scope, Scope::One(_));
        let is_unknown = !self.told && self.trouble.is_none();
        is_named && is_unknown && self.since.elapsed() < limits::REFERENCE
    }
}

/// What an engine is to do.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) role: Role,
    /// Mode of workloads that neither they nor their namespace give one.
    pub(super) acceleration: Acceleration,
    /// Where to keep what outlives the process; `None` is nowhere.
    pub(super) disk: Option<Disk>,
    /// Who wants the objects themselves.
    pub(super) mirror: Option<Mirror>,
}

/// Everything that is known of an API server.
#[derive(Debug)]
pub(super) struct Engine {
    api: Arc<Api>,
    role: Role,
    disk: Option<Disk>,
    wake: Arc<Notify>,
    chance: Chance,
    store: Store,
    resolver: Resolver,
    /// What programs registered.
    registered: watch::Receiver<Arc<Services>>,
    outcome: Outcome,
    /// Changes that no snapshot has yet.
    pending: HashMap<Arc<str>, Option<Arc<Content>>>,
    /// When a change was logged last.
    logged_at: Option<Instant>,
    /// Whether changes were decided on that no snapshot has yet.
    is_changed: bool,
    /// When the first of them came.
    pending_since: std::time::Instant,
    followed: BTreeMap<Watch, Followed>,
    references: References,
    /// Kinds that a look did not find although they are followed, and when.
    missing: BTreeMap<Kind, Instant>,
    /// Whether it is known which optional kinds there are.
    knows_kinds: bool,
    /// Whether snapshots are made: everything was told, or is known from the disk.
    is_open: bool,
    report: Report,
    saving: Option<JoinHandle<bool>>,
    /// Whether something changed since it was written.
    is_unsaved: bool,
    saved_at: Option<Instant>,
    loaded: watch::Sender<Loaded>,
    status: watch::Sender<Arc<ApiStatus>>,
}

impl Engine {
    /// Returns one that knows what was kept on disk.
    pub(super) fn new(
        api: Arc<Api>,
        task: Task,
        wake: Arc<Notify>,
        mut registered: watch::Receiver<Arc<Services>>,
    ) -> Self {
        let report = Report::new(&api);
        let mut resolver = Resolver::new(task.acceleration);
        if task.role.is_controller() {
            resolver.know_no_registered();
        }
        resolver.set_registered(registered.borrow_and_update().clone());
        let outcome = Outcome::default();
        let (loaded, _) = watch::channel(outcome.loaded());
        let (status, _) = watch::channel(Arc::new(report.status()));
        let mut engine = Self {
            disk: task.disk,
            resolver,
            registered,
            api,
            role: task.role,
            wake,
            chance: Chance::random(),
            store: Store::mirrored(task.mirror),
            outcome,
            pending: HashMap::new(),
            logged_at: None,
            is_changed: false,
            pending_since: std::time::Instant::now(),
            followed: BTreeMap::new(),
            references: References::default(),
            missing: BTreeMap::new(),
            knows_kinds: false,
            is_open: false,
            report,
            saving: None,
            is_unsaved: false,
            saved_at: None,
            loaded,
            status,
        };
        engine.restore();
        engine
    }

    /// Returns what others follow.
    pub(super) fn handles(&self) -> Handles {
        (self.loaded.subscribe(), self.status.subscribe())
    }

    /// Follows the server until told to stop.
    pub(super) async fn run(mut self, mut stopping: watch::Receiver<bool>) {
        let (told, mut events) = mpsc::channel(limits::WAITING);
        let (kinds_told, mut kinds) = mpsc::channel(1);
        let look = Arc::new(Notify::new());
        let looker = Looker {
            api: self.api.clone(),
            told: kinds_told,
            look: look.clone(),
            defined: Arc::new(Notify::new()),
            backoff: self.backoff(),
        };
        let looker = tokio::spawn(looker.run());
        for target in Target::built_in(&self.role) {
            self.follow(target, &told);
        }
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::new();
        let mut quiet_until = Instant::now();
        loop {
            // Changes that came too soon after the last wait here, and with them whatever else comes.
            let is_due = (self.is_changed || !self.pending.is_empty()) && self.is_open;
            let is_due = is_due && !self.followed.values().any(Followed::is_worth_a_wait);
            tokio::select! {
                biased;
                _ = stopping.wait_for(|stop| *stop) => break,
                () = sleep_until(quiet_until), if is_due => {
                    self.make();
                    quiet_until = Instant::now() + limits::GATHER;
                }
                Some(found) = kinds.recv() => self.kinds(found, &told),
                Ok(()) = self.registered.changed() => self.take_registered(),
                _ = events.recv_many(&mut batch, limits::TOGETHER) => {
                    for (watch, what) in batch.drain(..) {
                        self.take(watch, what, &look);
                    }
                }
                _ = ticks.tick() => self.tick(),
            }
            self.follow_references(&told);
            self.open_if_told();
        }
        looker.abort();
        for followed in self.followed.values() {
            followed.task.abort();
        }
        self.finish().await;
    }

    fn backoff(&mut self) -> Backoff {
        Backoff::new(Chance::seeded(self.chance.bits()))
    }

    fn follow(&mut self, target: Target, told: &mpsc::Sender<(Watch, What)>) {
        let watch = (target.kind, target.scope);
        let mut backoff = self.backoff();
        let spread = match (target.scope, self.is_open) {
            // A policy that names one was told at a random moment.
            (Scope::Here | Scope::One(_), _) => Duration::ZERO,
            (Scope::All | Scope::Elsewhere, false) => limits::SPREAD,
            (Scope::All | Scope::Elsewhere, true) => limits::SPREAD_AT_EASE,
        };
        let delay = backoff.between(Duration::ZERO, spread);
        let follower = Follower {
            api: self.api.clone(),
            keep: Keep::of(target.kind, target.scope, &self.role),
            target: target.clone(),
            told: told.clone(),
            wake: self.wake.clone(),
            backoff,
            pages: false,
        };
        if let Some(mirror) = &self.store.mirror {
            mirror.serve(target.kind, &target.version, &target.resource);
        }
        let task = tokio::spawn(follower.run(delay)).abort_handle();
        let followed = Followed {
            target,
            state: WatchState::Listing,
            trouble: None,
            told: false,
            since: Instant::now(),
            forbidden: None,
            task,
        };
        if let Some(before) = self.followed.insert(watch, followed) {
            before.task.abort();
        }
    }

    /// Takes in what a watch told.
    fn take(&mut self, watch: Watch, what: What, look: &Notify) {
        let Some(followed) = self.followed.get_mut(&watch) else {
            return;
        };
        self.references.told(watch.0);
        match what {
            What::Begin => {
                followed.state = WatchState::Listing;
                self.store.begin(watch);
            }
            What::Set(object) => {
                let change = self.store.set(watch, object);
                self.note(change);
            }
            What::Gone { namespace, name } => {
                let change = self.store.gone(watch, &namespace, &name);
                self.note(change);
            }
            What::End { complete } => {
                followed.told = true;
                let is_last = self.all_told(watch.0);
                if complete {
                    let gone = self.store.end(watch, is_last);
                    self.note(gone);
                }
            }
            What::Watching => {
                followed.state = WatchState::Watching;
                followed.trouble = None;
                followed.forbidden = None;
            }
            What::Trouble(trouble) => {
                followed.state = WatchState::Retrying;
                match trouble.sort {
                    Sort::Forbidden => {
                        followed.forbidden.get_or_insert_with(Instant::now);
                    }
                    Sort::NotServed if !watch.0.is_built_in() => look.notify_one(),
                    Sort::Away
                    | Sort::Unauthorized
                    | Sort::NotServed
                    | Sort::Expired
                    | Sort::Refused
                    | Sort::Failing
                    | Sort::Garbled => {}
                }
                self.report.trouble(&followed.target, &trouble);
                followed.trouble = Some(trouble);
            }
            What::Unreadable(why) => self.report.unreadable(&followed.target, &why),
        }
    }

    fn all_told(&self, kind: Kind) -> bool {
        let of_kind = self.followed.iter().filter(|(watch, _)| watch.0 == kind);
        of_kind.into_iter().all(|(_, followed)| followed.told)
    }

    /// Takes in which optional kinds there are.
    fn kinds(&mut self, found: Kinds, told: &mpsc::Sender<(Watch, What)>) {
        let found = match found {
            Ok(found) => found,
            Err(trouble) => {
                self.report.kinds_trouble(Some(trouble));
                return;
            }
        };
        self.report.kinds_trouble(None);
        for kind in Target::optional_for(&self.role) {
            let watch = (kind, Scope::All);
            let followed = self.followed.get(&watch).map(|followed| &followed.target);
            match (found.get(&kind), followed) {
                (Some(Found::Served(target)), before) => {
                    self.missing.remove(&kind);
                    if before != Some(target) {
                        self.follow(target.clone(), told);
                    }
                }
                (_, Some(_)) => self.maybe_gone(kind),
                // Only the disk can know of some.
                (_, None) if self.knows_kinds => {}
                (_, None) => {
                    self.references.told(kind);
                    let gone = self.store.clear(kind);
                    self.note(gone);
                }
            }
        }
        self.report.not_served(&found, &self.role);
        self.knows_kinds = true;
    }

    /// Notes that a kind was not found; ends following it if that was so for a while.
    fn maybe_gone(&mut self, kind: Kind) {
        let since = *self.missing.entry(kind).or_insert_with(Instant::now);
        // Two looks are never exactly as far apart as they are to be.
        if since.elapsed() < limits::DISCOVERY_AGAIN / 2 {
            return;
        }
        tracing::info!(
            kind = kind.word(),
            "the API server does not have the kind any more"
        );
        self.missing.remove(&kind);
        if let Some(followed) = self.followed.remove(&(kind, Scope::All)) {
            followed.task.abort();
        }
        self.references.told(kind);
        let gone = self.store.clear(kind);
        self.note(gone);
    }

    /// Follows the config maps that policies name, and no others.
    fn follow_references(&mut self, told: &mpsc::Sender<(Watch, What)>) {
        let Some(difference) = self.references.update(&self.store, &self.resolver) else {
            return;
        };
        for target in difference.end {
            if let Some(followed) = self.followed.remove(&(target.kind, target.scope)) {
                followed.task.abort();
            }
        }
        for target in difference.begin {
            self.follow(target, told);
        }
        let references = &self.references;
        let is_wanted = |namespace: &str, name: &str| references.has(namespace, name);
        let gone = self.store.keep_only(Kind::ConfigMap, is_wanted);
        self.note(gone);
    }

    /// Notes changes for the next snapshot.
    fn note(&mut self, changes: impl IntoIterator<Item = Change>) {
        for (place, content) in changes {
            if self.pending.is_empty() && !self.is_changed {
                self.pending_since = std::time::Instant::now();
            }
            if self.pending.contains_key(&place) {
                // The one before may be the last valid one, or the end of it.
                self.resolve();
            }
            self.pending.insert(place, content);
        }
    }

    /// Takes over what programs registered.
    fn take_registered(&mut self) {
        let registered = self.registered.borrow_and_update().clone();
        if !self.resolver.set_registered(registered) {
            return;
        }
        if self.pending.is_empty() && !self.is_changed {
            self.pending_since = std::time::Instant::now();
        }
        self.is_changed = true;
    }

    /// Decides on what is pending.
    fn resolve(&mut self) {
        let changes = std::mem::take(&mut self.pending);
        self.is_unsaved |= !changes.is_empty();
        self.is_changed |= self.resolver.update_some(changes);
    }

    /// Begins to make snapshots once every kind was told.
    fn open_if_told(&mut self) {
        let is_told = self.knows_kinds && self.followed.values().all(Followed::is_settled);
        if !is_told {
            return;
        }
        let is_first = self.report.all_told();
        if !self.is_open {
            self.is_open = true;
            self.make();
            tracing::info!(
                server = self.api.server(),
                "everything was told by the API server"
            );
            // A list takes several times what is kept of it.
            heap::give_back();
        }
        if is_first {
            self.is_unsaved = true;
            self.saved_at = None;
        }
    }

    /// Makes a snapshot of what changed.
    fn make(&mut self) {
        self.resolve();
        self.references.decided();
        let changed = std::mem::take(&mut self.is_changed);
        if self
            .outcome
            .take(&self.resolver, changed, self.pending_since)
        {
            if self.logged_at.is_none_or(|at| at.elapsed() >= limits::LOG) {
                self.logged_at = Some(Instant::now());
                self.outcome.log();
            }
            self.loaded.send_replace(self.outcome.loaded());
        }
        if let Some(mirror) = &self.store.mirror {
            mirror.publish();
        }
    }

    fn tick(&mut self) {
        let status = self.report.update(&self.followed, &self.store, &self.api);
        self.status.send_if_modified(|before| {
            let is_new = **before != status;
            if is_new {
                *before = Arc::new(status);
            }
            is_new
        });
        let is_due = self.saved_at.is_none_or(|at| at.elapsed() >= limits::SAVE);
        let is_idle = self.saving.as_ref().is_none_or(JoinHandle::is_finished);
        if self.is_unsaved && is_due && is_idle && self.report.has_all() {
            self.saving = self.save();
        }
    }

    /// Writes to disk what is known, if there is one.
    fn save(&mut self) -> Option<JoinHandle<bool>> {
        self.is_unsaved = false;
        self.saved_at = Some(Instant::now());
        let disk = self.disk.clone()?;
        let texts = self.store.texts();
        let head = Head {
            server: self.api.server().to_owned(),
            written: jiff::Timestamp::now(),
        };
        Some(tokio::task::spawn_blocking(move || {
            let saved = disk.save(&head, &texts);
            if let Err(error) = &saved {
                let file = disk.path();
                tracing::warn!(%error, file = %file.display(), "failed to keep what the API server said; a restart while it is away would find less");
            }
            saved.is_ok()
        }))
    }

    async fn finish(mut self) {
        if let Some(saving) = self.saving.take() {
            // Whatever came of it, the last word follows.
            saving.await.ok();
        }
        if self.is_unsaved
            && self.report.has_all()
            && let Some(saving) = self.save()
        {
            saving.await.ok();
        }
    }

    /// Takes over what was kept on disk.
    fn restore(&mut self) {
        let Some(disk) = &self.disk else {
            return;
        };
        let kept = match disk.load(self.api.server()) {
            Ok(Some(kept)) => kept,
            Ok(None) => return,
            Err(error) => {
                let aside = disk.set_aside();
                let aside = aside.map_or_else(
                    |_| "nowhere".to_owned(),
                    |aside| aside.display().to_string(),
                );
                let file = disk.path();
                tracing::warn!(%error, file = %file.display(), aside, "what was kept of the API server is not used; moved aside");
                return;
            }
        };
        for (kind, object) in kept.objects {
            let change = self.store.restore(kind, object);
            self.note([change]);
        }
        self.is_open = true;
        self.make();
        // It came from there.
        self.is_unsaved = false;
        self.report.restored(kept.head.written);
        self.status.send_replace(Arc::new(self.report.status()));
        tracing::info!(written = %kept.head.written, "running what was kept on disk until the API server answers");
        heap::give_back();
    }
}
