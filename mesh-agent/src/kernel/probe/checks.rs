//! The defects that are checked for. Each check returns whether the kernel behaves as for a plain TCP socket.

use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use mesh_common::behaviour;
use rustix::io::{Errno, ioctl_fionread};
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};
use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with, splice};

use crate::kernel::probe::Redirect;
use crate::kernel::probe::pair::Pair;
use crate::kernel::probe::sockets;

/// One check.
pub(super) struct Check {
    /// Short fixed name.
    pub(super) name: &'static str,
    /// What goes wrong where it fails.
    pub(super) words: &'static str,
    /// Behaviours that it forbids where it fails; 0 where redirect cannot be used at all.
    pub(super) forbids: u64,
    /// Runs it: `true` when the kernel behaves.
    pub(super) run: fn(&mut Redirect) -> io::Result<bool>,
}

/// Essential ones first.
pub(super) const ALL: &[Check] = &[
    Check {
        name: "delivery",
        words: "redirected bytes do not arrive",
        forbids: 0,
        run: delivery,
    },
    Check {
        name: "order",
        words: "bytes sent by TCP overtake redirected ones",
        forbids: 0,
        run: order,
    },
    Check {
        name: "fionread-tcp",
        words: "FIONREAD is 0 although bytes sent by TCP are waiting",
        forbids: behaviour::FIONREAD,
        run: |redirect| fionread(redirect, false),
    },
    Check {
        name: "fionread-redirect",
        words: "FIONREAD does not count redirected bytes",
        forbids: behaviour::FIONREAD,
        run: |redirect| fionread(redirect, true),
    },
    Check {
        name: "splice",
        words: "splice(2) does not see redirected bytes",
        forbids: behaviour::SPLICE,
        run: splices,
    },
    Check {
        name: "spurious-eagain",
        words: "a blocking recv fails with EAGAIN when its socket is woken without data",
        forbids: behaviour::BLOCKING_RECEIVE | behaviour::SPURIOUS_EAGAIN,
        run: blocking_wake,
    },
    Check {
        name: "waitall",
        words: "MSG_WAITALL returns short",
        forbids: behaviour::WAITALL,
        run: waitall,
    },
    Check {
        name: "rcvlowat",
        words: "SO_RCVLOWAT is ignored",
        forbids: behaviour::RCVLOWAT,
        run: rcvlowat,
    },
    Check {
        name: "trunc",
        words: "recv(MSG_TRUNC) does not discard",
        forbids: behaviour::TRUNC,
        run: truncate,
    },
    Check {
        name: "oob",
        words: "urgent data arrives in line",
        forbids: behaviour::OOB,
        run: urgent,
    },
    Check {
        name: "peek-off",
        words: "SO_PEEK_OFF is ignored",
        forbids: behaviour::PEEK_OFF,
        run: peek_off,
    },
    Check {
        name: "inq",
        words: "TCP_INQ control messages are missing",
        forbids: behaviour::INQ,
        run: inq,
    },
    Check {
        name: "zerocopy",
        words: "MSG_ZEROCOPY completions never arrive",
        forbids: behaviour::ZEROCOPY_SEND,
        run: zerocopy,
    },
];

fn delivery(redirect: &mut Redirect) -> io::Result<bool> {
    let mut pair = Pair::connect(redirect, true)?;
    let bytes: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    pair.deliver(&bytes)?;
    pair.reads(&bytes)
}

fn order(redirect: &mut Redirect) -> io::Result<bool> {
    let mut pair = Pair::connect(redirect, true)?;
    pair.deliver(b"first, redirected;")?;
    redirect.set(false)?;
    pair.deliver(b"second, by TCP")?;
    pair.reads(b"first, redirected;second, by TCP")
}

fn fionread(redirect: &mut Redirect, redirected: bool) -> io::Result<bool> {
    let mut pair = Pair::connect(redirect, redirected)?;
    pair.deliver(&[7; 100])?;
    Ok(ioctl_fionread(&pair.receiver)? == 100)
}

fn splices(redirect: &mut Redirect) -> io::Result<bool> {
    let mut pair = Pair::connect(redirect, true)?;
    pair.deliver(&[7; 100])?;
    let (_read, write) = pipe_with(PipeFlags::NONBLOCK)?;
    match splice(
        &pair.receiver,
        None,
        &write,
        None,
        100,
        SpliceFlags::NONBLOCK,
    ) {
        Ok(moved) => Ok(moved == 100),
        Err(Errno::AGAIN) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The owner's own half-close is acknowledged while another of its threads blocks in `recv`: that is a wake-up without data.
fn blocking_wake(redirect: &mut Redirect) -> io::Result<bool> {
    let pair = Pair::connect(redirect, true)?;
    let patience = Duration::from_millis(30);
    pair.receiver.set_read_timeout(Some(patience))?;
    std::thread::scope(|scope| {
        let (about_to_block, reader) = std::sync::mpsc::channel();
        let receiver = &pair.receiver;
        let blocked = scope.spawn(move || {
            let started = Instant::now();
            // The other side only goes away when it failed; then nobody asks for the answer.
            about_to_block.send(rustix::thread::gettid()).ok();
            let mut byte = [0];
            let outcome = recv(receiver.as_fd(), &mut byte, RecvFlags::empty());
            (outcome, started.elapsed())
        });
        let thread = reader.recv().map_err(io::Error::other)?;
        wait_until_asleep(thread, patience)?;
        shutdown(&pair.receiver, Shutdown::Write)?;
        let (outcome, elapsed) = blocked
            .join()
            .map_err(|_| io::Error::other("the reading thread panicked"))?;
        // Nothing was sent, so a correct `recv` waits for its whole time-out.
        Ok(outcome.map(|(_, length)| length) == Err(Errno::AGAIN) && elapsed >= patience / 2)
    })
}

/// Waits until a thread sleeps in the kernel (proc(5), field `state`).
fn wait_until_asleep(thread: rustix::process::Pid, patience: Duration) -> io::Result<()> {
    let path = format!("/proc/self/task/{}/stat", thread.as_raw_nonzero());
    let deadline = Instant::now() + patience / 3;
    while Instant::now() < deadline {
        let stat = std::fs::read_to_string(&path)?;
        if stat
            .rsplit(')')
            .next()
            .is_some_and(|rest| rest.trim_start().starts_with('S'))
        {
            return Ok(());
        }
        std::thread::yield_now();
    }
    Ok(())
}

/// With a part of the bytes there, a correct call waits for the rest until its time-out.
fn waitall(redirect: &mut Redirect) -> io::Result<bool> {
    let mut pair = Pair::connect(redirect, true)?;
    let patience = Duration::from_millis(20);
    pair.receiver.set_read_timeout(Some(patience))?;
    pair.deliver(&[7; 100])?;
    let started = Instant::now();
    let mut bytes = [0; 200];
    let (_, length) = recv(&pair.receiver, &mut bytes, RecvFlags::WAITALL)?;
    Ok(length == 100 && started.elapsed() >= patience / 2)
}

fn rcvlowat(redirect: &mut Redirect) -> io::Result<bool> {
    let mut pair = Pair::connect(redirect, true)?;
    sockets::set_int_option(&pair.receiver, libc::SOL_SOCKET, libc::SO_RCVLOWAT, 200)?;
    pair.sender.write_all(&[7; 100])?;
    Ok(!pair.readable(Duration::from_millis(5))?)
}

fn truncate(redirect: &mut Redirect) -> io::Result<bool> {
    let mut pair = Pair::connect(redirect, true)?;
    pair.deliver(&[7; 100])?;
    Ok(sockets::discard(&pair.receiver, 100) == Ok(100))
}

fn urgent(redirect: &mut Redirect) -> io::Result<bool> {
    let mut pair = Pair::connect(redirect, true)?;
    pair.deliver(b"ab")?;
    send(&pair.sender, b"!", SendFlags::OOB)?;
    pair.deliver(b"cd")?;
    pair.reads(b"abcd")
}

fn peek_off(redirect: &mut Redirect) -> io::Result<bool> {
    let mut pair = Pair::connect(redirect, true)?;
    match sockets::set_int_option(&pair.receiver, libc::SOL_SOCKET, libc::SO_PEEK_OFF, 2) {
        // TCP knows the option since Linux 6.9.
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(true),
        other => other?,
    }
    pair.deliver(b"abcd")?;
    let mut bytes = [0; 2];
    let (_, length) = recv(&pair.receiver, &mut bytes, RecvFlags::PEEK)?;
    Ok(length == 2 && bytes == *b"cd")
}

fn inq(redirect: &mut Redirect) -> io::Result<bool> {
    let mut pair = Pair::connect(redirect, true)?;
    sockets::set_int_option(&pair.receiver, libc::IPPROTO_TCP, libc::TCP_INQ, 1)?;
    pair.deliver(&[7; 100])?;
    sockets::receives_control_message(&pair.receiver)
}

fn zerocopy(redirect: &mut Redirect) -> io::Result<bool> {
    let pair = Pair::connect(redirect, true)?;
    sockets::set_int_option(&pair.sender, libc::SOL_SOCKET, libc::SO_ZEROCOPY, 1)?;
    let zerocopy = SendFlags::from_bits_retain(libc::MSG_ZEROCOPY.cast_unsigned());
    send(&pair.sender, &[7; 4096], zerocopy)?;
    pair.readable(Duration::from_millis(50))?;
    let mut fds = [rustix::event::PollFd::new(
        &pair.sender,
        rustix::event::PollFlags::ERR,
    )];
    let timeout = rustix::event::Timespec {
        tv_sec: 0,
        tv_nsec: 5_000_000,
    };
    Ok(rustix::event::poll(&mut fds, Some(&timeout))? > 0)
}
