//! What a watch or a list says, as far as it is read before the kind counts.
#![forbid(unsafe_code)]

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::trouble::{Sort, Status, Trouble};

/// An event of a watch.
#[derive(Debug)]
pub(super) enum Event<'e> {
    /// It is there, or is different.
    Set(Head<'e>, &'e RawValue),
    /// It is gone, or does not match any more.
    Gone(Head<'e>),
    /// Everything up to this version was told; and whether that ends the list.
    Bookmark { version: String, ends_list: bool },
    /// The watch ends.
    Error(Trouble),
}

/// What tells one object of a kind from the others.
#[derive(Debug, Deserialize)]
pub(super) struct Head<'e> {
    #[serde(borrow)]
    pub(super) name: Cow<'e, str>,
    #[serde(borrow, default)]
    pub(super) namespace: Cow<'e, str>,
    #[serde(borrow, default, rename = "resourceVersion")]
    pub(super) version: Cow<'e, str>,
}

#[derive(Deserialize)]
struct Line<'e> {
    #[serde(borrow, rename = "type")]
    sort: Cow<'e, str>,
    #[serde(borrow)]
    object: &'e RawValue,
}

#[derive(Deserialize)]
struct Object<'e> {
    #[serde(borrow)]
    metadata: Head<'e>,
}

#[derive(Deserialize)]
struct Mark {
    metadata: MarkMetadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MarkMetadata {
    resource_version: String,
    #[serde(default)]
    annotations: MarkAnnotations,
}

#[derive(Default, Deserialize)]
struct MarkAnnotations {
    #[serde(default, rename = "k8s.io/initial-events-end")]
    end: Option<String>,
}

impl<'e> Event<'e> {
    /// Reads a line of a watch.
    ///
    /// # Errors
    ///
    /// When it cannot be made out which object of the kind it is about, or what became of it.
    pub(super) fn read(line: &'e [u8]) -> serde_json::Result<Self> {
        let line: Line<'_> = serde_json::from_slice(line)?;
        match &*line.sort {
            "ADDED" | "MODIFIED" => Ok(Self::Set(head(line.object)?, line.object)),
            "DELETED" => Ok(Self::Gone(head(line.object)?)),
            "BOOKMARK" => {
                let mark: Mark = serde_json::from_str(line.object.get())?;
                Ok(Self::Bookmark {
                    version: mark.metadata.resource_version,
                    ends_list: mark.metadata.annotations.end.as_deref() == Some("true"),
                })
            }
            "ERROR" => {
                let status: Result<Status, _> = serde_json::from_str(line.object.get());
                Ok(Self::Error(match status {
                    Ok(status) => Trouble::of_status(status),
                    Err(_) => Trouble::new(Sort::Garbled, line.object.get()),
                }))
            }
            other => Err(serde::de::Error::custom(format!(
                "unknown event `{}`",
                other.escape_debug()
            ))),
        }
    }
}

/// Returns what tells an object from others.
pub(super) fn head(object: &RawValue) -> serde_json::Result<Head<'_>> {
    let object: Object<'_> = serde_json::from_str(object.get())?;
    Ok(object.metadata)
}

/// A list, or a page of it.
#[derive(Debug, Deserialize)]
pub(super) struct Page<'e> {
    pub(super) metadata: PageMetadata,
    /// The server prints `null` for none.
    #[serde(borrow)]
    pub(super) items: Option<Vec<&'e RawValue>>,
}

#[derive(Debug, Deserialize)]
pub(super) struct PageMetadata {
    #[serde(rename = "resourceVersion")]
    pub(super) version: String,
    #[serde(default, rename = "continue")]
    pub(super) next: String,
}
