//! Writes to the API server, and reads of single objects. Only the controller has a use for them.
#![forbid(unsafe_code)]

use std::path::Path;
use std::time::Duration;

use http::{Method, Request, StatusCode, header};
use kube::client::Body;
use serde::Deserialize;

use super::client::{self, Api};
use super::limits;
use super::trouble::{self, Trouble};

/// What a body is, as its `Content-Type` says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Form {
    /// A whole object.
    Object,
    /// Server-side apply. JSON is YAML.
    Apply,
    /// A merge patch (RFC 7386).
    MergePatch,
}

impl Form {
    fn content_type(self) -> &'static str {
        match self {
            Self::Object => "application/json",
            Self::Apply => "application/apply-patch+yaml",
            Self::MergePatch => "application/merge-patch+json",
        }
    }
}

/// Why something was not written or read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum WriteError {
    /// 409: the object is another by now, or a field is somebody else's.
    #[error("{0}")]
    Conflict(String),
    /// 409: an object of this name is there.
    #[error("{0}")]
    Exists(String),
    /// 404: it is not there.
    #[error("{0}")]
    Gone(String),
    /// 401 or 403: we may not.
    #[error("{0}")]
    Forbidden(String),
    /// The server will not take it the next time either.
    #[error("{0}")]
    Refused(String),
    /// It may work later: nobody answers, too much is asked of the server, or it fails.
    #[error("{message}")]
    Later {
        /// What happened.
        message: String,
        /// For how long the server asks to be left alone.
        after: Option<Duration>,
    },
}

/// A `Status`, as far as it is read.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    message: String,
    reason: String,
    details: Option<Details>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Details {
    retry_after_seconds: Option<u64>,
}

/// A way to write, with connections of its own: what is watched does not wait for it, nor it for that.
#[derive(Debug)]
pub(crate) struct Writer(Api);

impl Writer {
    /// Returns a way to the API server that a file names, or whatever names one else. Connects to nothing.
    ///
    /// # Errors
    ///
    /// When there is none, or it cannot be made sense of.
    pub(crate) async fn new(kubeconfig: Option<&Path>) -> anyhow::Result<Self> {
        Api::infer(kubeconfig).await.map(Self)
    }

    /// Returns an object.
    pub(crate) async fn get(&self, path: &str) -> Result<Vec<u8>, WriteError> {
        self.send(Method::GET, path, None).await
    }

    /// Sends an object or a patch; returns what became of the object.
    pub(crate) async fn write(
        &self,
        method: Method,
        path: &str,
        form: Form,
        body: String,
    ) -> Result<Vec<u8>, WriteError> {
        self.send(method, path, Some((form, body))).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<(Form, String)>,
    ) -> Result<Vec<u8>, WriteError> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::ACCEPT, "application/json");
        let body = match body {
            None => Body::empty(),
            Some((form, text)) => {
                request = request.header(header::CONTENT_TYPE, form.content_type());
                Body::from(text.into_bytes())
            }
        };
        let request = request
            .body(body)
            .map_err(|error| WriteError::Refused(error.to_string()))?;
        let answer = self.0.exchange(request, limits::WRITTEN).await?;
        let (head, body) = answer.into_parts();
        if head.status.is_success() {
            return Ok(client::whole(body).await?);
        }
        let (body, _) = client::read(body, limits::ERROR_BYTES).await?;
        let after = head.headers.get(header::RETRY_AFTER);
        let after = after.and_then(|after| after.to_str().ok()?.parse().ok());
        Err(refused(head.status, after, &body))
    }
}

impl From<Trouble> for WriteError {
    fn from(trouble: Trouble) -> Self {
        Self::Later {
            message: trouble.message,
            after: trouble.retry_after,
        }
    }
}

/// Returns what an answer other than success means.
fn refused(code: StatusCode, after: Option<u64>, body: &[u8]) -> WriteError {
    let status = serde_json::from_slice::<Status>(body).unwrap_or_default();
    let text = match status.message.is_empty() {
        true => String::from_utf8_lossy(body).trim().to_owned(),
        false => status.message,
    };
    let message = format!("{} ({text})", code.as_u16());
    match code.as_u16() {
        401 | 403 => WriteError::Forbidden(message),
        404 => WriteError::Gone(message),
        409 if status.reason == "AlreadyExists" => WriteError::Exists(message),
        409 => WriteError::Conflict(message),
        408 | 429 | 500.. => WriteError::Later {
            message,
            after: after
                .or_else(|| status.details?.retry_after_seconds)
                .map(trouble::bounded),
        },
        _ => WriteError::Refused(message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(code: u16, after: Option<u64>, body: &str) -> WriteError {
        refused(StatusCode::from_u16(code).unwrap(), after, body.as_bytes())
    }

    #[test]
    fn both_kinds_of_409_are_told_apart() {
        let exists = r#"{"kind":"Status","message":"leases \"a\" already exists","reason":"AlreadyExists","code":409}"#;
        assert!(matches!(of(409, None, exists), WriteError::Exists(_)));
        let stale = r#"{"kind":"Status","message":"the object has been modified","reason":"Conflict","code":409}"#;
        assert!(matches!(of(409, None, stale), WriteError::Conflict(_)));
    }

    #[test]
    fn what_may_work_later_is_tried_when_the_server_says() {
        let second = Some(Duration::from_secs(1));
        let text = "Too many requests, please try again later.\n";
        let expected = "429 (Too many requests, please try again later.)";
        let WriteError::Later { message, after } = of(429, Some(1), text) else {
            panic!("429 is not for ever");
        };
        assert_eq!((message.as_str(), after), (expected, second));
        let status = r#"{"message":"busy","details":{"retryAfterSeconds":1},"code":503}"#;
        assert!(
            matches!(of(503, None, status), WriteError::Later { after, .. } if after == second)
        );
        assert!(matches!(of(422, None, "{}"), WriteError::Refused(_)));
    }
}
