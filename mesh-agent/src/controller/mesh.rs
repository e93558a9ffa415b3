//! `XMesh`: says that this mesh is ours, and what it can do. Pure.
#![forbid(unsafe_code)]

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::controller::features::FEATURES;
use crate::controller::status;
use crate::model::status::{CONTROLLER, Condition};

/// Returns the status that a mesh is to have, or `None` where it is as it should be, or is not ours.
///
/// Conditions are told apart by type and features by name, so those that others wrote stay.
pub(super) fn change(object: &Value, now: Timestamp) -> Option<Value> {
    if object["spec"]["controllerName"] != CONTROLLER {
        return None;
    }
    let (status, reason, message) = match object["spec"]["parametersRef"].is_null() {
        true => ("True", "Accepted", ""),
        false => (
            "False",
            "InvalidParameters",
            "this mesh takes no parameters",
        ),
    };
    let wanted = Condition {
        kind: "Accepted".to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation: object["metadata"]["generation"].as_i64(),
    };
    let features = FEATURES.iter().map(|(name, ..)| json!({"name": name}));
    let features: Value = features.collect::<Vec<_>>().into();
    let live = &object["status"];
    let before = live["conditions"].as_array();
    let before = before.map(Vec::as_slice).unwrap_or_default();
    let accepted = before.iter().find(|it| it["type"] == "Accepted");
    let is_same = accepted.is_some_and(|it| status::is_same(it, &wanted));
    if is_same && live["supportedFeatures"] == features {
        return None;
    }
    let condition = status::condition(&wanted, before.iter(), now);
    Some(json!({"conditions": [condition], "supportedFeatures": features}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mesh(name: &str) -> Value {
        json!({"metadata": {"name": "mesh", "generation": 1}, "spec": {"controllerName": name},
            "status": {"conditions": [{"type": "Accepted", "status": "Unknown", "reason": "Pending",
                "message": "Waiting for controller", "lastTransitionTime": "1970-01-01T00:00:00Z"}]}})
    }

    #[test]
    fn ours_is_accepted_once_and_others_are_left_alone() {
        assert_eq!(
            change(&mesh("example.com/mesh"), Timestamp::UNIX_EPOCH),
            None
        );
        let mut ours = mesh(CONTROLLER);
        let status = change(&ours, Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(status["conditions"][0]["status"], "True");
        let names = status["supportedFeatures"].as_array().unwrap();
        assert!(names.contains(&json!({"name": "MeshConsumerRoute"})));
        ours["status"] = status;
        assert_eq!(change(&ours, Timestamp::UNIX_EPOCH), None);
        ours["metadata"]["generation"] = 2.into();
        ours["spec"]["parametersRef"] = json!({"group": "", "kind": "ConfigMap", "name": "x"});
        let status = change(&ours, Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(status["conditions"][0]["reason"], "InvalidParameters");
    }
}
