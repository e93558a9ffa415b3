//! One document to objects: what kind each is, and lists of them.
#![forbid(unsafe_code)]

use std::sync::Arc;

use crate::config::key::{Key, Kind, Place};
use crate::config::known;
use crate::config::metadata::{self, Metadata};
use crate::config::namespace::{self, Namespace};
use crate::config::node::Node;
use crate::config::pod::{self, Pod};
use crate::config::problem::{Finding, Problem, Severity};
use crate::config::reader::{Fields, Reader, Unknown};

/// A valid object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Object {
    Namespace(Namespace),
    Pod(Box<Pod>),
}

/// What became of an object in a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    Valid(Key, Object),
    /// Not valid; without a key when it cannot be told which object it is.
    Invalid(Option<Key>),
    /// Nothing that this version reads.
    Ignored,
}

/// An object as it was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Item {
    pub(crate) place: Place,
    pub(crate) outcome: Outcome,
    pub(crate) problems: Vec<Problem>,
}

/// Returns the objects of one document.
pub(crate) fn read(file: &Arc<str>, document: usize, node: &Node) -> Vec<Item> {
    let kind = node.get("kind").and_then(Node::text).unwrap_or_default();
    let place = Place {
        file: file.clone(),
        document,
        path: String::new(),
        line: node.line,
    };
    if matches!(kind, "List" | "PodList" | "NamespaceList") {
        return read_list(&place, kind, node);
    }
    vec![read_one(place, node, None)]
}

fn read_list(place: &Place, kind: &str, node: &Node) -> Vec<Item> {
    let mut reader = Reader::default();
    let mut items = Vec::new();
    if let Some(fields) = reader.mapping(node, String::new()) {
        reader.only(&fields, known::LIST, Unknown::Error);
        version(&mut reader, &fields, kind);
        // Items of a `PodList` carry no kind of their own.
        let implied = kind.strip_suffix("List").filter(|kind| !kind.is_empty());
        for (index, item) in reader.list(&fields, "items").iter().enumerate() {
            let place = Place {
                path: format!("items[{index}]"),
                line: item.line,
                ..place.clone()
            };
            items.push(read_one(place, item, implied));
        }
    }
    if reader.failed() {
        items.push(invalid(place.clone(), None, reader.findings));
    }
    items
}

fn invalid(place: Place, key: Option<Key>, findings: Vec<Finding>) -> Item {
    let problems = findings
        .into_iter()
        .map(|finding| place.problem(key.as_ref(), finding))
        .collect();
    Item {
        place,
        outcome: Outcome::Invalid(key),
        problems,
    }
}

fn read_one(place: Place, node: &Node, implied: Option<&str>) -> Item {
    let mut reader = Reader::default();
    let Some(fields) = reader.mapping(node, place.path.clone()) else {
        return invalid(place, None, reader.findings);
    };
    let Some(kind) = kind(&mut reader, &fields, implied) else {
        let ignored = !reader.failed();
        let mut item = invalid(place, None, reader.findings);
        if ignored {
            item.outcome = Outcome::Ignored;
        }
        return item;
    };
    if implied.is_none() || fields.entry("apiVersion").is_some() {
        version(&mut reader, &fields, kind_word(kind));
    }
    let metadata = metadata::read(&mut reader, &fields, kind);
    let key = key(kind, &metadata);
    let object = match kind {
        Kind::Pod => {
            pod::read(&mut reader, &fields, metadata, &place).map(|pod| Object::Pod(Box::new(pod)))
        }
        Kind::Namespace => namespace::read(&mut reader, &fields, metadata).map(Object::Namespace),
    };
    let failed = reader.failed();
    let mut item = invalid(place, key.clone(), reader.findings);
    if let (Some(key), Some(object), false) = (key, object, failed) {
        item.outcome = Outcome::Valid(key, object);
    }
    item
}

fn kind_word(kind: Kind) -> &'static str {
    match kind {
        Kind::Namespace => "Namespace",
        Kind::Pod => "Pod",
    }
}

/// Returns the kind of an object, or `None` and what to say about it.
fn kind(reader: &mut Reader, fields: &Fields<'_>, implied: Option<&str>) -> Option<Kind> {
    let path = fields.path_of("kind");
    if fields.entry("kind").is_none() && implied.is_none() {
        let help = "every document needs `apiVersion: v1` and `kind: Pod` or `kind: Namespace`";
        reader.error(fields.line, path, "is missing", help);
        return None;
    }
    let word = match fields.entry("kind") {
        Some(_) => reader.text(fields, "kind")?,
        None => implied?,
    };
    let line = fields.entry("kind").map_or(fields.line, |entry| entry.line);
    match word {
        "Pod" => return Some(Kind::Pod),
        "Namespace" => return Some(Kind::Namespace),
        _ => {}
    }
    // Shorter words are close to too many others: `Node` is no `Pod`.
    let meant = known::KINDS.iter().find(|known| {
        let (known, word) = (known.to_lowercase(), word.to_lowercase());
        strsim::osa_distance(&known, &word) <= known.len() / 4 || word == format!("{known}s")
    });
    if let Some(meant) = meant {
        let problem = format!("`{word}` is not a kind");
        reader.error(line, path, problem, format!("did you mean `{meant}`?"));
        return None;
    }
    let problem = format!("kind `{word}` is not handled by this version; the object is left out");
    let help = "this version reads Pod, Namespace and lists of them";
    let finding = Finding::error(line, path, problem, help).with(Severity::Note);
    reader.findings.push(finding);
    None
}

fn version(reader: &mut Reader, fields: &Fields<'_>, kind: &str) {
    let path = fields.path_of("apiVersion");
    let help = format!("write `apiVersion: v1`, the version of {kind}");
    if fields.entry("apiVersion").is_none() {
        reader.error(fields.line, path, "is missing", help);
        return;
    }
    let Some(version) = reader.text(fields, "apiVersion") else {
        return;
    };
    if version != "v1" {
        let line = fields
            .entry("apiVersion")
            .map_or(fields.line, |entry| entry.line);
        let problem = format!("`{version}` is not a version of {kind}");
        reader.error(line, path, problem, help);
    }
}

fn key(kind: Kind, metadata: &Metadata) -> Option<Key> {
    Some(Key {
        kind,
        namespace: metadata.namespace.clone()?,
        name: metadata.name.clone()?,
    })
}
