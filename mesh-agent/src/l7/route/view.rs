//! What routes look at of a request.

use std::borrow::Cow;

use http::Method;

use crate::l7::message::{Fields, RequestHead};

/// A request as routes see it. Costs nothing to make.
#[derive(Clone, Copy, Debug)]
pub struct RequestView<'r> {
    /// Its method.
    pub method: &'r Method,
    /// Host and port that it is for.
    pub authority: &'r str,
    /// Its canonical path, see [`path`](super::path).
    pub path: &'r str,
    /// What follows the `?`.
    pub query: Option<&'r str>,
    /// Its fields.
    pub fields: &'r Fields,
}

impl<'r> RequestView<'r> {
    /// Returns the view of a request whose path is [normal](super::path::normalise).
    pub fn of(head: &'r RequestHead) -> Self {
        Self {
            method: &head.method,
            authority: &head.authority,
            path: head.target.path(),
            query: head.target.query(),
            fields: &head.fields,
        }
    }

    /// Returns whether it is a call of gRPC, by its content type.
    pub fn is_grpc(&self) -> bool {
        is_grpc(self.fields)
    }

    /// Returns the value of a field, lines joined by commas (RFC 9110, section 5.3).
    pub(super) fn header(&self, name: &str) -> Option<Cow<'r, [u8]>> {
        if name == "host" {
            return Some(Cow::Borrowed(self.authority.as_bytes()));
        }
        let named = |field: &crate::l7::message::Field<'r>| field.name.eq_ignore_ascii_case(name);
        let mut lines = self.fields.iter().filter(named).map(|field| field.value);
        let first = lines.next()?;
        let Some(second) = lines.next() else {
            return Some(Cow::Borrowed(first));
        };
        let mut joined = first.to_vec();
        for line in std::iter::once(second).chain(lines) {
            joined.push(b',');
            joined.extend_from_slice(line);
        }
        Some(Cow::Owned(joined))
    }

    /// Returns the value of the first parameter of this name, decoded.
    pub(super) fn parameter(&self, name: &str) -> Option<Cow<'r, str>> {
        self.parameters().find(|it| it.0 == name).map(|it| it.1)
    }

    /// Returns all parameters, decoded, in their order.
    pub(super) fn parameters(
        &self,
    ) -> impl Iterator<Item = (Cow<'r, str>, Cow<'r, str>)> + use<'r> {
        let parts = self.query.unwrap_or_default().split('&');
        parts.filter(|part| !part.is_empty()).map(|part| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            (decoded(name), decoded(value))
        })
    }
}

/// Returns whether these are fields of a call of gRPC, or of its answer.
pub fn is_grpc(fields: &Fields) -> bool {
    let content_type = fields.get("content-type").unwrap_or_default();
    let Some(rest) = content_type.get(16..) else {
        return false;
    };
    content_type[..16].eq_ignore_ascii_case(b"application/grpc")
        && matches!(rest.first(), None | Some(b'+' | b';' | b' '))
}

/// Decodes `%XX`; `+` is a plus. What is no escape, or gives no UTF-8, stays as it is.
fn decoded(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digit = |at: usize| char::from(*after.get(at)?).to_digit(16);
        if *first == b'%'
            && let (Some(high), Some(low)) = (digit(0), digit(1))
        {
            bytes.push(u8::try_from(high * 16 + low).unwrap_or_default());
            rest = &after[2..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8(bytes).map_or(Cow::Borrowed(text), Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded_and_the_first_counts() {
        let fields = Fields::default();
        let view = RequestView {
            method: &Method::GET,
            authority: "a",
            path: "/",
            query: Some("a=1&&b%20c=%41+%zz&a=2&d&=e"),
            fields: &fields,
        };
        assert_eq!(view.parameter("a").as_deref(), Some("1"));
        assert_eq!(view.parameter("b c").as_deref(), Some("A+%zz"));
        assert_eq!(view.parameter("d").as_deref(), Some(""));
        assert_eq!(view.parameter("e"), None);
    }

    #[test]
    fn lines_are_joined_and_the_host_is_the_authority() {
        let fields: Fields = [("X-A", "1"), ("b", "2"), ("x-a", "3")]
            .into_iter()
            .collect();
        let view = RequestView {
            method: &Method::GET,
            authority: "cart:80",
            path: "/",
            query: None,
            fields: &fields,
        };
        assert_eq!(view.header("x-a").as_deref(), Some(&b"1,3"[..]));
        assert_eq!(view.header("B").as_deref(), Some(&b"2"[..]));
        assert_eq!(view.header("host").as_deref(), Some(&b"cart:80"[..]));
        assert_eq!(view.header("c"), None);
    }

    #[test]
    fn grpc_is_told_by_its_content_type() {
        let is = |value| is_grpc(&[("Content-Type", value)].into_iter().collect());
        assert!(is("application/grpc") && is("application/grpc+proto") && is("Application/gRPC;x"));
        assert!(
            !is("application/grpc-web") && !is("application/json") && !is_grpc(&Fields::default())
        );
    }
}
