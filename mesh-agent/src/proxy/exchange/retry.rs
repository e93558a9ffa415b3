//! Whether and when a request is tried again.

use std::time::Duration;

use http::Method;

use crate::chance::Chance;
use crate::l7::cluster::Outcome;
use crate::l7::message::ResponseHead;
use crate::model::route::Retry;
use crate::proxy::exchange::UpstreamError;

/// Attempts that are made anew without a policy, where the upstream cannot have acted on the first: once.
const UNASKED: u32 = 1;

/// Connections that one request may find at their end, one after the other: a new one that is full at once is possible, more
/// of them are an endpoint that takes nothing.
const MOVES: u32 = 3;

/// Retries of one request so far, and what allows more.
#[derive(Clone, Copy, Debug)]
pub(super) struct Retries<'p> {
    pub(super) policy: Option<&'p Retry>,
    pub(super) is_idempotent: bool,
    pub(super) made: u32,
    /// Times that it moved to another connection. No retries: nobody has looked at it, nobody is at fault, and no load is added.
    pub(super) moved: u32,
}

impl<'p> Retries<'p> {
    pub(super) fn new(policy: Option<&'p Retry>, method: &Method) -> Self {
        Self {
            policy,
            is_idempotent: method.is_idempotent(),
            made: 0,
            moved: 0,
        }
    }

    /// Returns whether it may move to another connection.
    pub(super) fn may_move(&self) -> bool {
        self.moved < MOVES
    }

    fn allowed(&self) -> u32 {
        self.policy.map_or(0, |policy| policy.attempts)
    }

    /// Returns whether a failure to connect may be made good by another attempt.
    pub(super) fn after_connect(&self) -> bool {
        self.made < self.allowed().max(UNASKED)
    }

    /// Returns whether a failure without response may be.
    pub(super) fn after_error(&self, error: UpstreamError) -> bool {
        match error {
            UpstreamError::Unsent | UpstreamError::Left => self.made < self.allowed().max(UNASKED),
            UpstreamError::Stale if self.is_idempotent => self.made < self.allowed().max(UNASKED),
            // A policy may say so of any method.
            UpstreamError::Stale
            | UpstreamError::Reset
            | UpstreamError::Timeout
            | UpstreamError::Protocol => self.made < self.allowed(),
            // Another endpoint of the service is spoken to alike.
            UpstreamError::NoTunnel | UpstreamError::Unsayable => false,
        }
    }

    /// Returns whether a response is one that the policy has tried again.
    pub(super) fn after_response(&self, response: &ResponseHead) -> bool {
        self.made < self.allowed() && self.is_named(response)
    }

    /// Returns whether a response is one that the policy has tried again, after the last attempt that it allows.
    pub(super) fn spent_on(&self, response: &ResponseHead) -> bool {
        self.made > 0 && self.made >= self.allowed() && self.is_named(response)
    }

    /// Returns whether the policy names the code of a response.
    fn is_named(&self, response: &ResponseHead) -> bool {
        let status = outcome(response).status();
        let codes = self.policy.map_or(&[][..], |policy| &policy.codes);
        codes.iter().any(|code| Some(code.as_u16()) == status)
    }

    /// Returns how long to wait before the next attempt: the policy's pause, doubled with each, and up to half as much again so
    /// that clients do not come back all at once.
    pub(super) fn pause(&self, least: Duration, chance: &mut Chance) -> Duration {
        // An upstream that has closed a kept connection is not overloaded.
        if self.policy.is_none() {
            return Duration::ZERO;
        }
        let base = self.policy.and_then(|it| it.backoff).unwrap_or(least);
        let doubled = base.saturating_mul(1 << self.made.min(6));
        doubled.mul_f64(1.0 + chance.unit() / 2.0)
    }
}

/// Returns how an attempt with this response ended.
pub(super) fn outcome(response: &ResponseHead) -> Outcome {
    match grpc_status(&response.fields) {
        Some(code) => Outcome::Grpc(code),
        None => Outcome::Status(response.status.as_u16()),
    }
}

/// Returns `grpc-status` where it is in these fields.
pub(super) fn grpc_status(fields: &crate::l7::message::Fields) -> Option<u32> {
    let text = fields.get("grpc-status")?;
    str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    #[test]
    fn without_a_policy_only_what_was_not_seen_is_tried_again() {
        let mut post = Retries::new(None, &Method::POST);
        assert!(post.after_error(UpstreamError::Unsent) && post.after_connect());
        assert!(!post.after_error(UpstreamError::Stale));
        assert!(!post.after_error(UpstreamError::Reset));
        assert!(!post.after_response(&ResponseHead::default()));
        let get = Retries::new(None, &Method::GET);
        assert!(get.after_error(UpstreamError::Stale) && !get.after_error(UpstreamError::Reset));
        post.made = 1;
        assert!(!post.after_error(UpstreamError::Unsent) && !post.after_connect());
        assert_eq!(
            post.pause(Duration::from_secs(1), &mut Chance::seeded(1)),
            Duration::ZERO
        );
    }

    #[test]
    fn a_policy_names_codes_and_bounds_attempts() {
        let policy = Retry {
            codes: vec![StatusCode::BAD_GATEWAY, StatusCode::SERVICE_UNAVAILABLE],
            attempts: 2,
            backoff: Some(Duration::from_millis(100)),
        };
        let mut retries = Retries::new(Some(&policy), &Method::POST);
        let mut response = ResponseHead {
            status: StatusCode::BAD_GATEWAY,
            ..ResponseHead::default()
        };
        assert!(retries.after_response(&response) && retries.after_error(UpstreamError::Reset));
        response.status = StatusCode::INTERNAL_SERVER_ERROR;
        assert!(!retries.after_response(&response));
        response.status = StatusCode::OK;
        response.fields.append("grpc-status", b"14");
        assert!(retries.after_response(&response) && !retries.spent_on(&response));
        let mut chance = Chance::seeded(1);
        for (made, least) in [(0, 100), (1, 200), (3, 800)] {
            retries.made = made;
            let pause = retries.pause(Duration::ZERO, &mut chance).as_millis();
            assert!((least..=least * 3 / 2).contains(&pause), "{made}: {pause}");
        }
        retries.made = 2;
        assert!(!retries.after_response(&response) && !retries.after_connect());
        assert!(retries.spent_on(&response));
        assert!(!retries.spent_on(&ResponseHead::default()));
    }
}
