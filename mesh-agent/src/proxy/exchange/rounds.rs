//! Attempt after attempt, until one has answered or no other may be made.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;

use crate::l7::cluster::{Ask, InFlight, Now, Outcome, Overflow, Picked};
use crate::l7::flag::Flag;
use crate::l7::limit::shed::Load;
use crate::l7::message::{RequestHead, ResponseHead, Version};
use crate::l7::route::CompiledRule;
use crate::l7::route::edit::Cause;
use crate::model::route::Retry;
use crate::proxy::exchange::affinity::Affinity;
use crate::proxy::exchange::attempt::{Attempt, End, Verdict};
use crate::proxy::exchange::decide::{self, Origin, Plan};
use crate::proxy::exchange::fate::{Failure, Fate, Refusal};
use crate::proxy::exchange::mirror;
use crate::proxy::exchange::replay::{Progress, Replay};
use crate::proxy::exchange::retry::{self, Retries};
use crate::proxy::exchange::room::{Speaks, nanoseconds};
use crate::proxy::exchange::run::{Scratch, Way};
use crate::proxy::exchange::{BodyError, BodySize, Incoming, Responder};
use crate::proxy::h2;

/// What holds for all attempts of a request.
pub(super) struct Terms<'t> {
    pub(super) plan: &'t Plan,
    rule: Option<Arc<CompiledRule>>,
    retries: Retries<'t>,
    /// When all of it has to have ended.
    until: Option<Instant>,
    hash: Option<u64>,
    size: BodySize,
    holds: bool,
    origin: Origin,
    pub(super) speaks: Speaks,
    /// When the client of a call of gRPC gives up.
    grpc_until: Option<Instant>,
}

impl Terms<'_> {
    /// Returns when an attempt that begins now has to have ended.
    fn limit(&self, now: Instant) -> Option<Instant> {
        let each = self.rule.as_ref().and_then(|it| it.backend_timeout);
        self.until.into_iter().chain(each.map(|it| now + it)).min()
    }

    /// Returns the admission of another attempt where the response is one that calls for it; an error where the retry budget says
    /// no, which the client is told instead of the response (GEP-3388).
    fn tried_again(
        &self,
        head: &ResponseHead,
        progress: &Progress,
        now: Now,
    ) -> Result<Option<InFlight>, Overflow> {
        if !self.retries.after_response(head) || !progress.may_replay() {
            return Ok(None);
        }
        self.another(now)
    }

    /// Returns the admission of another attempt; an error where the retry budget says no.
    fn another(&self, now: Now) -> Result<Option<InFlight>, Overflow> {
        match self.plan.destination.cluster.admit_retry(now) {
            Ok(admitted) => Ok(Some(admitted)),
            Err(Overflow::Budget) => Err(Overflow::Budget),
            Err(_) => Ok(None),
        }
    }

    /// Changes a response that is passed on.
    fn edit(&self, head: &mut ResponseHead, from: SocketAddr) {
        if let Some(rule) = &self.rule {
            decide::edit_response(head, rule, self.plan, &self.origin);
        }
        if let Some(affinity) = &self.plan.affinity {
            affinity.tell(&mut head.fields, &self.plan.destination.cluster.id, from);
        }
    }
}

const NO_ENDPOINT: Refusal = Refusal {
    cause: Cause::NoEndpoint,
    flag: Flag::NoHealthyUpstream,
    why: "the service has no endpoint",
};
pub(super) const TOO_MUCH: Refusal = Refusal {
    cause: Cause::Overflow,
    flag: Flag::Overflow,
    why: "too much is in flight to the service",
};
/// No endpoint's fault: none was asked.
pub(super) const LATE: Refusal = Refusal {
    cause: Cause::Timeout,
    flag: Flag::UpstreamTimeout,
    why: "the time of the request was up before an endpoint was asked",
};
const NO_GRPC: Refusal = Refusal {
    cause: Cause::Connect,
    flag: Flag::UpstreamProtocol,
    why: "the service speaks HTTP/1.1, which gRPC cannot go by",
};

/// Tells the cluster that a head has come, and, where nothing that follows could change that or is read, what that says of the endpoint:
/// each attempt is judged once. Otherwise returns what it says so far.
fn came(
    head: &ResponseHead,
    is_answer: bool,
    picked: &Picked,
    took: u64,
    now: Now,
) -> Option<Outcome> {
    let outcome = retry::outcome(head);
    let is_tunnel = head.status == StatusCode::SWITCHING_PROTOCOLS;
    if !is_answer || outcome.is_failure() || is_tunnel {
        picked.report(outcome, took, now);
        return None;
    }
    picked.begun(outcome, took, now);
    Some(outcome)
}

impl Way<'_> {
    /// Returns when the client of a call of gRPC gives up. To be asked before the first attempt.
    pub(super) fn grpc_until(&self, request: &RequestHead) -> Option<Instant> {
        match self.is_grpc {
            true => h2::grpc::timeout(&request.fields).map(|it| self.story.mark + it),
            false => None,
        }
    }

    /// Returns when all of the request has to have ended, its client's deadline included. To be asked before the first attempt.
    pub(super) fn until(&self, grpc_until: Option<Instant>) -> Option<Instant> {
        let rule = self.story.rule.as_ref();
        let by_rule = rule.and_then(|it| it.request_timeout);
        let by_rule = by_rule.map(|it| self.story.mark + it);
        by_rule.into_iter().chain(grpc_until).min()
    }

    /// Sends the request to an endpoint, and to others if the first ones fail.
    pub(super) async fn exchange<I: Incoming, R: Responder>(
        &mut self,
        scratch: &mut Scratch,
        request: &mut RequestHead,
        plan: &Plan,
        body: &mut I,
        to: &mut R,
        load: &Load<'_>,
    ) {
        let room = self.room;
        let cluster = &plan.destination.cluster;
        let start = self.story.mark;
        let Ok(_admission) = cluster.admit(room.now(start)) else {
            return self.answer(TOO_MUCH, to).await;
        };
        let speaks = plan.destination.speaks.to(request.version);
        if self.is_grpc && request.version == Version::Http2 && speaks == Speaks::Http1 {
            return self.answer(NO_GRPC, to).await;
        }
        let table = self.table.clone();
        let rule = self.story.rule.clone();
        let traffic = table.as_ref().and_then(|it| it.policy.traffic.as_ref());
        let by_rule = rule.as_ref().and_then(|it| it.retry.as_ref());
        let policy: Option<&Retry> = by_rule.or_else(|| traffic.and_then(|it| it.retry.as_ref()));
        let size = body.size();
        let expects = request.fields.get("expect");
        let grpc_until = self.grpc_until(request);
        let mut terms = Terms {
            plan,
            rule: rule.clone(),
            retries: Retries::new(policy, &request.method),
            until: self.until(grpc_until),
            speaks,
            grpc_until,
            hash: decide::hash_of(&plan.destination, request, self.client.address),
            size,
            origin: self.origin.clone(),
            holds: size != BodySize::Empty
                && expects.is_some_and(|it| it.eq_ignore_ascii_case(b"100-continue")),
        };
        let mut kept = std::mem::take(&mut scratch.kept);
        let mut replay = Replay::new(
            body,
            &mut kept,
            room.limits.replay_bytes,
            load,
            self.progress,
        );
        if self.is_detailed && self.is_grpc {
            replay.count_messages();
        }
        // A tunnel is a conversation: a copy of one half of it is none.
        let mirrors = plan.mirrors.iter();
        for mirrored in mirrors.filter(|_| request.protocol.is_none()) {
            let mirrored = Arc::clone(mirrored);
            replay.tee(mirror::start(room, self.client, mirrored, request, size));
        }
        scratch.tried.clear();
        self.rounds(scratch, request, &mut terms, &mut replay, to)
            .await;
        drop(replay);
        kept.clear();
        scratch.kept = kept;
    }

    async fn rounds<I: Incoming, R: Responder>(
        &mut self,
        scratch: &mut Scratch,
        request: &mut RequestHead,
        terms: &mut Terms<'_>,
        body: &mut Replay<'_, I>,
        to: &mut R,
    ) {
        // A retry is in flight until its attempt has ended.
        let mut admitted: Option<InFlight>;
        loop {
            if let Some(until) = terms.grpc_until {
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return self.answer(LATE, to).await;
                }
                h2::grpc::set_timeout(&mut request.fields, left);
            }
            let refusal = match self.round(scratch, request, terms, body, to).await {
                Fate::Over => return,
                Fate::Answer(refusal) => return self.answer(refusal, to).await,
                Fate::Again(retry) => {
                    admitted = Some(retry);
                    NO_ENDPOINT
                }
                Fate::Failed(failure)
                    if failure.moves(&terms.retries) && self.may_go_on(terms, Instant::now()) =>
                {
                    terms.retries.moved += 1;
                    // To whom the session or the hash says, if need be.
                    scratch.tried.pop();
                    body.rewind();
                    continue;
                }
                Fate::Failed(failure) => {
                    let another = self.admit_retry(&failure, terms);
                    let refusal = match another {
                        Ok(_) => failure.refusal(),
                        Err(_) => TOO_MUCH,
                    };
                    admitted = another.ok().flatten();
                    refusal
                }
            };
            if admitted.is_none() {
                if terms.retries.made > 0 && terms.retries.policy.is_some() {
                    self.story.flags.raise(Flag::RetriesExhausted);
                }
                return self.answer(refusal, to).await;
            }
            let least = self.room.limits.backoff;
            let pause = terms.retries.pause(least, &mut scratch.chance);
            if !pause.is_zero() && !self.pause(pause, terms.until, scratch, to).await {
                return;
            }
            terms.retries.made += 1;
            body.rewind();
            let number = terms.retries.made.to_string();
            let name = match self.is_grpc {
                true => "grpc-previous-rpc-attempts",
                false => "x-request-attempt",
            };
            request.fields.set(name, number.as_bytes());
        }
    }

    fn admit_retry(
        &self,
        failure: &Failure,
        terms: &Terms<'_>,
    ) -> Result<Option<InFlight>, Overflow> {
        let now = Instant::now();
        match failure.may(&terms.retries) && self.may_go_on(terms, now) {
            true => terms.another(self.room.now(now)),
            false => Ok(None),
        }
    }

    /// Returns whether there is time for another attempt, and all of the request for it.
    fn may_go_on(&self, terms: &Terms<'_>, now: Instant) -> bool {
        self.progress.may_replay() && terms.until.is_none_or(|until| now < until)
    }

    /// Makes one attempt.
    async fn round<I: Incoming, R: Responder>(
        &mut self,
        scratch: &mut Scratch,
        request: &RequestHead,
        terms: &Terms<'_>,
        body: &mut Replay<'_, I>,
        to: &mut R,
    ) -> Fate {
        let room = self.room;
        let now = Instant::now();
        self.story.times.agent_ns += self.story.lap(now);
        let session = terms.plan.affinity.as_ref().and_then(Affinity::session);
        let ask = Ask {
            hash: terms.hash,
            session: session.map(|it| it.address),
            tried: &scratch.tried,
            v6: self.client.address.is_ipv6(),
        };
        let cluster = &terms.plan.destination.cluster;
        let Ok(picked) = cluster.pick(&ask, &mut scratch.chance, room.now(now)) else {
            return Fate::Answer(NO_ENDPOINT);
        };
        scratch.tried.push(picked.address());
        self.tries(&picked);
        let limit = terms.limit(now);
        let link = match self.connect(&picked, terms, limit, scratch, to).await {
            Ok(link) => link,
            Err(fate) => {
                self.story.times.connect_ns += self.story.lap(Instant::now());
                return self.failed(fate, &picked, now);
            }
        };
        let began = self.story.mark;
        let (mut retry, mut spent, mut begun) = (None, false, None);
        let progress = self.progress;
        let mut judge = |head: &mut ResponseHead, at: Instant| {
            let took = nanoseconds(at.saturating_duration_since(began));
            let again = terms.tried_again(head, progress, room.now(at));
            begun = came(head, matches!(again, Ok(None)), &picked, took, room.now(at));
            match again {
                Ok(admitted) => retry = admitted,
                Err(_) => return Verdict::Overflow,
            }
            if retry.is_some() {
                return Verdict::Again;
            }
            spent = terms.retries.spent_on(head);
            terms.edit(head, picked.address());
            Verdict::Pass
        };
        let mut attempt = Attempt {
            request,
            size: terms.size,
            holds: terms.holds,
            is_grpc: self.is_grpc,
            counts_messages: self.is_detailed && self.is_grpc,
            progress,
            to,
            response: &mut scratch.response,
            timer: &mut scratch.timer,
            limits: &room.limits,
            began,
            until: limit,
            told: &mut self.story.told,
        };
        let end = link.make(&mut attempt, body, &mut judge).await;
        if spent {
            self.story.flags.raise(Flag::RetriesExhausted);
        }
        let at = self.story.told.head_at;
        self.story.times.upstream_ns += self.story.lap(at.unwrap_or_else(Instant::now));
        self.judge(begun, end, &picked);
        let fate = self.ended(end, retry);
        self.failed(fate, &picked, began)
    }

    fn tries(&mut self, picked: &Picked) {
        self.story.attempts += 1;
        self.story.endpoint = Some(picked.address());
        if self.is_detailed {
            self.story.workload = picked.workload().cloned();
        }
    }

    /// Returns what follows such an end.
    pub(super) fn ended(&mut self, end: End, retry: Option<InFlight>) -> Fate {
        let malformed = |cause, why| {
            Fate::Answer(Refusal {
                cause,
                flag: Flag::DownstreamProtocol,
                why,
            })
        };
        match end {
            End::Done => Fate::Over,
            End::Again => {
                self.story.told.head_at = None;
                retry.map_or(Fate::Over, Fate::Again)
            }
            End::Overflow => {
                self.story.told.head_at = None;
                Fate::Answer(TOO_MUCH)
            }
            End::Failed(error) => Fate::Failed(Failure::Upstream(error)),
            End::TimedOut => Fate::Failed(Failure::TimedOut),
            End::ClientBroke(BodyError::Reset) | End::Gone => {
                self.story.flags.raise(Flag::DownstreamClosed);
                Fate::Over
            }
            End::ClientBroke(BodyError::Protocol) => {
                malformed(Cause::Malformed, "the framing of the body is wrong")
            }
            End::ClientBroke(BodyError::Timeout) => {
                self.story.flags.raise(Flag::StreamIdle);
                let status = StatusCode::REQUEST_TIMEOUT;
                malformed(Cause::Fault(status), "the body took too long")
            }
            End::Idle => {
                self.story.flags.raise(Flag::StreamIdle);
                Fate::Over
            }
            End::Broken(why) => {
                self.story.flags.raise(match why {
                    Some(BodyError::Reset) => Flag::UpstreamClosed,
                    Some(BodyError::Protocol) => Flag::UpstreamProtocol,
                    Some(BodyError::Timeout) => Flag::UpstreamTimeout,
                    None => Flag::DownstreamProtocol,
                });
                Fate::Over
            }
        }
    }

    /// Tells the cluster how a response ended that had [come](came) as a success.
    fn judge(&self, begun: Option<Outcome>, end: End, picked: &Picked) {
        let Some(begun) = begun else { return };
        let is_broken = matches!(
            end,
            End::Broken(Some(BodyError::Reset | BodyError::Protocol))
        );
        let outcome = match is_broken {
            true => Outcome::Reset,
            // Whoever else ended it. A call says how it went behind its messages.
            false => self.story.told.grpc_status.map_or(begun, Outcome::Grpc),
        };
        // How long ago the head came is of no interest to a success.
        let now = match outcome.is_failure() {
            true => Instant::now(),
            false => self.story.mark,
        };
        picked.ended(outcome, self.room.now(now));
    }

    /// Tells the cluster of a failure.
    fn failed(&self, fate: Fate, picked: &Picked, began: Instant) -> Fate {
        if let Fate::Failed(failure) = &fate {
            let now = self.story.mark;
            let took = nanoseconds(now.saturating_duration_since(began));
            picked.report(failure.outcome(), took, self.room.now(now));
        }
        fate
    }

    /// Waits between two attempts; false if the client has its answer already, or is gone.
    async fn pause<R: Responder>(
        &mut self,
        pause: Duration,
        until: Option<Instant>,
        scratch: &mut Scratch,
        to: &mut R,
    ) -> bool {
        let end = Instant::now() + pause;
        let at = until.map_or(end, |until| until.min(end));
        let waited = tokio::select! {
            () = scratch.timer.until(at) => true,
            () = to.gone() => false,
        };
        if !waited {
            self.story.flags.raise(Flag::DownstreamClosed);
            return false;
        }
        if at < end {
            self.answer(Failure::TimedOut.refusal(), to).await;
            return false;
        }
        true
    }
}
