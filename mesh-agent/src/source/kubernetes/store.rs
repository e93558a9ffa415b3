//! The objects as the server says: what is kept of each, and which watch said so.
//!
//! Two watches may speak of one object: a pod that is bound to this node leaves the pods of no node and joins those of this one.
//! Nobody orders what two watches say, so an object belongs to the one that set it last, by the object's own version, and only
//! that one can say that it is gone.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::mirror::Mirror;
use super::target::Scope;
use crate::config::content::Content;
use crate::config::key::{Key, Kind, Place};
use crate::config::node::Unplaced;
use crate::config::object;

/// A change for the resolver: the place of an object, and what is there now.
pub(super) type Change = (Arc<str>, Option<Arc<Content>>);

/// Which watch.
pub(super) type Watch = (Kind, Scope);

/// The objects as the server says.
#[derive(Debug, Default)]
pub(super) struct Store {
    objects: BTreeMap<Kind, HashMap<Name, Entry>>,
    /// Lists that began so far, by watch.
    rounds: HashMap<Watch, u32>,
    /// Told of each change, where somebody wants the objects themselves.
    pub(super) mirror: Option<Mirror>,
}

/// Namespace and name.
type Name = (Box<str>, Box<str>);

#[derive(Debug)]
struct Entry {
    place: Arc<str>,
    text: Arc<str>,
    /// Who set it last; `None`: the disk.
    owner: Option<Scope>,
    /// The object's version, where it is a number.
    version: u64,
    /// List of its owner that it was last seen in.
    round: u32,
}

/// An object as it was read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Object {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) version: u64,
    /// What is kept of it.
    pub(super) text: String,
}

impl Store {
    /// Returns an empty one whose changes are told.
    pub(super) fn mirrored(mirror: Option<Mirror>) -> Self {
        Self {
            mirror,
            ..Self::default()
        }
    }

    /// Returns the number of objects of a watch.
    pub(super) fn count(&self, (kind, scope): Watch) -> usize {
        let objects = self.objects.get(&kind).into_iter().flatten();
        let is_its = |entry: &Entry| scope == Scope::All || entry.owner == Some(scope);
        objects.filter(|(_, entry)| is_its(entry)).count()
    }

    /// Returns what is kept of every object.
    pub(super) fn texts(&self) -> Vec<(Kind, Arc<str>)> {
        let of_kind = self.objects.iter();
        let of_kind = of_kind.flat_map(|(kind, objects)| {
            let texts = objects.values().map(|entry| entry.text.clone());
            texts.map(|text| (*kind, text))
        });
        of_kind.collect()
    }

    /// Returns what is kept of every object of a kind.
    pub(super) fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &str> {
        let objects = self.objects.get(&kind).into_iter().flatten();
        objects.map(|(_, entry)| &*entry.text)
    }

    /// Takes out the objects of a kind that are not wanted, by namespace and name.
    pub(super) fn keep_only(
        &mut self,
        kind: Kind,
        is_wanted: impl Fn(&str, &str) -> bool,
    ) -> Vec<Change> {
        let objects = self.objects.get(&kind).into_iter().flatten();
        let unwanted = objects.filter(|((namespace, name), _)| !is_wanted(namespace, name));
        let unwanted = unwanted.map(|(name, entry)| (name.clone(), entry.owner));
        let unwanted: Vec<(Name, Option<Scope>)> = unwanted.collect();
        let gone = unwanted
            .into_iter()
            .filter_map(|((namespace, name), owner)| {
                self.gone((kind, owner.unwrap_or(Scope::All)), &namespace, &name)
            });
        gone.collect()
    }

    /// Puts an object in that was kept on disk.
    pub(super) fn restore(&mut self, kind: Kind, object: Object) -> Change {
        self.put(kind, None, object)
    }

    /// Notes that a list begins: what it does not name is gone once it ends.
    pub(super) fn begin(&mut self, watch: Watch) {
        *self.rounds.entry(watch).or_default() += 1;
        // Another list, perhaps of another life of the server: versions of before say nothing about it.
        for entry in self.objects.entry(watch.0).or_default().values_mut() {
            entry.version = 0;
        }
    }

    /// Takes an object in; returns a change unless it is as it was.
    pub(super) fn set(&mut self, watch: Watch, object: Object) -> Option<Change> {
        let (kind, scope) = watch;
        let round = self.rounds.get(&watch).copied().unwrap_or_default();
        let name = name(&object.namespace, &object.name);
        let objects = self.objects.entry(kind).or_default();
        if let Some(entry) = objects.get_mut(&name) {
            let is_older = object.version < entry.version;
            if is_older && entry.owner.is_some_and(|owner| owner != scope) {
                return None;
            }
            entry.owner = Some(scope);
            entry.version = object.version;
            entry.round = round;
            if *entry.text == *object.text {
                return None;
            }
        }
        Some(self.put(kind, Some((scope, round)), object))
    }

    /// Takes an object out, if it is this watch's to say so.
    pub(super) fn gone(&mut self, watch: Watch, namespace: &str, of_name: &str) -> Option<Change> {
        let (kind, scope) = watch;
        let objects = self.objects.get_mut(&kind)?;
        let name = name(namespace, of_name);
        let owner = objects.get(&name)?.owner;
        if owner.is_some_and(|owner| owner != scope) {
            return None;
        }
        let entry = objects.remove(&name)?;
        if let Some(mirror) = &self.mirror {
            mirror.stage(key(kind, &name), None);
        }
        Some((entry.place, None))
    }

    /// Notes that a list ended; returns what it did not name. What only the disk knew goes once `is_last` of the kind's lists ended.
    pub(super) fn end(&mut self, watch: Watch, is_last: bool) -> Vec<Change> {
        let (kind, scope) = watch;
        let round = self.rounds.get(&watch).copied().unwrap_or_default();
        self.remove(kind, |entry| match entry.owner {
            Some(owner) => owner == scope && entry.round != round,
            None => is_last,
        })
    }

    /// Takes all objects of a kind out.
    pub(super) fn clear(&mut self, kind: Kind) -> Vec<Change> {
        self.remove(kind, |_| true)
    }

    fn remove(&mut self, kind: Kind, is_gone: impl Fn(&Entry) -> bool) -> Vec<Change> {
        let objects = self.objects.entry(kind).or_default();
        let gone = objects.extract_if(|_, entry| is_gone(entry));
        gone.map(|(name, entry)| {
            if let Some(mirror) = &self.mirror {
                mirror.stage(key(kind, &name), None);
            }
            (entry.place, None)
        })
        .collect()
    }

    fn put(&mut self, kind: Kind, by: Option<(Scope, u32)>, object: Object) -> Change {
        let key = Key {
            kind,
            namespace: object.namespace,
            name: object.name,
        };
        let place = Place::of_api(&key);
        let text: Arc<str> = object.text.into();
        if let Some(mirror) = &self.mirror {
            mirror.stage(key.clone(), Some(text.clone()));
        }
        let file = place.file.clone();
        // It was JSON when it was copied.
        let node = serde_json::from_str(&text).map(|Unplaced(node)| node);
        let item = node.map(|node| object::read_api(place, kind, &node));
        let content = item.map(|item| Arc::new(Content::of_object(item)));
        let entry = Entry {
            place: file.clone(),
            text,
            owner: by.map(|(scope, _)| scope),
            version: object.version,
            round: by.map_or(0, |(_, round)| round),
        };
        let objects = self.objects.entry(kind).or_default();
        objects.insert(name(&key.namespace, &key.name), entry);
        (file, content.ok())
    }
}

fn key(kind: Kind, (namespace, name): &Name) -> Key {
    Key {
        kind,
        namespace: namespace.to_string(),
        name: name.to_string(),
    }
}

fn name(namespace: &str, name: &str) -> Name {
    (namespace.into(), name.into())
}
