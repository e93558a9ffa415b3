//! Runs clients, and reads what they found.

use std::ffi::OsStr;
use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::{Pod, Running, cpu};

use super::case::{Case, Kind, MESSAGE};
use crate::worker::http::{Load, Mode, Outcome, Version};
use crate::worker::{CLIENT_CORE, RESULT};

/// How long a client may take beyond its window before it counts as hung.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a client writes once its idle connections stand.
pub(crate) const HELD: &str = "held";

/// Returns the core that stands for `wanted` on this machine, which may have fewer.
fn core(wanted: usize) -> usize {
    wanted % std::thread::available_parallelism().map_or(1, usize::from)
}

/// Returns the words before a command's own that keep it to a core and let the scheduler prefer it.
///
/// Where the scheduler groups tasks by session, a priority counts within its session only: so it gets one of its own, whose
/// priority is raised as well.
pub(crate) fn preferring(wanted: usize) -> [String; 5] {
    const SCRIPT: &str = "[ ! -w /proc/self/autogroup ] || echo -20 >/proc/self/autogroup; \
                          exec taskset -c \"$0\" nice -n -20 \"$@\"";
    let core = core(wanted).to_string();
    ["setsid", "sh", "-c", SCRIPT, &core].map(str::to_owned)
}

/// Returns a command that will run in `pod` on one core, preferred by the scheduler.
pub(crate) fn pinned(pod: &Pod, wanted: usize, program: &OsStr) -> Command {
    let [first, rest @ ..] = preferring(wanted);
    let mut command = pod.command(first);
    command.args(rest).arg(program);
    command
}

/// What a saturated proxy did.
#[derive(Clone, Debug)]
pub(crate) struct Saturated {
    /// Requests a second.
    pub(crate) rate: f64,
    /// CPU time of the proxy for each request.
    pub(crate) cpu_us: f64,
    /// How much of one core the proxy was busy: below 0.9, client or backend were what held it up.
    pub(crate) busy: f64,
}

/// Runs `case` as fast as it goes.
pub(crate) fn saturate(
    pod: &Pod,
    address: SocketAddr,
    case: &Case,
    processes: &[u32],
    window: Duration,
) -> Result<Saturated> {
    match case.kind {
        Kind::KeepAlive | Kind::Fresh | Kind::Led => {
            let outcome = run(pod, &load(address, case, Mode::Closed, processes, window))?;
            Ok(Saturated {
                rate: outcome.requests / outcome.seconds,
                cpu_us: outcome.cpu_seconds * 1e6 / outcome.requests,
                busy: outcome.cpu_seconds / outcome.seconds,
            })
        }
        Kind::Streams(streams) | Kind::Grpc(streams) => {
            h2load(pod, address, case, streams, processes, window)
        }
    }
}

/// Runs `case` at `rate` requests a second, and returns how long requests took.
pub(crate) fn paced(
    pod: &Pod,
    address: SocketAddr,
    case: &Case,
    rate: f64,
    window: Duration,
) -> Result<Outcome> {
    let per_second = rate;
    run(
        pod,
        &load(address, case, Mode::Rate { per_second }, &[], window),
    )
}

/// Sends one request and returns the response's fields, a line each.
pub(crate) fn ask(pod: &Pod, address: SocketAddr, path: &str, streams: bool) -> Result<String> {
    let load = Load {
        address,
        path: path.to_owned(),
        body: None,
        version: if streams { Version::Two } else { Version::One },
        fresh: false,
        connections: 1,
        mode: Mode::Once,
        window_ms: 0,
        processes: Vec::new(),
    };
    Ok(run(pod, &load)?.fields)
}

/// Opens idle connections, each of which has had one response, and returns the client that holds them.
pub(crate) fn hold(pod: &Pod, address: SocketAddr, connections: usize) -> Result<Running> {
    let load = Load {
        address,
        path: "/1kb".to_owned(),
        body: None,
        version: Version::One,
        fresh: false,
        connections,
        mode: Mode::Hold,
        window_ms: 0,
        processes: Vec::new(),
    };
    let mut client = start(pod, &load)?;
    client.line(HELD, PATIENCE)?;
    Ok(client)
}

fn load(address: SocketAddr, case: &Case, mode: Mode, processes: &[u32], window: Duration) -> Load {
    Load {
        address,
        path: case.path().to_owned(),
        body: Some(case.body),
        version: match case.kind {
            Kind::KeepAlive | Kind::Fresh | Kind::Led => Version::One,
            Kind::Streams(_) => Version::Two,
            Kind::Grpc(_) => Version::Grpc,
        },
        fresh: matches!(case.kind, Kind::Fresh | Kind::Led),
        connections: case.connections,
        mode,
        window_ms: u64::try_from(window.as_millis()).unwrap_or(u64::MAX),
        processes: processes.to_vec(),
    }
}

/// A name that no other client of this run has.
fn unique(what: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{what}-{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

fn start(pod: &Pod, load: &Load) -> Result<Running> {
    let own = std::env::current_exe().context("failed to find the running program")?;
    let text = serde_json::to_string(load).context("failed to write a load")?;
    let mut command = pinned(pod, CLIENT_CORE, own.as_os_str());
    command.args(["worker", "http-drive", "--load", &text]);
    pod.start(&unique("client"), &mut command)
}

fn run(pod: &Pod, load: &Load) -> Result<Outcome> {
    let mut client = start(pod, load)?;
    let text = client.success(Duration::from_millis(load.window_ms) + PATIENCE)?;
    let line = text.lines().find_map(|line| line.strip_prefix(RESULT));
    serde_json::from_str(line.context("the client gave no result")?)
        .with_context(|| format!("the client wrote:\n{text}"))
}

/// Returns the CPU time of all `processes`.
pub(crate) fn cpu_time(processes: &[u32]) -> Result<Duration> {
    processes.iter().map(|pid| cpu::of_process(*pid)).sum()
}

fn h2load(
    pod: &Pod,
    address: SocketAddr,
    case: &Case,
    streams: usize,
    processes: &[u32],
    window: Duration,
) -> Result<Saturated> {
    let mut command = pinned(pod, CLIENT_CORE, "h2load".as_ref());
    command.args(["-t", "1", "-c", &case.connections.to_string()]);
    command.args(["-m", &streams.to_string()]);
    // Whole seconds, of which a part may be lost to connecting.
    command.args(["-D", &window.as_secs().max(1).to_string()]);
    if matches!(case.kind, Kind::Grpc(_)) {
        let path = pod.node().files().join("message");
        fs::write(&path, crate::worker::http::message(MESSAGE))
            .context("failed to write a message")?;
        command.arg("-d").arg(path);
        command.args(["-H", "content-type: application/grpc", "-H", "te: trailers"]);
    }
    command.arg(format!("http://{address}{}", case.path()));
    let before = (cpu_time(processes)?, Instant::now());
    let mut client = pod.start(&unique("h2load"), &mut command)?;
    let text = client.success(window + PATIENCE)?;
    let elapsed = before.1.elapsed().as_secs_f64();
    let used = cpu_time(processes)?.saturating_sub(before.0).as_secs_f64();
    let told = parse_h2load(&text).with_context(|| format!("h2load wrote:\n{text}"))?;
    Ok(Saturated {
        rate: told.requests / told.seconds,
        cpu_us: used * 1e6 / told.requests,
        // Its start and its end count as idle: a lower bound.
        busy: used / elapsed,
    })
}

struct Told {
    requests: f64,
    seconds: f64,
}

/// Reads h2load's summary.
fn parse_h2load(text: &str) -> Result<Told> {
    let line = |name: &str| {
        let found = text.lines().find_map(|line| line.strip_prefix(name));
        found.with_context(|| format!("no `{name}`"))
    };
    let counts = line("requests: ")?;
    let count = |word: &str| -> Result<f64> {
        let mut parts = counts.split(", ").map(str::trim);
        let part = parts.find_map(|part| part.strip_suffix(word));
        let number = part.and_then(|number| number.trim().parse().ok());
        number.with_context(|| format!("no `{word}` in `{counts}`"))
    };
    let (done, failed, errored) = (count("done")?, count("failed")?, count("errored")?);
    ensure!(failed + errored == 0.0, "requests failed: {counts}");
    let good = line("status codes: ")?
        .split(' ')
        .next()
        .unwrap_or_default();
    let good: f64 = good.parse().context("no number of good responses")?;
    // Those that were on their way at the end have a status and are not done.
    ensure!(
        good >= done && done > 0.0,
        "of {done} responses, {good} were good"
    );
    let finished = line("finished in ")?.split(',').next().unwrap_or_default();
    Ok(Told {
        requests: done,
        seconds: seconds(finished)?,
    })
}

/// Reads a time as h2load writes it: `1.00s`, `812.34ms`, `9us`, `1m0.00s` is not used for runs as short as these.
fn seconds(text: &str) -> Result<f64> {
    let units = [("ms", 1e-3), ("us", 1e-6), ("s", 1.0)];
    let mut found = units
        .iter()
        .filter_map(|(unit, factor)| Some(text.strip_suffix(unit)?.parse::<f64>().ok()? * factor));
    found.next().with_context(|| format!("`{text}` is no time"))
}

#[cfg(test)]
mod tests {
    use super::{parse_h2load, seconds};

    const SUMMARY: &str = "\
finished in 1.00s, 32019.00 req/s, 34.67MB/s
requests: 32019 total, 32051 started, 32019 done, 32019 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 32021 2xx, 0 3xx, 0 4xx, 0 5xx
";

    #[test]
    fn the_summary_is_read() {
        let told = parse_h2load(SUMMARY).unwrap();
        assert!((told.requests - 32019.0).abs() < 1e-9 && (told.seconds - 1.0).abs() < 1e-9);
    }

    #[test]
    fn bad_responses_are_no_result() {
        for (good, bad) in [
            ("0 failed", "3 failed"),
            ("0 errored", "1 errored"),
            ("32021 2xx", "9 2xx"),
        ] {
            assert!(parse_h2load(&SUMMARY.replace(good, bad)).is_err());
        }
        assert!(parse_h2load("").is_err());
    }

    #[test]
    fn times_have_units() {
        assert!((seconds("812.5ms").unwrap() - 0.8125).abs() < 1e-9);
        assert!((seconds("2.50s").unwrap() - 2.5).abs() < 1e-9);
        assert!(seconds("soon").is_err());
    }
}
