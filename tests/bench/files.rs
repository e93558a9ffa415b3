//! The files that a benchmark's figures are kept in.

use std::path::Path;

use anyhow::{Context, Result};

use crate::report::Report;
use crate::svg;

/// Writes the figures as JSON and as a picture, where asked for.
pub(crate) fn write(report: &Report, json: Option<&Path>, picture: Option<&Path>) -> Result<()> {
    let write = |path: &Path, text: String| {
        std::fs::write(path, text).with_context(|| format!("failed to write `{}`", path.display()))
    };
    if let Some(path) = json {
        let text = serde_json::to_string_pretty(&report.json()).context("failed to write JSON")?;
        write(path, text + "\n")?;
    }
    if let Some(path) = picture {
        write(path, svg::render(report))?;
    }
    Ok(())
}
