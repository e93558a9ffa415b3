//! What `kubectl` asks before it applies: whether fields are checked here. They are not; a server that said so would make it check them
//! itself, by schemas.

use serde_json::{Map, Value, json};

use super::state::Kind;

/// Answers what is below `/openapi/v3`.
pub(super) fn answer(kinds: &[Kind], path: &str) -> Option<Value> {
    let path = path.strip_prefix("/openapi/v3")?.trim_start_matches('/');
    if path.is_empty() {
        let roots = kinds.iter().map(|kind| {
            let root = root(kind);
            let url = json!({"serverRelativeURL": format!("/openapi/v3/{root}")});
            (root, url)
        });
        return Some(json!({"paths": roots.collect::<Map<_, _>>()}));
    }
    let of = kinds.iter().filter(|kind| root(kind) == path);
    let paths: Map<String, Value> = of
        .map(|kind| (kind.root() + &kind.resource, patch(kind)))
        .collect();
    Some(
        json!({"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "v1.36.2"}, "paths": paths}),
    )
}

fn root(kind: &Kind) -> String {
    kind.root().trim_matches('/').to_owned()
}

fn patch(kind: &Kind) -> Value {
    json!({"patch": {
        "x-kubernetes-group-version-kind": {"group": kind.group, "version": kind.version, "kind": kind.word},
        "parameters": [{"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}],
        "responses": {}}})
}
