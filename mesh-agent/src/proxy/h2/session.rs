//! The state of a connection: what its driver, which has the socket, and those who use its streams share.
//!
//! All of it is under one lock, which is taken a few times for each message and, since a connection lives on one thread, never
//! waited for. Whoever changes what is to be sent wakes the driver, once: what all streams have to say until it runs leaves by one
//! call.

mod close;
mod flow;
mod heads;
mod lanes;
mod out;
mod receive;
mod send;
mod streams;

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};
use std::time::Instant;

use http::StatusCode;

use super::frame::{self, Code, FIRST_WINDOW};
use super::hpack::Encoder;
use super::resets::Bucket;
use crate::l7::message::{RequestHead, ResponseHead};
use crate::proxy::exchange::BodySize;
pub(super) use lanes::Lane;
use lanes::Lanes;
use out::Out;
pub(super) use streams::Failure;
use streams::Streams;

/// What a PING says that asks whether the other end is there.
pub(super) const THERE: [u8; 8] = *b"areyouup";

/// A connection's state, and its lock.
#[derive(Debug)]
pub(super) struct Shared {
    session: Mutex<Session>,
}

impl Shared {
    pub(super) fn new(session: Session) -> Self {
        Self {
            session: Mutex::new(session),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Session> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which end of the connection this is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Role {
    Server,
    Client,
}

/// What a connection may take.
#[derive(Clone, Debug)]
pub(super) struct Bounds {
    /// Streams that the other end may open.
    pub(super) streams: usize,
    pub(super) stream_window: u32,
    pub(super) connection_window: u32,
    pub(super) header_list: u32,
    pub(super) header_lines: usize,
    pub(super) target: usize,
    pub(super) send_buffer: usize,
}

/// What the other end wants us to keep to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    /// Of each new stream.
    pub(super) window: i64,
    /// Streams that we may open.
    pub(super) streams: usize,
    /// Whether it takes extended CONNECT (RFC 8441).
    pub(super) connect: bool,
    /// Whether it has said anything yet.
    pub(super) greeted: bool,
    /// Whether it follows our settings.
    pub(super) follows: bool,
}

/// A request that waits for who serves it.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) slot: usize,
    pub(super) head: Box<RequestHead>,
    pub(super) size: BodySize,
    pub(super) to_head: bool,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) role: Role,
    pub(super) bounds: Bounds,
    pub(super) streams: Streams,
    pub(super) out: Out,
    pub(super) peer: Peer,
    encoder: Encoder,
    /// Bytes that may be sent, and that may come.
    window_out: i64,
    window_in: i64,
    /// Bytes that were read and not yet granted anew.
    released: u32,
    /// Streams with something to send that their windows allow, in turn.
    ready: VecDeque<usize>,
    /// Room that small DATA frames waste which nobody has read.
    waste: usize,
    /// The highest stream that the other end has opened; of a client, that we have.
    pub(super) last: u32,
    /// Streams that we reset lately: what was on its way to them is nobody's fault.
    forgotten: VecDeque<u32>,
    /// Streams of the client's that it passed over: from and to, both included.
    skipped: VecDeque<(u32, u32)>,
    resets: Bucket,
    noise: Bucket,
    faults: Bucket,
    since: Instant,
    /// Whether the client gave up too much.
    pub(super) too_many_resets: bool,
    /// No stream is opened any more: by us, or for the other end.
    pub(super) closing: bool,
    /// Whether that is because the other end leaves in good order, after streams that it took (GOAWAY).
    pub(super) is_left: bool,
    /// Why nothing goes on any more.
    pub(super) over: Option<Failure>,
    /// Whether that is because the agent dropped the connection.
    pub(super) is_cut: bool,
    /// The answer to a PING of ours came.
    pub(super) answered: Option<[u8; 8]>,
    /// Requests that nobody serves yet.
    pub(super) jobs: VecDeque<Job>,
    /// Requests that are served, and by whom.
    pub(super) serving: usize,
    lanes: Lanes,
    /// Settings came that nobody has looked at.
    pub(super) told: bool,
    /// Whether a response has come: of a client's.
    pub(super) proven: bool,
    /// What was answered without being a request.
    pub(super) refused: Vec<(StatusCode, &'static str)>,
    /// Heads that are used again.
    #[expect(
        clippy::vec_box,
        reason = "they go in and out of jobs, which moves a pointer"
    )]
    spare_requests: Vec<Box<RequestHead>>,
    #[expect(clippy::vec_box, reason = "the same, of streams")]
    spare_responses: Vec<Box<ResponseHead>>,
    driver: Option<Waker>,
    is_awake: bool,
    /// Whether a stream was opened or closed since somebody looked.
    pub(super) touched: bool,
}

/// Heads that are kept for the next message.
const SPARES: usize = 64;

/// Streams that we open before we know how many we may: no server allows fewer (RFC 9113, section 6.5.2).
const STREAMS_UNTIL_TOLD: usize = 100;

/// SETTINGS and empty DATA frames at once, and in ten seconds: nobody changes his mind as often.
const NOISE: u32 = 100;

/// Streams that end for an error of the other end, at once and in ten seconds: a client that is merely wrong stays.
const FAULTS: u32 = 1000;

impl Session {
    pub(super) fn new(role: Role, bounds: Bounds) -> Self {
        Self {
            role,
            streams: Streams::default(),
            out: Out::default(),
            peer: Peer {
                window: i64::from(FIRST_WINDOW),
                streams: STREAMS_UNTIL_TOLD,
                connect: false,
                greeted: false,
                follows: false,
            },
            encoder: Encoder::default(),
            window_out: i64::from(FIRST_WINDOW),
            window_in: i64::from(bounds.connection_window.max(FIRST_WINDOW)),
            released: 0,
            ready: VecDeque::new(),
            waste: 0,
            last: 0,
            forgotten: VecDeque::new(),
            skipped: VecDeque::new(),
            resets: Bucket::new(super::resets::RESETS),
            noise: Bucket::new(NOISE),
            faults: Bucket::new(FAULTS),
            since: Instant::now(),
            too_many_resets: false,
            closing: false,
            is_left: false,
            over: None,
            is_cut: false,
            answered: None,
            jobs: VecDeque::new(),
            serving: 0,
            lanes: Lanes::default(),
            told: false,
            proven: false,
            refused: Vec::new(),
            spare_requests: Vec::new(),
            spare_responses: Vec::new(),
            driver: None,
            is_awake: true,
            touched: false,
            bounds,
        }
    }

    /// Writes our settings, which everything else follows.
    pub(super) fn greet(&mut self) {
        use frame::setting;
        let (window, list) = (self.bounds.stream_window, self.bounds.header_list);
        let streams = u32::try_from(self.bounds.streams).unwrap_or(u32::MAX);
        let mut settings = vec![
            (setting::INITIAL_WINDOW_SIZE, window),
            (setting::MAX_HEADER_LIST_SIZE, list),
        ];
        match self.role {
            Role::Server => {
                settings.push((setting::MAX_CONCURRENT_STREAMS, streams));
                settings.push((setting::ENABLE_CONNECT_PROTOCOL, 1));
            }
            Role::Client => settings.push((setting::ENABLE_PUSH, 0)),
        }
        let out = self.out.text();
        frame::settings(out, &settings);
        if let Some(more @ 1..) = self.bounds.connection_window.checked_sub(FIRST_WINDOW) {
            frame::write_window(out, 0, more);
        }
    }

    /// The driver is about to look at everything.
    pub(super) fn attend(&mut self, cx: &Context<'_>) {
        let is_known = self
            .driver
            .as_ref()
            .is_some_and(|it| it.will_wake(cx.waker()));
        if !is_known {
            self.driver = Some(cx.waker().clone());
        }
        self.is_awake = true;
    }

    /// The driver has seen everything, and is to be woken for what changes.
    pub(super) fn rest(&mut self) {
        self.is_awake = false;
    }

    /// Wakes the driver.
    pub(super) fn wake(&mut self) {
        if !std::mem::replace(&mut self.is_awake, true)
            && let Some(driver) = &self.driver
        {
            driver.wake_by_ref();
        }
    }

    /// Asks the other end whether it is there.
    pub(super) fn ping(&mut self, payload: [u8; 8]) {
        frame::ping(self.out.text(), false, payload);
    }

    /// Tells the other end to open no streams above `last`.
    pub(super) fn goaway(&mut self, last: u32, code: Code) {
        frame::write_goaway(self.out.text(), last, code);
    }

    pub(super) fn give_back_request(&mut self, head: Box<RequestHead>) {
        if self.spare_requests.len() < SPARES {
            self.spare_requests.push(head);
        }
    }

    pub(super) fn give_back_response(&mut self, head: Box<ResponseHead>) {
        if self.spare_responses.len() < SPARES {
            self.spare_responses.push(head);
        }
    }

    /// Gives back the memory that nobody needs while no stream is open.
    pub(super) fn trim(&mut self) {
        self.send_home();
        self.streams.trim();
        self.out.trim();
        self.spare_requests = Vec::new();
        self.spare_responses = Vec::new();
        self.ready = VecDeque::new();
        self.jobs = VecDeque::new();
        self.forgotten = VecDeque::new();
    }

    /// Returns the time as buckets count it.
    fn now(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}
