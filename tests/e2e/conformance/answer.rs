//! What `curl` got.

use std::process::Output;

use serde_json::Value;

/// An answer, or why there was none.
#[derive(Debug)]
pub(super) struct Answer {
    /// What `curl` ended with.
    pub(super) exit: i32,
    /// 0 where there was no answer.
    pub(super) status: u16,
    fields: Vec<(String, String)>,
    /// What came after the last head; trailers are there, too.
    pub(super) body: String,
    /// What `curl` complained of.
    pub(super) complaint: String,
}

impl Answer {
    pub(super) fn parse(output: &Output) -> Self {
        let mut rest = &*String::from_utf8_lossy(&output.stdout);
        let (mut status, mut fields) = (0, Vec::new());
        // Interim responses have heads, too.
        while let Some((head, after)) = rest.split_once("\r\n\r\n")
            && head.starts_with("HTTP/")
        {
            let mut lines = head.lines();
            let code = lines.next().and_then(|line| line.split(' ').nth(1));
            status = code.and_then(|code| code.parse().ok()).unwrap_or(0);
            let pairs = lines.filter_map(|line| line.split_once(':'));
            fields = pairs
                .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
                .collect();
            rest = after;
            if status >= 200 {
                break;
            }
        }
        Self {
            exit: output.status.code().unwrap_or(-1),
            status,
            fields,
            body: rest.to_owned(),
            complaint: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Returns a field's values, joined.
    pub(super) fn field(&self, name: &str) -> Option<String> {
        join(&self.fields, name)
    }

    /// Returns what the backend said that it was asked.
    pub(super) fn told(&self) -> Value {
        let start = self.body.find('{').unwrap_or(0);
        let mut values = serde_json::Deserializer::from_str(&self.body[start..]).into_iter();
        let first = values.next();
        first.and_then(Result::ok).unwrap_or_default()
    }

    /// Returns the backend's name.
    pub(super) fn backend(&self) -> String {
        let told = self.told();
        told["backend"].as_str().unwrap_or_default().to_owned()
    }

    /// Returns the values of a field that the backend saw, joined.
    pub(super) fn saw(&self, name: &str) -> Option<String> {
        let fields = self.told()["fields"].clone();
        let fields: Vec<_> = serde_json::from_value(fields).unwrap_or_default();
        join(&fields, name)
    }

    /// Checks status and backend.
    #[track_caller]
    pub(super) fn expect(&self, status: u16, backend: &str) -> &Self {
        assert_eq!(
            (self.status, self.backend().as_str()),
            (status, backend),
            "{}{self:?}",
            self.complaint
        );
        self
    }
}

fn join(fields: &[(String, String)], name: &str) -> Option<String> {
    let of = fields.iter().filter(|it| it.0.eq_ignore_ascii_case(name));
    of.map(|it| it.1.clone()).reduce(|all, it| all + "," + &it)
}
