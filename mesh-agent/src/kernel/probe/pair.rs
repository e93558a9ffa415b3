//! A connected pair of TCP sockets on loopback, both in the probe's socket map.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::kernel::probe::Redirect;

/// Longest wait for bytes that were sent on loopback: they are there at once, or never.
const PATIENCE: Duration = Duration::from_millis(100);

/// The pair.
pub(super) struct Pair {
    /// Sends; its messages are redirected where the switch says so.
    pub(super) sender: TcpStream,
    /// Receives.
    pub(super) receiver: TcpStream,
}

impl Pair {
    /// Connects a pair and puts both into the map; messages are redirected or passed from here on.
    pub(super) fn connect(redirect: &mut Redirect, on: bool) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let sender = TcpStream::connect(listener.local_addr()?)?;
        let (receiver, _) = listener.accept()?;
        sender.set_nodelay(true)?;
        receiver.set_read_timeout(Some(PATIENCE))?;
        redirect
            .sockets
            .set(0, &sender, 0)
            .map_err(io::Error::other)?;
        redirect
            .sockets
            .set(1, &receiver, 0)
            .map_err(io::Error::other)?;
        redirect.set(on)?;
        Ok(Self { sender, receiver })
    }

    /// Sends `bytes` and waits until the receiver can see them.
    pub(super) fn deliver(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sender.write_all(bytes)?;
        if self.readable(PATIENCE)? {
            Ok(())
        } else {
            Err(io::ErrorKind::TimedOut.into())
        }
    }

    /// Returns whether the receiver is readable within `patience`.
    pub(super) fn readable(&self, patience: Duration) -> io::Result<bool> {
        let timeout = Timespec::try_from(patience).map_err(io::Error::other)?;
        let mut fds = [PollFd::new(&self.receiver, PollFlags::IN)];
        Ok(poll(&mut fds, Some(&timeout))? > 0)
    }

    /// Returns whether the receiver reads exactly `expected` next.
    pub(super) fn reads(&mut self, expected: &[u8]) -> io::Result<bool> {
        let mut bytes = vec![0; expected.len()];
        match self.receiver.read_exact(&mut bytes) {
            Ok(()) => Ok(bytes == expected),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::UnexpectedEof
                ) =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}
