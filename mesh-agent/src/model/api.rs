//! How the agent stands with the Kubernetes API server: plain data.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// How the agent stands with the API server.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ApiStatus {
    /// The server's address.
    pub server: String,
    /// Whether what runs is what the server says.
    pub state: ApiState,
    /// Since when it is so.
    pub since: Timestamp,
    /// Why not, where it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// When everything was last known to be as the server says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_sync: Option<Timestamp>,
    /// When what runs was written to disk, while the server has not said that it still holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from_disk: Option<Timestamp>,
    /// Requests sent so far. A watch is one.
    pub requests: u64,
    /// Each kind that is watched, or cannot be.
    pub kinds: Vec<ApiKind>,
    /// What could not be told of an object, because what the server sent could not be read; the latest of them.
    pub unreadable: Vec<String>,
}

/// Whether what runs is what the server says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApiState {
    /// Not everything was told yet since the agent started.
    Starting,
    /// It is.
    Synced,
    /// Some of it is not watched at present: what was told last holds.
    Behind,
}

impl ApiState {
    /// Returns the word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Synced => "synced",
            Self::Behind => "behind",
        }
    }
}

/// One kind of objects, or a part of them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ApiKind {
    /// The kind, such as `Pod`.
    pub kind: String,
    /// Group and version that it is read in.
    pub version: String,
    /// Which of them: `all`, `this node`, `other nodes`.
    pub scope: String,
    /// Whether it is watched.
    pub state: WatchState,
    /// Why not, where it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Objects that are known.
    pub objects: usize,
}

/// Whether a kind is watched.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WatchState {
    /// It is about to be listed, or is being listed.
    Listing,
    /// It is.
    Watching,
    /// It is not, and will be tried again.
    Retrying,
    /// The server does not have it, or not in a version that is read.
    NotServed,
}

impl WatchState {
    /// Returns the word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Listing => "listing",
            Self::Watching => "watching",
            Self::Retrying => "retrying",
            Self::NotServed => "not served",
        }
    }
}
