//! Writes to objects: what a real server does with those that a controller sends.

use serde_json::{Value, json};

use super::apply;
use super::place::Place;
use super::query::Request;
use super::state::State;
use super::status::{self, Failure};
use super::whole;

/// When objects are created: whoever compares times does not compare this one.
const CREATED: &str = "2026-01-01T00:00:00Z";

/// Returns an object.
pub(super) fn get(state: &State, place: &Place) -> Result<Value, Failure> {
    object(state, place).ok_or_else(|| status::absent(place))
}

fn object(state: &State, place: &Place) -> Option<Value> {
    let namespace = place.namespace.as_deref().unwrap_or_default();
    let mut object = state.get(&place.kind.word, namespace, place.name.as_deref()?)?;
    object["kind"] = place.kind.word.as_str().into();
    object["apiVersion"] = place.kind.api_version().into();
    Some(object)
}

/// Does what a request asks for that is no reading; returns the object that it led to.
pub(super) fn write(state: &mut State, place: &Place, request: &Request) -> Result<Value, Failure> {
    if !state.faults.write_answers.is_empty() {
        let canned = state.faults.write_answers.remove(0);
        return Err(status::canned(
            canned.code,
            canned.retry_after,
            &canned.body,
        ));
    }
    if state.faults.conflicts > 0 && place.name.is_some() {
        state.faults.conflicts -= 1;
        return Err(status::stale(place));
    }
    match request.method.as_str() {
        "POST" => create(state, place, request),
        "PUT" => replace(state, place, request),
        "PATCH" => patch(state, place, request),
        _ => {
            let object = get(state, place)?;
            if state.has_nodes {
                whole::delete(state, place, request);
                return Ok(object);
            }
            let namespace = place.namespace.as_deref().unwrap_or_default();
            let name = place.name.as_deref().unwrap_or_default();
            state.delete(&place.kind.word, namespace, name);
            Ok(object)
        }
    }
}

fn parse(request: &Request) -> Result<Value, Failure> {
    serde_json::from_str(&request.body)
        .map_err(|error| status::bad_request(&format!("the object cannot be decoded: {error}")))
}

fn is_json(request: &Request) -> Result<(), Failure> {
    const ACCEPTED: &str =
        "application/json, application/yaml, application/vnd.kubernetes.protobuf";
    match request.header("content-type") {
        "application/json" => Ok(()),
        _ => Err(status::media_type(ACCEPTED)),
    }
}

fn create(state: &mut State, place: &Place, request: &Request) -> Result<Value, Failure> {
    is_json(request)?;
    let mut object = parse(request)?;
    if let Some(namespace) = &place.namespace {
        if state.get("Namespace", "", namespace).is_none() {
            return Err(status::no_namespace(namespace));
        }
        object["metadata"]["namespace"] = namespace.as_str().into();
    }
    let name = object["metadata"]["name"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let place = Place {
        name: Some(name.clone()),
        ..place.clone()
    };
    check_times(&object)?;
    if place.kind.word == "Event" {
        if object["eventTime"].is_null() {
            return Err(status::no_event_time(&name));
        }
        object["deprecatedSource"] = json!({});
        object["deprecatedFirstTimestamp"] = Value::Null;
        object["deprecatedLastTimestamp"] = Value::Null;
    }
    if get(state, &place).is_ok() {
        return Err(status::exists(&place));
    }
    if state.has_nodes {
        return whole::create(state, &place, object);
    }
    object["metadata"]["uid"] = format!("uid-{}", state.version).into();
    object["metadata"]["creationTimestamp"] = CREATED.into();
    state.set(object);
    get(state, &place)
}

/// The server takes times of leases with six digits only.
fn check_times(object: &Value) -> Result<(), Failure> {
    if object["kind"] != "Lease" {
        return Ok(());
    }
    for field in ["acquireTime", "renewTime"] {
        let Some(text) = object["spec"][field].as_str() else {
            continue;
        };
        let rest = match text.split_once('.') {
            _ if !text.starts_with("20") => Some((text, "2006")),
            Some((_, digits)) if digits.len() == 7 && digits.ends_with('Z') => None,
            _ => Some(("Z", ".000000")),
        };
        if let Some((rest, wanted)) = rest {
            return Err(status::bad_request(&format!(
                "Lease in version \"v1\" cannot be handled as a Lease: parsing time \"{text}\" as \"2006-01-02T15:04:05.000000Z07:00\": cannot parse \"{rest}\" as \"{wanted}\""
            )));
        }
    }
    Ok(())
}

fn replace(state: &mut State, place: &Place, request: &Request) -> Result<Value, Failure> {
    is_json(request)?;
    let wanted = parse(request)?;
    check_times(&wanted)?;
    let before = get(state, place)?;
    if wanted["metadata"]["resourceVersion"].is_null() {
        return Err(status::no_version(place));
    }
    update(state, place, before, wanted)
}

fn patch(state: &mut State, place: &Place, request: &Request) -> Result<Value, Failure> {
    const ACCEPTED: &str =
        "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml";
    match request.header("content-type") {
        "application/apply-patch+yaml" if state.has_nodes && place.subresource.is_none() => {
            whole::apply(state, place, request)
        }
        "application/apply-patch+yaml" => apply::apply(state, place, request),
        // Where no list is patched both are one.
        "application/merge-patch+json" | "application/strategic-merge-patch+json" => {
            let patch = parse(request)?;
            let before = get(state, place)?;
            let mut wanted = before.clone();
            merge(&mut wanted, patch);
            check_times(&wanted)?;
            update(state, place, before, wanted)
        }
        _ => Err(status::media_type(ACCEPTED)),
    }
}

/// Applies a merge patch (RFC 7386).
fn merge(value: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *value = patch;
        return;
    };
    if !value.is_object() {
        *value = json!({});
    }
    for (name, patch) in patch {
        if patch.is_null() {
            if let Some(fields) = value.as_object_mut() {
                fields.remove(&name);
            }
        } else {
            merge(&mut value[name], patch);
        }
    }
}

/// Puts `wanted` in the place of `before`, as far as the path says: a status, or everything but that.
fn update(
    state: &mut State,
    place: &Place,
    before: Value,
    mut wanted: Value,
) -> Result<Value, Failure> {
    let version = &wanted["metadata"]["resourceVersion"];
    if !version.is_null() && *version != before["metadata"]["resourceVersion"] {
        return Err(status::stale(place));
    }
    let after = match place.subresource.as_deref() {
        Some("status") => {
            let mut after = before.clone();
            after["status"] = wanted["status"].take();
            after
        }
        _ => {
            for field in [
                "uid",
                "creationTimestamp",
                "resourceVersion",
                "managedFields",
            ] {
                let kept = &before["metadata"][field];
                if !kept.is_null() {
                    wanted["metadata"][field] = kept.clone();
                }
            }
            if state.has_nodes && !whole::is_same_but_metadata(&before, &wanted) {
                whole::count_up(&mut wanted);
            }
            if (place.kind.is_custom || state.has_nodes) && !before["status"].is_null() {
                wanted["status"] = before["status"].clone();
            }
            wanted
        }
    };
    if after == before {
        return Ok(before);
    }
    state.set(after);
    get(state, place)
}
