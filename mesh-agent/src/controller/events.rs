//! Events on objects that are not, or not wholly, in force: which are sent, and how often.
//!
//! One is sent when something begins to be wrong with an object, and not again as long as it stays so. What comes back counts the
//! same event on (`series`). An event's name follows from what it says, so one that another leader sent is there already.
#![forbid(unsafe_code)]

use std::collections::{BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use crate::chance::Chance;
use crate::config::key::Key;
use crate::controller::elector::Leadership;
use crate::controller::lease::micros;
use crate::controller::outcome;
use crate::controller::pace::{self, Bucket};
use crate::controller::rights::Rights;
use crate::controller::status::cut;
use crate::controller::told::Told;
use crate::model::status::{CONTROLLER, ObjectStatus};
use crate::source::kubernetes::write::{Form, WriteError, Writer};
use crate::telemetry::metrics::controller::{Counts, Outcome, Sort};

/// Events of one object: this many at once, and one after each minute. A route that is edited until it works has a few.
const OBJECT: (u32, Duration) = (10, Duration::from_secs(60));

/// Events of all objects: this many at once, and ten a second. etcd keeps each for an hour.
const ALL: (u32, Duration) = (200, Duration::from_millis(100));

/// Events that are remembered, so that what comes back is counted on. Each takes some 50 bytes.
const REMEMBERED: usize = 4096;

/// Events that wait to be sent: what may come at once.
pub(super) const WAITING: usize = 256;

/// Tries of each; then it is left out. It says nothing that the status does not.
const TRIES: u32 = 3;

/// Bytes of a note, of a reason and of an instance, and of an object's name within that of an event (API limits).
const NOTE_BYTES: usize = 1024;
const WORD_BYTES: usize = 128;
const NAME_BYTES: usize = 230;

/// Something that is wrong with an object.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct Finding {
    pub(super) reason: String,
    pub(super) note: String,
}

/// Returns what a status says against its object.
pub(super) fn of_status(status: &ObjectStatus) -> impl Iterator<Item = Finding> + '_ {
    status.parents.iter().flat_map(|parent| {
        let of = &parent.parent;
        let conditions = parent.conditions.iter();
        let bad = conditions.filter(|it| it.is_true() == (it.kind == "PartiallyInvalid"));
        bad.map(move |it| Finding {
            reason: it.reason.clone(),
            note: format!(
                "{}={} for {} {}/{}: {}",
                it.kind, it.status, of.kind, of.namespace, of.name, it.message
            ),
        })
    })
}

/// An event that is to be sent.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Post {
    namespace: String,
    name: String,
    body: Value,
    /// How often it was seen.
    count: u32,
}

/// What was sent, and what may be.
#[derive(Debug)]
pub(super) struct Book {
    instance: String,
    /// What is wrong with each object, as far as it was told.
    standing: HashMap<Key, Standing>,
    /// How often each event was seen, and when last.
    sent: HashMap<u64, (u32, Instant)>,
    objects: HashMap<Key, Bucket>,
    all: Bucket,
}

#[derive(Debug)]
struct Standing {
    uid: String,
    findings: BTreeSet<Finding>,
}

impl Book {
    pub(super) fn new(instance: &str, now: Instant) -> Self {
        Self {
            instance: cut(instance, WORD_BYTES).to_owned(),
            standing: HashMap::new(),
            sent: HashMap::new(),
            objects: HashMap::new(),
            all: Bucket::new(ALL.0, ALL.1, now),
        }
    }

    /// Returns whether something was told of an object.
    pub(super) fn knows(&self, key: &Key) -> bool {
        self.standing.contains_key(key)
    }

    /// Takes in that an object is gone.
    pub(super) fn gone(&mut self, key: &Key) {
        self.standing.remove(key);
    }

    /// Takes in everything that is wrong with an object. Returns the events that this calls for, and how many more there were
    /// than may be sent; those are tried again at the object's next change.
    pub(super) fn take(
        &mut self,
        key: &Key,
        object: &Value,
        findings: BTreeSet<Finding>,
        (now, time): (Instant, Timestamp),
    ) -> (Vec<Post>, usize) {
        let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
        let before = self.standing.remove(key).filter(|it| it.uid == uid);
        let before = before.map(|it| it.findings).unwrap_or_default();
        let mut told = BTreeSet::new();
        let mut posts = Vec::new();
        let mut dropped = 0;
        for finding in findings {
            if !before.contains(&finding) {
                if !self.may(key, now) {
                    dropped += 1;
                    continue;
                }
                posts.push(self.post(key, (object, uid), &finding, (now, time)));
            }
            told.insert(finding);
        }
        if !told.is_empty() {
            let standing = Standing {
                uid: uid.to_owned(),
                findings: told,
            };
            self.standing.insert(key.clone(), standing);
        }
        (posts, dropped)
    }

    fn may(&mut self, key: &Key, now: Instant) -> bool {
        if self.objects.len() >= REMEMBERED {
            self.objects.retain(|_, bucket| !bucket.is_full(now));
        }
        let bucket = self.objects.entry(key.clone());
        let bucket = bucket.or_insert_with(|| Bucket::new(OBJECT.0, OBJECT.1, now));
        bucket.take(now).is_ok() && self.all.take(now).is_ok()
    }

    fn post(
        &mut self,
        key: &Key,
        (object, uid): (&Value, &str),
        finding: &Finding,
        (now, time): (Instant, Timestamp),
    ) -> Post {
        let mut hasher = DefaultHasher::new();
        (uid, finding).hash(&mut hasher);
        let hash = hasher.finish();
        if self.sent.len() >= REMEMBERED && !self.sent.contains_key(&hash) {
            let oldest = self.sent.iter().min_by_key(|(_, (_, last))| *last);
            if let Some(oldest) = oldest.map(|(hash, _)| *hash) {
                self.sent.remove(&oldest);
            }
        }
        let (count, last) = self.sent.entry(hash).or_insert((0, now));
        *count += 1;
        *last = now;
        // Objects in no namespace have theirs in `default`.
        let namespace = match key.namespace.is_empty() {
            true => "default",
            false => &key.namespace,
        };
        let base = cut(&key.name, NAME_BYTES).trim_end_matches(['-', '.']);
        let name = format!("{base}.{hash:016x}");
        let mut regarding = json!({
            "apiVersion": object.get("apiVersion").and_then(Value::as_str).unwrap_or(key.kind.version()),
            "kind": key.kind.word(),
            "name": key.name,
            "uid": uid,
        });
        if !key.namespace.is_empty() {
            regarding["namespace"] = key.namespace.as_str().into();
        }
        let body = json!({
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": namespace},
            "eventTime": micros(time),
            "reportingController": CONTROLLER,
            "reportingInstance": self.instance,
            "action": "Validate",
            "reason": cut(&finding.reason, WORD_BYTES),
            "regarding": regarding,
            "note": cut(&finding.note, NOTE_BYTES),
            "type": "Warning",
        });
        Post {
            namespace: namespace.to_owned(),
            name,
            body,
            count: *count,
        }
    }
}

/// What it takes to send an event, and to count on one.
const EVENTS: &str = "create and patch events (events.k8s.io)";

/// Sends events, one after the other.
#[derive(Debug)]
pub(super) struct Sender {
    pub(super) writer: Arc<Writer>,
    pub(super) leadership: Leadership,
    pub(super) posts: mpsc::Receiver<Post>,
    pub(super) told: Arc<Told>,
    pub(super) rights: Arc<Rights>,
    pub(super) counts: Arc<Counts>,
}

impl Sender {
    /// Sends until nobody has any more.
    pub(super) async fn run(mut self) {
        let mut chance = Chance::random();
        while let Some(post) = self.posts.recv().await {
            for failures in 0..TRIES {
                if !self.leadership.holds() {
                    break;
                }
                let Some(after) = self.send(&post).await else {
                    break;
                };
                let (first, most) = (Duration::from_millis(500), Duration::from_secs(10));
                sleep(after + pace::pause(failures, first, most, &mut chance)).await;
            }
        }
    }

    /// Sends an event; returns after which time to try again, where that makes sense.
    async fn send(&self, post: &Post) -> Option<Duration> {
        let all = format!(
            "/apis/events.k8s.io/v1/namespaces/{}/events",
            post.namespace
        );
        let mut sent = Err(WriteError::Gone(String::new()));
        if post.count > 1 {
            let time = post.body["eventTime"].clone();
            let series = json!({"series": {"count": post.count, "lastObservedTime": time}});
            let path = format!("{all}/{}", post.name);
            let patch = series.to_string();
            sent = self
                .writer
                .write(Method::PATCH, &path, Form::MergePatch, patch)
                .await;
        }
        if let Err(WriteError::Gone(_)) = sent {
            let body = post.body.to_string();
            sent = self
                .writer
                .write(Method::POST, &all, Form::Object, body)
                .await;
        }
        let error = match sent {
            // Another leader, or this one in another life, sent it.
            Ok(_) | Err(WriteError::Exists(_)) => {
                self.counts.wrote(Sort::Event, Outcome::Done);
                self.told.clear(Sort::Event.word());
                self.rights.have(Sort::Event, EVENTS);
                return None;
            }
            Err(error) => error,
        };
        self.counts.wrote(Sort::Event, outcome(&error));
        match error {
            WriteError::Later { after, .. } => Some(after.unwrap_or_default()),
            // Its namespace is gone.
            WriteError::Gone(_) => None,
            WriteError::Forbidden(message) => {
                self.rights.lack(Sort::Event, EVENTS, &message);
                None
            }
            WriteError::Refused(_) | WriteError::Conflict(_) | WriteError::Exists(_) => {
                let message = format!("events are not sent: {error}");
                self.told.tell(Sort::Event.word(), &message);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::key::Kind;

    fn key(name: &str) -> Key {
        Key {
            kind: Kind::HTTPRoute,
            namespace: "shop".to_owned(),
            name: name.to_owned(),
        }
    }

    fn object(uid: &str) -> Value {
        json!({"metadata": {"uid": uid}})
    }

    fn findings(notes: &[&str]) -> BTreeSet<Finding> {
        let finding = |note: &&str| Finding {
            reason: "NoMatchingParent".to_owned(),
            note: (*note).to_owned(),
        };
        notes.iter().map(finding).collect()
    }

    struct Test {
        book: Book,
        now: Instant,
    }

    impl Test {
        fn new() -> Self {
            let now = Instant::now();
            let book = Book::new("controller-1", now);
            Self { book, now }
        }

        fn take(&mut self, name: &str, uid: &str, notes: &[&str]) -> (Vec<Post>, usize) {
            let times = (self.now, Timestamp::UNIX_EPOCH);
            self.book
                .take(&key(name), &object(uid), findings(notes), times)
        }
    }

    #[test]
    fn what_stays_wrong_is_told_once_and_what_comes_back_is_counted_on() {
        let mut test = Test::new();
        let (first, _) = test.take("a", "1", &["x"]);
        assert_eq!(first.len(), 1);
        assert_eq!(first[0].count, 1);
        assert!(test.take("a", "1", &["x"]).0.is_empty());
        assert!(test.take("a", "1", &[]).0.is_empty());
        let (again, _) = test.take("a", "1", &["x"]);
        assert_eq!((again[0].count, &again[0].name), (2, &first[0].name));
        // Another object of the same name is another.
        let (other, _) = test.take("a", "2", &["x"]);
        assert_eq!(other[0].count, 1);
        assert_ne!(other[0].name, first[0].name);
    }

    #[test]
    fn another_controller_gives_an_event_the_same_name() {
        let (one, _) = Test::new().take("a", "1", &["x"]);
        let (other, _) = Test::new().take("a", "1", &["x"]);
        assert_eq!(one[0].name, other[0].name);
        assert_eq!(one[0].body["regarding"]["uid"], "1");
        assert_eq!(one[0].body["eventTime"], "1970-01-01T00:00:00.000000Z");
    }

    #[test]
    fn an_object_has_few_events_and_all_together_not_many() {
        let mut test = Test::new();
        let notes: Vec<String> = (0..20).map(|n| n.to_string()).collect();
        let notes: Vec<&str> = notes.iter().map(String::as_str).collect();
        let (posts, dropped) = test.take("a", "1", &notes);
        assert_eq!((posts.len(), dropped), (10, 10));
        // What was dropped is tried again, not lost.
        test.now += OBJECT.1;
        let (posts, dropped) = test.take("a", "1", &notes);
        assert_eq!((posts.len(), dropped), (1, 9));
        let mut sent = 0;
        for n in 0..1000 {
            sent += test.take(&format!("b{n}"), "1", &["x"]).0.len();
        }
        assert!((190..=200).contains(&sent), "{sent}");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut test = Test::new();
        for n in 0..2 * REMEMBERED {
            test.now += ALL.1;
            assert_eq!(test.take(&format!("b{n}"), "1", &["x"]).0.len(), 1);
        }
        assert!(test.book.sent.len() <= REMEMBERED);
        assert!(
            test.book.objects.len() <= REMEMBERED + 1,
            "{}",
            test.book.objects.len()
        );
    }

    #[test]
    fn texts_are_cut_to_what_the_api_takes() {
        let mut test = Test::new();
        let note = "ä".repeat(2000);
        let name = format!("{}-{}", "a".repeat(229), "b".repeat(20));
        let (posts, _) = test.take(&name, "1", &[&note]);
        assert_eq!(posts[0].body["note"].as_str().unwrap().len(), NOTE_BYTES);
        assert!(posts[0].name.len() <= 253);
        assert!(!posts[0].name.contains("-."));
    }
}
