//! Requests and responses: plain blocking calls for one connection, epoll for more.

use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, epoll, poll};
use rustix::fd::OwnedFd;

use super::WARM_UP;
use super::link::{Address, Link, Listener};
use super::window::{Sample, Times, Window};

/// Events taken at once.
const EVENTS: usize = 64;

/// Serves until every connection has ended.
pub(super) fn serve(
    listener: &Listener,
    connections: usize,
    request: usize,
    response: usize,
) -> Result<()> {
    let accepted: Result<Vec<_>> = (0..connections).map(|_| listener.accept()).collect();
    let mut links = accepted?;
    let answer = vec![2; response];
    let mut buffer = vec![0; request.max(4096)];
    if let [link] = links.as_mut_slice() {
        while read_full(link, &mut buffer[..request])? {
            link.write_all(&answer)?;
        }
        return Ok(());
    }
    let queue = Queue::new(&links)?;
    let mut got = vec![0; connections];
    let mut open = connections;
    while open > 0 {
        for index in queue.wait()? {
            let count = read_some(&mut links[index], &mut buffer)?;
            match count {
                None => {}
                Some(0) => {
                    queue.remove(&links[index])?;
                    open -= 1;
                }
                Some(count) => got[index] += count,
            }
            while got[index] >= request {
                got[index] -= request;
                write_all(&mut links[index], &answer)?;
            }
        }
    }
    Ok(())
}

/// Measures with `(connections, request, response)`.
pub(super) fn drive(
    address: &Address,
    (connections, request, response): (usize, usize, usize),
    server: u32,
    length: Duration,
) -> Result<Sample> {
    let linked: Result<Vec<_>> = (0..connections).map(|_| Link::connect(address)).collect();
    let mut client = Client {
        links: linked?,
        request: vec![1; request],
        buffer: vec![0; response.max(16 * 1024)],
        response,
        times: Times::new(),
    };
    let window;
    if connections == 1 {
        client.one(WARM_UP)?;
        client.times.clear();
        window = Window::open(server)?;
        client.one(length)?;
    } else {
        let queue = Queue::new(&client.links)?;
        let mut states = client.start()?;
        client.many(&queue, &mut states, WARM_UP)?;
        client.times.clear();
        window = Window::open(server)?;
        client.many(&queue, &mut states, length)?;
    }
    let sample = window.close(client.times.count())?;
    Ok(client.times.into(sample))
}

struct Client {
    links: Vec<Link>,
    request: Vec<u8>,
    buffer: Vec<u8>,
    response: usize,
    times: Times,
}

/// One connection's request on its way.
struct State {
    asked: Instant,
    got: usize,
}

impl Client {
    fn one(&mut self, length: Duration) -> Result<()> {
        let begin = Instant::now();
        let mut now = begin;
        while now - begin < length {
            self.links[0].write_all(&self.request)?;
            if !read_full(&mut self.links[0], &mut self.buffer[..self.response])? {
                bail!("the server closed");
            }
            let then = std::mem::replace(&mut now, Instant::now());
            self.times.push(now - then);
        }
        Ok(())
    }

    fn start(&mut self) -> Result<Vec<State>> {
        let ask = |link: &mut Link| {
            write_all(link, &self.request)?;
            let asked = Instant::now();
            Ok(State { asked, got: 0 })
        };
        self.links.iter_mut().map(ask).collect()
    }

    fn many(&mut self, queue: &Queue, states: &mut [State], length: Duration) -> Result<()> {
        let begin = Instant::now();
        loop {
            for index in queue.wait()? {
                let (link, state) = (&mut self.links[index], &mut states[index]);
                match read_some(link, &mut self.buffer)? {
                    None => continue,
                    Some(0) => bail!("the server closed"),
                    Some(count) => state.got += count,
                }
                if state.got < self.response {
                    continue;
                }
                let now = Instant::now();
                self.times.push(now - state.asked);
                write_all(link, &self.request)?;
                *state = State { asked: now, got: 0 };
                if now - begin >= length {
                    // What else is waiting is told again at the next look.
                    return Ok(());
                }
            }
        }
    }
}

/// Reads until `buffer` is full; false at the end of the stream.
fn read_full(link: &mut Link, buffer: &mut [u8]) -> Result<bool> {
    let mut got = 0;
    while got < buffer.len() {
        match link.read(&mut buffer[got..])? {
            0 => return Ok(false),
            count => got += count,
        }
    }
    Ok(true)
}

/// Reads once; `None` when there was nothing.
fn read_some(link: &mut Link, buffer: &mut [u8]) -> Result<Option<usize>> {
    match link.read(buffer) {
        Ok(count) => Ok(Some(count)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error).context("failed to read"),
    }
}

/// Writes everything, waiting for room where there is none.
fn write_all(link: &mut Link, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        match link.write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                poll(&mut [PollFd::new(link, PollFlags::OUT)], None)?;
            }
            Err(error) => return Err(error).context("failed to write"),
        }
    }
    Ok(())
}

/// An epoll instance over links by their index.
struct Queue(OwnedFd);

impl Queue {
    fn new(links: &[Link]) -> Result<Self> {
        let queue = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        for (index, link) in (0u64..).zip(links) {
            link.set_nonblocking()?;
            let data = epoll::EventData::new_u64(index);
            epoll::add(&queue, link, data, epoll::EventFlags::IN)?;
        }
        Ok(Self(queue))
    }

    fn remove(&self, link: &Link) -> Result<()> {
        epoll::delete(&self.0, link).context("failed to forget a link")
    }

    fn wait(&self) -> Result<impl Iterator<Item = usize> + use<>> {
        let nothing = epoll::Event {
            flags: epoll::EventFlags::empty(),
            data: epoll::EventData::new_u64(0),
        };
        let mut events = [nothing; EVENTS];
        let count = epoll::wait(&self.0, &mut events, None)?;
        let indices = events.into_iter().take(count);
        Ok(indices.filter_map(|event| usize::try_from(event.data.u64()).ok()))
    }
}
