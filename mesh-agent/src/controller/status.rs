//! What an object's status is to be: our entries as they are wanted, and everybody else's as they are. Pure.
//!
//! `parents` and `ancestors` are one field to the API server: whoever writes an entry writes all of them. So the others' are written
//! as they were read, with the version that they were read in, and a write that comes too late is refused as a whole.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::config::key::{Key, Kind};
use crate::model::status::{CONTROLLER, Condition, ParentReference, ParentStatus};

/// Bytes of a condition's message (`maxLength` of the definition).
const MESSAGE_BYTES: usize = 32 * 1024;

/// Entries of `parents` (`maxItems` of the definition).
const PARENTS: usize = 32;

/// Entries of `ancestors`.
const ANCESTORS: usize = 16;

/// How entries of a kind are written.
#[derive(Clone, Copy, Debug)]
struct Shape {
    /// Field of `status`.
    list: &'static str,
    /// Field of an entry.
    reference: &'static str,
    most: usize,
}

/// Returns the shape, for a kind that has such entries.
fn shape(kind: Kind) -> Option<Shape> {
    if kind.route().is_some() {
        return Some(Shape {
            list: "parents",
            reference: "parentRef",
            most: PARENTS,
        });
    }
    let is_policy = matches!(
        kind,
        Kind::BackendTLSPolicy | Kind::XBackendTrafficPolicy | Kind::TrafficPolicy
    );
    is_policy.then_some(Shape {
        list: "ancestors",
        reference: "ancestorRef",
        most: ANCESTORS,
    })
}

/// Returns whether objects of this kind have a status that is written.
pub(super) fn is_written(kind: Kind) -> bool {
    shape(kind).is_some()
}

/// Returns the status that an object is to have, or `None` where it is as it should be.
///
/// What changed is written; when a condition came to be is kept as long as its status is the same.
pub(super) fn change(
    key: &Key,
    object: &Value,
    wanted: &[ParentStatus],
    now: Timestamp,
) -> Option<Value> {
    let shape = shape(key.kind)?;
    let entries = object["status"][shape.list].as_array();
    let entries = entries.map(Vec::as_slice).unwrap_or_default();
    let (own, others): (Vec<&Value>, Vec<&Value>) = entries
        .iter()
        .partition(|entry| entry["controllerName"] == CONTROLLER);
    let mut seen = BTreeSet::new();
    let room = shape.most.saturating_sub(others.len());
    let wanted = wanted.iter().filter(|it| seen.insert(&it.parent));
    let wanted: Vec<&ParentStatus> = wanted.take(room).collect();
    let live = |status: &ParentStatus| {
        let is_its =
            |entry: &&&Value| reference(&entry[shape.reference], &key.namespace) == status.parent;
        own.iter().find(is_its).copied()
    };
    let is_same = own.len() == wanted.len()
        && wanted
            .iter()
            .all(|it| live(it).is_some_and(|entry| has(entry, &it.conditions)));
    if is_same {
        return None;
    }
    let mut list: Vec<Value> = others.into_iter().cloned().collect();
    list.extend(wanted.into_iter().map(|it| entry(it, live(it), shape, now)));
    Some(json!({ shape.list: list }))
}

/// Returns what is applied to give an object this status.
pub(super) fn apply(key: &Key, version: &str, object: &Value, status: &Value) -> Value {
    let mut metadata = json!({
        "name": key.name,
        "resourceVersion": object["metadata"]["resourceVersion"],
    });
    if key.kind.is_namespaced() {
        metadata["namespace"] = key.namespace.as_str().into();
    }
    json!({"apiVersion": version, "kind": key.kind.word(), "metadata": metadata, "status": status})
}

/// Returns a reference with everything that the API server would have filled in.
fn reference(value: &Value, namespace: &str) -> ParentReference {
    let text = |field: &str| value[field].as_str().map(str::to_owned);
    ParentReference {
        group: text("group").unwrap_or_else(|| "gateway.networking.k8s.io".to_owned()),
        kind: text("kind").unwrap_or_else(|| "Gateway".to_owned()),
        namespace: text("namespace").unwrap_or_else(|| namespace.to_owned()),
        name: text("name").unwrap_or_default(),
        section_name: text("sectionName"),
        port: value["port"].as_u64().and_then(|port| port.try_into().ok()),
    }
}

/// Returns whether an entry has these conditions and no others, whenever they came to be.
fn has(entry: &Value, wanted: &[Condition]) -> bool {
    let live = entry["conditions"].as_array();
    let live = live.map(Vec::as_slice).unwrap_or_default();
    live.len() == wanted.len()
        && wanted.iter().all(|wanted| {
            let found = live.iter().find(|it| it["type"] == wanted.kind.as_str());
            found.is_some_and(|found| is_same(found, wanted))
        })
}

pub(super) fn is_same(live: &Value, wanted: &Condition) -> bool {
    live["status"] == wanted.status.as_str()
        && live["reason"] == wanted.reason.as_str()
        && live["message"] == message(&wanted.message)
        && live["observedGeneration"].as_i64() == wanted.observed_generation
}

fn entry(wanted: &ParentStatus, live: Option<&Value>, shape: Shape, now: Timestamp) -> Value {
    let conditions = wanted.conditions.iter().map(|it| {
        let before = live.and_then(|live| live["conditions"].as_array());
        let before = before.into_iter().flatten();
        condition(it, before, now)
    });
    json!({
        "controllerName": CONTROLLER,
        shape.reference: wanted.parent,
        "conditions": conditions.collect::<Vec<_>>(),
    })
}

/// Returns a condition as it is written, after those that were there before.
pub(super) fn condition<'v>(
    wanted: &Condition,
    mut before: impl Iterator<Item = &'v Value>,
    now: Timestamp,
) -> Value {
    let before = before.find(|it| it["type"] == wanted.kind.as_str());
    let same = before.filter(|it| it["status"] == wanted.status.as_str());
    let since = same.and_then(|it| it["lastTransitionTime"].as_str());
    let since = since.map_or_else(
        || now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        str::to_owned,
    );
    let mut value = json!({
        "type": wanted.kind,
        "status": wanted.status,
        "reason": wanted.reason,
        "message": message(&wanted.message),
        "lastTransitionTime": since,
    });
    if let Some(generation) = wanted.observed_generation {
        value["observedGeneration"] = generation.into();
    }
    value
}

fn message(text: &str) -> &str {
    cut(text, MESSAGE_BYTES)
}

/// Returns the beginning of a text, as much of it as fits.
pub(super) fn cut(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        Key {
            kind: Kind::HTTPRoute,
            namespace: "shop".to_owned(),
            name: "timeouts".to_owned(),
        }
    }

    fn parent(name: &str) -> ParentReference {
        ParentReference {
            group: String::new(),
            kind: "Service".to_owned(),
            namespace: "shop".to_owned(),
            name: name.to_owned(),
            section_name: None,
            port: None,
        }
    }

    fn wanted(name: &str, status: &str) -> ParentStatus {
        let condition = Condition {
            kind: "Accepted".to_owned(),
            status: status.to_owned(),
            reason: "Accepted".to_owned(),
            message: String::new(),
            observed_generation: Some(1),
        };
        ParentStatus {
            parent: parent(name),
            controller_name: CONTROLLER.to_owned(),
            conditions: vec![condition],
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn with(status: Value) -> Value {
        json!({"metadata": {"name": "timeouts", "namespace": "shop", "resourceVersion": "7"}, "status": status})
    }

    fn other() -> Value {
        json!({"controllerName": "other.example.com/controller", "parentRef": {"group": "", "kind": "Service", "name": "cart"},
            "conditions": [{"type": "Accepted", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z", "odd": 1}]})
    }

    #[test]
    fn what_is_as_wanted_is_not_written_whatever_its_times() {
        let status = change(&key(), &with(json!({})), &[wanted("cart", "True")], at(0)).unwrap();
        let mut object = with(status);
        assert_eq!(
            change(&key(), &object, &[wanted("cart", "True")], at(9)),
            None
        );
        // The API server fills in nothing that we left out, but may order fields as it likes.
        let entry = &mut object["status"]["parents"][0];
        entry["conditions"][0]["lastTransitionTime"] = "2020-01-01T00:00:00Z".into();
        entry["parentRef"]
            .as_object_mut()
            .unwrap()
            .remove("namespace");
        assert_eq!(
            change(&key(), &object, &[wanted("cart", "True")], at(9)),
            None
        );
    }

    #[test]
    fn a_time_changes_with_the_status_alone() {
        let status = change(&key(), &with(json!({})), &[wanted("cart", "True")], at(0)).unwrap();
        let object = with(status);
        let mut again = wanted("cart", "True");
        again.conditions[0].observed_generation = Some(2);
        let status = change(&key(), &object, &[again], at(60)).unwrap();
        let condition = &status["parents"][0]["conditions"][0];
        assert_eq!(condition["observedGeneration"], 2);
        assert_eq!(condition["lastTransitionTime"], "1970-01-01T00:00:00Z");
        let status = change(&key(), &object, &[wanted("cart", "False")], at(60)).unwrap();
        let condition = &status["parents"][0]["conditions"][0];
        assert_eq!(condition["lastTransitionTime"], "1970-01-01T00:01:00Z");
    }

    #[test]
    fn others_stay_as_they_were_read_and_ours_go_with_their_parents() {
        let first = change(
            &key(),
            &with(json!({"parents": [other()]})),
            &[wanted("cart", "True")],
            at(0),
        );
        let first = first.unwrap();
        assert_eq!(first["parents"][0], other());
        assert_eq!(first["parents"].as_array().unwrap().len(), 2);
        let then = change(&key(), &with(first.clone()), &[], at(1)).unwrap();
        assert_eq!(then, json!({"parents": [other()]}));
        assert_eq!(change(&key(), &with(then), &[], at(1)), None);
        let moved = change(&key(), &with(first), &[wanted("web", "True")], at(1)).unwrap();
        assert_eq!(moved["parents"][1]["parentRef"]["name"], "web");
        assert_eq!(moved["parents"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn a_parent_that_is_named_twice_has_one_entry_and_duplicates_go() {
        let twice = [wanted("cart", "True"), wanted("cart", "True")];
        let status = change(&key(), &with(json!({})), &twice, at(0)).unwrap();
        assert_eq!(status["parents"].as_array().unwrap().len(), 1);
        let entry = status["parents"][0].clone();
        let object = with(json!({"parents": [entry, entry]}));
        let status = change(&key(), &object, &twice, at(0)).unwrap();
        assert_eq!(status["parents"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn there_are_never_more_entries_than_the_definition_allows() {
        let others = vec![other(); 31];
        let wanted = [wanted("a", "True"), wanted("b", "True")];
        let status = change(&key(), &with(json!({"parents": others})), &wanted, at(0)).unwrap();
        let list = status["parents"].as_array().unwrap();
        assert_eq!(list.len(), 32);
        assert_eq!(list[31]["parentRef"]["name"], "a");
        assert_eq!(change(&key(), &with(status), &wanted, at(0)), None);
    }

    #[test]
    fn what_is_applied_names_the_version_that_was_read() {
        let status = json!({"parents": []});
        let applied = apply(
            &key(),
            "gateway.networking.k8s.io/v1",
            &with(json!({})),
            &status,
        );
        assert_eq!(
            applied,
            json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
                "metadata": {"name": "timeouts", "namespace": "shop", "resourceVersion": "7"}, "status": {"parents": []}})
        );
    }

    #[test]
    fn policies_have_ancestors() {
        let key = Key {
            kind: Kind::BackendTLSPolicy,
            ..key()
        };
        let status = change(&key, &with(json!({})), &[wanted("cart", "True")], at(0)).unwrap();
        assert_eq!(status["ancestors"][0]["ancestorRef"]["name"], "cart");
    }
}
