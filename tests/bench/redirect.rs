//! `bench redirect`: the same loads with and without the mesh, in one run.

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use harness::manifest::{self, Acceleration};
use harness::{Agent, agent, machine};

use crate::agent_cost;
use crate::case::{Case, GROUPS};
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
    /// One short round: shows that everything works, measures little. Under a minute.
    #[arg(long, conflicts_with_all = ["rounds", "window"])]
    quick: bool,
    /// Leave out what needs the agent.
    #[arg(long)]
    without_agent: bool,
    /// Only cases whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// Write the figures to this file as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a picture of the figures to this file.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

/// Measures, and prints and writes what it found.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    ensure!(harness::require_root(), "this needs root");
    let begin = Instant::now();
    let (rounds, window) = match arguments.quick {
        true => (1, Duration::from_millis(250)),
        false => (arguments.rounds, Duration::from_millis(arguments.window)),
    };
    let mut mesh = match arguments.without_agent {
        true => None,
        // Asked for before anything is measured: half a result after minutes is no use.
        false => Some(agent::program().and_then(|_| Mesh::new())?),
    };
    let plain = Place::new()?;
    let mut report = Report::new(machine::describe()?, rounds, window);
    for round in 0..rounds {
        for group in GROUPS {
            let wanted = |case: &&Case| case.name.contains(&arguments.only);
            let group: Vec<_> = group.iter().filter(wanted).collect();
            if group.is_empty() {
                continue;
            }
            progress(begin, round, rounds, group[0]);
            // The order alternates, so that neither side always finds the machine warmer.
            if round % 2 == 0 {
                without_mesh(&plain, &group, window, &mut report)?;
            }
            if let Some(mesh) = &mut mesh {
                mesh.measure(&group, window, &mut report)?;
            }
            if round % 2 == 1 {
                without_mesh(&plain, &group, window, &mut report)?;
            }
        }
    }
    if mesh.is_some() && arguments.only.is_empty() {
        eprintln!(
            "\r\x1b[K{:>4.0?} s  the agent itself",
            begin.elapsed().as_secs_f64()
        );
        agent_cost::measure(arguments.quick, &mut report)?;
    }
    eprintln!();
    print!("{}", table::render(&report));
    println!("took {:.0} s", begin.elapsed().as_secs_f64());
    files::write(&report, arguments.json.as_deref(), arguments.svg.as_deref())
}

fn progress(begin: Instant, round: u32, rounds: u32, first: &Case) {
    let seconds = begin.elapsed().as_secs();
    let (metric, _) = first.load.metric();
    eprint!(
        "\r\x1b[K{seconds:>4} s  round {} of {rounds}: {metric}",
        round + 1
    );
    // Progress that cannot be shown is no reason to stop.
    std::io::stderr().flush().ok();
}

fn without_mesh(
    plain: &Place,
    group: &[&Case],
    window: Duration,
    report: &mut Report,
) -> Result<()> {
    for case in group {
        for variant in Variant::PLAIN {
            let sample = plain.measure(variant, case.load, window);
            let sample = sample.with_context(|| format!("{} over {variant}", case.name))?;
            report.add(case, variant, sample);
        }
    }
    Ok(())
}

/// The same two pods, on a node where the agent can run.
///
/// It runs only while `redirect` is measured: some of its hooks see every socket of the machine, so that one that kept
/// running would slow down what it is compared with.
struct Mesh {
    place: Place,
    agent: Option<Agent>,
}

impl Mesh {
    fn new() -> Result<Self> {
        let place = Place::new()?;
        for pod in [&place.client, &place.server] {
            manifest::write(pod, Acceleration::On)?;
        }
        Ok(Self { place, agent: None })
    }

    fn measure(&mut self, group: &[&Case], window: Duration, report: &mut Report) -> Result<()> {
        let agent = match self.agent.take() {
            Some(mut agent) => {
                agent.start_again()?;
                agent
            }
            None => Agent::start(self.place.client.node(), &[])?,
        };
        let agent = self.agent.insert(agent);
        agent.wait_for_state(
            &["client", "server"],
            "accelerated",
            harness::wait::PATIENCE,
        )?;
        for case in group {
            let before = totals(agent)?;
            let sample = self.place.measure(Variant::Redirect, case.load, window);
            let sample = sample.with_context(|| format!("{} over redirect", case.name))?;
            let (bytes, redirected) = totals(agent)?;
            report.add(case, Variant::Redirect, sample);
            report.add_share(case, redirected - before.1, bytes - before.0);
        }
        agent.uninstall()
    }
}

/// Returns the bytes that the agent has seen, and those of them that were redirected.
fn totals(agent: &Agent) -> Result<(f64, f64)> {
    let status = agent.status()?;
    let number = |name: &str| status["totals"][name].as_f64();
    let both = number("bytes").zip(number("redirected_bytes"));
    both.context("the agent's status has no totals")
}
