//! How it looks: with colour and blocks on a terminal, plain elsewhere.

use std::io::IsTerminal;

use crate::measure::{Figures, Side};

/// Columns of the longest bar.
const BAR: u32 = 44;

/// Where it is shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paper {
    fancy: bool,
}

/// One figure: its name, its unit, how to take it, and whether more is better.
type Line = (&'static str, &'static str, fn(&Figures) -> f64, bool);

const LINES: [Line; 4] = [
    ("requests/s", "", |it| it.rate, true),
    ("latency p50", " µs", |it| it.p50_us, false),
    ("latency p99", " µs", |it| it.p99_us, false),
    ("CPU per request", " µs", |it| it.cpu_us, false),
];

impl Paper {
    /// Returns what standard output can show.
    pub(crate) fn of_stdout() -> Self {
        let fancy = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { fancy }
    }

    fn paint(self, code: &str, text: &str) -> String {
        match self.fancy {
            true => format!("\x1b[{code}m{text}\x1b[0m"),
            false => text.to_owned(),
        }
    }

    /// Shows what is being done, in two lines.
    pub(crate) fn step(self, first: &str, second: &str) {
        let mark = if self.fancy { "▶" } else { ">" };
        println!(
            "\n{} {}\n  {}",
            self.paint("1;32", mark),
            self.paint("1", first),
            self.paint("2", second)
        );
    }

    /// Shows something that must not be overlooked.
    pub(crate) fn note(self, text: &str) {
        println!("  {}", self.paint("33", text));
    }

    /// Shows somebody else's words.
    pub(crate) fn text(self, text: &str) {
        println!();
        for line in text.trim_end().lines() {
            println!("    {line}");
        }
    }

    /// Shows the figures of one side or both.
    pub(crate) fn table(self, without: &Side, with: Option<&Side>) {
        println!(
            "\n  {:<28}{:>14}{:>14}{:>10}",
            "", "without mesh", "with mesh", "change"
        );
        let programs = [
            ("nginx", without.nginx, with.map(|it| it.nginx)),
            ("redis", without.redis, with.map(|it| it.redis)),
        ];
        for (program, before, after) in programs {
            for (name, unit, value, more_is_better) in LINES {
                let after = after.map(|after| value(&after));
                let shown = |value: f64| format!("{}{unit}", number(value));
                let change = after.map(|after| 100.0 * (after / value(&before) - 1.0));
                let words = change.map_or_else(String::new, |change| format!("{change:+.0} %"));
                // A few per cent either way are noise on most machines.
                let colour = match change {
                    Some(change) if change.abs() < 3.0 => "0",
                    Some(change) if (change > 0.0) == more_is_better => "32",
                    Some(_) => "31",
                    None => "0",
                };
                let label = format!("{program}  {name}");
                let after = after.map_or_else(String::new, shown);
                let words = self.paint(colour, &format!("{words:>10}"));
                println!(
                    "  {label:<28}{:>14}{after:>14}{words}",
                    shown(value(&before))
                );
            }
        }
    }

    /// Shows requests a second and CPU time of both sides as bars.
    pub(crate) fn bars(self, without: &Side, with: &Side) {
        for (name, unit, value, more_is_better) in [LINES[0], LINES[3]] {
            let hint = if more_is_better {
                "longer is better"
            } else {
                "shorter is better"
            };
            println!("\n  {}", self.paint("1", &format!("{name}, {hint}")));
            for (program, before, after) in [
                ("nginx", without.nginx, with.nginx),
                ("redis", without.redis, with.redis),
            ] {
                let longest = value(&before).max(value(&after));
                for (side, figures, colour) in [("without", before, "90"), ("with", after, "32")] {
                    let value = value(&figures);
                    let bar = self.paint(colour, &self.bar(value / longest));
                    println!("  {program} {side:<8}{bar} {}{unit}", number(value));
                }
            }
        }
    }

    /// Returns a bar of this share of the longest, to an eighth of a column where blocks can be shown.
    fn bar(self, share: f64) -> String {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 0 and 8 * BAR"
        )]
        let eighths = (share.clamp(0.0, 1.0) * f64::from(BAR) * 8.0).round() as usize;
        if !self.fancy {
            return "#".repeat(eighths.div_ceil(8));
        }
        let part = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"][eighths % 8];
        format!("{}{part}", "█".repeat(eighths / 8))
    }
}

/// Returns a number with as many digits as mean something.
fn number(value: f64) -> String {
    if value < 100.0 {
        return format!("{value:.1}");
    }
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
