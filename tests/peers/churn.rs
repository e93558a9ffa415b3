//! Sockets that connect and come to every end that there is.

use std::io::ErrorKind;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, Socket, Type};

/// Who is dialled: who accepts and closes, who refuses, who never answers, and who takes datagrams.
#[derive(clap::Args, Debug)]
pub(crate) struct Dialled {
    accepting: SocketAddr,
    refusing: SocketAddr,
    silent: SocketAddr,
    datagrams: SocketAddr,
}

/// Sockets open at the same time.
const AT_ONCE: usize = 200;

/// Makes `count` sockets of each kind of end that there is; with `keep`, some more that stay open until a signal comes.
pub(crate) fn run(dialled: &Dialled, count: usize, keep: bool) -> Result<()> {
    let rounds = count / AT_ONCE;
    for _ in 0..rounds {
        let mut open = Vec::new();
        for number in 0..AT_ONCE {
            open.extend(one(dialled, number)?);
        }
        // Those that have been answered by now are read to their end, which may be a reset.
        for socket in &open {
            let mut buffer = [MaybeUninit::uninit(); 16];
            socket.recv(&mut buffer).ok();
        }
    }
    if !keep {
        return Ok(());
    }
    let mut kept = Vec::new();
    for number in 0..AT_ONCE {
        kept.extend(one(dialled, number)?);
    }
    println!("kept");
    loop {
        std::thread::park();
    }
}

/// Makes one of each kind; returns those that are still open.
fn one(dialled: &Dialled, number: usize) -> Result<Vec<Socket>> {
    let mut open = Vec::new();
    let accepted = tcp()?;
    match accepted.connect(&dialled.accepting.into()) {
        // The server took it and reset it before this thread ran again: the call that waited for the handshake then returns the
        // error of the socket that it finds closed. It was a connection all the same.
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        outcome => outcome.context("failed to connect")?,
    }
    if number.is_multiple_of(4) {
        accepted
            .set_linger(Some(Duration::ZERO))
            .context("failed to set an option")?;
    }
    if number.is_multiple_of(2) {
        open.push(accepted);
    }
    // Refused, and for some the same socket twice.
    let refused = tcp()?;
    for _ in 0..=number % 2 {
        refused.connect(&dialled.refusing.into()).ok();
    }
    open.push(refused);
    // Given up while nobody answers, by one end or another.
    let silent = tcp()?;
    silent
        .set_nonblocking(true)
        .context("failed to set an option")?;
    silent.connect(&dialled.silent.into()).ok();
    if number.is_multiple_of(2) {
        silent.shutdown(std::net::Shutdown::Both).ok();
    }
    if number.is_multiple_of(3) {
        open.push(silent);
    }
    // Connected once, twice, or elsewhere after that.
    let udp = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).context("no socket")?;
    udp.set_nonblocking(true)
        .context("failed to set an option")?;
    for _ in 0..=number % 2 {
        udp.connect(&dialled.datagrams.into())
            .context("failed to connect a UDP socket")?;
    }
    if number.is_multiple_of(3) {
        open.push(udp);
    }
    Ok(open)
}

fn tcp() -> Result<Socket> {
    Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).context("no socket")
}
