//! A peer that does to its sockets what a test asks for, each request on a thread of its own.

mod calls;
mod hand;
mod option;

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use harness::remote::READY;
use harness::remote::protocol::{Answer, Ask, Call, Failure, Kind};
use socket2::{Domain, Protocol, Socket, Type};

/// The sockets by their numbers. A socket is closed once no call holds it any more.
#[derive(Clone, Debug, Default)]
struct Sockets(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    last: u32,
    open: BTreeMap<u32, Arc<Socket>>,
}

impl Sockets {
    fn add(&self, socket: Socket) -> Answer {
        let local = local_address(&socket);
        let descriptor = Some(socket.as_raw_fd());
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        guard.last += 1;
        let id = guard.last;
        guard.open.insert(id, Arc::new(socket));
        Answer {
            socket: Some((id, local)),
            descriptor,
            ..Answer::default()
        }
    }

    fn find(&self, id: u32) -> Option<Arc<Socket>> {
        let guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        guard.open.get(&id).cloned()
    }

    fn close(&self, id: u32) {
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        guard.open.remove(&id);
    }
}

fn local_address(socket: &Socket) -> SocketAddr {
    let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
    let address = socket.local_addr().ok();
    address
        .and_then(|address| address.as_socket())
        .unwrap_or(unknown)
}

/// Takes requests for ever; if `inherit`, also about the socket that is its standard input, by the number 1.
pub(crate) fn run(door: &Path, inherit: bool) -> Result<()> {
    let listener = UnixListener::bind(door).context("failed to take requests")?;
    let sockets = Sockets::default();
    if inherit {
        sockets.add(hand::inherited().context("failed to inherit a socket")?);
    }
    println!("{READY}");
    for stream in listener.incoming() {
        let (stream, sockets) = (stream.context("failed to take a request")?, sockets.clone());
        std::thread::spawn(move || {
            if let Err(error) = serve(&stream, &sockets) {
                eprintln!("{error:#}");
            }
        });
    }
    Ok(())
}

fn serve(mut stream: &UnixStream, sockets: &Sockets) -> Result<()> {
    let (text, taken) = hand::receive(stream).context("failed to read a request")?;
    let ask = serde_json::from_str(&text).context("failed to understand a request")?;
    let answer = answer(&ask, taken, sockets);
    let mut text = serde_json::to_string(&answer).context("failed to write an answer")?;
    text.push('\n');
    stream
        .write_all(text.as_bytes())
        .context("failed to answer")
}

fn answer(ask: &Ask, taken: Option<OwnedFd>, sockets: &Sockets) -> Result<Answer, Failure> {
    match ask {
        Ask::Listen { address, kind } => {
            let socket = bare(*kind, address.is_ipv6())?;
            let listening = socket
                .set_reuse_address(true)
                .and_then(|()| socket.bind(&(*address).into()))
                .and_then(|()| match kind {
                    Kind::Udp => Ok(()),
                    Kind::Tcp | Kind::Mptcp => socket.listen(1024),
                });
            listening.map_err(|error| calls::failure(&error, 0))?;
            Ok(sockets.add(socket))
        }
        Ask::Connect { from, to, kind } => {
            let socket = bare(*kind, to.is_ipv6())?;
            let bound = match from {
                // As a second connection between the same two ports needs it.
                Some(from) => socket
                    .set_reuse_address(true)
                    .and_then(|()| socket.bind(&(*from).into())),
                None => Ok(()),
            };
            let connected = bound.and_then(|()| socket.connect(&(*to).into()));
            connected.map_err(|error| calls::failure(&error, 0))?;
            Ok(sockets.add(socket))
        }
        Ask::Bare { kind, v6 } => Ok(sockets.add(bare(*kind, *v6)?)),
        Ask::Take => {
            let taken = taken.ok_or_else(|| Failure {
                errno: None,
                words: "no descriptor came with it".to_owned(),
                count: 0,
            })?;
            Ok(sockets.add(Socket::from(taken)))
        }
        Ask::Call {
            socket,
            call: Call::Close,
        } => {
            sockets.close(*socket);
            Ok(Answer::default())
        }
        Ask::Call { socket, call } => {
            let found = sockets.find(*socket).ok_or_else(|| Failure {
                errno: None,
                words: format!("no socket {socket}"),
                count: 0,
            })?;
            match calls::call(&found, call)? {
                calls::Gave::Answer(answer) => Ok(answer),
                calls::Gave::Socket(socket) => Ok(sockets.add(socket)),
            }
        }
    }
}

fn bare(kind: Kind, v6: bool) -> Result<Socket, Failure> {
    let domain = if v6 { Domain::IPV6 } else { Domain::IPV4 };
    let (kind, protocol) = match kind {
        Kind::Tcp => (Type::STREAM, Protocol::TCP),
        Kind::Mptcp => (Type::STREAM, Protocol::MPTCP),
        Kind::Udp => (Type::DGRAM, Protocol::UDP),
    };
    Socket::new(domain, kind, Some(protocol)).map_err(|error| calls::failure(&error, 0))
}
