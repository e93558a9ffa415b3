//! Peers that tests run in pods: small programs that do things to connections, and check every byte.

mod answer;
mod ask;
mod burst;
mod churn;
mod hold;
mod http;
mod left;
mod remote;

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;

#[derive(Parser, Debug)]
enum Peer {
    /// Makes a node with one pod, prints the pod's namespace, and stands until a signal ends it.
    Stand,
    /// Does nothing until it is killed, as what holds a pod together.
    Pause,
    /// Opens connections, sends a byte each way on every one, and keeps them; or is the other end of that.
    Hold {
        /// Be the server, here.
        #[arg(long, conflicts_with = "connect", required_unless_present = "connect")]
        listen: Option<SocketAddr>,
        /// Be the client, of this server.
        #[arg(long)]
        connect: Option<SocketAddr>,
        /// Connections to open.
        #[arg(long, default_value_t = 1)]
        count: usize,
    },
    /// Makes many short connections at once, or is the other end of that.
    Burst {
        /// Be the server, here.
        #[arg(long, conflicts_with = "connect", required_unless_present = "connect")]
        listen: Option<SocketAddr>,
        /// Be the client, of this server.
        #[arg(long)]
        connect: Option<SocketAddr>,
        /// Threads that make connections.
        #[arg(long, default_value_t = 1)]
        threads: u64,
        /// Connections of each.
        #[arg(long, default_value_t = 1)]
        count: u64,
    },
    /// Makes sockets that connect and come to every end that there is.
    Churn {
        #[command(flatten)]
        dialled: churn::Dialled,
        /// Sockets of each kind.
        count: usize,
        /// Keep some open at the end, until a signal comes.
        #[arg(long)]
        keep: bool,
    },
    /// Speaks HTTP, gRPC or WebSocket.
    #[command(subcommand)]
    Http(http::Http),
    /// A backend of HTTP and datagrams that answers with what it was asked.
    Answer(answer::Options),
    /// A client that asks for one URL, and says what came.
    Ask(ask::Options),
    /// Says what is left of an agent in the kernel: pins and programs.
    Left {
        /// Where agents pin.
        #[arg(long)]
        bpf_dir: PathBuf,
        /// Only say which maps are pinned there.
        #[arg(long)]
        maps: bool,
        /// Maps that were, by which its programs are told from others' on a kernel that has several.
        #[arg(long, value_delimiter = ',', value_name = "NUMBER")]
        of: Vec<u32>,
    },
    /// Does what it is asked for over a unix socket; see `harness::remote`.
    Remote {
        /// Take over the socket that is the standard input.
        #[arg(long)]
        inherit: bool,
        /// Where to make that socket.
        door: PathBuf,
    },
}

fn main() -> Result<()> {
    match Peer::parse() {
        Peer::Stand => stand(),
        Peer::Pause => pause(),
        Peer::Hold {
            listen,
            connect,
            count,
        } => match (listen, connect) {
            (Some(address), _) => hold::serve(address),
            (None, Some(address)) => hold::connect(address, count),
            (None, None) => Ok(()),
        },
        Peer::Burst {
            listen,
            connect,
            threads,
            count,
        } => match (listen, connect) {
            (Some(address), _) => burst::serve(address),
            (None, Some(address)) => burst::drive(address, threads, count),
            (None, None) => Ok(()),
        },
        Peer::Churn {
            dialled,
            count,
            keep,
        } => churn::run(&dialled, count, keep),
        Peer::Http(what) => http::run(what),
        Peer::Answer(options) => answer::serve(&options),
        Peer::Ask(options) => ask::run(&options),
        Peer::Left {
            bpf_dir,
            maps: true,
            ..
        } => left::tell_maps(&bpf_dir),
        Peer::Left { bpf_dir, of, .. } => left::look(&bpf_dir, &of),
        Peer::Remote { inherit, door } => remote::run(&door, inherit),
    }
}

fn stand() -> Result<()> {
    let node = harness::Node::new()?;
    let pod = node.pod("a")?;
    println!("{}", pod.netns());
    pause()
}

fn pause() -> ! {
    loop {
        std::thread::park();
    }
}
