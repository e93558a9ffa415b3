//! The figures as a picture: for each case and proxy, a bar for the rate, for the CPU time and for the 99th percentile.

use std::fmt::Write as _;

use super::report::{Report, Row, Summary};
use crate::table::number;

/// All lengths are in the picture's own units.
const WIDTH: f64 = 960.0;
const LEFT: f64 = 90.0;
/// The longest bar of a panel, and the distance of panels: the difference is room for the words behind it.
const PANEL: f64 = 200.0;
const DISTANCE: f64 = 290.0;
const BAR: f64 = 15.0;
const TOP: f64 = 84.0;
/// Height of a case beside its bars.
const CASE: f64 = 34.0;

/// Light and dark backgrounds both keep these apart.
const STYLE: &str = "\
text{font:12px system-ui,sans-serif}.h{font-size:18px;font-weight:600}.c{font-weight:600}.s{font-size:11px}
rect{fill:#8c959f}.underpass{fill:#2da44e}.direct{fill:#d0d7de}
text{fill:#57606a}.h,.c{fill:#1f2328}@media(prefers-color-scheme:dark){text{fill:#9198a1}.h,.c{fill:#f0f6fc}.direct{fill:#3d444d}}";

/// A panel: its head, its value, and how that is written.
struct Panel {
    head: &'static str,
    value: fn(&Summary) -> Option<f64>,
    words: fn(f64) -> String,
}

const PANELS: [Panel; 3] = [
    Panel {
        head: "Requests/s: longer is better",
        value: |it| Some(it.rate),
        words: number,
    },
    Panel {
        head: "CPU per request: shorter is better",
        value: |it| it.cpu_us,
        words: |us| format!("{us:.1} µs"),
    },
    Panel {
        head: "p99 at a fixed rate: shorter is better",
        value: |it| it.times_us.map(|[_, p99, _]| p99),
        words: |us| format!("{us:.0} µs"),
    },
];

/// Returns the picture.
pub(crate) fn render(report: &Report) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    render_into(report, &mut text).unwrap_or_default();
    text
}

fn render_into(report: &Report, text: &mut String) -> std::fmt::Result {
    let rows: Vec<_> = report
        .rows
        .iter()
        .map(|row| (row, row.summaries()))
        .collect();
    let bars: usize = rows.iter().map(|(_, all)| all.len()).sum();
    let count = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    let height = TOP + count(bars) * BAR + count(rows.len()) * CASE + 40.0;
    writeln!(
        text,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">\n<style>{STYLE}</style>\n\
         <text class=\"h\" x=\"16\" y=\"30\">HTTP between two pods on one node</text>\n\
         <text class=\"s\" x=\"16\" y=\"48\">Medians of {} round(s), one core for each proxy. Linux {}, {}, {} cores.</text>",
        report.rounds, report.machine.kernel, report.machine.cpu, report.machine.cores
    )?;
    for (panel, left) in PANELS.iter().zip(lefts()) {
        writeln!(
            text,
            "<text class=\"c\" x=\"{left}\" y=\"72\">{}</text>",
            panel.head
        )?;
    }
    let mut y = TOP;
    for (row, summaries) in &rows {
        y = case(text, y, row, summaries)?;
    }
    writeln!(
        text,
        "<text class=\"s\" x=\"16\" y=\"{:.1}\">direct: without a proxy, what client and backend can do. Bars are to the scale of their case.</text>\n</svg>",
        height - 12.0
    )
}

fn lefts() -> impl Iterator<Item = f64> {
    (0u32..).map(|panel| LEFT + f64::from(panel) * DISTANCE)
}

fn case(
    text: &mut String,
    y: f64,
    row: &Row,
    summaries: &[Summary],
) -> Result<f64, std::fmt::Error> {
    let (top, title) = (y + 20.0, row.case.title);
    writeln!(
        text,
        "<text class=\"c\" x=\"16\" y=\"{top:.1}\">{title}</text>"
    )?;
    let mut y = y + CASE - 6.0;
    for it in summaries {
        let (base, name) = (y + BAR - 4.0, it.proxy);
        let end = LEFT - 8.0;
        writeln!(
            text,
            "<text class=\"s\" x=\"{end:.1}\" y=\"{base:.1}\" text-anchor=\"end\">{name}</text>"
        )?;
        for (panel, left) in PANELS.iter().zip(lefts()) {
            let longest = summaries.iter().filter_map(panel.value).fold(0.0, f64::max);
            let Some(value) = (panel.value)(it).filter(|_| longest > 0.0) else {
                continue;
            };
            let width = (PANEL * value / longest).max(1.0);
            writeln!(
                text,
                "<rect class=\"{name}\" x=\"{left}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{:.1}\" rx=\"2\"/>\
                 <text class=\"s\" x=\"{:.1}\" y=\"{base:.1}\">{}</text>",
                BAR - 3.0,
                left + width + 5.0,
                (panel.words)(value)
            )?;
        }
        y += BAR;
    }
    Ok(y + 6.0)
}
