//! `bench connect`: what it costs to dial a service, against dialling a pod, and against kube-proxy's rules.
//!
//! Each way has a node of its own with the same two pods, between which the node routes. Only the agent sees more than its own
//! node (some of its hooks see every socket of the machine), so it runs only while it is measured.

mod rules;
mod service;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use harness::manifest::{self, Acceleration};
use harness::{Agent, agent, machine, wait_for};

use crate::case::{Case, Load};
use crate::place::{Place, Variant};
use crate::report::Report;
use crate::{files, table};

#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// Rounds; medians are taken over them.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Length of the measured window of each case and variant in each round, in milliseconds.
    #[arg(long, default_value_t = 800, value_parser = clap::value_parser!(u64).range(50..=60_000))]
    window: u64,
    /// One short round without the largest size: shows that everything works, measures little.
    #[arg(long, conflicts_with_all = ["rounds", "window"])]
    quick: bool,
    /// Write the figures to this file as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a picture of the figures to this file.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

/// The port that the server listens on: rules and manifests name it before it does.
const SERVER_PORT: u16 = 8080;

/// How long the agent may take to read ten thousand services and their endpoints from a slow disk.
const PATIENCE: Duration = Duration::from_secs(60);

/// A number of services, and what is measured among so many.
#[derive(Debug)]
struct Size {
    services: usize,
    cases: [Case; 2],
}

const fn size(services: usize, names: [&'static str; 2], titles: [&'static str; 2]) -> Size {
    let rr = Load::Ask {
        connections: 1,
        request: 100,
        response: 100,
    };
    let [connect, packets] = names;
    let [connect_title, packets_title] = titles;
    Size {
        services,
        cases: [
            Case {
                name: connect,
                title: connect_title,
                load: Load::Dial,
            },
            Case {
                name: packets,
                title: packets_title,
                load: rr,
            },
        ],
    }
}

const SIZES: [Size; 3] = [
    size(
        10,
        ["connect_10", "packets_10"],
        [
            "connect, of 10 services",
            "100 B ⇄ 100 B afterwards, of 10 services",
        ],
    ),
    size(
        1_000,
        ["connect_1000", "packets_1000"],
        [
            "connect, of 1,000 services",
            "100 B ⇄ 100 B afterwards, of 1,000 services",
        ],
    ),
    size(
        10_000,
        ["connect_10000", "packets_10000"],
        [
            "connect, of 10,000 services",
            "100 B ⇄ 100 B afterwards, of 10,000 services",
        ],
    ),
];

/// Measures, and prints and writes what it found.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    ensure!(harness::require_root(), "this needs root");
    agent::program()?;
    let begin = Instant::now();
    let (rounds, window, sizes) = match arguments.quick {
        true => (1, Duration::from_millis(250), &SIZES[..2]),
        false => (
            arguments.rounds,
            Duration::from_millis(arguments.window),
            &SIZES[..],
        ),
    };
    let ways = Ways::new()?;
    let mut report = Report::new(machine::describe()?, rounds, window);
    for size in sizes {
        let services = service::services(size.services, &ways.plain.server, SERVER_PORT);
        let vip = service::dialled(&services).context("no services")?;
        ways.write_rules(&services)?;
        // Starting with ten thousand services takes longer than a window: once for each size, and stopped in between.
        let mut agent = None;
        for round in 0..rounds {
            eprintln!(
                "{:>4.0} s  {} services, round {} of {rounds}",
                begin.elapsed().as_secs_f64(),
                size.services,
                round + 1
            );
            if round % 2 == 0 {
                ways.without_agent(size, vip, window, &mut report)?;
            }
            ways.with_agent(size, vip, &services, window, &mut agent, &mut report)?;
            if round % 2 == 1 {
                ways.without_agent(size, vip, window, &mut report)?;
            }
        }
    }
    print!("{}", table::render(&report));
    println!("took {:.0} s", begin.elapsed().as_secs_f64());
    files::write(&report, arguments.json.as_deref(), arguments.svg.as_deref())
}

/// The ways to a service, each with a node of its own.
#[derive(Debug)]
struct Ways {
    plain: Place,
    nftables: Place,
    iptables: Place,
    mesh: Place,
}

impl Ways {
    fn new() -> Result<Self> {
        let mesh = Place::routed()?;
        for pod in [&mesh.client, &mesh.server] {
            // What balancing costs, and nothing else: redirect has a benchmark of its own.
            manifest::write(pod, Acceleration::Off)?;
        }
        Ok(Self {
            plain: Place::routed()?,
            nftables: Place::routed()?,
            iptables: Place::routed()?,
            mesh,
        })
    }

    fn write_rules(&self, services: &[service::Service]) -> Result<()> {
        rules::nftables(self.nftables.client.node(), services)?;
        rules::iptables(self.iptables.client.node(), services)?;
        service::write(services, &self.mesh.server)
    }

    fn without_agent(
        &self,
        size: &Size,
        vip: std::net::SocketAddr,
        window: Duration,
        report: &mut Report,
    ) -> Result<()> {
        let pod = (self.plain.server.v4(), SERVER_PORT).into();
        for case in &size.cases {
            for (variant, place, address) in [
                (Variant::Veth, &self.plain, pod),
                (Variant::Nftables, &self.nftables, vip),
                (Variant::Iptables, &self.iptables, vip),
            ] {
                let sample = place.dial(SERVER_PORT, address, case.load, window);
                let sample = sample.with_context(|| format!("{} over {variant}", case.name))?;
                report.add(case, variant, sample);
            }
        }
        Ok(())
    }

    fn with_agent(
        &self,
        size: &Size,
        vip: std::net::SocketAddr,
        services: &[service::Service],
        window: Duration,
        agent: &mut Option<Agent>,
        report: &mut Report,
    ) -> Result<()> {
        let running = match agent.take() {
            Some(mut stopped) => {
                stopped.start_again()?;
                stopped
            }
            None => Agent::start(self.mesh.client.node(), &[])?,
        };
        let running = agent.insert(running);
        wait_for("the agent to balance every service", PATIENCE, || {
            balanced(running).is_ok_and(|count| count == services.len())
        })?;
        let pod = (self.mesh.server.v4(), SERVER_PORT).into();
        for case in &size.cases {
            for (variant, address) in [(Variant::Underpass, vip), (Variant::UnderpassDirect, pod)] {
                let sample = self.mesh.dial(SERVER_PORT, address, case.load, window);
                let sample = sample.with_context(|| format!("{} over {variant}", case.name))?;
                report.add(case, variant, sample);
            }
        }
        running.uninstall()
    }
}

/// Returns how many services the kernel balances.
fn balanced(agent: &Agent) -> Result<usize> {
    let services = agent.json(&["services", "--output", "json"])?;
    let services = services["services"].as_array().context("no services")?;
    let balanced = |service: &&serde_json::Value| service["balanced"].as_bool() == Some(true);
    Ok(services.iter().filter(balanced).count())
}
