//! The JSON of requests.

#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

pub use crate::telemetry::http::request::Request;

/// Schema of [`Requests`].
pub const REQUESTS_SCHEMA: &str = "underpass.dev/requests/v1";

/// Recent requests: `GET /v1/requests`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Requests {
    /// [`REQUESTS_SCHEMA`].
    pub schema: String,
    /// Requests that match, in the order in which they ended.
    pub requests: Vec<Request>,
    /// Requests that match too, but are older than the limit allows.
    pub omitted: usize,
    /// Requests of any kind that were never listed because too many ended at a time, since the agent started.
    pub left_out: u64,
}

/// Query of `GET /v1/requests`. Everything is optional.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RequestsQuery {
    /// `NAMESPACE/NAME` of the workload that asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload: Option<String>,
    /// Namespace of the workload or the service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// `NAMESPACE/NAME` of the service that was dialled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The service's port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// A status such as `404`, or a class such as `5xx`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// A response flag such as `UT`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flag: Option<String>,
    /// Only those that failed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub failed: bool,
    /// A duration such as `5m`: only requests that ended since then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// At most this many, the newest; 100 where not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// A stream of lines as for flows, with requests.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub follow: bool,
}
