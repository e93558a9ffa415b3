//! What a request asks for.

use std::collections::BTreeMap;

use serde_json::Value;

/// A request, as far as it is read.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) query: BTreeMap<String, String>,
    /// Values of `command`, which is there once for each word.
    pub(super) command: Vec<String>,
    /// By names in lower case.
    pub(super) headers: BTreeMap<String, String>,
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
        let query: Vec<(String, String)> = query.collect();
        let words = query.iter().filter(|(name, _)| name == "command");
        let command = words.map(|(_, word)| word.clone()).collect();
        let headers = lines.filter_map(|line| line.split_once(':'));
        let headers = headers.map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()));
        Some(Self {
            method,
            path: path.to_owned(),
            query: query.into_iter().collect(),
            command,
            headers: headers.collect(),
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

/// Selects objects by their namespace, by fields and by labels.
#[derive(Clone, Debug, Default)]
pub(super) struct Selector {
    namespace: Option<String>,
    fields: Vec<Requirement>,
    labels: Vec<Requirement>,
}

/// One requirement: `a=b`, `a==b`, `a!=b`, or, of labels, `a` and `!a`.
#[derive(Clone, Debug)]
struct Requirement {
    name: String,
    /// `None`: whether it is there at all.
    value: Option<String>,
    is_met_by_equal: bool,
}

impl Requirement {
    fn read(text: &str) -> Vec<Self> {
        let parts = text.split(',').filter(|part| !part.is_empty());
        parts.map(Self::one).collect()
    }

    fn one(text: &str) -> Self {
        let not_equal = text.split_once("!=").map(|parts| (parts, false));
        let equal = || text.split_once('=').map(|parts| (parts, true));
        let Some(((name, value), is_met_by_equal)) = not_equal.or_else(equal) else {
            return Self {
                name: text.trim_start_matches('!').to_owned(),
                value: None,
                is_met_by_equal: !text.starts_with('!'),
            };
        };
        Self {
            name: name.to_owned(),
            value: Some(value.trim_start_matches('=').to_owned()),
            is_met_by_equal,
        }
    }

    /// Returns whether a value meets it.
    fn is_met(&self, found: Option<&str>) -> bool {
        let is_equal = match &self.value {
            Some(value) => found == Some(value),
            None => found.is_some(),
        };
        is_equal == self.is_met_by_equal
    }
}

impl Selector {
    /// Returns what a request selects, in a namespace or in all.
    pub(super) fn of(request: &Request, namespace: Option<&str>) -> Self {
        Self {
            namespace: namespace.map(str::to_owned),
            fields: Requirement::read(request.parameter("fieldSelector")),
            labels: Requirement::read(request.parameter("labelSelector")),
        }
    }

    /// Returns whether an object is selected. A field that is not there is empty.
    pub(super) fn selects(&self, object: &Value) -> bool {
        let metadata = &object["metadata"];
        let of = |it: &String| metadata["namespace"] == it.as_str();
        let field = |it: &Requirement| {
            let found = it
                .name
                .split('.')
                .fold(object, |value, field| &value[field]);
            it.is_met(Some(found.as_str().unwrap_or_default()))
        };
        let label = |it: &Requirement| it.is_met(metadata["labels"][&it.name].as_str());
        self.namespace.iter().all(of)
            && self.fields.iter().all(field)
            && self.labels.iter().all(label)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_and_labels_select_as_a_real_server_does() {
        let pod = serde_json::json!({"metadata": {"name": "a", "namespace": "shop", "labels": {"app": "web"}},
            "spec": {"nodeName": "n1"}});
        let selects = |query: &str| {
            let line = format!("GET /api/v1/pods?{query} HTTP/1.1");
            let request = Request::read(&line).unwrap();
            Selector::of(&request, Some("shop")).selects(&pod)
        };
        for query in [
            "",
            "fieldSelector=spec.nodeName%3Dn1",
            "fieldSelector=spec.nodeName!=n2,metadata.name==a",
            "fieldSelector=status.phase=",
            "labelSelector=app%3Dweb,tier!=db,!x",
            "labelSelector=app",
        ] {
            assert!(selects(query), "{query}");
        }
        for query in [
            "fieldSelector=spec.nodeName!=n1",
            "fieldSelector=metadata.name=a,spec.nodeName=n2",
            "labelSelector=app!=web",
            "labelSelector=!app",
            "labelSelector=tier=db",
        ] {
            assert!(!selects(query), "{query}");
        }
        assert!(
            !Selector::of(&Request::read("GET / HTTP/1.1").unwrap(), Some("other")).selects(&pod)
        );
    }
}
