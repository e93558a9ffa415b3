//! One attempt: the request goes to an upstream, and its response to the client, both at the same time.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;

use crate::l7::message::{RequestHead, ResponseHead};
use crate::l7::route::is_grpc;
use crate::proxy::exchange::messages::Messages;
use crate::proxy::exchange::replay::{Progress, Replay};
use crate::proxy::exchange::retry::grpc_status;
use crate::proxy::exchange::room::Limits;
use crate::proxy::exchange::{
    BodyError, BodySize, Incoming, Outgoing, Piece, RequestSink, Responder, ResponseSource,
    UpstreamError,
};
use crate::proxy::timer::Timer;

/// Interim responses to one request: who sends more means no good.
const INTERIM_MOST: u32 = 32;

/// Bytes that are read of a response that is not passed on, so that its connection stays good.
const DISCARD_MOST: usize = 64 * 1024;

/// What an attempt works with.
pub(super) struct Attempt<'a, R> {
    pub(super) request: &'a RequestHead,
    pub(super) size: BodySize,
    /// Whether the client holds its body back until it is told to go on.
    pub(super) holds: bool,
    pub(super) is_grpc: bool,
    /// Whether the response's messages are to be counted.
    pub(super) counts_messages: bool,
    pub(super) progress: &'a Progress,
    pub(super) to: &'a mut R,
    pub(super) response: &'a mut ResponseHead,
    pub(super) timer: &'a mut Timer,
    pub(super) limits: &'a Limits,
    /// When it began, and when it has to have ended.
    pub(super) began: Instant,
    pub(super) until: Option<Instant>,
    pub(super) told: &'a mut Told,
}

/// What an attempt tells of itself.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Told {
    /// When the final head came.
    pub(super) head_at: Option<Instant>,
    /// The status that is passed on.
    pub(super) status: Option<StatusCode>,
    /// `grpc-status`, in the head or the trailers.
    pub(super) grpc_status: Option<u32>,
    /// Bytes of the response that were passed on.
    pub(super) sent: u64,
    /// Messages of gRPC among them, where they are counted.
    pub(super) messages: Messages,
    /// The client has been told to go on.
    pub(super) continued: bool,
}

/// What is to be done with a final head.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    Pass,
    /// Another attempt is to be made.
    Again,
    /// Another attempt should be made, and there have been too many of other requests.
    Overflow,
}

/// How an attempt ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// The response was passed on whole.
    Done,
    /// As [`Verdict`] said; nothing was passed on.
    Again,
    Overflow,
    /// There is no response, and nothing was passed on.
    Failed(UpstreamError),
    /// Time was up before there was a response.
    TimedOut,
    /// The client's body broke off before there was a response.
    ClientBroke(BodyError),
    /// The client is gone.
    Gone,
    /// The response broke off midway, and so it did for the client: the upstream's fault, or time was up.
    Broken(Option<BodyError>),
    /// The same, because the client took nothing for too long, or nobody had anything to say in a tunnel.
    Idle,
}

/// Why a wait came to nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stop {
    Late,
    Idle,
    Client(BodyError),
}

/// Why an upload ended early.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Broke {
    Client(BodyError),
    Upstream(UpstreamError),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Upload {
    /// Not to be begun yet.
    Held,
    Running,
    Done,
    Failed(Broke),
}

/// The upload, which goes on whatever is waited for.
struct Side<'s, F> {
    future: Pin<&'s mut F>,
    state: Upload,
    progress: &'s Progress,
    until: Option<Instant>,
}

impl<F: Future<Output = Result<(), Broke>>> Side<'_, F> {
    fn poll(&mut self, cx: &mut Context<'_>) {
        if self.state == Upload::Running
            && let Poll::Ready(ended) = self.future.as_mut().poll(cx)
        {
            self.state = ended.map_or_else(Upload::Failed, |()| Upload::Done);
        }
    }

    /// Waits for `work`, at most until the attempt's end, and for `idle` while the upload does not move either.
    async fn along<W: Future>(
        &mut self,
        timer: &mut Timer,
        idle: Option<Duration>,
        work: W,
    ) -> Result<W::Output, Stop> {
        let mut work = pin!(work);
        let mut quiet = Quiet::new(idle, self.progress);
        poll_fn(|cx| {
            if let Poll::Ready(output) = work.as_mut().poll(cx) {
                return Poll::Ready(Ok(output));
            }
            let before = (self.state, self.progress.received());
            self.poll(cx);
            if let Upload::Failed(Broke::Client(error)) = self.state {
                return Poll::Ready(Err(Stop::Client(error)));
            }
            // Behind the whole body, the end of the client's connection can be told: `work` waits for that from now on.
            if (self.state, self.progress.received()) != before
                && let Poll::Ready(output) = work.as_mut().poll(cx)
            {
                return Poll::Ready(Ok(output));
            }
            quiet.poll(cx, timer, self.until).map(Err)
        })
        .await
    }

    /// Waits for the upload's end.
    async fn ended(&mut self, timer: &mut Timer, idle: Option<Duration>) -> Result<(), Stop> {
        let mut quiet = Quiet::new(idle, self.progress);
        poll_fn(|cx| {
            self.poll(cx);
            if self.state != Upload::Running {
                return Poll::Ready(Ok(()));
            }
            quiet.poll(cx, timer, self.until).map(Err)
        })
        .await
    }
}

/// A wait that must not be too long.
struct Quiet<'p> {
    idle: Option<Duration>,
    /// When it is; known once something really has to be waited for.
    at: Option<Instant>,
    /// What the upload had moved when that began.
    moved: u64,
    progress: &'p Progress,
}

impl<'p> Quiet<'p> {
    fn new(idle: Option<Duration>, progress: &'p Progress) -> Self {
        Self {
            idle,
            at: None,
            moved: progress.moved(),
            progress,
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        timer: &mut Timer,
        until: Option<Instant>,
    ) -> Poll<Stop> {
        loop {
            if self.at.is_none() {
                self.at = self.idle.map(|idle| Instant::now() + idle);
            }
            let Some(next) = until.into_iter().chain(self.at).min() else {
                return Poll::Pending;
            };
            if timer.poll_at(cx, next).is_pending() {
                return Poll::Pending;
            }
            if until.is_some_and(|until| until <= next) {
                return Poll::Ready(Stop::Late);
            }
            if self.progress.moved() == self.moved {
                return Poll::Ready(Stop::Idle);
            }
            (self.at, self.moved) = (None, self.progress.moved());
        }
    }
}

/// Polls once.
async fn now<F: Future>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
}

/// Sends a body as it comes.
async fn upload<I: Incoming, S: RequestSink>(
    body: &mut Replay<'_, I>,
    sink: &mut S,
    progress: &Progress,
) -> Result<(), Broke> {
    loop {
        let piece = {
            let mut next = pin!(body.next());
            match now(next.as_mut()).await {
                Poll::Ready(piece) => piece,
                Poll::Pending => {
                    sink.flush().await.map_err(Broke::Upstream)?;
                    progress.set_waiting(true);
                    let piece = next.await;
                    progress.set_waiting(false);
                    piece
                }
            }
        };
        let sent = match piece.map_err(Broke::Client)? {
            Some(Piece::Data(data)) => sink.data(data).await,
            Some(Piece::Trailers(fields)) => {
                return sink.finish(Some(&fields)).await.map_err(Broke::Upstream);
            }
            None => return sink.finish(None).await.map_err(Broke::Upstream),
        };
        sent.map_err(Broke::Upstream)?;
        progress.step();
    }
}

impl<R: Responder> Attempt<'_, R> {
    /// Makes the attempt. `judge` is asked once, with the final head, which it may change.
    pub(super) async fn make<I: Incoming, U: Outgoing>(
        &mut self,
        upstream: &mut U,
        body: &mut Replay<'_, I>,
        judge: &mut (dyn FnMut(&mut ResponseHead, Instant) -> Verdict + Send),
    ) -> End {
        let (mut sink, mut source) = upstream.halves();
        let upgrades = self.request.protocol.is_some();
        let size = if upgrades {
            BodySize::Unknown
        } else {
            self.size
        };
        let is_held = upgrades || (self.holds && !self.told.continued);
        let begin = async {
            sink.head(self.request, size).await?;
            match is_held {
                true => sink.flush().await,
                false => Ok(()),
            }
        };
        let at = self.began + self.limits.response_idle;
        let at = self.until.map_or(at, |until| until.min(at));
        match self.timer.within(at, begin).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return End::Failed(error),
            Err(_) => return End::TimedOut,
        }
        let mut side = Side {
            future: pin!(upload(body, &mut sink, self.progress)),
            state: match (is_held, size) {
                (true, _) => Upload::Held,
                (false, BodySize::Empty) => Upload::Done,
                (false, _) => Upload::Running,
            },
            progress: self.progress,
            until: self.until,
        };
        if let Err(end) = self.heads(&mut side, &mut source).await {
            return end;
        }
        let now = Instant::now();
        self.told.head_at = Some(now);
        match judge(self.response, now) {
            Verdict::Pass => {
                self.told.status = Some(self.response.status);
                self.progress.keep_no_more();
            }
            Verdict::Again => {
                discard(&mut source).await;
                return End::Again;
            }
            Verdict::Overflow => return End::Overflow,
        }
        self.pass_on(&mut side, &mut source).await
    }

    /// Waits for the final head, and passes interim ones on.
    async fn heads<F, S>(&mut self, side: &mut Side<'_, F>, source: &mut S) -> Result<(), End>
    where
        F: Future<Output = Result<(), Broke>>,
        S: ResponseSource,
    {
        let upgrades = self.request.protocol.is_some();
        for _ in 0..INTERIM_MOST {
            let before = side.state;
            let idle = match before {
                Upload::Held if !upgrades => Some(self.limits.expect),
                // A call may have nothing to say for hours, in either direction.
                Upload::Running => Some(self.limits.request_idle).filter(|_| !self.is_grpc),
                Upload::Held | Upload::Done | Upload::Failed(_) => {
                    Some(self.limits.response_idle).filter(|_| !self.is_grpc)
                }
            };
            let (response, to) = (&mut *self.response, &mut *self.to);
            let head = async {
                tokio::select! {
                    biased;
                    head = source.head(response) => head.map_err(End::Failed),
                    () = to.gone() => Err(End::Gone),
                }
            };
            match side.along(self.timer, idle, head).await {
                Ok(Ok(())) => {}
                Ok(Err(end)) => {
                    // What the upload met first says more than the silence after it.
                    return Err(match (end, side.state) {
                        (End::Failed(_), Upload::Failed(Broke::Upstream(first))) => {
                            End::Failed(first)
                        }
                        (end, _) => end,
                    });
                }
                Err(Stop::Idle) if side.state == Upload::Held && !upgrades => {
                    // The client may be waiting for ever, and the upstream not know what for.
                    side.state = Upload::Running;
                    self.go_on(side).await?;
                    continue;
                }
                // The upload has ended meanwhile, and the response has its own time.
                Err(Stop::Idle) if side.state != before => continue,
                Err(Stop::Idle) if self.progress.is_waiting() => {
                    return Err(End::ClientBroke(BodyError::Timeout));
                }
                Err(Stop::Idle | Stop::Late) => return Err(End::TimedOut),
                Err(Stop::Client(error)) => return Err(End::ClientBroke(error)),
            }
            let status = self.response.status;
            if !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS {
                return Ok(());
            }
            if status == StatusCode::CONTINUE {
                if side.state == Upload::Held && !upgrades {
                    side.state = Upload::Running;
                }
                self.go_on(side).await?;
            } else {
                let sent = self.to.informational(self.response);
                interim(
                    side.along(self.timer, Some(self.limits.request_idle), sent)
                        .await,
                )?;
            }
        }
        Err(End::Failed(UpstreamError::Protocol))
    }

    /// Tells the client to go on, once.
    async fn go_on<F>(&mut self, side: &mut Side<'_, F>) -> Result<(), End>
    where
        F: Future<Output = Result<(), Broke>>,
    {
        if std::mem::replace(&mut self.told.continued, true) {
            return Ok(());
        }
        let head = ResponseHead {
            status: StatusCode::CONTINUE,
            ..ResponseHead::default()
        };
        let sent = self.to.informational(&head);
        interim(
            side.along(self.timer, Some(self.limits.request_idle), sent)
                .await,
        )
    }

    /// Passes the response on.
    async fn pass_on<F, S>(&mut self, side: &mut Side<'_, F>, source: &mut S) -> End
    where
        F: Future<Output = Result<(), Broke>>,
        S: ResponseSource,
    {
        let size = source.size();
        let is_tunnel = self.response.status == StatusCode::SWITCHING_PROTOCOLS;
        let idle = match is_tunnel {
            true => Some(self.limits.tunnel_idle),
            false => Some(self.limits.response_idle).filter(|_| !self.is_grpc),
        };
        if is_tunnel {
            side.state = Upload::Running;
            side.until = None;
        }
        self.told.grpc_status = grpc_status(&self.response.fields);
        let passed = self.pieces(side, source, size, idle).await;
        if let Err(end) = passed {
            self.to.reset();
            return end;
        }
        // The end of one direction of a tunnel is not the other's.
        if is_tunnel && side.ended(self.timer, idle).await.is_err() {
            self.to.reset();
            return End::Idle;
        }
        End::Done
    }

    async fn pieces<F, S>(
        &mut self,
        side: &mut Side<'_, F>,
        source: &mut S,
        size: BodySize,
        idle: Option<Duration>,
    ) -> Result<(), End>
    where
        F: Future<Output = Result<(), Broke>>,
        S: ResponseSource,
    {
        let counts_messages = self.counts_messages && is_grpc(&self.response.fields);
        let Self {
            to, timer, told, ..
        } = self;
        let head = to.head(self.response, size);
        gone(side.along(timer, idle, head).await)?;
        let is_tunnel =
            side.until.is_none() && self.response.status == StatusCode::SWITCHING_PROTOCOLS;
        if size == BodySize::Empty && !is_tunnel {
            return Ok(());
        }
        loop {
            let piece = {
                let mut next = pin!(source.next());
                match now(next.as_mut()).await {
                    Poll::Ready(piece) => piece,
                    Poll::Pending => {
                        gone(side.along(timer, idle, to.flush()).await)?;
                        let wait = async {
                            tokio::select! {
                                biased;
                                piece = next => Ok(piece),
                                () = to.gone() => Err(End::Gone),
                            }
                        };
                        match side.along(timer, idle, wait).await {
                            // Silence in a tunnel is nobody's fault.
                            Err(Stop::Idle) if !is_tunnel => {
                                return Err(End::Broken(Some(BodyError::Timeout)));
                            }
                            waited => waited.map_err(stopped)??,
                        }
                    }
                }
            };
            let piece = match piece {
                Ok(piece) => piece,
                Err(error) => {
                    // What came until then is the client's.
                    gone(side.along(timer, idle, to.flush()).await)?;
                    return Err(End::Broken(Some(error)));
                }
            };
            match piece {
                Some(Piece::Data(data)) => {
                    told.sent += data.len() as u64;
                    if counts_messages {
                        told.messages.take(&data);
                    }
                    gone(side.along(timer, idle, to.data(data)).await)?;
                }
                Some(Piece::Trailers(fields)) => {
                    told.grpc_status = grpc_status(&fields).or(told.grpc_status);
                    return gone(side.along(timer, idle, to.finish(Some(&fields))).await);
                }
                None => return gone(side.along(timer, idle, to.finish(None)).await),
            }
        }
    }
}

/// Returns the end of what waited for the client.
fn stopped(stop: Stop) -> End {
    match stop {
        Stop::Late => End::Broken(Some(BodyError::Timeout)),
        Stop::Idle => End::Idle,
        Stop::Client(BodyError::Reset) => End::Gone,
        Stop::Client(_) => End::Broken(None),
    }
}

/// Of an interim response. Who does not take it gets no other response either, and the upstream is not to blame.
fn interim(waited: Result<Result<(), super::Gone>, Stop>) -> Result<(), End> {
    match waited {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(Stop::Late | Stop::Idle) => Err(End::Gone),
        Err(Stop::Client(error)) => Err(End::ClientBroke(error)),
    }
}

fn gone(waited: Result<Result<(), super::Gone>, Stop>) -> Result<(), End> {
    waited.map_err(stopped)?.map_err(|_| End::Gone)
}

/// Reads what is there already of a response that is not passed on.
async fn discard<S: ResponseSource>(source: &mut S) {
    let mut left = DISCARD_MOST;
    loop {
        match now(pin!(source.next())).await {
            Poll::Ready(Ok(Some(Piece::Data(data)))) if data.len() <= left => left -= data.len(),
            Poll::Ready(_) | Poll::Pending => return,
        }
    }
}
