//! The calls themselves.

use std::io::{self, Read, Write};
use std::time::Duration;

use harness::remote::protocol::{Answer, Call, Failure, Piece};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, SendFlags};
use rustix::pipe::{SpliceFlags, pipe, splice};
use socket2::Socket;

use super::{hand, option};

/// How long a socket takes nothing before it counts as full. An acknowledgement that frees room comes much sooner.
const FULL: Duration = Duration::from_millis(200);

/// What a call gave.
pub(super) enum Gave {
    /// Something to say.
    Answer(Answer),
    /// A socket.
    Socket(Socket),
}

pub(super) fn failure(error: &io::Error, count: u64) -> Failure {
    Failure {
        errno: error.raw_os_error(),
        words: error.to_string(),
        count,
    }
}

fn counted(count: usize) -> Answer {
    Answer {
        count: count as u64,
        ..Answer::default()
    }
}

fn counted_int(value: i32) -> Answer {
    Answer {
        count: u64::try_from(value).unwrap_or(0),
        ..Answer::default()
    }
}

fn holding(bytes: Vec<u8>) -> Answer {
    Answer {
        bytes,
        ..Answer::default()
    }
}

/// Does `call` on `socket`.
pub(super) fn call(socket: &Socket, call: &Call) -> Result<Gave, Failure> {
    if let Call::Accept = call {
        let accepted = socket.accept().map_err(|error| failure(&error, 0))?;
        return Ok(Gave::Socket(accepted.0));
    }
    let failed = |error: io::Error| failure(&error, 0);
    let answer = match call {
        Call::Write { piece, cut } => write(socket, *piece, *cut, None),
        Call::Fill { piece, cut } => write(socket, *piece, *cut, Some(FULL)),
        Call::Read { piece, cut } => read(socket, *piece, *cut),
        Call::SetOption { level, name, value } => {
            let set = option::set(socket, *level, *name, &value.to_ne_bytes());
            set.map(|()| Answer::default()).map_err(failed)
        }
        Call::SetBytes { level, name, bytes } => {
            let set = option::set(socket, *level, *name, bytes);
            set.map(|()| Answer::default()).map_err(failed)
        }
        Call::Option { level, name } => {
            let value = option::get_int(socket, *level, *name);
            value.map(counted_int).map_err(failed)
        }
        Call::OptionBytes {
            level,
            name,
            length,
        } => {
            let value = option::get(socket, *level, *name, *length);
            value.map(holding).map_err(failed)
        }
        Call::Give(door) => hand::give(socket, door),
        Call::Bequeath(door) => hand::bequeath(socket, door),
        Call::Accept
        | Call::Bind(_)
        | Call::Listen
        | Call::Connect(_)
        | Call::Receive { .. }
        | Call::Send { .. }
        | Call::Splice(_)
        | Call::Readable
        | Call::Finish
        | Call::Close
        | Call::Nonblocking(_)
        | Call::Poll { .. } => simple(socket, call).map_err(failed),
    };
    answer.map(Gave::Answer)
}

/// Does a call that is a single one for the system, too.
fn simple(socket: &Socket, call: &Call) -> io::Result<Answer> {
    let nothing = |()| Answer::default();
    match call {
        Call::Accept
        | Call::Close
        | Call::Write { .. }
        | Call::Fill { .. }
        | Call::Read { .. }
        | Call::Give(_)
        | Call::Bequeath(_)
        | Call::SetOption { .. }
        | Call::Option { .. }
        | Call::SetBytes { .. }
        | Call::OptionBytes { .. } => Ok(Answer::default()),
        Call::Bind(address) => socket.bind(&(*address).into()).map(nothing),
        Call::Listen => socket.listen(1024).map(nothing),
        Call::Connect(address) => socket.connect(&(*address).into()).map(nothing),
        Call::Receive { length, flags } => {
            let mut buffer = vec![0; *length];
            let flags = RecvFlags::from_bits_retain(flags.cast_unsigned());
            let (kept, count) = rustix::net::recv(socket, &mut buffer, flags)?;
            buffer.truncate(kept);
            Ok(Answer {
                bytes: buffer,
                ..counted(count)
            })
        }
        Call::Send { bytes, flags, to } => {
            let flags = SendFlags::from_bits_retain(flags.cast_unsigned()) | SendFlags::NOSIGNAL;
            let sent = match to {
                Some(to) => rustix::net::sendto(socket, bytes, flags, to),
                None => rustix::net::send(socket, bytes, flags),
            };
            Ok(counted(sent?))
        }
        Call::Splice(length) => {
            let (out, into) = pipe()?;
            let count = splice(socket, None, &into, None, *length, SpliceFlags::empty())?;
            let mut buffer = vec![0; count];
            let read = rustix::io::read(&out, &mut buffer)?;
            buffer.truncate(read);
            Ok(Answer {
                bytes: buffer,
                ..counted(count)
            })
        }
        Call::Readable => {
            let count = rustix::io::ioctl_fionread(socket)?;
            Ok(Answer {
                count,
                ..Answer::default()
            })
        }
        Call::Finish => socket.shutdown(std::net::Shutdown::Write).map(nothing),
        Call::Nonblocking(yes) => socket.set_nonblocking(*yes).map(nothing),
        Call::Poll { events, timeout } => {
            let flags = PollFlags::from_bits_retain(events.cast_unsigned());
            let timeout = Duration::from_millis(u64::try_from(*timeout).unwrap_or(0));
            let timeout = Timespec::try_from(timeout).map_err(io::Error::other)?;
            let mut fds = [PollFd::new(socket, flags)];
            poll(&mut fds, Some(&timeout))?;
            Ok(Answer {
                count: fds[0].revents().bits().into(),
                ..Answer::default()
            })
        }
    }
}

/// Waits until a non-blocking socket is ready; false when it was not within `patience`.
///
/// For a blocking one, `error` is the call's answer to the application, and a wrong one.
fn await_ready(
    socket: &Socket,
    flags: PollFlags,
    error: io::Error,
    patience: Option<Duration>,
) -> io::Result<bool> {
    let nonblocking = rustix::fs::fcntl_getfl(socket)?.contains(rustix::fs::OFlags::NONBLOCK);
    if error.kind() != io::ErrorKind::WouldBlock || !nonblocking {
        return Err(error);
    }
    let patience = patience
        .map(Timespec::try_from)
        .transpose()
        .map_err(io::Error::other)?;
    let ready = poll(&mut [PollFd::new(socket, flags)], patience.as_ref())?;
    Ok(ready > 0)
}

fn write(
    mut socket: &Socket,
    piece: Piece,
    cut: (usize, usize),
    patience: Option<Duration>,
) -> Result<Answer, Failure> {
    let mut done = 0;
    let mut buffer = vec![0; cut.1];
    for turn in 0.. {
        let rest = usize::try_from(piece.length - done).unwrap_or(usize::MAX);
        let size = piece.stream.number(turn, cut.0, cut.1).min(rest);
        if size == 0 {
            break;
        }
        let part = &mut buffer[..size];
        piece.stream.fill(piece.offset + done, part);
        let mut left = &*part;
        while !left.is_empty() {
            let count = match socket.write(left) {
                Ok(count) => count,
                Err(error) => {
                    let ready = await_ready(socket, PollFlags::OUT, error, patience);
                    if !ready.map_err(|error| failure(&error, done))? {
                        return Ok(Answer {
                            count: done,
                            ..Answer::default()
                        });
                    }
                    0
                }
            };
            done += count as u64;
            left = &left[count..];
        }
    }
    Ok(Answer {
        count: done,
        ..Answer::default()
    })
}

fn read(mut socket: &Socket, piece: Piece, cut: (usize, usize)) -> Result<Answer, Failure> {
    let mut done = 0;
    let mut buffer = vec![0; cut.1];
    for turn in 0.. {
        let rest = usize::try_from(piece.length - done).unwrap_or(usize::MAX);
        let size = piece.stream.number(turn, cut.0, cut.1).min(rest);
        if size == 0 {
            break;
        }
        let count = match socket.read(&mut buffer[..size]) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) => {
                let ready = await_ready(socket, PollFlags::IN, error, None);
                ready.map_err(|error| failure(&error, done))?;
                continue;
            }
        };
        if let Some(wrong) = piece
            .stream
            .first_wrong(piece.offset + done, &buffer[..count])
        {
            let words = format!("wrong byte: {wrong:?}");
            return Err(Failure {
                errno: None,
                words,
                count: done,
            });
        }
        done += count as u64;
    }
    Ok(Answer {
        count: done,
        ..Answer::default()
    })
}
