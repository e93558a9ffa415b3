//! The figures as a table for a terminal.

use std::fmt::Write as _;

use super::proxy::Proxy;
use super::report::{Report, Summary};
use crate::table::number;

/// Returns the table, with what is needed to judge it.
pub(crate) fn render(report: &Report) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    render_into(report, &mut text).unwrap_or_default();
    text
}

fn render_into(report: &Report, text: &mut String) -> std::fmt::Result {
    let machine = &report.machine;
    writeln!(
        text,
        "Linux {}, {}, {} cores, {} GiB. {} rounds of {} ms each, interleaved;\n\
         client on core 0, proxy on core 1, backend on core 2 or the client's, all at the highest ordinary priority.\n",
        machine.kernel,
        machine.cpu,
        machine.cores,
        machine.memory_gib,
        report.rounds,
        report.window.as_millis()
    )?;
    writeln!(
        text,
        "{:<11} {:>10} {:>19} {:>9} {:>6} {:>9} {:>9} {:>9} | underpass to it: {:>6} {:>6} {:>6}",
        "",
        "requests/s",
        "min .. max",
        "CPU each",
        "cores",
        "p50",
        "p99",
        "p99.9",
        "rate",
        "CPU",
        "p99"
    )?;
    for row in &report.rows {
        let pace = row.pace.map_or_else(String::new, number);
        writeln!(text, "{}; times at {pace} requests/s", row.case.title)?;
        let agent = row.summary(Proxy::Underpass);
        for summary in row.summaries() {
            line(text, &summary, agent.as_ref())?;
        }
    }
    if !report.memory.is_empty() {
        writeln!(text, "memory of an idle connection")?;
    }
    for (proxy, connections, bytes) in &report.memory {
        let connections = u32::try_from(*connections).unwrap_or(u32::MAX);
        writeln!(
            text,
            "  {proxy:<9} {:>6.1} kB, of {} connections",
            bytes / 1000.0,
            number(connections.into())
        )?;
    }
    for (proxy, entry, why) in &report.skipped {
        let entry = entry.map_or("", super::proxy::Entry::name);
        writeln!(text, "not measured: {proxy} {entry}: {why}")?;
    }
    writeln!(
        text,
        "\nCPU each: user and system time of all of the proxy's processes, in µs. cores: how busy they were; below 0.9, client or\n\
         backend held them up, and the rate says little about the proxy. Times run from when a request was due.\n\
         nginx, haproxy, Envoy and pingora are dialled on the loopback of the client's pod, where each has one thread, and a memory\n\
         cgroup of its own as containers have; the agent is dialled by a service's address. Memory is what the process itself holds, without the kernel's socket buffers."
    )
}

fn line(text: &mut String, it: &Summary, agent: Option<&Summary>) -> std::fmt::Result {
    let cpu = |cpu: f64| format!("{cpu:.1} µs");
    let micros = |index: usize| {
        let time = it.times_us.map(|times| times[index]);
        time.map_or_else(String::new, |us| format!("{us:.0} µs"))
    };
    write!(
        text,
        "  {:<9} {:>10} {:>19} {:>9} {:>6.2} {:>9} {:>9} {:>9}",
        it.proxy,
        number(it.rate),
        format!("{} .. {}", number(it.rate_min), number(it.rate_max)),
        it.cpu_us.map_or_else(String::new, cpu),
        it.busy,
        micros(0),
        micros(1),
        micros(2),
    )?;
    if let (Some(agent), true) = (agent, Proxy::PEERS.contains(&it.proxy)) {
        let ratio = |own: Option<f64>, other: Option<f64>| {
            let both = own.zip(other);
            both.map_or_else(String::new, |(own, other)| format!("x{:.2}", own / other))
        };
        let p99 = |of: &Summary| of.times_us.map(|times| times[1]);
        write!(
            text,
            " | {:>22} {:>6} {:>6}",
            ratio(Some(agent.rate), Some(it.rate)),
            ratio(agent.cpu_us, it.cpu_us),
            ratio(p99(agent), p99(it)),
        )?;
    }
    writeln!(text)
}
