//! All objects of all files to the one configuration that counts.
//!
//! What counts, precisely. An object is told by kind, namespace and name.
//!
//! - A valid object counts as it stands.
//! - An invalid one does not. If it was valid before, its **last valid version stays in force** until the object is valid
//!   again or gone.
//! - An object is gone when no file holds it any more; its last version then goes too. But where a file cannot be read, or
//!   holds something whose kind and name cannot be made out, nobody can say that an object is gone from it: **what the
//!   file held at its last good reading stays in force**. The same holds for everything while the directory cannot be listed.
//! - Where two objects claim one name or one address, the one that has it already keeps it; else the first in the order of
//!   file name and place does. The other one is invalid.
#![forbid(unsafe_code)]

mod choice;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::content::Content;
use crate::config::key::{Key, Kind, Place};
use crate::config::namespace::Namespace;
use crate::config::object::Object;
use crate::config::pod::Pod;
use crate::config::problem::Problem;
use crate::model::workload::{Acceleration, Workload, WorkloadName};

use choice::Choice;

/// The objects in force, with their places.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Running {
    objects: BTreeMap<Key, Arc<(Place, Object)>>,
}

impl Running {
    /// Returns the key of a workload's pod, and where it stands.
    pub(crate) fn pod(&self, name: &WorkloadName) -> Option<(&Key, &Place)> {
        let key = Key {
            kind: Kind::Pod,
            namespace: name.namespace.clone(),
            name: name.name.clone(),
        };
        let (key, object) = self.objects.get_key_value(&key)?;
        Some((key, &object.0))
    }
}

/// The outcome of one resolution.
#[derive(Debug)]
pub(crate) struct Resolved {
    /// What is in force now; the next resolution needs it.
    pub(crate) running: Running,
    /// The workloads that follow from it, ordered by name.
    pub(crate) workloads: Vec<Arc<Workload>>,
    /// What is wrong, ordered by place.
    pub(crate) problems: Vec<Problem>,
}

/// Resolves what the files hold now against what was in force before. Pure.
///
/// `contents` is the directory, or why it cannot be listed.
pub(crate) fn resolve(
    contents: Result<&[Arc<Content>], &Problem>,
    before: &Running,
    default: Acceleration,
) -> Resolved {
    let mut problems = Vec::new();
    let objects = match contents {
        Ok(contents) => {
            let mut choice = Choice::new(contents, before);
            choice.settle_addresses();
            choice.limit();
            problems = choice.problems();
            choice.objects
        }
        Err(problem) => {
            let keeps = !before.objects.is_empty();
            let kept = keeps.then_some("; all objects stay in force meanwhile");
            problems.push(Problem {
                help: format!("{}{}", problem.help, kept.unwrap_or_default()),
                ..problem.clone()
            });
            before.objects.clone()
        }
    };
    let running = Running { objects };
    Resolved {
        workloads: workloads(&running, default),
        running,
        problems,
    }
}

fn live_pod<'o>((key, object): (&'o Key, &'o Arc<(Place, Object)>)) -> Option<(&'o Key, &'o Pod)> {
    match &object.1 {
        Object::Pod(pod) if pod.live => Some((key, pod)),
        Object::Pod(_) | Object::Namespace(_) => None,
    }
}

fn workloads(running: &Running, default: Acceleration) -> Vec<Arc<Workload>> {
    let of_namespace = |name: &str| {
        let key = Key {
            kind: Kind::Namespace,
            namespace: String::new(),
            name: name.to_owned(),
        };
        match &running.objects.get(&key)?.1 {
            Object::Namespace(Namespace { acceleration }) => *acceleration,
            Object::Pod(_) => None,
        }
    };
    let pods = running.objects.iter().filter_map(live_pod);
    let workload = |(_, pod): (&Key, &Pod)| {
        Arc::new(Workload {
            name: pod.name.clone(),
            uid: pod.uid.clone(),
            labels: pod.labels.clone(),
            service_account: pod.service_account.clone(),
            node: None,
            ready: true,
            terminating: false,
            ports: Vec::new(),
            addresses: pod.addresses.iter().map(|address| address.ip).collect(),
            location: pod.location.clone(),
            acceleration: pod
                .acceleration
                .or_else(|| of_namespace(&pod.name.namespace))
                .unwrap_or(default),
            origin: pod.place.to_string(),
        })
    };
    pods.map(workload).collect()
}
