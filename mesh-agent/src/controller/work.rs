//! Looks at what changed while this process leads, and writes where something is not as it should be.
//!
//! One request at a time, at a bounded rate; what fails is put off, and what many changes lead to is written once. What is as it
//! should be costs no request.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use crate::chance::Chance;
use crate::config::key::{Key, Kind};
use crate::controller::elector::Leadership;
use crate::controller::events::{Book, Post};
use crate::controller::news::News;
use crate::controller::outcome;
use crate::controller::pace::{self, Bucket};
use crate::controller::queue::{Job, Queue};
use crate::controller::rights::Rights;
use crate::controller::taints::{self, Agents};
use crate::controller::told::Told;
use crate::controller::{mesh, status};
use crate::source::Loaded;
use crate::source::kubernetes::mirror::Mirror;
use crate::source::kubernetes::write::{Form, WriteError, Writer};
use crate::telemetry::metrics::controller::{Counts, Outcome, Sort};

/// Writes: this many at once, and twenty a second. All routes of a large cluster are written within half a minute, and a server
/// that serves thousands a second does not notice.
const WRITES: (u32, Duration) = (50, Duration::from_millis(50));

/// Time from a change to the write that follows, so that what is applied together is written once.
const SETTLE: Duration = Duration::from_millis(100);

/// The same for events: a route that comes a moment before its service is no news.
const SETTLE_EVENT: Duration = Duration::from_secs(2);

/// First and longest pause after failures.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

/// Time between two tries of what a right is missing for.
const FORBIDDEN: Duration = Duration::from_secs(60);

/// Time from a write that finds nothing there to another: by then the watch has told what is gone.
const GONE: Duration = Duration::from_secs(5);

/// Who manages the fields that are written.
pub(super) const MANAGER: &str = "underpass-controller";

/// What a worker works with.
pub(super) struct Tools {
    pub(super) mirror: Mirror,
    pub(super) loaded: watch::Receiver<Loaded>,
    pub(super) writer: Arc<Writer>,
    pub(super) leadership: Leadership,
    pub(super) events: mpsc::Sender<Post>,
    pub(super) told: Arc<Told>,
    pub(super) rights: Arc<Rights>,
    pub(super) counts: Arc<Counts>,
    pub(super) identity: String,
}

/// Writes while this process leads.
pub(super) struct Worker {
    tools: Tools,
    queue: Queue,
    news: News,
    agents: Agents,
    /// Objects that are newer than those of the mirror: answers to our own requests.
    fresh: HashMap<Key, Value>,
    bucket: Bucket,
    /// Until when the server is left alone.
    quiet: Instant,
    /// Rights that are missing, and when to try again.
    missing: BTreeMap<String, Instant>,
    book: Book,
    chance: Chance,
}

/// A write that is called for.
struct Plan {
    sort: Sort,
    /// The object's path, and what is written to.
    object: String,
    path: String,
    form: Form,
    body: String,
    /// The right that it takes, in words.
    right: String,
}

impl Worker {
    pub(super) fn new(tools: Tools) -> Self {
        let now = Instant::now();
        Self {
            book: Book::new(&tools.identity, now),
            tools,
            queue: Queue::default(),
            news: News::default(),
            agents: Agents::default(),
            fresh: HashMap::new(),
            bucket: Bucket::new(WRITES.0, WRITES.1, now),
            quiet: now,
            missing: BTreeMap::new(),
            chance: Chance::random(),
        }
    }

    /// Works until told to stop.
    pub(super) async fn run(mut self, mut stopping: watch::Receiver<bool>) {
        let mut leadership = self.tools.leadership.clone();
        loop {
            tokio::select! {
                biased;
                _ = stopping.wait_for(|stop| *stop) => return,
                () = leadership.held() => {}
            }
            self.begin();
            tokio::select! {
                biased;
                _ = stopping.wait_for(|stop| *stop) => return,
                // Whatever is on its way is given up.
                () = leadership.lost() => {}
                () = self.work() => {}
            }
            self.queue.clear();
            self.lack_nothing();
            self.tools.counts.pend(0);
        }
    }

    /// Begins to lead: whatever another leader did is looked at.
    fn begin(&mut self) {
        let now = Instant::now();
        self.book = Book::new(&self.tools.identity, now);
        self.news = News::default();
        self.fresh.clear();
        self.agents = Agents::default();
        self.quiet = now;
        for key in self.tools.mirror.keys() {
            self.touch(key);
        }
    }

    /// Works for as long as it is let.
    async fn work(&mut self) {
        let mirror = self.tools.mirror.clone();
        self.look();
        loop {
            self.tools.counts.pend(self.queue.len());
            let next = self.queue.next().map(|next| next.max(self.quiet));
            let due = async {
                match next {
                    Some(next) => sleep_until(next).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = mirror.changed() => self.look(),
                () = due => {
                    // What is decided on is the latest.
                    self.look();
                    if let Some((job, failures)) = self.queue.take(Instant::now()) {
                        self.job(job, failures).await;
                    }
                    if self.queue.len() == 0 {
                        // Whatever lacked a right would wait there.
                        self.lack_nothing();
                    }
                }
            }
        }
    }

    /// Takes in what changed. Objects first: the snapshot is then never older than they are.
    fn look(&mut self) {
        let changed = self.tools.mirror.take_changed();
        for key in &changed {
            self.fresh.remove(key);
        }
        let loaded = self.tools.loaded.borrow().clone();
        let others = self.news.take(&loaded);
        for key in changed.into_iter().chain(others) {
            self.touch(key);
        }
    }

    fn touch(&mut self, key: Key) {
        let now = Instant::now();
        if key.kind == Kind::Pod {
            let pod = self.read(&key);
            for node in self.agents.set(key.clone(), pod.as_ref()) {
                let node = Key {
                    kind: Kind::Node,
                    namespace: String::new(),
                    name: node,
                };
                self.queue.add(Job::Taint(node), now);
            }
        } else if key.kind == Kind::Node {
            self.queue.add(Job::Taint(key.clone()), now);
        } else if status::is_written(key.kind) || key.kind == Kind::XMesh {
            self.queue.add(Job::Status(key.clone()), now + SETTLE);
        }
        self.queue.add(Job::Event(key), now + SETTLE_EVENT);
    }

    /// Returns an object as it was seen last.
    fn read(&self, key: &Key) -> Option<Value> {
        if let Some(fresh) = self.fresh.get(key) {
            return Some(fresh.clone());
        }
        // It was JSON when it was copied.
        serde_json::from_str(&self.tools.mirror.get(key)?).ok()
    }

    async fn job(&mut self, job: Job, failures: u32) {
        let plan = match &job {
            Job::Event(key) => return self.event(key),
            Job::Status(key) => self.status(key),
            Job::Taint(key) => self.taint(key),
        };
        let Some(plan) = plan else { return };
        let now = Instant::now();
        if let Some(until) = self.missing.get(&plan.right).filter(|until| **until > now) {
            return self.queue.put(job, *until, failures);
        }
        if let Err(at) = self.bucket.take(now) {
            return self.queue.put(job, at, failures);
        }
        if self.tools.leadership.holds() {
            self.write(job, plan, failures).await;
        }
    }

    /// Says what is wrong with an object.
    fn event(&mut self, key: &Key) {
        let findings = self.news.findings(key);
        if findings.is_empty() && !self.book.knows(key) {
            return;
        }
        let Some(mut object) = self.read(key) else {
            return self.book.gone(key);
        };
        if let Some(resource) = self.tools.mirror.resource(key.kind) {
            object["apiVersion"] = resource.version.into();
        }
        let times = (Instant::now(), Timestamp::now());
        let (posts, dropped) = self.book.take(key, &object, findings, times);
        let unsent = posts
            .into_iter()
            .filter_map(|post| self.tools.events.try_send(post).err());
        for _ in 0..dropped + unsent.count() {
            self.tools.counts.drop_event();
        }
    }

    /// Returns how an object's status is to be written.
    fn status(&self, key: &Key) -> Option<Plan> {
        let object = self.read(key)?;
        let now = Timestamp::now();
        let change = if key.kind == Kind::XMesh {
            mesh::change(&object, now)?
        } else {
            let wanted = self.news.status(key);
            // Of another version of the object: the one that fits follows.
            let generation = object["metadata"]["generation"].as_i64();
            if wanted.is_some_and(|it| it.generation != generation) {
                return None;
            }
            let wanted = wanted.map(|it| it.parents.as_slice()).unwrap_or_default();
            status::change(key, &object, wanted, now)?
        };
        let resource = self.tools.mirror.resource(key.kind)?;
        let path = resource.path(key);
        Some(Plan {
            sort: Sort::Status,
            path: format!("{path}/status?fieldManager={MANAGER}&force=true"),
            form: Form::Apply,
            body: status::apply(key, &resource.version, &object, &change).to_string(),
            right: format!("patch {}/status ({})", resource.name, resource.group()),
            object: path,
        })
    }

    /// Returns how a node's taints are to be written.
    fn taint(&self, key: &Key) -> Option<Plan> {
        if !self.agents.is_ready(&key.name) {
            return None;
        }
        let patch = taints::without_taint(&self.read(key)?)?;
        let resource = self.tools.mirror.resource(key.kind)?;
        let path = resource.path(key);
        Some(Plan {
            sort: Sort::Taint,
            path: format!("{path}?fieldManager={MANAGER}"),
            form: Form::MergePatch,
            body: patch.to_string(),
            right: "patch nodes".to_owned(),
            object: path,
        })
    }

    async fn write(&mut self, job: Job, plan: Plan, failures: u32) {
        let (Job::Status(key) | Job::Taint(key) | Job::Event(key)) = &job;
        let key = key.clone();
        let sent = self
            .tools
            .writer
            .write(Method::PATCH, &plan.path, plan.form, plan.body.clone());
        let error = match sent.await {
            Ok(text) => {
                self.tools.counts.wrote(plan.sort, Outcome::Done);
                self.done(&key, &plan, &text);
                return;
            }
            Err(error) => error,
        };
        self.tools.counts.wrote(plan.sort, outcome(&error));
        let now = Instant::now();
        let pause = pace::pause(failures, PAUSE.0, PAUSE.1, &mut self.chance);
        match error {
            WriteError::Conflict(_) => {
                // Somebody else was faster; what they wrote is to stay.
                self.read_again(&key, &plan.object).await;
                self.queue.put(job, now + pause, failures + 1);
            }
            WriteError::Later { message, after } => {
                self.tools.told.tell(SERVER, &message);
                self.quiet = now + after.unwrap_or_default() + pause;
                self.queue.put(job, self.quiet, failures + 1);
            }
            WriteError::Forbidden(message) => {
                self.tools.rights.lack(plan.sort, &plan.right, &message);
                self.missing.insert(plan.right, now + FORBIDDEN);
                self.queue.put(job, now + FORBIDDEN, failures);
            }
            WriteError::Gone(message) => {
                self.fresh.remove(&key);
                if failures == 0 {
                    // The watch says so, too, and then there is nothing left to do.
                    self.queue.put(job, now + GONE, 1);
                } else {
                    let message = format!(
                        "the API server knows the object, but not what is to be written; does its definition have a status? {message}"
                    );
                    self.tools.told.tell(&key.to_string(), &message);
                }
            }
            // The same request would be refused again; a change makes another.
            WriteError::Refused(message) | WriteError::Exists(message) => {
                self.tools.told.tell(
                    &key.to_string(),
                    &format!("the API server refuses what is written: {message}"),
                );
            }
        }
    }

    fn lack_nothing(&mut self) {
        if !self.missing.is_empty() {
            self.missing.clear();
            self.tools.rights.forget_writes();
        }
    }

    fn done(&mut self, key: &Key, plan: &Plan, text: &[u8]) {
        tracing::debug!(object = %key, "written");
        self.tools.told.clear(SERVER);
        self.tools.told.clear(&key.to_string());
        self.missing.remove(&plan.right);
        self.tools.rights.have(plan.sort, &plan.right);
        if let Ok(object) = serde_json::from_slice(text) {
            self.fresh.insert(key.clone(), object);
        }
    }

    async fn read_again(&mut self, key: &Key, path: &str) {
        match self.tools.writer.get(path).await {
            Ok(text) => {
                if let Ok(object) = serde_json::from_slice(&text) {
                    self.fresh.insert(key.clone(), object);
                }
            }
            Err(WriteError::Gone(_)) => drop(self.fresh.remove(key)),
            // The watch brings it, somewhat later.
            Err(error) => tracing::debug!(object = %key, %error, "not read again"),
        }
    }
}

/// What troubles of the server itself are told under.
const SERVER: &str = "writes";
