//! `URLRewrite`, and the replacing of prefixes that redirects share with it.

use std::borrow::Cow;

use crate::l7::message::RequestHead;
use crate::model::route::{PathEdit, Rewrite};

/// Rewrites the head of a request; `prefix` is what [`Selected::prefix`](crate::l7::route::Selected::prefix) says.
pub fn rewrite(head: &mut RequestHead, edit: &Rewrite, prefix: Option<usize>) {
    if let Some(hostname) = &edit.hostname {
        head.authority = hostname.to_ascii_lowercase();
    }
    if let Some(path) = &edit.path {
        let path = edited(head.target.path(), path, prefix).into_owned();
        head.target.set_path(&path);
    }
}

/// Returns a path as an edit makes it.
pub(super) fn edited<'p>(path: &'p str, edit: &'p PathEdit, prefix: Option<usize>) -> Cow<'p, str> {
    match (edit, prefix) {
        (PathEdit::Full(path), _) if path.is_empty() => Cow::Borrowed("/"),
        (PathEdit::Full(path), _) => Cow::Borrowed(path),
        (PathEdit::Prefix(with), Some(prefix)) => Cow::Owned(replaced_prefix(path, prefix, with)),
        // The configuration allows it with one prefix only, so there always is one.
        (PathEdit::Prefix(_), None) => Cow::Borrowed(path),
    }
}

/// Returns `path` with another beginning in the place of its first `prefix` bytes, which are whole elements: one slash where the
/// two meet, and never an empty path (`HTTPPathModifier.replacePrefixMatch`).
pub fn replaced_prefix(path: &str, prefix: usize, with: &str) -> String {
    let rest = path.get(prefix..).unwrap_or_default();
    let with = match rest.starts_with('/') {
        true => with.strip_suffix('/').unwrap_or(with),
        false => with,
    };
    let slash = match with.starts_with('/') || with.is_empty() && rest.starts_with('/') {
        true => "",
        false => "/",
    };
    format!("{slash}{with}{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l7::route::edit::fields::tests::head;

    #[test]
    fn prefixes_are_replaced_as_gateway_api_s_table_says() {
        // Request path, prefix as it is written, replacement, result: the table's eleven rows, in its order.
        for (path, prefix, with, expected) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
        ] {
            let length = prefix.trim_end_matches('/').len();
            assert_eq!(
                replaced_prefix(path, length, with),
                expected,
                "{path} {prefix} {with}"
            );
        }
        assert_eq!(replaced_prefix("/a/b", 0, "/x"), "/x/a/b");
        assert_eq!(replaced_prefix("/", 0, "/x"), "/x/");
        assert_eq!(replaced_prefix("/foo", 4, "xyz"), "/xyz");
    }

    #[test]
    fn a_rewrite_keeps_the_query() {
        let mut head = head("cart:80", "/foo/bar?a=1", &[]);
        let edit = Rewrite {
            hostname: Some("Other.example".to_owned()),
            path: Some(PathEdit::Prefix("/x".to_owned())),
        };
        rewrite(&mut head, &edit, Some(4));
        assert_eq!(
            (head.authority.as_str(), head.target.as_str()),
            ("other.example", "/x/bar?a=1")
        );
        let full = Rewrite {
            hostname: None,
            path: Some(PathEdit::Full("/one".to_owned())),
        };
        rewrite(&mut head, &full, None);
        assert_eq!(head.target.as_str(), "/one?a=1");
    }
}
