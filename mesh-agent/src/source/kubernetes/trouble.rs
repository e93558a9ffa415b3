//! Why the API server did not answer as it should.
#![forbid(unsafe_code)]

use std::time::Duration;

use http::{HeaderMap, StatusCode, header};
use serde::Deserialize;

use super::limits;

/// Why the API server did not answer as it should.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub(super) struct Trouble {
    pub(super) sort: Sort,
    pub(super) message: String,
    /// For how long the server asks to be left alone.
    pub(super) retry_after: Option<Duration>,
}

/// What to do about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sort {
    /// Nobody answers, or the connection broke.
    Away,
    /// The server does not know who we are.
    Unauthorized,
    /// The server does not let us.
    Forbidden,
    /// There is no such kind.
    NotServed,
    /// What we know is too old to be continued: list again.
    Expired,
    /// The server does not understand the request, and will not the next time.
    Refused,
    /// Too much is asked of the server, or it fails.
    Failing,
    /// What came is not what has to come.
    Garbled,
}

/// A `Status`, as far as it is read.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Status {
    message: String,
    code: u16,
    details: Option<Details>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Details {
    retry_after_seconds: Option<u64>,
}

impl Trouble {
    /// Returns one that has no answer.
    pub(super) fn new(sort: Sort, message: impl Into<String>) -> Self {
        Self {
            sort,
            message: message.into(),
            retry_after: None,
        }
    }

    /// Returns what an answer other than success means.
    pub(super) fn of_answer(code: StatusCode, headers: &HeaderMap, body: &[u8]) -> Self {
        let mut status = serde_json::from_slice::<Status>(body).unwrap_or_default();
        if status.message.is_empty() {
            let text = String::from_utf8_lossy(body);
            text.trim().clone_into(&mut status.message);
        }
        status.code = code.as_u16();
        let mut trouble = Self::of_status(status);
        let after = headers.get(header::RETRY_AFTER);
        let after = after.and_then(|after| after.to_str().ok()?.parse().ok());
        if let Some(seconds) = after {
            trouble.retry_after = Some(bounded(seconds));
        }
        trouble
    }

    /// Returns what a `Status` means.
    pub(super) fn of_status(status: Status) -> Self {
        let Status {
            message,
            code,
            details,
        } = status;
        let sort = match code {
            401 => Sort::Unauthorized,
            403 => Sort::Forbidden,
            404 => Sort::NotServed,
            410 => Sort::Expired,
            408 | 409 | 429 | 500.. => Sort::Failing,
            _ => Sort::Refused,
        };
        let message = match sort {
            Sort::Unauthorized => format!(
                "the API server does not accept the agent's credentials ({code}: {message}); is the service account's token current?"
            ),
            Sort::Forbidden => {
                format!("{message} ({code}); give its role the verbs list and watch")
            }
            Sort::Away
            | Sort::NotServed
            | Sort::Expired
            | Sort::Refused
            | Sort::Failing
            | Sort::Garbled => {
                format!("the API server answers {code}: {message}")
            }
        };
        let seconds = details.and_then(|details| details.retry_after_seconds);
        Self {
            sort,
            message,
            retry_after: seconds.map(bounded),
        }
    }
}

pub(super) fn bounded(seconds: u64) -> Duration {
    Duration::from_secs(seconds).min(limits::RETRY_AFTER_AT_MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(code: u16, retry: Option<&'static str>, body: &str) -> Trouble {
        let mut headers = HeaderMap::new();
        if let Some(retry) = retry {
            headers.insert(header::RETRY_AFTER, retry.parse().unwrap());
        }
        Trouble::of_answer(
            StatusCode::from_u16(code).unwrap(),
            &headers,
            body.as_bytes(),
        )
    }

    #[test]
    fn overload_comes_as_text_with_a_time_or_as_status() {
        let text = answer(
            429,
            Some("1"),
            "Too many requests, please try again later.\n",
        );
        assert_eq!(text.sort, Sort::Failing);
        assert_eq!(text.retry_after, Some(Duration::from_secs(1)));
        assert_eq!(
            text.message,
            "the API server answers 429: Too many requests, please try again later."
        );
        let status = r#"{"kind":"Status","message":"Timeout: Too large resource version: 99999999, current: 1216","details":{"causes":[],"retryAfterSeconds":1},"code":504}"#;
        let status = Trouble::of_status(serde_json::from_str(status).unwrap());
        assert_eq!(status.sort, Sort::Failing);
        assert_eq!(status.retry_after, Some(Duration::from_secs(1)));
    }

    #[test]
    fn no_server_may_silence_the_agent_for_ever() {
        let trouble = answer(503, Some("999999999999"), "");
        assert_eq!(trouble.retry_after, Some(limits::RETRY_AFTER_AT_MOST));
    }

    #[test]
    fn the_code_of_the_answer_counts_whatever_the_body_says() {
        assert_eq!(answer(403, None, r#"{"code":200}"#).sort, Sort::Forbidden);
        assert_eq!(
            answer(404, None, "404 page not found\n").sort,
            Sort::NotServed
        );
    }
}
