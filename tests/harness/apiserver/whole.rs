//! Objects as users apply them, in a cluster that has nodes: made or merged whole, and removed once whoever works on them has ended.

use serde_json::{Map, Value, json};

use super::place::Place;
use super::query::Request;
use super::state::{Name, State};
use super::status::{self, Failure};
use super::write;

/// What somebody applied: kind, name, and who did.
pub(super) type Applied = (String, Name, String);

/// Server-side apply of an object: what this manager applied before and leaves out now goes, everything else stays. Lists are one field
/// each; a real server merges some by a key, which shows only where several managers write one list.
pub(super) fn apply(state: &mut State, place: &Place, request: &Request) -> Result<Value, Failure> {
    let manager = request.parameter("fieldManager");
    if manager.is_empty() {
        return Err(status::no_manager());
    }
    let mut wanted: Value = serde_json::from_str(&request.body)
        .map_err(|error| status::bad_request(&format!("the object cannot be decoded: {error}")))?;
    let key = place.object().ok_or_else(status::not_found)?;
    if let Some(namespace) = &place.namespace {
        wanted["metadata"]["namespace"] = namespace.as_str().into();
    }
    let word = &place.kind.word;
    let applied = (word.clone(), key.clone(), manager.to_owned());
    let last = state.applied.insert(applied, wanted.clone());
    let Some(before) = state.get(word, &key.0, &key.1) else {
        return create(state, place, wanted);
    };
    let mut after = before.clone();
    prune(&mut after, &last.unwrap_or_default(), &wanted);
    overlay(&mut after, &wanted);
    if !is_same_but_metadata(&before, &after) {
        count_up(&mut after);
    }
    if after != before {
        state.set(after);
    }
    write::get(state, place)
}

/// Makes an object.
pub(super) fn create(
    state: &mut State,
    place: &Place,
    mut object: Value,
) -> Result<Value, Failure> {
    if let Some(namespace) = &place.namespace {
        let home = state.get("Namespace", "", namespace);
        let home = home.ok_or_else(|| status::no_namespace(namespace))?;
        if !home["metadata"]["deletionTimestamp"].is_null() {
            let why = format!("namespace {namespace} is being terminated");
            return Err(status::bad_request(&why));
        }
    }
    born(state, &mut object);
    state.set(object);
    write::get(state, place)
}

/// Gives an object what the server gives to each new one.
pub(super) fn born(state: &State, object: &mut Value) {
    let metadata = &mut object["metadata"];
    metadata["uid"] = uid(state).into();
    metadata["creationTimestamp"] = now().into();
    metadata["generation"] = 1.into();
}

/// Counts a change of what an object is to be.
pub(super) fn count_up(object: &mut Value) {
    let generation = object["metadata"]["generation"].as_u64().unwrap_or(0);
    object["metadata"]["generation"] = (generation + 1).into();
}

pub(super) fn is_same_but_metadata(before: &Value, after: &Value) -> bool {
    let fields = [before, after].map(|object| object.as_object().cloned().unwrap_or_default());
    let [before, after] = fields.map(|mut fields: Map<String, Value>| {
        fields.remove("metadata");
        fields.remove("status");
        fields
    });
    before == after
}

/// Deletes an object. A pod on a node ends first, and what is in a namespace goes before it: they are only marked here.
pub(super) fn delete(state: &mut State, place: &Place, request: &Request) {
    let Some((namespace, name)) = place.object() else {
        return;
    };
    let options: Value = serde_json::from_str(&request.body).unwrap_or_default();
    let seconds = options["gracePeriodSeconds"].as_u64();
    match place.kind.word.as_str() {
        "Pod" => state.end_pod(&namespace, &name, seconds),
        "Namespace" => {
            if let Some(mut object) = state.get("Namespace", "", &name)
                && object["metadata"]["deletionTimestamp"].is_null()
            {
                object["metadata"]["deletionTimestamp"] = now().into();
                object["status"] = json!({"phase": "Terminating"});
                state.set(object);
            }
        }
        word => state.delete(word, &namespace, &name),
    }
}

impl State {
    /// Makes an object as a controller does: with a UID, at this time. Returns the UID.
    pub fn make(&mut self, mut object: Value) -> String {
        born(self, &mut object);
        let uid = object["metadata"]["uid"].as_str();
        let uid = uid.unwrap_or_default().to_owned();
        self.set(object);
        uid
    }

    /// Lets a pod end: whoever runs it removes it then. One that nobody runs is gone.
    pub fn end_pod(&mut self, namespace: &str, name: &str, seconds: Option<u64>) {
        let Some(mut pod) = self.get("Pod", namespace, name) else {
            return;
        };
        if !pod["spec"]["nodeName"].is_string() {
            self.delete("Pod", namespace, name);
        } else if pod["metadata"]["deletionTimestamp"].is_null() {
            let own = pod["spec"]["terminationGracePeriodSeconds"].as_u64();
            pod["metadata"]["deletionTimestamp"] = now().into();
            pod["metadata"]["deletionGracePeriodSeconds"] = seconds.or(own).unwrap_or(30).into();
            self.set(pod);
        }
    }
}

/// Returns a UID that no other object of this server has.
fn uid(state: &State) -> String {
    let process = std::process::id();
    format!("{process:08x}-0000-4000-8000-{:012x}", state.version)
}

/// Returns the time as objects have it.
pub fn now() -> String {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    time(since.map_or(0, |it| it.as_secs()))
}

fn time(seconds: u64) -> String {
    let (days, rest) = (seconds / 86400, seconds % 86400);
    // Days to a date (proleptic Gregorian): years begin in March, so that the day that comes and goes is the last one.
    let days = days + 719_468;
    let era = days / 146_097;
    let of_era = days % 146_097;
    let year = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Takes away what was applied and is not any more.
fn prune(object: &mut Value, last: &Value, wanted: &Value) {
    let (Some(fields), Some(last)) = (object.as_object_mut(), last.as_object()) else {
        return;
    };
    for (name, was) in last {
        match wanted.get(name) {
            None if was.is_object() && name == "metadata" => {}
            None => {
                fields.remove(name);
            }
            Some(wanted) => {
                if let Some(field) = fields.get_mut(name) {
                    prune(field, was, wanted);
                }
            }
        }
    }
}

/// Puts what is wanted over what is there.
fn overlay(object: &mut Value, wanted: &Value) {
    match (object.as_object_mut(), wanted.as_object()) {
        (Some(fields), Some(wanted)) => {
            for (name, value) in wanted {
                overlay(fields.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
        _ => *object = wanted.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_goes_and_what_others_set_stays() {
        let last =
            json!({"metadata": {"name": "a"}, "spec": {"probe": {"port": 1}, "args": ["run"]}});
        let mut object = last.clone();
        object["spec"]["clusterIP"] = "10.96.0.1".into();
        object["status"] = json!({"ready": 1});
        let wanted = json!({"metadata": {"name": "a"}, "spec": {"args": ["end"]}});
        prune(&mut object, &last, &wanted);
        overlay(&mut object, &wanted);
        assert_eq!(
            object,
            json!({"metadata": {"name": "a"}, "spec": {"args": ["end"], "clusterIP": "10.96.0.1"}, "status": {"ready": 1}})
        );
    }

    #[test]
    fn times_are_dates_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_868_799, "2000-02-29T23:59:59Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_798_761_599, "2026-12-31T23:59:59Z"),
        ] {
            assert_eq!(time(seconds), text);
        }
    }
}
