//! What a request asks for.

use std::collections::BTreeMap;

use serde_json::Value;

/// A request, as far as it is read.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) query: BTreeMap<String, String>,
    /// By names in lower case.
    pub(super) headers: BTreeMap<String, String>,
    pub(super) body: String,
}

impl Request {
    /// Reads the head of a request.
    pub(super) fn read(head: &str) -> Option<Self> {
        let mut lines = head.split("\r\n");
        let mut first = lines.next()?.split(' ');
        let method = first.next()?.to_owned();
        let target = first.next()?;
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let query = query.split('&').filter(|part| !part.is_empty());
        let query = query.map(|part| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            (decode(name), decode(value))
        });
        let headers = lines.filter_map(|line| line.split_once(':'));
        let headers = headers.map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()));
        Some(Self {
            method,
            path: path.to_owned(),
            query: query.collect(),
            headers: headers.collect(),
            body: String::new(),
        })
    }

    /// Returns a parameter; empty where it is not there.
    pub(super) fn parameter(&self, name: &str) -> &str {
        self.query.get(name).map_or("", String::as_str)
    }

    /// Returns a header; empty where it is not there.
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// Returns whether only metadata is asked for.
    pub(super) fn wants_metadata(&self) -> bool {
        self.header("accept").contains("as=PartialObjectMetadata")
    }
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        match (first, after) {
            (b'+', _) => bytes.push(b' '),
            (b'%', [high, low, after @ ..]) => {
                let digits = [*high, *low];
                let number = std::str::from_utf8(&digits).ok();
                let number = number.and_then(|digits| u8::from_str_radix(digits, 16).ok());
                bytes.push(number.unwrap_or(b'?'));
                rest = after;
            }
            (other, _) => bytes.push(*other),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Selects objects by namespace, by one field and by one label.
#[derive(Clone, Debug, Default)]
pub(super) struct Selector {
    namespace: Option<String>,
    label: Option<(String, String)>,
    field: Option<(Vec<String>, String, bool)>,
}

impl Selector {
    /// Returns what a request selects within a namespace, or in all. A field selector is `a.b=value` or `a.b!=value`, one of
    /// labels `a=value`.
    pub(super) fn of(request: &Request, namespace: Option<&str>) -> Self {
        let label = request.parameter("labelSelector").split_once('=');
        let text = request.parameter("fieldSelector");
        let parts = text
            .split_once("!=")
            .map(|(field, value)| (field, value, false))
            .or_else(|| {
                let (field, value) = text.split_once('=')?;
                Some((field, value, true))
            });
        Self {
            namespace: namespace.map(str::to_owned),
            label: label.map(|(name, value)| (name.to_owned(), value.to_owned())),
            field: parts.map(|(field, value, is_equal)| {
                let path = field.split('.').map(str::to_owned).collect();
                (path, value.to_owned(), is_equal)
            }),
        }
    }

    /// Returns whether an object is selected. A field that is not there is empty.
    pub(super) fn selects(&self, object: &Value) -> bool {
        let metadata = &object["metadata"];
        let is_there = |namespace: &String| metadata["namespace"] == namespace.as_str();
        let has = |(name, value): &(String, String)| metadata["labels"][name] == value.as_str();
        if !self.namespace.as_ref().is_none_or(is_there) || !self.label.as_ref().is_none_or(has) {
            return false;
        }
        let Some((path, value, is_equal)) = &self.field else {
            return true;
        };
        let found = path.iter().fold(object, |value, field| &value[field]);
        (found.as_str().unwrap_or_default() == value) == *is_equal
    }
}
