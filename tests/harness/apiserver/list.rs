//! Lists, and pages of them.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::place::Place;
use super::query::{Request, Selector};
use super::state::{Kind, Name, State};
use super::status::{self, Failure};

/// Returns a list.
pub(super) fn list(state: &State, place: &Place, request: &Request) -> Result<Value, Failure> {
    let kind = &place.kind;
    let version = request.parameter("resourceVersion");
    let wanted = match version {
        "" => 0,
        text => text.parse().map_err(|_| status::malformed_list(text))?,
    };
    if wanted > state.version {
        return Err(status::too_large(wanted, state.version));
    }
    // What comes from the server's memory comes as a whole.
    let limit = match version {
        "0" => None,
        _ => request.parameter("limit").parse::<usize>().ok(),
    };
    let limit = limit.filter(|limit| *limit > 0).unwrap_or(usize::MAX);
    let (of, after) = match request.parameter("continue") {
        "" => (state.version, None),
        token => {
            let (of, after) = read_token(token).ok_or_else(|| status::malformed_list(token))?;
            if of.is_some_and(|of| of < state.compacted) {
                return Err(status::expired_continue(&token_of(None, &after)));
            }
            (of.unwrap_or(state.version), Some(after))
        }
    };
    let selector = Selector::of(request, place.namespace.as_deref());
    let objects = state.objects.get(&kind.word).into_iter().flatten();
    let mut objects = objects
        .filter(|(name, _)| after.as_ref().is_none_or(|after| *name > after))
        .filter(|(_, object)| selector.selects(object))
        .peekable();
    let mut items = Vec::new();
    let mut last = None;
    while items.len() < limit
        && let Some((name, object)) = objects.next()
    {
        items.push(shown(object, kind, request, false));
        last = Some(name.clone());
    }
    let mut metadata = json!({"resourceVersion": of.to_string()});
    let left = objects.count();
    match last {
        Some(last) if left > 0 => {
            metadata["continue"] = token_of(Some(of), &last).into();
            metadata["remainingItemCount"] = left.into();
        }
        _ if kind.is_custom && !request.wants_metadata() => metadata["continue"] = "".into(),
        _ => {}
    }
    let (word, version) = match request.wants_metadata() {
        true => ("PartialObjectMetadata", "meta.k8s.io/v1".to_owned()),
        false => (kind.word.as_str(), kind.api_version()),
    };
    Ok(
        json!({"kind": format!("{word}List"), "apiVersion": version, "metadata": metadata, "items": items}),
    )
}

/// Returns one object.
pub(super) fn get(state: &State, place: &Place, request: &Request) -> Result<Value, Failure> {
    let found = place.object().and_then(|name| {
        let objects = state.objects.get(&place.kind.word)?;
        objects.get(&name)
    });
    let object = found.ok_or_else(|| status::absent(place))?;
    Ok(shown(object, &place.kind, request, true))
}

/// A token names the version of the whole list and the last object of the page; without version, whatever there is now.
fn token_of(version: Option<u64>, (namespace, name): &Name) -> String {
    let version = version.map_or_else(String::new, |version| version.to_string());
    format!("v.{version}.{namespace}.{name}")
}

fn read_token(token: &str) -> Option<(Option<u64>, Name)> {
    let mut parts = token.strip_prefix("v.")?.splitn(3, '.');
    let version = parts.next()?.parse().ok();
    let namespace = parts.next()?.to_owned();
    Some((version, (namespace, parts.next()?.to_owned())))
}

/// Returns an object as the request wants it. Items of lists of kinds that the server itself has bear no kind.
pub(super) fn shown(object: &Arc<Value>, kind: &Kind, request: &Request, in_watch: bool) -> Value {
    if request.wants_metadata() {
        return json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
            "metadata": object["metadata"]});
    }
    let mut shown = Value::clone(object);
    if let Some(fields) = shown.as_object_mut() {
        let mut bare: Map<String, Value> = std::mem::take(fields);
        bare.remove("kind");
        bare.remove("apiVersion");
        if in_watch || kind.is_custom {
            bare.insert("kind".to_owned(), kind.word.as_str().into());
            bare.insert("apiVersion".to_owned(), kind.api_version().into());
        }
        *fields = bare;
    }
    shown
}
