//! Benchmarks: what the mesh costs and gains, against the same pods without it.
#![forbid(unsafe_code)]

mod agent_cost;
mod case;
mod connect;
mod files;
mod kubernetes;
mod l7;
mod place;
mod redirect;
mod report;
mod scale;
mod soak;
mod svg;
mod table;
mod worker;

use clap::Parser;

#[derive(Parser, Debug)]
#[command(name = "bench", about, max_term_width = 100)]
enum Bench {
    /// Compare socket redirect with TCP over a veth pair, TCP over loopback, and unix sockets.
    Redirect(redirect::Arguments),
    /// Compare connecting to services with connecting to pods, and with kube-proxy's rules.
    Connect(connect::Arguments),
    /// Change endpoints and policies all the time under a steady load, and count what that breaks.
    Soak(soak::Arguments),
    /// Read a large cluster's manifests and change one endpoint at a time: how long the kernel's maps take to follow, and memory.
    Scale(scale::Arguments),
    /// Follow a large cluster's API server: memory, requests while nothing happens, and how long a change takes.
    Kubernetes(kubernetes::Arguments),
    /// Compare the agent as a proxy of HTTP with nginx, haproxy, Envoy and pingora.
    L7(l7::Arguments),
    /// One end of a measured connection; started by the others.
    #[command(hide = true, subcommand)]
    Worker(worker::Role),
}

fn main() -> anyhow::Result<()> {
    match Bench::parse() {
        Bench::Redirect(arguments) => redirect::run(&arguments),
        Bench::Connect(arguments) => connect::run(&arguments),
        Bench::Soak(arguments) => soak::run(&arguments),
        Bench::Scale(arguments) => scale::run(&arguments),
        Bench::Kubernetes(arguments) => kubernetes::run(&arguments),
        Bench::L7(arguments) => l7::run(&arguments),
        Bench::Worker(role) => worker::run(&role),
    }
}
