//! Requests that go on while something else happens.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::kubectl::Call;

/// Requests that are being made.
#[derive(Debug)]
pub(crate) struct Steady(Call);

impl Steady {
    pub(crate) fn new(call: Call) -> Self {
        Self(call)
    }

    /// Ends them, and returns how many were answered by whom.
    pub(crate) fn end(mut self) -> Result<BTreeMap<String, u64>> {
        self.0.write("\n")?;
        let text = self.0.finish()?;
        let last = text.lines().rfind(|line| line.starts_with('{'));
        let answer: Value = serde_json::from_str(last.with_context(|| text.clone())?)?;
        ensure!(answer["answers"].is_object(), "{text}");
        Ok(serde_json::from_value(answer["answers"].clone())?)
    }
}
