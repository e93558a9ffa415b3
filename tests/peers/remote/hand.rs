//! A socket's way from process to process: over a unix socket, or by inheritance.

use std::io::{self, BufRead, BufReader, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use harness::remote::READY;
use harness::remote::protocol::{Answer, Ask, Failure};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use socket2::Socket;

use super::calls::failure;

/// The socket's number in a process that has inherited it.
const INHERITED: u32 = 1;

/// Asks the peer behind `door` to take `socket`.
pub(super) fn give(socket: &Socket, door: &Path) -> Result<Answer, Failure> {
    let asked = send(socket, door).map_err(|error| failure(&error, 0))?;
    let mut text = String::new();
    BufReader::new(asked)
        .read_line(&mut text)
        .map_err(|error| failure(&error, 0))?;
    let answer: Result<Result<Answer, Failure>, _> = serde_json::from_str(&text);
    answer.map_err(|error| failure(&error.into(), 0))?
}

fn send(socket: &Socket, door: &Path) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(door)?;
    let mut text = serde_json::to_string(&Ask::Take)?;
    text.push('\n');
    let descriptors = [socket.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut rights = SendAncillaryBuffer::new(&mut space);
    rights.push(SendAncillaryMessage::ScmRights(&descriptors));
    let text = [IoSlice::new(text.as_bytes())];
    sendmsg(&stream, &text, &mut rights, SendFlags::empty())?;
    Ok(stream)
}

/// Reads one request, and the descriptor that came with it.
pub(super) fn receive(stream: &UnixStream) -> io::Result<(String, Option<OwnedFd>)> {
    let (mut text, mut taken) = (Vec::new(), None);
    let mut buffer = vec![0; 65_536];
    while text.last() != Some(&b'\n') {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut rights = RecvAncillaryBuffer::new(&mut space);
        let parts = &mut [IoSliceMut::new(&mut buffer)];
        let received = recvmsg(stream, parts, &mut rights, RecvFlags::CMSG_CLOEXEC)?;
        for message in rights.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                taken = descriptors.last().or(taken);
            }
        }
        if received.bytes == 0 {
            break;
        }
        text.extend_from_slice(&buffer[..received.bytes]);
    }
    let text = String::from_utf8(text).map_err(io::Error::other)?;
    Ok((text, taken))
}

/// Starts another of this program that has `socket` from its start, and returns once it takes requests.
pub(super) fn bequeath(socket: &Socket, door: &Path) -> Result<Answer, Failure> {
    let start = || {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["remote", "--inherit"])
            .arg(door)
            .stdin(OwnedFd::from(socket.try_clone()?))
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        if let Some(out) = child.stdout.take() {
            BufReader::new(out).read_line(&mut line)?;
        }
        // Reaps it, whenever it ends.
        std::thread::spawn(move || child.wait());
        if line.trim_end() == READY {
            Ok(())
        } else {
            Err(io::Error::other("the heir did not start"))
        }
    };
    start().map_err(|error: io::Error| failure(&error, 0))?;
    Ok(Answer {
        socket: Some((INHERITED, super::local_address(socket))),
        ..Answer::default()
    })
}

/// Returns the socket that this process was started with, and leaves no other descriptor of it open.
pub(super) fn inherited() -> io::Result<Socket> {
    let own = io::stdin().as_fd().try_clone_to_owned()?;
    rustix::stdio::dup2_stdin(std::fs::File::open("/dev/null")?)?;
    Ok(Socket::from(own))
}
