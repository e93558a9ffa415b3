//! What became of each case.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Value, json};

/// What became of each case, in order.
#[derive(Debug, Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    name: String,
    took: Duration,
    /// What is to be said of it; or why it failed.
    result: Result<String, String>,
}

impl Report {
    /// Runs a case, and says at once what became of it.
    pub(crate) fn case(&mut self, name: &str, run: impl FnOnce() -> Result<String>) {
        let begun = Instant::now();
        let result = run().map_err(|error| format!("{error:#}"));
        let row = Row {
            name: name.to_owned(),
            took: begun.elapsed(),
            result,
        };
        print!("{}", row.line());
        self.rows.push(row);
    }

    /// Returns whether there was one, and none failed.
    pub(crate) fn is_good(&self) -> bool {
        !self.rows.is_empty() && self.rows.iter().all(|row| row.result.is_ok())
    }

    /// Returns the last line, with those that failed once more.
    pub(crate) fn summary(&self) -> String {
        let failed: Vec<&Row> = self.rows.iter().filter(|row| row.result.is_err()).collect();
        let mut text = format!(
            "{} passed, {} failed\n",
            self.rows.len() - failed.len(),
            failed.len()
        );
        for row in failed {
            text += &row.line();
        }
        text
    }

    /// Returns everything in the form that other tools read.
    pub(crate) fn json(&self, version: &str) -> Value {
        let rows = self.rows.iter().map(|row| {
            let seconds = (row.took.as_secs_f64() * 10.0).round() / 10.0;
            let mut value =
                json!({"case": row.name, "seconds": seconds, "passed": row.result.is_ok()});
            match &row.result {
                Ok(said) if said.is_empty() => {}
                Ok(said) => value["said"] = said.as_str().into(),
                Err(why) => value["why"] = why.as_str().into(),
            }
            value
        });
        json!({"kubernetes": version, "cases": rows.collect::<Vec<_>>()})
    }
}

impl Row {
    fn line(&self) -> String {
        let mut line = String::new();
        let seconds = self.took.as_secs_f64();
        let written = match &self.result {
            Ok(said) if said.is_empty() => writeln!(line, "ok    {} ({seconds:.1} s)", self.name),
            Ok(said) => writeln!(line, "ok    {} ({seconds:.1} s): {said}", self.name),
            Err(why) => writeln!(line, "FAIL  {} ({seconds:.1} s): {why}", self.name),
        };
        written.unwrap_or_else(|_| unreachable!("writing to a String cannot fail"));
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_failed_is_told_and_nothing_is_no_success() {
        let mut report = Report::default();
        assert!(!report.is_good());
        report.case("one", || Ok("3 checks".to_owned()));
        assert!(report.is_good());
        report.case("two", || anyhow::bail!("why"));
        assert!(!report.is_good());
        assert!(
            report
                .summary()
                .starts_with("1 passed, 1 failed\nFAIL  two")
        );
        assert_eq!(report.json("v1.36.2")["cases"][1]["why"], "why");
    }
}
