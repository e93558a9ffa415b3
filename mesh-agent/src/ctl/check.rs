//! `check`: what is wrong with a directory of manifests. The configuration's side finds it, this prints it.

#![forbid(unsafe_code)]

use serde::Serialize;

use crate::cli::{Global, Output};
use crate::ctl::exit::{self, Exit};
use crate::ctl::human::clean;
use crate::ctl::screen::{Mood, Screen};
use crate::ctl::{print, print_json};

/// Schema of [`CheckReport`].
pub const CHECK_SCHEMA: &str = "underpass.dev/check/v1";

/// What a check of manifests found.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct CheckReport {
    /// Files that were read.
    pub files: usize,
    /// Valid workloads.
    pub workloads: usize,
    /// Errors, one whole message each: file, path, problem, help; lines after the first are indented.
    pub errors: Vec<String>,
}

/// Prints what a check found; [`Exit::Bad`] when there are errors.
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
    let exit = if report.errors.is_empty() {
        Exit::Fine
    } else {
        Exit::Bad
    };
    exit::report(printed.map(|()| exit))
}

fn render(report: &CheckReport, screen: &Screen) -> String {
    let mut text = String::new();
    for error in &report.errors {
        let mut mood = Mood::Bad;
        for line in error.lines() {
            text += &screen.paint(mood, &clean(line));
            text.push('\n');
            mood = Mood::Plain;
        }
    }
    let CheckReport {
        files,
        workloads,
        errors,
    } = report;
    let (errors, mood) = match errors.len() {
        0 => ("no errors".to_owned(), Mood::Good),
        1 => ("1 error".to_owned(), Mood::Bad),
        more => (format!("{more} errors"), Mood::Bad),
    };
    let errors = screen.paint(mood, &errors);
    text += &format!("files read: {files}, valid workloads: {workloads}, {errors}\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_is_printed_and_then_the_sum() {
        let report = CheckReport {
            files: 2,
            workloads: 3,
            errors: vec!["mesh.yaml: a: no `b`\n  help: add it".into(), "x".into()],
        };
        let text = "mesh.yaml: a: no `b`\n  help: add it\nx\nfiles read: 2, valid workloads: 3, 2 errors\n";
        assert_eq!(render(&report, &Screen::plain()), text);
        let fine = render(&CheckReport::default(), &Screen::plain());
        assert_eq!(fine, "files read: 0, valid workloads: 0, no errors\n");
    }
}
