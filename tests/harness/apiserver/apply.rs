//! Server-side apply to a status, reduced to what recordings show: fields of `status` have managers, and a list of parents is one
//! field.

use serde_json::{Map, Value, json};

use super::place::Place;
use super::query::Request;
use super::state::State;
use super::status::{self, Failure};
use super::write;

/// Fields that statuses have, with what tells items of a list apart, where each is a field of its own.
const FIELDS: [(&str, Option<&str>); 4] = [
    ("parents", None),
    ("ancestors", None),
    ("conditions", Some("type")),
    ("supportedFeatures", Some("name")),
];

pub(super) fn apply(state: &mut State, place: &Place, request: &Request) -> Result<Value, Failure> {
    let manager = request.parameter("fieldManager");
    if manager.is_empty() {
        return Err(status::no_manager());
    }
    let wanted: Value = serde_json::from_str(&request.body).map_err(|_| {
        status::bad_request("error decoding YAML: error converting YAML to JSON: yaml: found unexpected end of stream")
    })?;
    let metadata = &wanted["metadata"];
    let name = metadata["name"].as_str().unwrap_or_default();
    let of_path = place.name.as_deref().unwrap_or_default();
    if name != of_path {
        return Err(status::bad_request(&format!(
            "the name of the object ({name}) does not match the name on the URL ({of_path})"
        )));
    }
    let before = write::get(state, place)?;
    let empty = Map::new();
    let fields = wanted["status"].as_object().unwrap_or(&empty);
    let known = |field: &&String| FIELDS.iter().any(|(name, _)| name == field);
    if let Some(field) = fields.keys().find(|field| !known(field)) {
        return Err(status::undeclared(place, &format!(".status.{field}")));
    }
    let version = &metadata["resourceVersion"];
    if !version.is_null() && *version != before["metadata"]["resourceVersion"] {
        return Err(status::stale(place));
    }
    let mut after = before.clone();
    let is_forced = request.parameter("force") == "true";
    for (field, value) in fields {
        if !is_forced {
            check(&before, field, value, manager)?;
        }
        if before["status"][field] != *value {
            let key = FIELDS.iter().find(|(name, _)| name == field);
            let list = &mut after["status"][field];
            match key.and_then(|(_, key)| *key) {
                None => *list = value.clone(),
                Some(key) => merge(list, value, key),
            }
            disown(&mut after, field, manager);
        }
    }
    own(&mut after, fields, manager);
    if after != before {
        state.set(after);
    }
    write::get(state, place)
}

/// Refuses where another manager has a field that would be another.
fn check(before: &Value, field: &str, value: &Value, manager: &str) -> Result<(), Failure> {
    let managers = before["metadata"]["managedFields"].as_array();
    let mut others = managers
        .into_iter()
        .flatten()
        .filter(|it| it["manager"] != manager && owns(it, field));
    match others.next() {
        Some(other) if before["status"][field] != *value => {
            let other = other["manager"].as_str().unwrap_or_default();
            Err(status::taken(other, &[format!(".status.{field}")]))
        }
        _ => Ok(()),
    }
}

fn owns(entry: &Value, field: &str) -> bool {
    !entry["fieldsV1"]["f:status"][format!("f:{field}")].is_null()
}

/// Takes a field from all other managers.
fn disown(object: &mut Value, field: &str, manager: &str) {
    let Some(managers) = object["metadata"]["managedFields"].as_array_mut() else {
        return;
    };
    for entry in managers.iter_mut().filter(|it| it["manager"] != manager) {
        let fields = entry["fieldsV1"]["f:status"].as_object_mut();
        if let Some(fields) = fields {
            fields.remove(&format!("f:{field}"));
        }
    }
    managers.retain(|it| it["fieldsV1"]["f:status"] != json!({}));
}

fn own(object: &mut Value, fields: &Map<String, Value>, manager: &str) {
    let owned: Map<String, Value> = fields
        .keys()
        .map(|it| (format!("f:{it}"), json!({})))
        .collect();
    let entry = json!({"manager": manager, "operation": "Apply", "subresource": "status",
        "fieldsType": "FieldsV1", "fieldsV1": {"f:status": owned}});
    let managers = &mut object["metadata"]["managedFields"];
    if !managers.is_array() {
        *managers = json!([]);
    }
    let Some(managers) = managers.as_array_mut() else {
        return;
    };
    let is_its = |it: &Value| it["manager"] == manager && it["operation"] == "Apply";
    // The same entry stays as it is, with its time.
    if !managers
        .iter()
        .any(|it| is_its(it) && it["fieldsV1"] == entry["fieldsV1"])
    {
        managers.retain(|it| !is_its(it));
        managers.push(entry);
    }
}

/// Puts items in the place of those with the same key.
fn merge(list: &mut Value, items: &Value, key: &str) {
    let mut merged = list.as_array().cloned().unwrap_or_default();
    for item in items.as_array().into_iter().flatten() {
        match merged.iter_mut().find(|it| it[key] == item[key]) {
            Some(before) => *before = item.clone(),
            None => merged.push(item.clone()),
        }
    }
    *list = merged.into();
}
