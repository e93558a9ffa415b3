//! A request, and what came of it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Who asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Client {
    /// A pod of the services' namespace.
    #[default]
    Own,
    /// A pod of another one.
    Guest,
}

/// A request.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Who asks.
    pub from: Client,
    /// With names in angle brackets.
    pub url: String,
    /// `GET` unless it says so.
    pub method: Option<&'static str>,
    /// In order.
    pub fields: Vec<(&'static str, String)>,
    /// By HTTP/2 from the first byte on.
    pub http2: bool,
}

impl Request {
    /// Returns a `GET` of the namespace's own client.
    pub fn get(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            ..Self::default()
        }
    }

    /// With a method.
    #[must_use]
    pub fn method(mut self, method: &'static str) -> Self {
        self.method = Some(method);
        self
    }

    /// With another field.
    #[must_use]
    pub fn field(mut self, name: &'static str, value: &str) -> Self {
        self.fields.push((name, value.to_owned()));
        self
    }

    /// From the other namespace's client.
    #[must_use]
    pub fn guest(mut self) -> Self {
        self.from = Client::Guest;
        self
    }

    /// By HTTP/2.
    #[must_use]
    pub fn http2(mut self) -> Self {
        self.http2 = true;
        self
    }

    /// As a call of gRPC.
    #[must_use]
    pub fn grpc(self) -> Self {
        self.http2()
            .method("POST")
            .field("content-type", "application/grpc")
            .field("te", "trailers")
    }

    /// Returns the words of `peer ask` for it; `url` is its own with all names filled in.
    pub fn words(&self, url: &str, count: u32) -> Vec<String> {
        let mut words = vec!["ask".to_owned()];
        if let Some(method) = self.method {
            words.extend(["--method".to_owned(), method.to_owned()]);
        }
        for (name, value) in &self.fields {
            words.extend(["--field".to_owned(), format!("{name}: {value}")]);
        }
        if self.http2 {
            words.push("--http2".to_owned());
        }
        if count > 1 {
            words.extend(["--count".to_owned(), count.to_string()]);
        }
        words.push(url.to_owned());
        words
    }
}

/// What came of a request, as `peer ask` prints it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Seen {
    /// 0 where there was no answer.
    pub status: u16,
    /// Of the response, then of its trailers; names in lower case.
    pub fields: Vec<(String, String)>,
    /// The body, as text.
    pub body: String,
    /// Why there was no answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Seen {
    /// Returns a field's values, joined.
    pub fn field(&self, name: &str) -> Option<String> {
        join(&self.fields, name)
    }

    /// Returns what the backend said that it was asked.
    pub fn told(&self) -> Value {
        // A message of gRPC has five bytes before it.
        let start = self.body.find('{').unwrap_or(0);
        let mut values = serde_json::Deserializer::from_str(&self.body[start..]).into_iter();
        let first = values.next();
        first.and_then(Result::ok).unwrap_or_default()
    }

    /// Returns the backend's name, empty where none answered.
    pub fn backend(&self) -> String {
        let told = self.told();
        told["backend"].as_str().unwrap_or_default().to_owned()
    }

    /// Returns the values of a field that the backend saw, joined.
    pub fn saw(&self, name: &str) -> Option<String> {
        let fields: Vec<_> =
            serde_json::from_value(self.told()["fields"].clone()).unwrap_or_default();
        join(&fields, name)
    }
}

fn join(fields: &[(String, String)], name: &str) -> Option<String> {
    let of = fields.iter().filter(|it| it.0.eq_ignore_ascii_case(name));
    let joined = of.map(|it| it.1.clone()).reduce(|all, it| all + "," + &it);
    joined.map(|text| text.replace(", ", ","))
}

/// What has to come.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    /// 0: no connection at all.
    pub status: u16,
    /// Who has to answer: one of these; nobody where there is none.
    pub backends: Vec<&'static str>,
    /// Fields of the response: their values, or that they are not there. With names in angle brackets.
    pub fields: Vec<(&'static str, Option<String>)>,
    /// The same of what the backend saw.
    pub saw: Vec<(&'static str, Option<String>)>,
    /// What the backend said otherwise, by name: `target`, `host`, `version`, `seen`.
    pub told: Vec<(&'static str, Value)>,
}

impl Expected {
    /// Returns an answer of one backend.
    pub fn of(backend: &'static str) -> Self {
        Self {
            status: 200,
            backends: vec![backend],
            ..Self::default()
        }
    }

    /// Returns an answer of one of several backends.
    pub fn of_any(backends: &[&'static str]) -> Self {
        Self {
            status: 200,
            backends: backends.to_vec(),
            ..Self::default()
        }
    }

    /// Returns an answer of the mesh itself.
    pub fn status(status: u16) -> Self {
        Self {
            status,
            ..Self::default()
        }
    }

    /// With a field of the response.
    #[must_use]
    pub fn field(mut self, name: &'static str, value: &str) -> Self {
        self.fields.push((name, Some(value.to_owned())));
        self
    }

    /// Without a field of the response.
    #[must_use]
    pub fn no_field(mut self, name: &'static str) -> Self {
        self.fields.push((name, None));
        self
    }

    /// With a field that the backend saw.
    #[must_use]
    pub fn saw(mut self, name: &'static str, value: &str) -> Self {
        self.saw.push((name, Some(value.to_owned())));
        self
    }

    /// Without a field that the backend would have seen.
    #[must_use]
    pub fn saw_no(mut self, name: &'static str) -> Self {
        self.saw.push((name, None));
        self
    }

    /// With something else that the backend said.
    #[must_use]
    pub fn told(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.told.push((name, value.into()));
        self
    }

    /// Returns what of an answer is not as it has to be. `fill` fills names in.
    pub(super) fn differences(&self, seen: &Seen, fill: impl Fn(&str) -> String) -> Vec<String> {
        let mut all = Vec::new();
        if seen.status != self.status {
            all.push(format!("status {} and not {}", seen.status, self.status));
        }
        let backend = seen.backend();
        let is_right = match self.backends.as_slice() {
            [] => backend.is_empty(),
            some => some.contains(&backend.as_str()),
        };
        if !is_right {
            all.push(format!(
                "answered by `{backend}` and not by {:?}",
                self.backends
            ));
        }
        let mut compare =
            |what: &str, name: &str, found: Option<String>, expected: &Option<String>| {
                let expected = expected.as_deref().map(&fill);
                if found != expected {
                    all.push(format!("{what} `{name}` is {found:?} and not {expected:?}"));
                }
            };
        for (name, expected) in &self.fields {
            compare("field", name, seen.field(name), expected);
        }
        for (name, expected) in &self.saw {
            compare(
                "field that the backend saw,",
                name,
                seen.saw(name),
                expected,
            );
        }
        let told = seen.told();
        for (name, expected) in &self.told {
            let expected = expected
                .as_str()
                .map_or_else(|| expected.clone(), |text| fill(text).into());
            if told[*name] != expected {
                all.push(format!(
                    "the backend's `{name}` is {} and not {expected}",
                    told[*name]
                ));
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen() -> Seen {
        Seen {
            status: 200,
            fields: vec![
                ("x-a".to_owned(), "1".to_owned()),
                ("x-a".to_owned(), "2".to_owned()),
            ],
            body: r#"{"backend":"v1","host":"10.0.0.1","fields":[["x-b","3"]],"seen":2}"#
                .to_owned(),
            error: None,
        }
    }

    #[test]
    fn what_is_as_it_has_to_be_has_no_difference() {
        let expected = Expected::of("v1")
            .field("X-A", "1,2")
            .no_field("x-b")
            .saw("x-b", "3")
            .saw_no("x-a")
            .told("host", "<echo>")
            .told("seen", 2);
        let fill = |text: &str| text.replace("<echo>", "10.0.0.1");
        assert_eq!(expected.differences(&seen(), fill), Vec::<String>::new());
    }

    #[test]
    fn everything_that_is_not_is_told() {
        let expected = Expected::of("v2")
            .field("x-a", "1")
            .no_field("x-a")
            .saw("x-c", "3")
            .saw_no("x-b")
            .told("seen", 3);
        let fill = |text: &str| text.to_owned();
        assert_eq!(expected.differences(&seen(), fill).len(), 6);
        let nobody = Expected::status(404);
        assert_eq!(nobody.differences(&seen(), fill).len(), 2);
    }

    #[test]
    fn a_request_in_words_is_itself() {
        let request = Request::get("http://<echo>/x")
            .method("PUT")
            .field("a", "b c");
        assert_eq!(
            request.words("http://10.0.0.1/x", 5),
            [
                "ask",
                "--method",
                "PUT",
                "--field",
                "a: b c",
                "--count",
                "5",
                "http://10.0.0.1/x"
            ]
        );
    }
}
