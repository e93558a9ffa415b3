//! The two ends of a measured connection, each a process of its own with one thread, pinned to a core and preferred by
//! the scheduler.

mod ask;
mod board;
mod connect;
pub(crate) mod dial;
pub(crate) mod http;
mod link;
mod stream;
mod window;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use harness::cpu;

use crate::case::Load;
use crate::worker::board::Board;
use crate::worker::connect::Timed;
use crate::worker::link::{Address, Listener};
pub(crate) use crate::worker::window::Sample;

/// The core of the client; the server has the next.
pub(crate) const CLIENT_CORE: usize = 0;
const SERVER_CORE: usize = 1;
/// Where there is a proxy between them, it has a core to itself, and the server the one after that: the client's, on a machine
/// with two.
pub(crate) const PROXY_CORE: usize = 1;
pub(crate) const SERVER_CORE_OF_THREE: usize = 2;

/// What a server writes once it listens; its address follows.
pub(crate) const READY: &str = "ready ";
/// What a client writes at its end; its [`Sample`] follows.
pub(crate) const RESULT: &str = "result ";

/// Time before the measured window, for caches, congestion windows and the scheduler to settle.
const WARM_UP: Duration = Duration::from_millis(150);

#[derive(Subcommand, Debug)]
pub(crate) enum Role {
    /// Accepts and serves.
    Serve(Arguments),
    /// Connects again and again at a fixed rate, and writes how each connect ended.
    Dial(dial::Arguments),
    /// Sends HTTP requests, and writes how fast and how long.
    HttpDrive(http::Arguments),
    /// Serves HTTP/2.
    Http2Serve(http::serve::Arguments),
    /// Connects, measures, and writes what it found.
    Drive {
        #[command(flatten)]
        arguments: Arguments,
        /// Process of the server.
        #[arg(long)]
        server: u32,
        /// Length of the measured window.
        #[arg(long)]
        milliseconds: u64,
    },
}

#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// A `Load` as JSON.
    #[arg(long)]
    load: String,
    /// `tcp:ADDRESS:PORT` or `unix:PATH`.
    #[arg(long)]
    address: String,
    /// File with what the two ends tell each other outside the connection.
    #[arg(long)]
    board: PathBuf,
}

/// Does the part of one end.
pub(crate) fn run(role: &Role) -> Result<()> {
    match role {
        Role::Serve(arguments) => serve(arguments),
        Role::Dial(arguments) => dial::run(arguments),
        Role::HttpDrive(arguments) => http::drive(arguments),
        Role::Http2Serve(arguments) => http::serve::run(arguments),
        Role::Drive {
            arguments,
            server,
            milliseconds,
        } => drive(arguments, *server, Duration::from_millis(*milliseconds)),
    }
}

fn parse(arguments: &Arguments) -> Result<(Load, Address, Board)> {
    let load = serde_json::from_str(&arguments.load).context("failed to parse the load")?;
    Ok((
        load,
        arguments.address.parse()?,
        Board::open(&arguments.board)?,
    ))
}

fn serve(arguments: &Arguments) -> Result<()> {
    cpu::pin(SERVER_CORE)?;
    cpu::prefer()?;
    let (load, address, board) = parse(arguments)?;
    let listener = Listener::bind(&address)?;
    println!("{READY}{}", listener.address()?);
    match load {
        Load::Ask {
            connections,
            request,
            response,
        } => ask::serve(&listener, connections, request, response),
        Load::Stream { .. } => stream::serve(&listener, &board),
        Load::Connect | Load::Dial => connect::serve(&listener),
    }
}

fn drive(arguments: &Arguments, server: u32, length: Duration) -> Result<()> {
    cpu::pin(CLIENT_CORE)?;
    cpu::prefer()?;
    let (load, address, board) = parse(arguments)?;
    let sample = match load {
        Load::Ask {
            connections,
            request,
            response,
        } => ask::drive(&address, (connections, request, response), server, length),
        Load::Stream { write } => stream::drive(&address, &board, write, server, length),
        Load::Connect => connect::drive(&address, Timed::Whole, server, length),
        Load::Dial => connect::drive(&address, Timed::Call, server, length),
    }?;
    let text = serde_json::to_string(&sample).context("failed to write the sample")?;
    println!("{RESULT}{text}");
    Ok(())
}
