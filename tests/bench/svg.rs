//! The figures as a picture: a bar for each variant, as a multiple of TCP over veth.

use std::fmt::Write as _;

use crate::place::Variant;
use crate::report::{Report, Row, Summary};
use crate::table::number;

/// All lengths are in the picture's own units.
const WIDTH: f64 = 960.0;
const LEFT: f64 = 90.0;
const PANEL: f64 = 290.0;
/// Room for the words behind the longest bar of the first panel.
const GAP: f64 = 140.0;
const BAR: f64 = 15.0;
const TOP: f64 = 84.0;
/// Height of a case beside its bars.
const CASE: f64 = 34.0;

/// Light and dark backgrounds both keep these apart.
const STYLE: &str = "\
text{font:12px system-ui,sans-serif}.h{font-size:18px;font-weight:600}.c{font-weight:600}.s{font-size:11px}
.redirect{fill:#2da44e}.veth{fill:#8c959f}.loopback{fill:#54aeff}.unix{fill:#bf8700}.axis{stroke:#8c959f;stroke-dasharray:3 3}
tspan.s{font-weight:400}text,tspan.s{fill:#57606a}.h,.c{fill:#1f2328}@media(prefers-color-scheme:dark){text,tspan.s{fill:#9198a1}.h,.c{fill:#f0f6fc}}";

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
    let bars: u32 = rows
        .iter()
        .map(|(_, all)| u32::try_from(all.len()).unwrap_or(0))
        .sum();
    let cases = u32::try_from(rows.len()).unwrap_or(0);
    let height = TOP + f64::from(bars) * BAR + f64::from(cases) * CASE + 40.0;
    writeln!(
        text,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">\n<style>{STYLE}</style>\n\
         <text class=\"h\" x=\"16\" y=\"30\">Two pods on one node</text>\n\
         <text class=\"s\" x=\"16\" y=\"48\">Medians of {} round(s), as a multiple of TCP over a veth pair (dashed line). \
         Linux {}, {}, {} cores.</text>",
        report.rounds, report.machine.kernel, report.machine.cpu, report.machine.cores
    )?;
    let second = LEFT + PANEL + GAP;
    writeln!(
        text,
        "<text class=\"c\" x=\"{LEFT}\" y=\"72\">Rate: longer is better</text>\n\
         <text class=\"c\" x=\"{second}\" y=\"72\">CPU time per unit: shorter is better</text>"
    )?;
    let scales = (scale(&rows, |it| it.median), scale(&rows, |it| it.cpu_us));
    for (left, scale) in [(LEFT, scales.0), (second, scales.1)] {
        let x = left + scale;
        let bottom = height - 36.0;
        writeln!(
            text,
            "<line class=\"axis\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{bottom:.1}\"/>"
        )?;
    }
    let mut y = TOP;
    for (row, summaries) in &rows {
        y = case(
            text,
            y,
            row,
            summaries,
            (LEFT, scales.0),
            (second, scales.1),
        )?;
    }
    let note = "redirect: pods in the mesh. veth, loopback, unix: no mesh on the machine; a unix socket is not a network.";
    writeln!(
        text,
        "<text class=\"s\" x=\"16\" y=\"{:.1}\">{note}</text>\n</svg>",
        height - 12.0
    )
}

/// Returns the length of "as much as veth", such that the longest bar fits.
fn scale(rows: &[(&Row, Vec<Summary>)], value: fn(&Summary) -> f64) -> f64 {
    let ratios = rows.iter().flat_map(|(row, all)| {
        let veth = row.summary(Variant::Veth).map(|veth| value(&veth));
        all.iter()
            .filter_map(move |summary| Some(value(summary) / veth?))
    });
    PANEL / ratios.fold(1.0, f64::max)
}

fn case(
    text: &mut String,
    y: f64,
    row: &Row,
    summaries: &[Summary],
    rate: (f64, f64),
    cpu: (f64, f64),
) -> Result<f64, std::fmt::Error> {
    let (_, unit) = row.case.load.metric();
    writeln!(
        text,
        "<text class=\"c\" x=\"16\" y=\"{:.1}\">{}<tspan class=\"s\" dx=\"9\">{unit}; CPU µs per {}</tspan></text>",
        y + 20.0,
        row.case.title,
        row.case.load.per()
    )?;
    let mut y = y + CASE - 6.0;
    let Some(veth) = row.summary(Variant::Veth) else {
        return Ok(y);
    };
    for it in summaries {
        let name = it.variant;
        let base = y + BAR - 4.0;
        writeln!(
            text,
            "<text class=\"s\" x=\"{:.1}\" y=\"{base:.1}\" text-anchor=\"end\">{name}</text>",
            LEFT - 8.0
        )?;
        let panels = [
            (rate, it.median / veth.median, number(it.median)),
            (cpu, it.cpu_us / veth.cpu_us, format!("{:.1} µs", it.cpu_us)),
        ];
        for ((left, scale), ratio, words) in panels {
            let width = (ratio * scale).max(1.0);
            writeln!(
                text,
                "<rect class=\"{name}\" x=\"{left}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{:.1}\" rx=\"2\"/>\
                 <text class=\"s\" x=\"{:.1}\" y=\"{base:.1}\">×{ratio:.2} · {words}</text>",
                BAR - 3.0,
                left + width + 5.0
            )?;
        }
        y += BAR;
    }
    Ok(y + 6.0)
}
