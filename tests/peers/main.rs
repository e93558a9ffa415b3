//! Peers that tests run in pods: small programs that each do one thing to a connection, and check every byte.
#![forbid(unsafe_code)]

use anyhow::Result;
use clap::Parser;

#[derive(Parser, Debug)]
enum Peer {
    /// Makes a node with one pod, prints the pod's namespace, and stands until a signal ends it.
    Stand,
}

fn main() -> Result<()> {
    match Peer::parse() {
        Peer::Stand => stand(),
    }
}

fn stand() -> Result<()> {
    let node = harness::Node::new()?;
    let pod = node.pod("a")?;
    println!("{}", pod.netns());
    loop {
        std::thread::park();
    }
}
