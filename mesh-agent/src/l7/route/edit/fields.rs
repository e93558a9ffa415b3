//! `RequestHeaderModifier` and `ResponseHeaderModifier`.

use crate::l7::message::{Fields, RequestHead};
use crate::model::route::HeaderEdit;

/// Fields that frame messages or belong to one connection: the agent writes them, and no filter does.
const OURS: [&str; 10] = [
    "connection",
    "content-length",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "expect",
];

/// Returns whether a filter may change the field of this name, which is in lower case.
pub fn is_editable(name: &str) -> bool {
    !OURS.contains(&name)
}

/// Edits the head of a request. `Host` is its authority: it can be set, and nothing else.
pub fn request_fields(head: &mut RequestHead, edit: &HeaderEdit) {
    for (name, value) in &edit.set {
        if name == http::header::HOST {
            head.authority = value.to_ascii_lowercase();
        }
    }
    apply(&mut head.fields, edit, true);
}

/// Edits the fields of a response.
pub fn response_fields(fields: &mut Fields, edit: &HeaderEdit) {
    apply(fields, edit, false);
}

/// Sets, then adds, then removes; no name stands in two of them, so the order makes no difference.
fn apply(fields: &mut Fields, edit: &HeaderEdit, is_request: bool) {
    let may = |name: &http::HeaderName| {
        is_editable(name.as_str()) && !(is_request && name == http::header::HOST)
    };
    for (name, value) in edit.set.iter().filter(|it| may(&it.0)) {
        fields.set(name.as_str(), value.as_bytes());
    }
    for (name, value) in edit.add.iter().filter(|it| may(&it.0)) {
        fields.append(name.as_str(), value.as_bytes());
    }
    for name in edit.remove.iter().filter(|it| may(it)) {
        fields.remove(name.as_str());
    }
}

#[cfg(test)]
pub(super) mod tests {
    use http::{HeaderName, Method};

    use super::*;
    use crate::l7::message::{Scheme, Target, Version};

    pub(crate) fn head(authority: &str, target: &str, fields: &[(&str, &str)]) -> RequestHead {
        RequestHead {
            method: Method::GET,
            scheme: Scheme::Http,
            authority: authority.to_owned(),
            target: Target::new(target.to_owned()),
            protocol: None,
            version: Version::Http11,
            fields: fields.iter().copied().collect(),
        }
    }

    fn name(name: &'static str) -> HeaderName {
        HeaderName::from_static(name)
    }

    #[test]
    fn set_add_and_remove() {
        let mut head = head(
            "cart",
            "/",
            &[
                ("X-Set", "old"),
                ("x-set", "older"),
                ("X-Add", "foo"),
                ("gone", "1"),
            ],
        );
        let edit = HeaderEdit {
            set: vec![
                (name("x-set"), "new".to_owned()),
                (name("host"), "Other".to_owned()),
            ],
            add: vec![
                (name("x-add"), "bar".to_owned()),
                (name("x-new"), "1".to_owned()),
                (name("content-length"), "0".to_owned()),
            ],
            remove: vec![name("gone"), name("not-there")],
        };
        request_fields(&mut head, &edit);
        let expected = [
            ("x-set", "new"),
            ("X-Add", "foo"),
            ("x-add", "bar"),
            ("x-new", "1"),
        ];
        assert_eq!(head.fields, expected.into_iter().collect());
        assert_eq!(head.authority, "other");
    }
}
