//! A client's connection: request after request, in order.

use std::pin::pin;

use bytes::{Buf, BytesMut};
use http::{Method, StatusCode};
use tokio::time::Instant;

use crate::l7::message::{RequestHead, ResponseHead, Version};
use crate::proxy::exchange::{BodySize, Piece, Service};
use crate::proxy::h1::body::{Body, Shared};
use crate::proxy::h1::decode::Decoder;
use crate::proxy::h1::limits::{Limits, READ_FIRST, READ_LEAST};
use crate::proxy::h1::request::{self, Framing, Refusal};
use crate::proxy::h1::respond::{Asked, Respond, Sent};
use crate::proxy::h1::scan::{Scan, Scanner};
use crate::proxy::h1::sink::Sink;
use crate::proxy::h1::write::{self, Closing, Date, Frame};
use crate::proxy::life::Life;
use crate::proxy::stream::Stream;
use crate::proxy::timer::Timer;

/// Serves the requests of a connection until it ends. `buffer` has what was read of it already.
pub async fn serve<S: Service>(
    stream: Stream,
    buffer: BytesMut,
    service: &S,
    limits: &Limits,
    life: &Life,
) {
    let mut server = Server {
        stream,
        buffer,
        out: Vec::new(),
        sent: 0,
        head: RequestHead::default(),
        date: Date::default(),
        timer: Timer::default(),
        began: Instant::now(),
        limits,
        life,
    };
    let mut scratch = service.scratch();
    loop {
        let framing = match server.next().await {
            Next::Request(framing) => framing,
            Next::Refused(refusal) => {
                service.refused(refusal.status, refusal.why);
                return server.refuse(refusal).await;
            }
            Next::Gone => return,
        };
        // Most of what a connection takes, and only while it has a request: one that is idle has none of it, and a new one is not
        // moved about with it.
        match Box::pin(server.answer(framing, service, &mut scratch)).await {
            After::Next => {}
            After::Close => return,
            After::Linger => return server.linger().await,
        }
    }
}

struct Server<'l> {
    stream: Stream,
    buffer: BytesMut,
    out: Vec<u8>,
    sent: u64,
    /// Kept from one request to the next, for its memory.
    head: RequestHead,
    date: Date,
    timer: Timer,
    /// When the wait for this request began: exact enough for a connection's age.
    began: Instant,
    limits: &'l Limits,
    life: &'l Life,
}

enum Next {
    Request(Framing),
    Refused(Refusal),
    /// The client is gone, or was silent for too long.
    Gone,
}

/// What follows a response.
enum After {
    Next,
    Close,
    /// The connection closes, and the client may still be sending: a reset could overtake the response.
    Linger,
}

impl Server<'_> {
    /// Reads the next head into `self.head`.
    async fn next(&mut self) -> Next {
        let began = Instant::now();
        self.began = began;
        if self.buffer.is_empty() {
            self.life.set_idle(true);
            let came = self.wait(began).await;
            self.life.set_idle(false);
            if !came {
                return Next::Gone;
            }
        }
        // An empty line before a request is what old clients send behind the body of the one before (RFC 9112, section 2.2).
        let mut may_be_empty = true;
        let mut scanner = Scanner::default();
        let mut until = None;
        loop {
            if may_be_empty && self.buffer.starts_with(b"\r\n") {
                self.buffer.advance(2);
                may_be_empty = false;
                scanner = Scanner::default();
            }
            match scanner.look(&self.buffer) {
                Scan::Whole(end) if end <= self.limits.head_bytes => {
                    let parsed = request::parse(&self.buffer[..end], &mut self.head, self.limits);
                    self.buffer.advance(end);
                    return parsed.map_or_else(Next::Refused, Next::Request);
                }
                Scan::BareLf => {
                    return refused(StatusCode::BAD_REQUEST, "a line ends in LF alone");
                }
                Scan::Whole(_) | Scan::More => {}
            }
            // The method and the version have their room in this.
            if scanner.in_first_line() && self.buffer.len() > self.limits.target_bytes + 64 {
                return refused(StatusCode::URI_TOO_LONG, "the request line is too long");
            }
            if self.buffer.len() > self.limits.head_bytes {
                return refused(
                    StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                    "the head is too long",
                );
            }
            let until = *until.get_or_insert_with(|| Instant::now() + self.limits.head_time);
            let (mut reader, _) = self.stream.split();
            let read = reader.recv(&mut self.buffer, READ_FIRST);
            match self.timer.within(until, read).await {
                Ok(Ok(1..)) => {}
                Ok(Ok(0) | Err(_)) => return Next::Gone,
                Err(_) => {
                    return refused(StatusCode::REQUEST_TIMEOUT, "the head took too long");
                }
            }
        }
    }

    /// Waits for the first bytes of a request; returns whether there are any. The read buffer goes back at once: whoever is served
    /// next gets the same memory, still warm. The rest goes when a connection is silent for a while.
    async fn wait(&mut self, began: Instant) -> bool {
        self.buffer = BytesMut::new();
        let (mut reader, _) = self.stream.split();
        let mut first = pin!(async {
            reader.readable().await?;
            reader.recv(&mut self.buffer, READ_LEAST).await
        });
        let trim = began + self.limits.trim_time;
        if let Ok(read) = self.timer.within(trim, first.as_mut()).await {
            return matches!(read, Ok(1..));
        }
        self.out = Vec::new();
        self.head = RequestHead::default();
        let first = self.timer.within(began + self.limits.idle_time, first);
        matches!(first.await, Ok(Ok(1..)))
    }

    async fn answer<S: Service>(
        &mut self,
        framing: Framing,
        service: &S,
        scratch: &mut S::Scratch,
    ) -> After {
        let mut decoder = Decoder::new(framing.body);
        let shared = Shared::default();
        shared.begin(decoder.is_done());
        let (reader, writer) = self.stream.split();
        let key = self
            .head
            .protocol
            .as_ref()
            .and_then(|_| self.head.fields.get("sec-websocket-key"));
        let asked = Asked {
            is_head: self.head.method == Method::HEAD,
            is_10: self.head.version == Version::Http10,
            keep_alive: framing.keep_alive && !self.life.is_ending(self.began),
            expects: framing.expects && framing.body != BodySize::Empty,
            trailers: framing.trailers,
            key: key.map(<[u8]>::to_vec),
        };
        let mut respond = Respond {
            sink: Sink {
                writer,
                out: &mut self.out,
                sent: &mut self.sent,
            },
            date: &mut self.date,
            shared: &shared,
            life: self.life,
            timer: &mut self.timer,
            asked,
            state: Sent::Nothing,
            declared: false,
            hidden: false,
        };
        let mut body = Body {
            reader,
            buffer: &mut self.buffer,
            decoder: &mut decoder,
            size: framing.body,
            shared: &shared,
        };
        service
            .call(scratch, &mut self.head, &mut body, &mut respond)
            .await;
        if respond.is_unfinished() {
            return After::Close;
        }
        let keep_alive = respond.asked.keep_alive;
        if keep_alive && shared.is_read() {
            return After::Next;
        }
        if shared.is_tunnel() {
            return After::Close;
        }
        if keep_alive && discard(&mut body, self.limits, &mut self.timer).await {
            return After::Next;
        }
        let silent = shared.is_read() && self.buffer.is_empty();
        match silent && !self.stream.is_readable() {
            true => After::Close,
            false => After::Linger,
        }
    }

    /// Answers what is no request, and closes.
    async fn refuse(mut self, refusal: Refusal) {
        let mut head = ResponseHead {
            status: refusal.status,
            ..ResponseHead::default()
        };
        head.fields.append("Content-Type", b"text/plain");
        let closing = Closing {
            frame: Frame::Length(refusal.why.len() as u64 + 1),
            is_10: false,
            keep_alive: false,
        };
        write::response(&mut self.out, &head, closing, &mut self.date);
        self.out.extend_from_slice(refusal.why.as_bytes());
        self.out.push(b'\n');
        let (_, writer) = self.stream.split();
        let mut sink = Sink {
            writer,
            out: &mut self.out,
            sent: &mut self.sent,
        };
        let until = Instant::now() + self.limits.linger_time;
        if let Ok(Ok(())) = self.timer.within(until, sink.flush()).await {
            self.linger().await;
        }
    }

    /// Closes our direction, and reads on for a while: a close with bytes unread is a reset, which takes the response with it.
    async fn linger(mut self) {
        let (mut reader, mut writer) = self.stream.split();
        let until = Instant::now() + self.limits.linger_time;
        let rest = async {
            if writer.shutdown().await.is_err() {
                return;
            }
            let mut left = self.limits.linger_bytes;
            while left > 0 {
                self.buffer.clear();
                match reader.recv(&mut self.buffer, READ_FIRST).await {
                    Ok(read @ 1..) => left = left.saturating_sub(read as u64),
                    Ok(0) | Err(_) => return,
                }
            }
        };
        // However it ends, the connection closes.
        self.timer.within(until, rest).await.unwrap_or(());
    }
}

fn refused(status: StatusCode, why: &'static str) -> Next {
    Next::Refused(Refusal { status, why })
}

/// Reads what is left of a request that is answered; returns whether that was its end.
async fn discard(body: &mut Body<'_>, limits: &Limits, timer: &mut Timer) -> bool {
    let rest = async {
        let mut left = limits.linger_bytes;
        loop {
            match body.piece().await {
                Ok(Some(Piece::Data(data))) if data.len() as u64 <= left => {
                    left -= data.len() as u64;
                }
                Ok(Some(Piece::Trailers(_)) | None) => return true,
                Ok(Some(Piece::Data(_))) | Err(_) => return false,
            }
        }
    };
    let until = Instant::now() + limits.linger_time;
    timer.within(until, rest).await == Ok(true)
}
