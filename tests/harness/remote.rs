//! Sockets in a pod, driven call by call from a test.
//!
//! A [`Remote`] is a process in the pod that does to its sockets exactly what it is asked for, each request on a thread of
//! its own: so a test can have one thread block in `recv` while another sends, and knows when each call has returned.

pub mod protocol;

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use protocol::{Answer, Ask, Failure, Kind, Piece};
use rustix::process::{Pid, Signal, kill_process};

use crate::machine::workspace_program;
use crate::pod::Pod;
use crate::process::Running;
use crate::wait::{PATIENCE, wait_for};

/// Names the program of the peers, where it is not beside the tests.
pub const PEER_VARIABLE: &str = "UNDERPASS_TEST_PEER";

/// What a peer writes once it takes requests.
pub const READY: &str = "ready";

/// A process in a pod that does as it is told.
#[derive(Debug)]
pub struct Remote {
    door: Arc<Path>,
    addresses: [IpAddr; 2],
    running: Running,
}

impl Remote {
    /// Starts one in `pod`.
    ///
    /// # Errors
    /// When the peers have not been built, or it cannot be started.
    pub fn start(pod: &Pod) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let door: PathBuf = pod.node().files().join(format!("door-{number}"));
        let mut command = pod.command(workspace_program("peer", PEER_VARIABLE)?);
        command.arg("remote").arg(&door);
        let mut running = pod.start(&format!("remote-{number}"), &mut command)?;
        running.line(READY, PATIENCE)?;
        Ok(Self {
            door: door.into(),
            addresses: pod.addresses(),
            running,
        })
    }

    /// Listens on any port of the pod's IPv4 address.
    ///
    /// # Errors
    /// When the peer's call fails.
    pub fn listen(&self) -> Result<Socket> {
        self.listen_on(SocketAddr::new(self.addresses[0], 0), Kind::Tcp)
    }

    /// Listens on any port of the pod's IPv6 address.
    ///
    /// # Errors
    /// When the peer's call fails.
    pub fn listen_v6(&self) -> Result<Socket> {
        self.listen_on(SocketAddr::new(self.addresses[1], 0), Kind::Tcp)
    }

    /// Listens on `address`.
    ///
    /// # Errors
    /// When the peer's call fails.
    pub fn listen_on(&self, address: SocketAddr, kind: Kind) -> Result<Socket> {
        self.socket(&Ask::Listen { address, kind })
    }

    /// Connects to `address`.
    ///
    /// # Errors
    /// When the peer's call fails.
    pub fn connect(&self, address: SocketAddr) -> Result<Socket> {
        self.connect_from(None, address, Kind::Tcp)
    }

    /// Connects to `address` from an address of the caller's choice.
    ///
    /// # Errors
    /// When the peer's call fails.
    pub fn connect_from(
        &self,
        from: Option<SocketAddr>,
        to: SocketAddr,
        kind: Kind,
    ) -> Result<Socket> {
        self.socket(&Ask::Connect { from, to, kind })
    }

    /// Makes a socket that is neither bound nor connected, for its options to be set first.
    ///
    /// # Errors
    /// When the peer's call fails.
    pub fn bare(&self, kind: Kind, v6: bool) -> Result<Socket> {
        self.socket(&Ask::Bare { kind, v6 })
    }

    /// Returns a connection from `self` to `listener`, client's end first, both non-blocking.
    ///
    /// # Errors
    /// When a peer's call fails.
    pub fn join(&self, listener: &Socket) -> Result<(Socket, Socket)> {
        let client = self.connect(listener.local)?;
        let server = listener.accept()?;
        client.call(protocol::Call::Nonblocking(true))?;
        server.call(protocol::Call::Nonblocking(true))?;
        Ok((client, server))
    }

    /// Stops the process and lets it continue: whatever of its threads sleeps is woken once.
    ///
    /// # Errors
    /// When the peer is gone.
    pub fn stop_and_continue(&mut self) -> Result<()> {
        let pid = i32::try_from(self.running.pid()).context("no process has such a number")?;
        let pid = Pid::from_raw(pid).context("no process has the number 0")?;
        for signal in [Signal::STOP, Signal::CONT] {
            kill_process(pid, signal).context("failed to send a signal to the peer")?;
        }
        Ok(())
    }

    /// Returns the process.
    pub fn running(&mut self) -> &mut Running {
        &mut self.running
    }

    fn socket(&self, ask: &Ask) -> Result<Socket> {
        let answer = Pending::send(&self.door, ask)?.wait(PATIENCE)?;
        Socket::of(Arc::clone(&self.door), &answer)
    }
}

/// `EAGAIN`, on every machine.
const AGAIN: i32 = rustix::io::Errno::AGAIN.raw_os_error();

/// A socket of a [`Remote`]. Stays open until [`Socket::close`], or until the process ends.
#[derive(Clone, Debug)]
pub struct Socket {
    door: Arc<Path>,
    id: u32,
    /// Its own address.
    pub local: SocketAddr,
    /// Its descriptor in the peer; `None` for one that was inherited.
    pub descriptor: Option<i32>,
}

/// How a stream of bytes is cut into calls: each of any size between these, both included.
pub type Cut = (usize, usize);

impl Socket {
    fn of(door: Arc<Path>, answer: &Answer) -> Result<Self> {
        let (id, local) = answer.socket.context("the peer made no socket")?;
        Ok(Self {
            door,
            id,
            local,
            descriptor: answer.descriptor,
        })
    }

    /// Sends a request about this socket, and does not wait for its end.
    ///
    /// # Errors
    /// When the peer is gone.
    pub fn start(&self, call: protocol::Call) -> Result<Pending> {
        Pending::send(
            &self.door,
            &Ask::Call {
                socket: self.id,
                call,
            },
        )
    }

    /// Sends a request about this socket, and returns its answer.
    ///
    /// # Errors
    /// When the call fails (then the error holds a [`Failure`]), or hangs.
    pub fn call(&self, call: protocol::Call) -> Result<Answer> {
        self.start(call)?.wait(PATIENCE)
    }

    /// Accepts a connection.
    ///
    /// # Errors
    /// When the peer's call fails or hangs.
    pub fn accept(&self) -> Result<Self> {
        let answer = self.call(protocol::Call::Accept)?;
        Self::of(Arc::clone(&self.door), &answer)
    }

    /// Writes a piece of a stream.
    ///
    /// # Errors
    /// When the peer's call fails or hangs.
    pub fn write(&self, piece: Piece, cut: Cut) -> Result<()> {
        self.start_write(piece, cut)?.wait(PATIENCE).map(drop)
    }

    /// Starts to write a piece of a stream.
    ///
    /// # Errors
    /// When the peer is gone.
    pub fn start_write(&self, piece: Piece, cut: Cut) -> Result<Pending> {
        self.start(protocol::Call::Write { piece, cut })
    }

    /// Writes as much of a piece as is taken while nobody reads; returns how much that was.
    ///
    /// # Errors
    /// When the peer's call fails or hangs.
    pub fn fill(&self, piece: Piece, cut: Cut) -> Result<u64> {
        Ok(self.call(protocol::Call::Fill { piece, cut })?.count)
    }

    /// Reads a piece of a stream; returns how much of it there was before the end of the connection.
    ///
    /// # Errors
    /// When a byte is wrong, or the peer's call fails or hangs.
    pub fn read(&self, piece: Piece, cut: Cut) -> Result<u64> {
        Ok(self.start_read(piece, cut)?.wait(PATIENCE)?.count)
    }

    /// Starts to read a piece of a stream.
    ///
    /// # Errors
    /// When the peer is gone.
    pub fn start_read(&self, piece: Piece, cut: Cut) -> Result<Pending> {
        self.start(protocol::Call::Read { piece, cut })
    }

    /// Closes the sending direction.
    ///
    /// # Errors
    /// When the peer's call fails.
    pub fn finish(&self) -> Result<()> {
        self.call(protocol::Call::Finish).map(drop)
    }

    /// Half-closes while another thread blocks in `recv`, which wakes that without data; then `other`, the connection's other
    /// end, is closed. Returns whether the wake-up gave an `EAGAIN`: plain TCP's never does, a socket's in a socket map
    /// does if its reader was asleep in time.
    ///
    /// # Errors
    /// When a peer's call fails in another way or hangs.
    pub fn wakes_in_vain(&self, other: &Self) -> Result<bool> {
        let receive = self.start(protocol::Call::Receive {
            length: 1,
            flags: 0,
        })?;
        self.finish()?;
        // A wake-up takes microseconds; a call that is still under way then slept on, or was late.
        let woken = || !receive.runs().unwrap_or(true);
        wait_for("the wake-up", Duration::from_millis(300), woken).ok();
        other.close()?;
        let received = receive.wait(PATIENCE);
        match errno(&received) {
            Some(AGAIN) => Ok(true),
            _ => received.map(|_| false),
        }
    }

    /// Closes the socket.
    ///
    /// # Errors
    /// When the peer is gone.
    pub fn close(&self) -> Result<()> {
        self.call(protocol::Call::Close).map(drop)
    }

    /// Gives the socket to another peer over a unix socket, and returns it as that peer has it. This peer keeps its own.
    ///
    /// # Errors
    /// When the peer's call fails.
    pub fn give(&self, other: &Remote) -> Result<Self> {
        let answer = self.call(protocol::Call::Give(other.door.to_path_buf()))?;
        Self::of(Arc::clone(&other.door), &answer)
    }

    /// Starts a process that inherits the socket, and returns it as that process has it. This peer keeps its own.
    ///
    /// # Errors
    /// When the peer's call fails.
    pub fn bequeath(&self) -> Result<Self> {
        let door: Arc<Path> = self.door.with_extension(format!("{}", self.id)).into();
        let answer = self.call(protocol::Call::Bequeath(door.to_path_buf()))?;
        Self::of(door, &answer)
    }

    /// Sets an option that is an `int`.
    ///
    /// # Errors
    /// When the peer's call fails.
    pub fn set_option(&self, level: i32, name: i32, value: i32) -> Result<()> {
        self.call(protocol::Call::SetOption { level, name, value })
            .map(drop)
    }

    /// Sets an option of any type.
    ///
    /// # Errors
    /// When the peer's call fails.
    pub fn set_option_bytes(&self, level: i32, name: i32, bytes: &[u8]) -> Result<()> {
        let bytes = bytes.to_vec();
        self.call(protocol::Call::SetBytes { level, name, bytes })
            .map(drop)
    }
}

/// A request under way.
#[derive(Debug)]
pub struct Pending {
    ask: String,
    stream: UnixStream,
}

impl Pending {
    fn send(door: &Path, ask: &Ask) -> Result<Self> {
        let mut stream = UnixStream::connect(door).context("the peer takes no requests")?;
        let mut text = serde_json::to_string(ask).context("failed to write a request")?;
        text.push('\n');
        stream
            .write_all(text.as_bytes())
            .context("failed to send a request")?;
        Ok(Self { ask: text, stream })
    }

    /// Returns whether it is still under way.
    ///
    /// # Errors
    /// When the peer is gone.
    pub fn runs(&self) -> Result<bool> {
        self.stream
            .set_nonblocking(true)
            .context("failed to look at a request")?;
        let mut byte = [0; 1];
        let looked = rustix::net::recv(&self.stream, &mut byte, rustix::net::RecvFlags::PEEK);
        self.stream
            .set_nonblocking(false)
            .context("failed to look at a request")?;
        match looked {
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(true),
            Ok(_) => Ok(false),
            Err(error) => Err(error).context("failed to look at a request"),
        }
    }

    /// Returns its answer.
    ///
    /// # Errors
    /// When the call failed (then the error holds a [`Failure`]), or has not returned after `timeout`.
    pub fn wait(self, timeout: Duration) -> Result<Answer> {
        let ask = self.ask.trim_end().to_owned();
        self.stream
            .set_read_timeout(Some(timeout))
            .context("failed to set a timeout")?;
        let mut text = String::new();
        match BufReader::new(&self.stream).read_line(&mut text) {
            Ok(0) => Err(anyhow!("the peer died over it")),
            Ok(_) => {
                let parsed: Result<Answer, Failure> =
                    serde_json::from_str(&text).context("no answer")?;
                parsed.map_err(anyhow::Error::new)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                Err(anyhow!("it has not returned after {timeout:?}"))
            }
            Err(error) => Err(error).context("the peer is gone"),
        }
        .with_context(|| format!("asked for {ask}"))
    }
}

/// Returns the system's number of the error of a peer's call, or `None` when `result` is no such error.
pub fn errno<T>(result: &Result<T>) -> Option<i32> {
    let error = result.as_ref().err()?;
    error.downcast_ref::<Failure>()?.errno
}
