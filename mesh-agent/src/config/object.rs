//! One document to objects: what kind each is, and lists of them.
#![forbid(unsafe_code)]

use std::sync::Arc;

use crate::config::endpoint_slice::{self, EndpointSlice};
use crate::config::gateway;
use crate::config::key::{Key, Kind, Place};
use crate::config::known;
use crate::config::machine;
use crate::config::metadata::{self, Metadata};
use crate::config::namespace::{self, Namespace};
use crate::config::node::Node;
use crate::config::pod::{self, Pod};
use crate::config::problem::{Finding, Problem};
use crate::config::reader::{Fields, Reader, Unknown};
use crate::config::service::{self, Service};
use crate::config::{authorization_policy, network_policy};
use crate::model::policy::Policy;
use crate::model::snapshot;

/// A valid object.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Object {
    Namespace(Namespace),
    Node(snapshot::Node),
    Pod(Box<Pod>),
    Service(Box<Service>),
    EndpointSlice(EndpointSlice),
    /// Of either kind; the origin is empty.
    Policy(Box<Policy>),
    /// Of any of the five kinds.
    Route(Box<gateway::RawRoute>),
    BackendTls(Box<gateway::RawBackendTls>),
    /// Of either kind.
    Traffic(Box<gateway::RawTraffic>),
    /// Nothing follows from it: `ReferenceGrant`, `XMesh`.
    Inert,
    ConfigMap(gateway::ConfigMap),
}

/// What became of an object in a file.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Outcome {
    Valid(Arc<Key>, Arc<Object>),
    /// Not valid; without a key when it cannot be told which object it is.
    Invalid(Option<Arc<Key>>),
    /// Nothing that this version reads.
    Ignored,
}

impl Outcome {
    /// Returns which object it is, as far as that can be told.
    pub(crate) fn key(&self) -> Option<&Arc<Key>> {
        match self {
            Self::Valid(key, _) => Some(key),
            Self::Invalid(key) => key.as_ref(),
            Self::Ignored => None,
        }
    }
}

/// An object as it was found.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Item {
    pub(crate) place: Place,
    pub(crate) outcome: Outcome,
    pub(crate) problems: Vec<Problem>,
    /// What can be read of a pod of an API server that is not valid.
    pub(crate) rejected: Option<Box<Pod>>,
}

impl Item {
    /// Returns it as it stands when its document moved: the line that it begins on, and the number before it, each from and to.
    pub(crate) fn moved(&self, lines: (u64, u64), numbers: (usize, usize)) -> Self {
        let mut item = self.clone();
        let line = |line: u64| line - lines.0 + lines.1;
        let document = |document: usize| document - numbers.0 + numbers.1;
        item.place.line = line(item.place.line);
        item.place.document = document(item.place.document);
        for problem in &mut item.problems {
            problem.line = problem.line.map(line);
            problem.document = problem.document.map(document);
        }
        item
    }
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
    let of_list = kind.strip_suffix("List").filter(|word| !word.is_empty());
    if kind == "List" || of_list.is_some_and(|word| Kind::of_word(word).is_some()) {
        return read_list(&place, kind, node);
    }
    vec![read_one(place, node, None)]
}

fn read_list(place: &Place, kind: &str, node: &Node) -> Vec<Item> {
    let mut reader = Reader::default();
    let mut items = Vec::new();
    if let Some(fields) = reader.mapping(node, String::new()) {
        reader.only(&fields, known::LIST, Unknown::Error);
        // Items of a `PodList` carry no kind of their own.
        let implied = kind.strip_suffix("List").filter(|kind| !kind.is_empty());
        let of = implied.and_then(Kind::of_word);
        let wanted = of.map_or(("v1", None), |of| (of.version(), of.old_version()));
        version(&mut reader, &fields, kind, wanted);
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

fn invalid(place: Place, key: Option<Arc<Key>>, findings: Vec<Finding>) -> Item {
    let problems = findings
        .into_iter()
        .map(|finding| place.problem(key.as_deref(), finding))
        .collect();
    Item {
        place,
        outcome: Outcome::Invalid(key),
        problems,
        rejected: None,
    }
}

/// Returns an object of an API server. The server says of which kind and version it is, not the object.
pub(crate) fn read_api(place: Place, kind: Kind, node: &Node) -> Item {
    read_one(place, node, Some(kind.word()))
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
    // An API server serves what was asked for.
    if !place.is_api() && (implied.is_none() || fields.entry("apiVersion").is_some()) {
        version(
            &mut reader,
            &fields,
            kind.word(),
            (kind.version(), kind.old_version()),
        );
    }
    reader.kind = Some(kind);
    reader.knows_less = place.is_api() && kind.is_built_in();
    let metadata = metadata::read(&mut reader, &fields, kind);
    let key = key(kind, &metadata).map(Arc::new);
    let object = read_object(&mut reader, &fields, kind, metadata, &place);
    let failed = reader.failed();
    let mut item = invalid(place, key.clone(), reader.findings);
    match (key, object, failed) {
        (Some(key), Some(object), false) => item.outcome = Outcome::Valid(key, Arc::new(object)),
        (_, Some(Object::Pod(pod)), _) if item.place.is_api() => item.rejected = Some(pod),
        _ => {}
    }
    item
}

fn read_object(
    reader: &mut Reader,
    fields: &Fields<'_>,
    kind: Kind,
    metadata: Metadata,
    place: &Place,
) -> Option<Object> {
    Some(match kind {
        Kind::Namespace => Object::Namespace(namespace::read(reader, fields, metadata)),
        Kind::Node => Object::Node(machine::read(reader, fields, &metadata)),
        Kind::Pod => Object::Pod(Box::new(pod::read(reader, fields, metadata, place))),
        Kind::Service => Object::Service(Box::new(service::read(reader, fields, metadata)?)),
        Kind::EndpointSlice => {
            Object::EndpointSlice(endpoint_slice::read(reader, fields, &metadata))
        }
        Kind::NetworkPolicy => {
            Object::Policy(Box::new(network_policy::read(reader, fields, metadata)?))
        }
        Kind::AuthorizationPolicy => Object::Policy(Box::new(authorization_policy::read(
            reader, fields, metadata,
        )?)),
        Kind::HTTPRoute | Kind::GRPCRoute | Kind::TLSRoute | Kind::TCPRoute | Kind::UDPRoute => {
            let sort = kind.route()?;
            Object::Route(Box::new(gateway::route::read(
                reader, fields, metadata, sort,
            )?))
        }
        Kind::BackendTLSPolicy => {
            Object::BackendTls(Box::new(gateway::tls::read(reader, fields, metadata)?))
        }
        Kind::XBackendTrafficPolicy => Object::Traffic(Box::new(gateway::backend_traffic::read(
            reader, fields, metadata,
        )?)),
        Kind::TrafficPolicy => {
            Object::Traffic(Box::new(gateway::traffic::read(reader, fields, metadata)?))
        }
        Kind::ReferenceGrant => {
            gateway::grant::read(reader, fields)?;
            Object::Inert
        }
        // Only the controller has a use for it, and whoever defines it checks it.
        Kind::XMesh => Object::Inert,
        Kind::ConfigMap => Object::ConfigMap(gateway::config_map::read(reader, fields)),
    })
}

/// Returns the kind of an object, or `None` and what to say about it.
fn kind(reader: &mut Reader, fields: &Fields<'_>, implied: Option<&str>) -> Option<Kind> {
    let path = fields.path_of("kind");
    if fields.entry("kind").is_none() && implied.is_none() {
        let help = "every document needs `apiVersion` and `kind`, such as `apiVersion: v1` and `kind: Pod`";
        reader.error(fields.line, path, "is missing", help);
        return None;
    }
    let word = match fields.entry("kind") {
        Some(_) => reader.text(fields, "kind")?,
        None => implied?,
    };
    if let Some(kind) = Kind::of_word(word) {
        return Some(kind);
    }
    let line = fields.line_of("kind");
    // Shorter words are close to too many others: `Mode` is no `Pod`.
    let words = Kind::ALL.map(Kind::word);
    let lists = words.map(|word| format!("{word}List"));
    let mut known = words.into_iter().chain(lists.iter().map(String::as_str));
    let meant = known.find(|known| {
        let (known, word) = (known.to_lowercase(), word.to_lowercase());
        strsim::osa_distance(&known, &word) <= known.len() / 4 || word == format!("{known}s")
    });
    if let Some(meant) = meant {
        let problem = format!("`{word}` is not a kind");
        reader.error(line, path, problem, format!("did you mean `{meant}`?"));
        return None;
    }
    let problem = format!("kind `{word}` is not handled by this version; the object is left out");
    let help = format!("this version reads {} and lists of them", words.join(", "));
    reader.note(line, path, problem, help);
    None
}

/// Checks `apiVersion`: the one that is wanted, or an older one that looks the same.
fn version(
    reader: &mut Reader,
    fields: &Fields<'_>,
    kind: &str,
    (wanted, old): (&str, Option<&str>),
) {
    let path = fields.path_of("apiVersion");
    let help = format!("write `apiVersion: {wanted}`, the version of {kind}");
    if fields.entry("apiVersion").is_none() {
        reader.error(fields.line, path, "is missing", help);
        return;
    }
    let Some(version) = reader.text(fields, "apiVersion") else {
        return;
    };
    if Some(version) == old {
        let line = fields.line_of("apiVersion");
        let problem = format!("`{version}` is an older version of {kind}");
        reader.note(line, path, problem, help);
    } else if version != wanted {
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
