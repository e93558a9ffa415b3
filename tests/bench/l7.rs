//! `bench l7`: the agent as a proxy of HTTP, against nginx, haproxy, Envoy and pingora.
//!
//! A client's pod and a backend's pod on one node. Each proxy has one core, client and backend have others where there are any.
//! The peers are where they are at their best: in the client's pod, which dials them on its loopback. The agent is dialled as
//! applications dial it: by a service's address, without knowing of a proxy. All run in turns against the same backends.

mod backend;
mod case;
mod led;
mod load;
mod markdown;
mod mesh;
mod peer;
mod proxy;
mod report;
mod svg;
mod table;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use harness::{agent, machine, memory};

use crate::place::Place;
use case::{Case, GROUPS, Kind};
pub(crate) use case::{MESSAGE, SMALL};
use led::Led;
pub(crate) use load::HELD;
use mesh::Mesh;
use peer::Peer;
use proxy::{Entry, Proxy};
use report::Report;

#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// Rounds; medians are taken over them.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Length of the measured window of each case and proxy in each round, in milliseconds. h2load takes whole seconds.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(100..=60_000))]
    window: u64,
    /// One short round of some cases: shows that everything works, measures little. Under a minute.
    #[arg(long, conflicts_with_all = ["rounds", "window"])]
    quick: bool,
    /// Only cases whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// Only this proxy, and nothing to compare it with; more than once for more of them.
    #[arg(long, value_name = "NAME", value_parser = ["underpass", "nginx", "haproxy", "envoy", "pingora", "direct"])]
    proxy: Vec<String>,
    /// Write the figures to this file as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the figures to this file as a table in Markdown.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Write a picture of the figures to this file.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

impl Arguments {
    fn wants(&self, proxy: Proxy) -> bool {
        self.proxy.is_empty() || self.proxy.iter().any(|name| name == proxy.name())
    }

    fn groups(&self) -> Vec<Vec<&'static Case>> {
        let wanted = |case: &&Case| case.name.contains(&self.only) && (case.quick || !self.quick);
        let groups = GROUPS
            .iter()
            .map(|group| group.iter().filter(wanted).collect());
        groups.filter(|group: &Vec<_>| !group.is_empty()).collect()
    }
}

/// The fixed rate at which times are taken, of what the slowest peer can do: all have some of their core to spare, and the
/// same work.
const SHARE_OF_SLOWEST: f64 = 0.6;

/// Idle connections for which memory is measured.
const IDLE: usize = 1000;
/// The same in a quick run.
const IDLE_QUICK: usize = 200;

/// Files that a process may have open: two for each connection, for thousands of them.
const OPEN_FILES: u64 = 65_536;

/// Measures, and prints and writes what it found.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    ensure!(harness::require_root(), "this needs root");
    let begin = Instant::now();
    allow_open_files()?;
    let (rounds, window) = match arguments.quick {
        true => (1, Duration::from_millis(300)),
        false => (arguments.rounds, Duration::from_millis(arguments.window)),
    };
    let groups = arguments.groups();
    ensure!(
        !groups.is_empty(),
        "no case has `{}` in its name",
        arguments.only
    );
    let report = Report::new(machine::describe()?, rounds, window);
    let mut bench = Bench::new(arguments, report, window, begin)?;
    bench.memory(if arguments.quick { IDLE_QUICK } else { IDLE })?;
    for round in 0..rounds {
        for group in &groups {
            bench.say(&format!(
                "round {} of {rounds}: {}",
                round + 1,
                group[0].name
            ));
            bench.group(group, round)?;
        }
    }
    drop(bench.backends);
    let report = bench.report;
    print!("{}", table::render(&report));
    println!("took {:.0} s", begin.elapsed().as_secs_f64());
    let json = serde_json::to_string_pretty(&report.json()).context("failed to write JSON")?;
    write(arguments.json.as_deref(), || json + "\n")?;
    write(arguments.markdown.as_deref(), || markdown::render(&report))?;
    write(arguments.svg.as_deref(), || svg::render(&report))
}

/// Lets this process, and what it starts, have as many files open as it may, up to [`OPEN_FILES`].
fn allow_open_files() -> Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    let current = Some(maximum.map_or(OPEN_FILES, |maximum| maximum.min(OPEN_FILES)));
    setrlimit(Resource::Nofile, Rlimit { current, maximum })
        .context("failed to allow many open files")
}

fn write(path: Option<&Path>, text: impl FnOnce() -> String) -> Result<()> {
    path.map_or(Ok(()), |path| {
        std::fs::write(path, text())
            .with_context(|| format!("failed to write `{}`", path.display()))
    })
}

/// Everything that runs, and what was measured.
#[derive(Debug)]
struct Bench {
    peers: Vec<Peer>,
    mesh: Option<Mesh>,
    direct: bool,
    backends: backend::Backends,
    place: Place,
    window: Duration,
    begin: Instant,
    report: Report,
}

impl Bench {
    fn new(
        arguments: &Arguments,
        mut report: Report,
        window: Duration,
        begin: Instant,
    ) -> Result<Self> {
        let place = Place::new()?;
        let files = place.client.node().files().join("l7");
        std::fs::create_dir_all(&files).context("failed to make a directory")?;
        // nginx's worker is not root.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&files, open).context("failed to open a directory")?;
        backend::write_certificates(&files)?;
        let backends = backend::start(&place.server, &files)?;
        let mut peers = Vec::new();
        for proxy in Proxy::PEERS {
            if !arguments.wants(proxy) {
                continue;
            }
            match peer::lacking(proxy) {
                Some(why) => report.skip(proxy, None, why),
                None => peers.push(peer::start(
                    proxy,
                    &place.client,
                    &files,
                    place.server.v4(),
                )?),
            }
        }
        let mesh = match arguments.wants(Proxy::Underpass) {
            true => {
                agent::program()?;
                let ca = std::fs::read_to_string(files.join("ca.pem"));
                let ca = ca.context("failed to read a certificate")?;
                Some(Mesh::new(&place.client, &place.server, &ca)?)
            }
            false => None,
        };
        Ok(Self {
            peers,
            mesh,
            direct: arguments.wants(Proxy::Direct),
            backends,
            place,
            window,
            begin,
            report,
        })
    }

    fn say(&self, what: &str) {
        eprintln!("{:>4.0} s  {what}", self.begin.elapsed().as_secs_f64());
    }

    /// Measures the memory of idle connections, before anything else has shaped the proxies' heaps.
    fn memory(&mut self, connections: usize) -> Result<()> {
        self.say(&format!("memory of {connections} idle connections"));
        for index in 0..self.peers.len() {
            let (proxy, pid) = (self.peers[index].proxy, self.peers[index].running.pid());
            self.hold(proxy, pid, connections)?;
        }
        self.with_mesh(|bench, pid| match bench.carried(Entry::Plain)? {
            true => bench.hold(Proxy::Underpass, pid, connections),
            false => Ok(()),
        })
    }

    fn hold(&mut self, proxy: Proxy, pid: u32, connections: usize) -> Result<()> {
        let address = self.address(proxy, Entry::Plain)?;
        let resident = || -> Result<u64> {
            family(pid)?
                .iter()
                .map(|pid| memory::resident_bytes(*pid))
                .sum()
        };
        // What the first connection brings with it is not counted.
        drop(load::hold(&self.place.client, address, 1)?);
        let before = resident()?;
        let held = load::hold(&self.place.client, address, connections)
            .with_context(|| format!("idle connections to {proxy}"))?;
        let grown = resident()?.saturating_sub(before);
        drop(held);
        let bytes = f64::from(u32::try_from(grown / 16)?) * 16.0;
        let each = bytes / f64::from(u32::try_from(connections)?);
        self.report.add_memory(proxy, connections, each);
        Ok(())
    }

    fn address(&self, proxy: Proxy, entry: Entry) -> Result<SocketAddr> {
        let address = proxy.address(entry, self.place.server.v4());
        address.with_context(|| format!("no way over {proxy} to {}", entry.name()))
    }

    /// Returns what the client dials, and what leads it to the proxy meanwhile where that is not there.
    fn dialled(&self, proxy: Proxy, case: &Case) -> Result<(SocketAddr, Option<Led<'_>>)> {
        let own = self.address(proxy, case.entry)?;
        if case.kind != Kind::Led || !Proxy::PEERS.contains(&proxy) {
            return Ok((own, None));
        }
        let service = self.address(Proxy::Underpass, case.entry)?;
        let led = Led::new(&self.place.client, service, own.port())?;
        Ok((service, Some(led)))
    }

    /// Does `work` while the agent runs, whose process it is told.
    fn with_mesh(&mut self, work: impl FnOnce(&mut Self, u32) -> Result<()>) -> Result<()> {
        let Some(mut mesh) = self.mesh.take() else {
            return Ok(());
        };
        let pid = mesh.start()?;
        self.mesh = Some(mesh);
        work(self, pid)?;
        self.mesh.as_mut().map_or(Ok(()), Mesh::stop)
    }

    /// Returns whether the agent carries requests of `entry`; notes it when it does not.
    fn carried(&mut self, entry: Entry) -> Result<bool> {
        if self.report.skips(Proxy::Underpass, entry) {
            return Ok(false);
        }
        let mesh = self.mesh.as_ref().context("no agent")?;
        Ok(match mesh.lacking(entry)? {
            None => true,
            Some(why) => {
                self.report.skip(Proxy::Underpass, Some(entry), why);
                false
            }
        })
    }

    /// Measures a group of cases over every proxy; the order alternates, so that neither side always finds the machine warmer.
    fn group(&mut self, group: &[&'static Case], round: u32) -> Result<()> {
        if round.is_multiple_of(2) {
            self.peers(group)?;
        }
        self.with_mesh(|bench, pid| {
            for case in group {
                if bench.carried(case.entry)? {
                    bench.saturated(Proxy::Underpass, case, &[pid])?;
                    bench.paced(Proxy::Underpass, case)?;
                }
            }
            Ok(())
        })?;
        if !round.is_multiple_of(2) {
            self.peers(group)?;
        }
        Ok(())
    }

    fn peers(&mut self, group: &[&'static Case]) -> Result<()> {
        for case in group {
            let mut measured = Vec::new();
            for index in 0..self.peers.len() {
                let (proxy, pid) = (self.peers[index].proxy, self.peers[index].running.pid());
                self.saturated(proxy, case, &family(pid)?)?;
                measured.push(proxy);
            }
            if self.direct
                && Proxy::Direct
                    .address(case.entry, self.place.server.v4())
                    .is_some()
            {
                self.saturated(Proxy::Direct, case, &[])?;
                measured.push(Proxy::Direct);
            }
            self.report.set_pace(case, SHARE_OF_SLOWEST);
            for proxy in measured {
                self.paced(proxy, case)?;
            }
        }
        Ok(())
    }

    fn saturated(&mut self, proxy: Proxy, case: &'static Case, processes: &[u32]) -> Result<()> {
        let (address, led) = self.dialled(proxy, case)?;
        let sample = load::saturate(&self.place.client, address, case, processes, self.window);
        drop(led);
        let sample = sample.with_context(|| format!("{} over {proxy}", case.name))?;
        self.report.add(case, proxy, sample);
        Ok(())
    }

    fn paced(&mut self, proxy: Proxy, case: &'static Case) -> Result<()> {
        let Some(rate) = self.report.pace(case) else {
            return Ok(());
        };
        let (address, led) = self.dialled(proxy, case)?;
        let outcome = load::paced(&self.place.client, address, case, rate, self.window);
        drop(led);
        let outcome = outcome.with_context(|| format!("{} over {proxy}, paced", case.name))?;
        self.report.add_times(case, proxy, &outcome);
        Ok(())
    }
}

/// Returns a process and its children: nginx has a worker.
fn family(pid: u32) -> Result<Vec<u32>> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text =
        std::fs::read_to_string(&path).with_context(|| format!("failed to read `{path}`"))?;
    let children = text.split_whitespace().map(str::parse);
    let children: Result<Vec<u32>, _> = children.collect();
    match children {
        Ok(children) => Ok([vec![pid], children].concat()),
        Err(_) => bail!("`{path}` holds `{text}`"),
    }
}
