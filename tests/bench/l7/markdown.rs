//! The figures as the table of the README.

use std::fmt::Write as _;

use super::proxy::Proxy;
use super::report::{Report, Summary};
use crate::table::number;

/// Returns the table, with the machine above it.
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
        "Requests/s, CPU time of the proxy for each, and 99th percentile of each tenth of a second at a fixed rate; medians over {} rounds. \
         {} cores of {}, Linux {}.\n",
        report.rounds, machine.cores, machine.cpu, machine.kernel
    )?;
    let columns = [&[Proxy::Underpass][..], &Proxy::PEERS].concat();
    let names: Vec<_> = columns.iter().map(|proxy| proxy.name()).collect();
    writeln!(text, "| Load | {} |", names.join(" | "))?;
    writeln!(text, "| --- |{}", " ---: |".repeat(columns.len()))?;
    for row in &report.rows {
        let cells = columns.iter().map(|proxy| row.summary(*proxy).map(cell));
        let cells: Vec<_> = cells.map(Option::unwrap_or_default).collect();
        writeln!(text, "| {} | {} |", row.case.title, cells.join(" | "))?;
    }
    let memory = columns.iter().map(|proxy| {
        let found = report.memory.iter().find(|(of, ..)| of == proxy);
        found.map_or_else(String::new, |(.., bytes)| {
            format!("{:.1} kB", bytes / 1000.0)
        })
    });
    let memory: Vec<_> = memory.collect();
    writeln!(
        text,
        "| memory of an idle connection | {} |",
        memory.join(" | ")
    )
}

fn cell(it: Summary) -> String {
    let mut parts = vec![format!("{} /s", number(it.rate))];
    parts.extend(it.cpu_us.map(|us| format!("{us:.1} µs")));
    parts.extend(it.times_us.map(|[_, p99, _]| format!("p99 {p99:.0} µs")));
    parts.join(", ")
}
