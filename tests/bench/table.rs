//! The figures as a table for a terminal.

use std::fmt::Write as _;

use crate::place::Variant;
use crate::report::{Report, Summary};

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
         client on core 0, server on core 1, both at the highest ordinary priority.\n",
        machine.kernel,
        machine.cpu,
        machine.cores,
        machine.memory_gib,
        report.rounds,
        report.window.as_millis()
    )?;
    writeln!(
        text,
        "{:<10} {:>12} {:>21} {:>8} {:>9} {:>8} {:>8} {:>8} {:>8} {:>10} {:>10}",
        "",
        "median",
        "min .. max",
        "to veth",
        "CPU each",
        "to veth",
        "others",
        "p50",
        "p99",
        "in flight",
        "redirected"
    )?;
    for row in &report.rows {
        let (_, unit) = row.case.load.metric();
        writeln!(
            text,
            "{}: {unit}, CPU µs per {}",
            row.case.title,
            row.case.load.per()
        )?;
        let veth = row.summary(Variant::Veth);
        for summary in row.summaries() {
            line(text, &summary, veth.as_ref())?;
        }
    }
    for figure in &report.figures {
        writeln!(
            text,
            "{}: {:.2} {}",
            figure.title, figure.value, figure.unit
        )?;
    }
    writeln!(
        text,
        "\nCPU each: user and system time of both processes. others: cores kept busy by anything else.\n\
         in flight: most bytes sent and not yet read, to within 0.13 MB. redirected: share of the bytes, as the agent counts.\n\
         veth is two namespaces joined by one veth pair: no bridge, no rules, no conntrack. unix is not a network."
    )
}

fn line(text: &mut String, summary: &Summary, veth: Option<&Summary>) -> std::fmt::Result {
    let ratio = |value: fn(&Summary) -> f64| {
        let ratio = veth.map(|veth| value(summary) / value(veth));
        ratio.map_or_else(String::new, |ratio| format!("x{ratio:.2}"))
    };
    let micros = |value: Option<f64>| value.map_or_else(String::new, |us| format!("{us:.1} µs"));
    let flight = summary
        .in_flight_bytes
        .and_then(|bytes| u32::try_from(bytes / 1000).ok());
    writeln!(
        text,
        "  {:<8} {:>12} {:>21} {:>8} {:>9.2} {:>8} {:>8.2} {:>8} {:>8} {:>10} {:>10}",
        summary.variant,
        number(summary.median),
        format!("{} .. {}", number(summary.min), number(summary.max)),
        ratio(|summary| summary.median),
        summary.cpu_us,
        ratio(|summary| summary.cpu_us),
        summary.other_cores,
        micros(summary.p50_us),
        micros(summary.p99_us),
        flight.map_or_else(String::new, |kb| format!(
            "{:.2} MB",
            f64::from(kb) / 1000.0
        )),
        summary
            .redirected_share
            .map_or_else(String::new, |share| format!("{:.1} %", share * 100.0)),
    )
}

/// Returns a whole number with its thousands apart.
pub(crate) fn number(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.char_indices() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn thousands_stand_apart() {
        assert_eq!(number(0.4), "0");
        assert_eq!(number(999.0), "999");
        assert_eq!(number(1000.0), "1,000");
        assert_eq!(number(1_234_567.0), "1,234,567");
    }
}
