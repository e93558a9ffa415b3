//! Clients and servers that speak HTTP, well or badly: each says what it saw as JSON.

mod chaos;
mod echo;
mod fetch;
mod frames;
mod grpc;
mod idle;
mod io;
mod load;
mod payload;
mod storm;
mod websocket;

use anyhow::{Context as _, Result};
use clap::Subcommand;

/// What to be.
#[derive(Subcommand, Debug)]
pub(crate) enum Http {
    /// A server of HTTP/1 and HTTP/2 that answers with what it was asked; the query says how.
    Echo(echo::Options),
    /// A client that checks every byte.
    Fetch(fetch::Options),
    /// A gRPC server with all four kinds of calls.
    GrpcServe(grpc::Serve),
    /// A gRPC client that makes calls of one kind.
    GrpcCall(grpc::Call),
    /// A WebSocket server that says back what it hears.
    WsServe(websocket::Serve),
    /// A WebSocket client that checks what comes back.
    WsTalk(websocket::Talk),
    /// A client that opens connections, makes one request on each, and keeps them.
    Idle(idle::Options),
    /// A client that means harm.
    Storm(storm::Options),
    /// A server of HTTP/1 whose behaviour can be changed at any time.
    Chaos(chaos::Options),
    /// A client that sends at a fixed rate, whatever comes back.
    Load(load::Options),
}

/// Runs it to its end, or for ever.
pub(crate) fn run(what: Http) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("failed to make a runtime")?;
    runtime.block_on(async {
        match what {
            Http::Echo(options) => echo::serve(options).await,
            Http::Fetch(options) => fetch::run(options).await,
            Http::GrpcServe(options) => grpc::serve(options).await,
            Http::GrpcCall(options) => grpc::call(options).await,
            Http::WsServe(options) => websocket::serve(options).await,
            Http::WsTalk(options) => websocket::talk(options).await,
            Http::Idle(options) => idle::run(options).await,
            Http::Storm(options) => storm::run(options).await,
            Http::Chaos(options) => chaos::serve(options).await,
            Http::Load(options) => load::run(options).await,
        }
    })
}

/// Prints one line, at once.
fn say(value: &serde_json::Value) {
    println!("{value}");
}

/// Raises the limit of open files to what is allowed: for clients of thousands of connections.
fn allow_files() -> Result<()> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).context("failed to raise the limit of open files")
}
