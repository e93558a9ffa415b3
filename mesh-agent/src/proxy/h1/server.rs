//! A client's connection: request after request, in order.

use bytes::{Buf, BytesMut};
use http::{Method, StatusCode};
use tokio::time::Instant;

use crate::l7::message::{ResponseHead, Version};
use crate::proxy::exchange::{BodySize, Piece, Service};
use crate::proxy::h1::body::{Body, Shared};
use crate::proxy::h1::decode::Decoder;
use crate::proxy::h1::kit::Kit;
use crate::proxy::h1::limits::{Limits, READ_FIRST, READ_LEAST};
use crate::proxy::h1::request::{self, Framing, Refusal};
use crate::proxy::h1::respond::{Asked, Respond, Sent};
use crate::proxy::h1::scan::{Scan, Scanner};
use crate::proxy::h1::sink::Sink;
use crate::proxy::h1::write::{self, Closing, Frame};
use crate::proxy::life::Life;
use crate::proxy::shelf::Shelf;
use crate::proxy::stream::Stream;
use crate::proxy::timer::Timer;

/// Serves the requests of a connection until it ends. `buffer` has what was read of it already.
pub async fn serve<S: Service>(
    stream: Stream,
    buffer: BytesMut,
    service: &S,
    kits: &Shelf<Kit>,
    limits: &Limits,
    life: &Life,
) {
    let mut server = Server {
        stream,
        buffer,
        sent: 0,
        idle: Timer::default(),
        began: Instant::now(),
        limits,
        life,
    };
    while server.wait().await {
        // Most of what a connection takes, and only while it has a request: one that is idle has none of it, and a new one is not
        // moved about with it.
        if !Box::pin(server.serve(service, kits)).await {
            return;
        }
    }
}

struct Server<'l> {
    stream: Stream,
    buffer: BytesMut,
    sent: u64,
    idle: Timer,
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
    /// Serves the request whose first bytes are there; returns whether another may follow.
    async fn serve<S: Service>(&mut self, service: &S, kits: &Shelf<Kit>) -> bool {
        let mut kit = kits.take();
        let after = match self.next(&mut kit).await {
            Next::Request(framing) => {
                let mut scratch = service.scratch();
                let after = self.answer(&mut kit, framing, service, &mut scratch).await;
                service.take_back(scratch);
                after
            }
            Next::Refused(refusal) => {
                service.refused(refusal.status, refusal.why);
                self.refuse(&mut kit, refusal).await
            }
            Next::Gone => After::Close,
        };
        if let After::Linger = after {
            self.linger(&mut kit.timer).await;
        }
        kits.put(kit);
        matches!(after, After::Next)
    }

    /// Reads the next head into the kit's.
    async fn next(&mut self, kit: &mut Kit) -> Next {
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
                    let parsed = request::parse(&self.buffer[..end], &mut kit.head, self.limits);
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
            match kit.timer.within(until, read).await {
                Ok(Ok(1..)) => {}
                Ok(Ok(0) | Err(_)) => return Next::Gone,
                Err(_) => {
                    return refused(StatusCode::REQUEST_TIMEOUT, "the head took too long");
                }
            }
        }
    }

    /// Waits for the first bytes of a request; returns whether there are any. The read buffer goes back at once: whoever is served
    /// next gets the same memory, still warm.
    async fn wait(&mut self) -> bool {
        self.began = Instant::now();
        if !self.buffer.is_empty() {
            return true;
        }
        self.buffer = BytesMut::new();
        self.life.set_idle(true);
        let (mut reader, _) = self.stream.split();
        let first = async {
            reader.readable().await?;
            reader.recv(&mut self.buffer, READ_LEAST).await
        };
        let first = self.idle.within(self.began + self.limits.idle_time, first);
        let came = matches!(first.await, Ok(Ok(1..)));
        self.life.set_idle(false);
        came
    }

    async fn answer<S: Service>(
        &mut self,
        kit: &mut Kit,
        framing: Framing,
        service: &S,
        scratch: &mut S::Scratch,
    ) -> After {
        let Kit {
            head,
            out,
            date,
            timer,
        } = kit;
        let mut decoder = Decoder::new(framing.body);
        let shared = Shared::default();
        shared.begin(decoder.is_done());
        let (reader, writer) = self.stream.split();
        let upgrade = head.protocol.as_ref();
        let key = upgrade.and_then(|_| head.fields.get("sec-websocket-key"));
        let asked = Asked {
            is_head: head.method == Method::HEAD,
            is_10: head.version == Version::Http10,
            keep_alive: framing.keep_alive && !self.life.is_ending(self.began),
            expects: framing.expects && framing.body != BodySize::Empty,
            trailers: framing.trailers,
            key: key.map(<[u8]>::to_vec),
        };
        let mut respond = Respond {
            sink: Sink {
                writer,
                out,
                sent: &mut self.sent,
            },
            date,
            shared: &shared,
            life: self.life,
            timer,
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
        service.call(scratch, head, &mut body, &mut respond).await;
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
        if keep_alive && discard(&mut body, self.limits, timer).await {
            return After::Next;
        }
        let silent = shared.is_read() && self.buffer.is_empty();
        // What is said to be the last request and has no body is followed by nothing; to look costs a call on a new connection.
        let is_last = !framing.keep_alive && framing.body == BodySize::Empty;
        match silent && ((is_last && self.stream.is_new()) || !self.stream.is_readable()) {
            true => After::Close,
            false => After::Linger,
        }
    }

    /// Answers what is no request.
    async fn refuse(&mut self, kit: &mut Kit, refusal: Refusal) -> After {
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
        write::response(&mut kit.out, &head, closing, &mut kit.date);
        kit.out.extend_from_slice(refusal.why.as_bytes());
        kit.out.push(b'\n');
        let (_, writer) = self.stream.split();
        let mut sink = Sink {
            writer,
            out: &mut kit.out,
            sent: &mut self.sent,
        };
        let until = Instant::now() + self.limits.linger_time;
        match kit.timer.within(until, sink.flush()).await {
            Ok(Ok(())) => After::Linger,
            Ok(Err(_)) | Err(_) => After::Close,
        }
    }

    /// Closes our direction, and reads on for a while: a close with bytes unread is a reset, which takes the response with it.
    async fn linger(&mut self, timer: &mut Timer) {
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
        timer.within(until, rest).await.unwrap_or(());
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
