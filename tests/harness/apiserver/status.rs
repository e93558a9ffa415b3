//! What the server says when something is wrong, in a real server's words.

use serde_json::{Value, json};

use super::place::Place;
use super::state::Kind;

/// An answer that is no success.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) code: u16,
    pub(super) retry_after: Option<u64>,
    pub(super) body: Body,
}

/// Its body: a `Status`, or text where the server did not get as far as that.
#[derive(Debug)]
pub(super) enum Body {
    Status(Value),
    Text(String),
}

fn status(code: u16, reason: &str, message: &str, details: Option<Value>) -> Value {
    let mut status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code});
    if let Some(details) = details {
        status["details"] = details;
    }
    status
}

fn failure(code: u16, reason: &str, message: &str, details: Option<Value>) -> Failure {
    Failure {
        code,
        retry_after: None,
        body: Body::Status(status(code, reason, message, details)),
    }
}

pub(super) fn unauthorized() -> Failure {
    failure(401, "Unauthorized", "Unauthorized", None)
}

/// Returns the full name of a kind's resource, and what is said of it in details.
fn resource(kind: &Kind) -> (String, Value) {
    let (group, resource) = (&kind.group, &kind.resource);
    match group.is_empty() {
        true => (resource.clone(), json!({"kind": resource})),
        false => (
            format!("{resource}.{group}"),
            json!({"group": group, "kind": resource}),
        ),
    }
}

pub(super) fn forbidden(place: &Place, verb: &str) -> Failure {
    let (group, resource) = (&place.kind.group, &place.kind.resource);
    let (full, mut details) = self::resource(&place.kind);
    let name = place.name.as_deref().map(|name| {
        details["name"] = name.into();
        format!(" \"{name}\"")
    });
    let scope = match &place.namespace {
        Some(namespace) => format!("in the namespace \"{namespace}\""),
        None => "at the cluster scope".to_owned(),
    };
    let message = format!(
        "{full}{} is forbidden: User \"system:serviceaccount:mesh-system:no-rights\" cannot {verb} resource \"{resource}\" in API group \"{group}\" {scope}",
        name.unwrap_or_default()
    );
    failure(403, "Forbidden", &message, Some(details))
}

pub(super) fn absent(kind: &Kind, name: &str) -> Failure {
    let (full, mut details) = resource(kind);
    details["name"] = name.into();
    let message = format!("{full} \"{name}\" not found");
    failure(404, "NotFound", &message, Some(details))
}

pub(super) fn not_found() -> Failure {
    Failure {
        code: 404,
        retry_after: None,
        body: Body::Text("404 page not found\n".to_owned()),
    }
}

pub(super) fn not_allowed() -> Failure {
    let message = "the server does not allow this method on the requested resource";
    failure(405, "MethodNotAllowed", message, Some(json!({})))
}

pub(super) fn canned(code: u16, retry_after: Option<u64>, text: &str) -> Failure {
    Failure {
        code,
        retry_after,
        body: Body::Text(text.to_owned()),
    }
}

pub(super) fn streaming_needs_match() -> Failure {
    const WHY: &str = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
    let message =
        format!("ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: {WHY}");
    let cause = json!({"reason": "FieldValueForbidden", "message": format!("Forbidden: {WHY}"),
        "field": "resourceVersionMatch"});
    let details = json!({"group": "meta.k8s.io", "kind": "ListOptions", "causes": [cause]});
    failure(422, "Invalid", &message, Some(details))
}

/// What a server says whose lists are not streamed.
pub(super) fn no_streaming() -> Failure {
    let message = "ListOptions.meta.k8s.io \"\" is invalid: sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled";
    failure(422, "Invalid", message, None)
}

pub(super) fn malformed_list(text: &str) -> Failure {
    let message = format!(
        "invalid resource version: resourceVersion: Invalid value: \"{text}\": strconv.ParseUint: parsing \"{text}\": invalid syntax"
    );
    failure(400, "BadRequest", &message, None)
}

pub(super) fn malformed_watch(text: &str) -> Failure {
    let message = format!(
        "resourceVersion: Invalid value: \"{text}\": strconv.ParseUint: parsing \"{text}\": invalid syntax"
    );
    let mut failure = failure(500, "", &message, None);
    if let Body::Status(status) = &mut failure.body
        && let Some(fields) = status.as_object_mut()
    {
        fields.remove("reason");
    }
    failure
}

fn too_large_details() -> Value {
    json!({"causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
        "retryAfterSeconds": 1})
}

fn too_large_message(wanted: u64, current: u64) -> String {
    format!("Timeout: Too large resource version: {wanted}, current: {current}")
}

pub(super) fn too_large(wanted: u64, current: u64) -> Failure {
    let message = too_large_message(wanted, current);
    let mut failure = failure(504, "Timeout", &message, Some(too_large_details()));
    failure.retry_after = Some(1);
    failure
}

pub(super) fn too_large_event(wanted: u64, current: u64) -> Value {
    status(
        504,
        "Timeout",
        &too_large_message(wanted, current),
        Some(too_large_details()),
    )
}

pub(super) fn expired_event(wanted: u64, oldest: u64) -> Value {
    let message = format!("too old resource version: {wanted} ({oldest})");
    status(410, "Expired", &message, None)
}

pub(super) fn expired_continue(next: &str) -> Failure {
    let message = "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.";
    let mut failure = failure(410, "Expired", message, None);
    if let Body::Status(status) = &mut failure.body {
        status["metadata"]["continue"] = next.into();
    }
    failure
}

pub(super) fn no_pod(name: &str) -> Failure {
    let message = format!("pods \"{name}\" not found");
    failure(
        404,
        "NotFound",
        &message,
        Some(json!({"name": name, "kind": "pods"})),
    )
}

pub(super) fn forbidden_exec(pod: &str, namespace: &str) -> Failure {
    let message = format!(
        "pods \"{pod}\" is forbidden: User \"system:serviceaccount:mesh-system:no-rights\" cannot create resource \"pods/exec\" in API group \"\" in the namespace \"{namespace}\""
    );
    failure(
        403,
        "Forbidden",
        &message,
        Some(json!({"name": pod, "kind": "pods"})),
    )
}
