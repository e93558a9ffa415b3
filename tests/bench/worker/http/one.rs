//! HTTP/1.1, over plain sockets: as little work for each request as there can be.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use rustix::event::{Timespec, epoll};
use rustix::fd::OwnedFd;

use super::pace::Pace;
use super::{HOST, Load, Mode, Outcome, Window};
use crate::l7::HELD;

/// Events taken at once.
const EVENTS: usize = 64;
/// What stands for the pace among the indices of connections.
const PACE: u64 = u64::MAX;
/// How long to wait for an event before looking at the clock again: the end of the window is seen as late as that.
const LOOK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 10_000_000,
};
/// Takes the largest body at once.
const BUFFER: usize = 128 * 1024;
/// Longest head of a response: no proxy adds so much to what the backends send.
const HEAD: usize = 8 * 1024;

pub(super) fn drive(load: &Load) -> Result<Outcome> {
    let mut client = Client::new(load)?;
    match load.mode {
        Mode::Closed => client.run(None),
        Mode::Rate { per_second } => client.run(Some(Pace::start(per_second)?)),
        Mode::Hold => {
            for index in 0..client.slots.len() {
                client.exchange(index)?;
            }
            println!("{HELD}");
            loop {
                std::thread::park();
            }
        }
        Mode::Once => {
            client.exchange(0)?;
            let head = &client.slots[0].reply.head;
            Ok(Outcome {
                fields: String::from_utf8_lossy(head).to_lowercase(),
                ..Outcome::default()
            })
        }
    }
}

/// A response as far as it has come.
#[derive(Debug, Default)]
struct Reply {
    head: Vec<u8>,
    /// Bytes of the body that are still to come, once the head is complete.
    missing: Option<usize>,
}

impl Reply {
    fn clear(&mut self) {
        self.head.clear();
        self.missing = None;
    }

    /// Takes what came, and returns whether the response is complete.
    fn take(&mut self, mut bytes: &[u8], body: Option<usize>) -> Result<bool> {
        if self.missing.is_none() {
            let before = self.head.len();
            self.head.extend_from_slice(&bytes[..bytes.len().min(HEAD)]);
            // The end of the head may lie across two reads.
            let from = before.saturating_sub(3);
            let Some(at) = find(&self.head[from..], b"\r\n\r\n") else {
                ensure!(self.head.len() < HEAD, "a response without end of its head");
                return Ok(false);
            };
            let end = from + at + 4;
            bytes = &bytes[end - before..];
            self.head.truncate(end);
            let length = content_length(&self.head)?;
            if let Some(body) = body {
                ensure!(length == body, "a body of {length} bytes and not {body}");
            }
            self.missing = Some(length);
        }
        let missing = self.missing.unwrap_or_default().checked_sub(bytes.len());
        let missing = missing.context("bytes after the response")?;
        self.missing = Some(missing);
        Ok(missing == 0)
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// Returns the length that a good response's head gives.
fn content_length(head: &[u8]) -> Result<usize> {
    const NAME: &[u8] = b"content-length:";
    let text = || String::from_utf8_lossy(head).into_owned();
    if !head.starts_with(b"HTTP/1.1 200") {
        bail!("not a good response:\n{}", text());
    }
    let mut lines = head.split(|byte| *byte == b'\n');
    let value = lines.find_map(|line| {
        let (name, value) = line.split_at_checked(NAME.len())?;
        name.eq_ignore_ascii_case(NAME).then_some(value)
    });
    let value = value.and_then(|value| std::str::from_utf8(value).ok()?.trim().parse().ok());
    value.with_context(|| format!("a response without length:\n{}", text()))
}

/// A place for a connection.
#[derive(Debug, Default)]
struct Slot {
    link: Option<TcpStream>,
    /// When the request on its way was due.
    due: Option<Instant>,
    reply: Reply,
}

#[derive(Debug)]
struct Client<'a> {
    load: &'a Load,
    request: Vec<u8>,
    queue: OwnedFd,
    slots: Vec<Slot>,
    buffer: Vec<u8>,
}

/// What an event on a connection came to.
enum Event {
    /// More is to come.
    Part,
    /// A response to a request that was due then; the connection can take another.
    Done(Instant),
    /// The same, and the server has still to close.
    Closing(Instant),
    /// The server has closed after a response.
    Closed,
}

impl<'a> Client<'a> {
    fn new(load: &'a Load) -> Result<Self> {
        let close = if load.fresh {
            "Connection: close\r\n"
        } else {
            ""
        };
        let path = &load.path;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: bench\r\nAccept: */*\r\n{close}\r\n"
        );
        let mut client = Self {
            load,
            request: request.into_bytes(),
            queue: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            slots: (0..load.connections).map(|_| Slot::default()).collect(),
            buffer: vec![0; BUFFER],
        };
        if !load.fresh {
            for index in 0..client.slots.len() {
                client.connect(index)?;
            }
        }
        Ok(client)
    }

    /// Connects one. Both ends are on this machine, so that this call itself does all of the handshake.
    fn connect(&mut self, index: usize) -> Result<()> {
        let link = TcpStream::connect(self.load.address);
        let link = link.with_context(|| format!("failed to connect to {}", self.load.address))?;
        link.set_nodelay(true)?;
        link.set_nonblocking(true)?;
        let data = epoll::EventData::new_u64(u64::try_from(index)?);
        epoll::add(&self.queue, &link, data, epoll::EventFlags::IN)?;
        self.slots[index].link = Some(link);
        Ok(())
    }

    /// Sends the request that was due at `due`.
    fn send(&mut self, index: usize, due: Instant) -> Result<()> {
        if self.slots[index].link.is_none() {
            self.connect(index)?;
        }
        let slot = &mut self.slots[index];
        slot.due = Some(due);
        slot.reply.clear();
        let mut link = slot.link.as_ref().context("no connection")?;
        // A request is far smaller than an empty send buffer.
        link.write_all(&self.request)
            .context("failed to send a request")
    }

    fn read(&mut self, index: usize) -> Result<Event> {
        let slot = &mut self.slots[index];
        let mut link = slot.link.as_ref().context("no connection")?;
        let count = match link.read(&mut self.buffer) {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Event::Part),
            Err(error) => return Err(error).context("failed to read a response"),
        };
        let Some(due) = slot.due else {
            ensure!(count == 0, "bytes without a request");
            ensure!(self.load.fresh, "the server closed an idle connection");
            slot.link = None;
            return Ok(Event::Closed);
        };
        ensure!(count > 0, "the server closed within a response");
        if !slot.reply.take(&self.buffer[..count], self.load.body)? {
            return Ok(Event::Part);
        }
        slot.due = None;
        Ok(match self.load.fresh {
            true => Event::Closing(due),
            false => Event::Done(due),
        })
    }

    /// Sends a request and waits for its response.
    fn exchange(&mut self, index: usize) -> Result<()> {
        self.send(index, Instant::now())?;
        let link = self.slots[index].link.as_ref().context("no connection")?;
        link.set_nonblocking(false)?;
        while let Event::Part = self.read(index)? {}
        Ok(())
    }

    fn run(mut self, mut pace: Option<Pace>) -> Result<Outcome> {
        if let Some(pace) = &pace {
            let data = epoll::EventData::new_u64(PACE);
            epoll::add(&self.queue, pace, data, epoll::EventFlags::IN)?;
        }
        let mut window = Window::new(self.load);
        let mut idle: VecDeque<usize> = (0..self.slots.len()).collect();
        let mut waiting: VecDeque<Instant> = VecDeque::new();
        loop {
            let now = Instant::now();
            if !window.look(self.load, now)? {
                break;
            }
            match &mut pace {
                Some(pace) => waiting.extend(std::iter::from_fn(|| pace.next(now))),
                None => waiting.resize(idle.len(), now),
            }
            while !idle.is_empty() && !waiting.is_empty() {
                if let (Some(index), Some(due)) = (idle.pop_front(), waiting.pop_front()) {
                    self.send(index, due)?;
                }
            }
            for data in self.wait()? {
                if data == PACE {
                    pace.iter().for_each(Pace::hush);
                    continue;
                }
                let index = usize::try_from(data)?;
                match self.read(index)? {
                    Event::Part => {}
                    Event::Done(due) => {
                        window.note(due, Instant::now());
                        match pace {
                            Some(_) => idle.push_back(index),
                            // At once, as a client would that only ever has this connection.
                            None => self.send(index, Instant::now())?,
                        }
                    }
                    Event::Closing(due) => window.note(due, Instant::now()),
                    Event::Closed => idle.push_back(index),
                }
            }
        }
        let sent = self.slots.iter().filter_map(|slot| slot.due);
        window.close(self.load, sent.chain(waiting))
    }

    fn wait(&self) -> Result<impl Iterator<Item = u64> + use<>> {
        let nothing = epoll::Event {
            flags: epoll::EventFlags::empty(),
            data: epoll::EventData::new_u64(0),
        };
        let mut events = [nothing; EVENTS];
        let count = epoll::wait(&self.queue, &mut events, Some(&LOOK))?;
        Ok(events.into_iter().take(count).map(|event| event.data.u64()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 3\r\n\r\nabc";

    #[test]
    fn a_response_is_complete_wherever_it_is_cut() {
        for cut in 1..RESPONSE.len() {
            let mut reply = Reply::default();
            let (first, second) = RESPONSE.split_at(cut);
            assert!(!reply.take(first, Some(3)).unwrap(), "cut at {cut}");
            assert!(reply.take(second, Some(3)).unwrap(), "cut at {cut}");
        }
        assert!(Reply::default().take(RESPONSE, None).unwrap());
    }

    #[test]
    fn anything_but_the_expected_response_is_an_error() {
        let with = |from: &str, to: &str| {
            let text = String::from_utf8_lossy(RESPONSE).replace(from, to);
            Reply::default().take(text.as_bytes(), Some(3))
        };
        assert!(with("200 OK", "502 Bad Gateway").is_err());
        assert!(with("Content-Length: 3", "Content-Length: 2").is_err());
        assert!(with("Content-Length: 3", "Transfer-Encoding: chunked").is_err());
        assert!(with("abc", "abcd").is_err());
    }
}
