//! `check`: what is wrong with a directory of manifests. The configuration's side finds it, this prints it.

#![forbid(unsafe_code)]

use serde::Serialize;

use crate::cli::{Global, Output};
use crate::config::check::CheckReport;
use crate::config::problem::Severity;
use crate::ctl::exit::{self, Exit};
use crate::ctl::human::clean;
use crate::ctl::screen::{Mood, Screen};
use crate::ctl::{print, print_json};

/// Schema of the JSON form.
pub const CHECK_SCHEMA: &str = "underpass.dev/check/v1";

/// Prints what a check found; [`Exit::Bad`] when there are errors, [`Exit::Usage`] when nothing could be read.
pub fn print_report(report: &CheckReport, global: &Global) -> Exit {
    #[derive(Serialize)]
    struct Envelope<'a> {
        schema: &'static str,
        #[serde(flatten)]
        report: &'a CheckReport,
    }
    let printed = match global.output {
        Output::Json => print_json(&Envelope {
            schema: CHECK_SCHEMA,
            report,
        }),
        Output::Text => print(&render(report, &Screen::detect(global.color))),
    };
    let exit = match report.exit_code() {
        0 => Exit::Fine,
        1 => Exit::Bad,
        _ => Exit::Usage,
    };
    exit::report(printed.map(|()| exit))
}

fn render(report: &CheckReport, screen: &Screen) -> String {
    let mut text = String::new();
    for problem in &report.problems {
        let mut mood = match problem.severity {
            Severity::Error => Mood::Bad,
            Severity::Warning | Severity::Note => Mood::Plain,
        };
        for line in problem.to_string().lines() {
            text += &screen.paint(mood, &clean(line));
            text.push('\n');
            mood = Mood::Plain;
        }
    }
    let (errors, mood) = match report.errors() {
        0 => ("no errors".to_owned(), Mood::Good),
        1 => ("1 error".to_owned(), Mood::Bad),
        more => (format!("{more} errors"), Mood::Bad),
    };
    text += &format!(
        "valid: {}, {}\n",
        report.counted(),
        screen.paint(mood, &errors)
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::check::check;
    use crate::model::workload::Acceleration;

    #[test]
    fn every_problem_is_printed_and_then_the_sum() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("a.yaml"), "kind: Pod\n").expect("written");
        let report = check(dir.path(), Acceleration::Auto);
        let text = render(&report, &Screen::plain());
        assert!(text.contains("a.yaml"), "{text}");
        assert!(text.contains("help:"), "{text}");
        assert!(
            text.ends_with("valid: 0 workloads, 1 error\n") || text.contains(" errors\n"),
            "{text}"
        );
    }
}
