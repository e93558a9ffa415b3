//! A request from its head to its record.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;

use crate::chance::Chance;
use crate::l7::flag::Flag;
use crate::l7::limit::fault::{Abort, Fault};
use crate::l7::message::{RequestHead, ResponseHead};
use crate::l7::route::edit::{self, Cause};
use crate::l7::route::{CompiledRule, PortTable, is_grpc, path};
use crate::model::balanced::PortId;
use crate::model::workload::WorkloadName;
use crate::proxy::exchange::affinity::Kept;
use crate::proxy::exchange::attempt::Told;
use crate::proxy::exchange::decide::{self, Asked, Decision, Found, Origin};
use crate::proxy::exchange::fate::Refusal;
use crate::proxy::exchange::governor::Governor;
use crate::proxy::exchange::replay::Progress;
use crate::proxy::exchange::retry;
use crate::proxy::exchange::room::{Config, Destination, Room, nanoseconds};
use crate::proxy::exchange::rounds::LATE;
use crate::proxy::exchange::{BodySize, Incoming, Piece, Responder, Service};
use crate::proxy::record::{Client, Flags, Messages, RequestRecord, Times};
use crate::proxy::shelf::Reused;
use crate::proxy::timer::Timer;
use crate::telemetry::http::trace::SpanContext;

/// Exchanges the requests of one connection of a client.
#[derive(Debug)]
pub struct Exchange {
    room: Arc<Room>,
    client: Client,
    /// Whether the observer wants what takes some time to find out.
    is_detailed: bool,
    /// What was looked up for the last request. The lock is there because futures have to be movable, and is never waited for.
    view: Mutex<View>,
}

/// What an exchange uses from one request to the next, whosever they are.
#[derive(Debug)]
pub struct Scratch {
    pub(super) response: ResponseHead,
    pub(super) timer: Timer,
    pub(super) chance: Chance,
    pub(super) kept: Vec<Piece>,
    pub(super) tried: Vec<SocketAddr>,
}

impl Default for Scratch {
    fn default() -> Self {
        Self {
            response: ResponseHead::default(),
            timer: Timer::default(),
            chance: Chance::random(),
            kept: Vec::new(),
            tried: Vec::new(),
        }
    }
}

impl Reused for Scratch {
    fn bytes(&self) -> usize {
        let listed = size_of::<Piece>() * self.kept.capacity()
            + size_of::<SocketAddr>() * self.tried.capacity();
        size_of::<Self>() + self.response.fields.capacity() + listed
    }

    fn reset(&mut self) {
        self.response.clear();
        self.kept.clear();
        self.tried.clear();
    }
}

/// What the configuration says of the port that the connection is to, so that names are looked up once and not for each request.
#[derive(Debug, Default)]
struct View {
    /// Of which configuration; `None`: of none yet.
    number: Option<u64>,
    table: Option<Arc<PortTable>>,
    own: Option<Arc<Destination>>,
    governor: Option<Arc<Governor>>,
    found: Found,
    sessions: Kept,
}

impl View {
    fn of(config: &Config, port: &PortId) -> Self {
        Self {
            number: Some(config.number),
            table: config.tables.port(port).cloned(),
            own: config.destinations.get(port).cloned(),
            governor: config.governors.get(port).cloned(),
            found: Found::default(),
            sessions: Kept::default(),
        }
    }
}

/// What is known of a request so far.
pub(super) struct Story {
    /// When what is being measured began.
    pub(super) mark: Instant,
    pub(super) times: Times,
    pub(super) flags: Flags,
    pub(super) told: Told,
    pub(super) original: Option<(String, String)>,
    pub(super) rule: Option<Arc<CompiledRule>>,
    pub(super) destination: Option<Arc<PortId>>,
    pub(super) endpoint: Option<SocketAddr>,
    /// The workload behind it, where the observer wants it.
    pub(super) workload: Option<Arc<WorkloadName>>,
    pub(super) attempts: u32,
}

impl Story {
    /// Returns the time since the last mark, and sets the next.
    pub(super) fn lap(&mut self, now: Instant) -> u64 {
        let passed = now.saturating_duration_since(self.mark);
        self.mark = now;
        nanoseconds(passed)
    }
}

impl Exchange {
    /// Returns what exchanges the requests of this client's connection.
    pub fn new(room: Arc<Room>, client: Client) -> Self {
        Self {
            is_detailed: room.observer.is_detailed(),
            room,
            client,
            view: Mutex::default(),
        }
    }
}

impl Service for Exchange {
    type Scratch = Box<Scratch>;

    fn scratch(&self) -> Box<Scratch> {
        self.room.scratches.take()
    }

    fn take_back(&self, scratch: Box<Scratch>) {
        self.room.scratches.put(scratch);
    }

    async fn call<I: Incoming, R: Responder>(
        &self,
        scratch: &mut Box<Scratch>,
        request: &mut RequestHead,
        body: &mut I,
        to: &mut R,
    ) {
        let span = self.room.observer.begin(request);
        let progress = Progress::default();
        let story = Story {
            mark: Instant::now(),
            times: Times::default(),
            flags: Flags::default(),
            told: Told::default(),
            original: None,
            rule: None,
            destination: None,
            endpoint: None,
            workload: None,
            attempts: 0,
        };
        let way = Way {
            room: &self.room,
            client: &self.client,
            view: &self.view,
            table: None,
            is_grpc: is_grpc(&request.fields),
            is_detailed: self.is_detailed,
            progress: &progress,
            origin: Origin::default(),
            story,
        };
        let mut call = Call {
            way,
            request,
            span,
            is_cut: true,
        };
        call.way.go(scratch, call.request, body, to).await;
        call.is_cut = call.way.story.flags.has(Flag::DownstreamClosed) && to.is_cut();
    }

    fn refused(&self, status: StatusCode, why: &'static str) {
        self.room.observer.refused(&self.client, status, why);
    }
}

/// A request in progress. Told when it is dropped, since its connection may be ended at any time: a WebSocket that was open for days
/// is to be heard of, too.
struct Call<'c> {
    way: Way<'c>,
    request: &'c mut RequestHead,
    span: Option<SpanContext>,
    /// Whether the agent ends it midway. So it is until it has come to its end.
    is_cut: bool,
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        let Way {
            room,
            client,
            is_grpc,
            is_detailed,
            progress,
            story,
            ..
        } = &mut self.way;
        if self.is_cut {
            story.flags.cut();
        }
        let rest = story.lap(Instant::now());
        match story.told.head_at {
            Some(_) => story.times.transfer_ns += rest,
            None => story.times.agent_ns += rest,
        }
        room.observer.request(&RequestRecord {
            client,
            request: self.request,
            original: story.original.as_ref(),
            status: story.told.status,
            grpc_status: story.told.grpc_status,
            flags: story.flags,
            rule: story.rule.as_ref(),
            destination: story.destination.as_ref(),
            endpoint: story.endpoint,
            workload: story.workload.as_ref(),
            attempts: story.attempts,
            received: progress.received(),
            sent: story.told.sent,
            messages: (*is_detailed && *is_grpc).then(|| Messages {
                received: progress.messages(),
                sent: story.told.messages.count(),
            }),
            times: story.times,
            span: self.span,
        });
    }
}

/// The way of one request.
pub(super) struct Way<'w> {
    pub(super) room: &'w Arc<Room>,
    pub(super) client: &'w Client,
    view: &'w Mutex<View>,
    /// What holds for the port, by the configuration that the request goes by.
    pub(super) table: Option<Arc<PortTable>>,
    pub(super) is_grpc: bool,
    /// As [`Observer::is_detailed`](crate::proxy::record::Observer::is_detailed).
    pub(super) is_detailed: bool,
    pub(super) progress: &'w Progress,
    pub(super) origin: Origin,
    pub(super) story: Story,
}

impl Way<'_> {
    async fn go<I: Incoming, R: Responder>(
        &mut self,
        scratch: &mut Scratch,
        request: &mut RequestHead,
        body: &mut I,
        to: &mut R,
    ) {
        let room = self.room;
        let load = match room.shedder.enter() {
            Ok(load) => load,
            Err(why) => {
                let mut head = edit::answer(Cause::Overflow, &why.to_string(), self.is_grpc);
                head.fields.append("retry-after", b"1");
                return self.answer_with(&head, Some(Flag::Shed), to).await;
            }
        };
        if request.authority.is_empty() {
            request.authority = self.client.dialled.to_string();
        }
        if path::normalise(&mut request.target).is_err() {
            let refusal = Refusal {
                cause: Cause::Malformed,
                flag: Flag::DownstreamProtocol,
                why: "the path is none",
            };
            return self.answer(refusal, to).await;
        }
        let (decision, governor) = self.decide(scratch, request);
        if let Decision::Go(plan) = &decision {
            self.story.destination = Some(Arc::clone(&plan.destination.cluster.id));
        }
        // Before the agent answers by itself, too: that costs as much as many a request.
        if let Some(governor) = &governor
            && self.limited(governor, request, to).await
        {
            return;
        }
        let plan = match decision {
            Decision::Go(plan) => plan,
            Decision::Answer(head, flag) => return self.answer_with(&head, flag, to).await,
        };
        if let Some(governor) = &governor
            && self.faulted(governor, scratch, request, to).await
        {
            return;
        }
        self.exchange(scratch, request, &plan, body, to, &load)
            .await;
    }

    /// Decides by the newest configuration; also returns what limits the port's requests.
    fn decide(
        &mut self,
        scratch: &mut Scratch,
        request: &mut RequestHead,
    ) -> (Decision, Option<Arc<Governor>>) {
        let config = self.room.config.load();
        let mut view = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        if view.number != Some(config.number) {
            *view = View::of(&config, &self.client.port);
        }
        let view = &mut *view;
        self.table.clone_from(&view.table);
        let asked = Asked {
            config: &config,
            table: view.table.as_ref(),
            own: view.own.as_ref(),
            found: &mut view.found,
            namespace: &self.client.workload.namespace,
            port: self.client.dialled.port(),
            is_grpc: self.is_grpc,
            chance: &mut scratch.chance,
            original: &mut self.story.original,
            rule: &mut self.story.rule,
            origin: &mut self.origin,
            sessions: &mut view.sessions,
            key: self.room.sessions.as_ref(),
        };
        (asked.decide(request), view.governor.clone())
    }

    /// Turns away what is too much; returns whether the request is answered by that.
    async fn limited<R: Responder>(
        &mut self,
        governor: &Governor,
        request: &RequestHead,
        to: &mut R,
    ) -> bool {
        let now = self.room.now(self.story.mark);
        let rule = self.story.rule.as_deref();
        let Err(limited) = governor.take(request, self.client, rule, now) else {
            return false;
        };
        let why = "more requests than the rate limit allows";
        let mut head = edit::answer(Cause::RateLimited, why, self.is_grpc);
        let seconds = limited.wait_ns.div_ceil(1_000_000_000).max(1).to_string();
        head.fields.append("retry-after", seconds.as_bytes());
        self.answer_with(&head, Some(Flag::RateLimited), to).await;
        true
    }

    /// Fails on purpose; returns whether the request is answered by that.
    async fn faulted<R: Responder>(
        &mut self,
        governor: &Governor,
        scratch: &mut Scratch,
        request: &RequestHead,
        to: &mut R,
    ) -> bool {
        let faults = governor.faults.as_ref();
        match faults.and_then(|faults| faults.draw(&mut scratch.chance)) {
            Some(fault) => {
                let until = self.until(self.grpc_until(request));
                self.fault(&fault, until, scratch, to).await
            }
            None => false,
        }
    }

    async fn fault<R: Responder>(
        &mut self,
        fault: &Fault,
        until: Option<Instant>,
        scratch: &mut Scratch,
        to: &mut R,
    ) -> bool {
        if let Some(delay) = fault.delay_ns {
            self.story.flags.raise(Flag::FaultDelay);
            let end = Instant::now() + Duration::from_nanos(delay);
            let at = until.map_or(end, |until| until.min(end));
            let is_gone = tokio::select! {
                () = scratch.timer.until(at) => false,
                () = to.gone() => true,
            };
            if is_gone {
                self.story.flags.raise(Flag::DownstreamClosed);
                to.reset();
                return true;
            }
            if at < end {
                self.answer(LATE, to).await;
                return true;
            }
        }
        let (status, code) = match fault.abort {
            None => return false,
            Some(Abort::Status(status)) => (StatusCode::from_u16(status).ok(), None),
            Some(Abort::Grpc(code)) => (None, Some(code)),
        };
        let cause = Cause::Fault(status.unwrap_or(StatusCode::SERVICE_UNAVAILABLE));
        let mut head = edit::answer(cause, "aborted on purpose", self.is_grpc);
        if let Some(code) = code.filter(|_| self.is_grpc) {
            head.fields.set("grpc-status", code.to_string().as_bytes());
        }
        self.answer_with(&head, Some(Flag::FaultAbort), to).await;
        true
    }

    /// Answers by the agent itself.
    pub(super) async fn answer<R: Responder>(&mut self, refusal: Refusal, to: &mut R) {
        let head = edit::answer(refusal.cause, refusal.why, self.is_grpc);
        self.answer_with(&head, Some(refusal.flag), to).await;
    }

    async fn answer_with<R: Responder>(
        &mut self,
        head: &ResponseHead,
        flag: Option<Flag>,
        to: &mut R,
    ) {
        if let Some(flag) = flag {
            self.story.flags.raise(flag);
        }
        let mut edited = None;
        if let (Some(rule), Origin::Other | Origin::Allowed(_)) = (&self.story.rule, &self.origin) {
            decide::edit_own(edited.insert(head.clone()), rule, &self.origin);
        }
        let head = edited.as_ref().unwrap_or(head);
        self.story.told.status = Some(head.status);
        self.story.told.grpc_status = retry::grpc_status(&head.fields);
        // Of its own: it is set only where the client does not take the answer at once.
        let mut timer = Timer::default();
        let idle = self.room.limits.request_idle;
        let sent = timer
            .within_idle(idle, to.head(head, BodySize::Empty))
            .await;
        if !matches!(sent, Ok(Ok(()))) {
            self.story.flags.raise(Flag::DownstreamClosed);
        }
    }
}
