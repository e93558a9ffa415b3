//! `status`: one screen that says how everything stands.

#![forbid(unsafe_code)]

mod everywhere;
mod render;

use std::time::Duration;

use serde::Serialize;

use crate::admin::types::{Status, Totals};
use crate::cli::{Output, StatusArgs};
use crate::ctl::exit::{CtlError, Exit};
use crate::ctl::{Context, print, print_json};

/// Time between the two looks that make a rate: long enough to mean something, short enough to wait for.
const RATE_TIME: Duration = Duration::from_secs(1);

pub(super) async fn run(context: &Context, args: &StatusArgs) -> Result<Exit, CtlError> {
    if args.nodes.all_nodes {
        return everywhere::run(context, &args.nodes).await;
    }
    let mut status: Status = context.client.get("/v1/status").await?;
    let mut rates = None;
    if !args.no_rates {
        let before = status.totals;
        tokio::time::sleep(RATE_TIME).await;
        status = context.client.get("/v1/status").await?;
        rates = Rates::between(&before, &status.totals);
    }
    match context.output {
        Output::Json => print_json(&WithRates {
            status: &status,
            rates,
        })?,
        Output::Text => print(&render::render(&status, rates.as_ref(), &context.screen))?,
    }
    Ok(if status.degraded.is_empty() {
        Exit::Fine
    } else {
        Exit::Bad
    })
}

/// What JSON shows: the agent's answer, and the rates that were measured here.
#[derive(Serialize)]
struct WithRates<'a> {
    #[serde(flatten)]
    status: &'a Status,
    rates: Option<Rates>,
}

/// What happened between two looks, per second.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
struct Rates {
    /// Time between the looks.
    seconds: f64,
    bytes: f64,
    redirected_bytes: f64,
    messages: f64,
    flows_opened: f64,
    flows_failed: f64,
}

impl Rates {
    /// Returns the rates, or `None` when no time passed (the agent was replaced in between).
    #[expect(clippy::cast_precision_loss, reason = "rates, not counts")]
    fn between(before: &Totals, after: &Totals) -> Option<Self> {
        let seconds = after.at_ns.checked_sub(before.at_ns)? as f64 / 1e9;
        if seconds <= 0.0 {
            return None;
        }
        // A sum over pairs falls when a workload goes and its rows with it.
        let rate = |before: u64, after: u64| after.saturating_sub(before) as f64 / seconds;
        Some(Self {
            seconds,
            bytes: rate(before.bytes, after.bytes),
            redirected_bytes: rate(before.redirected_bytes, after.redirected_bytes),
            messages: rate(before.messages, after.messages),
            flows_opened: rate(before.flows_opened, after.flows_opened),
            flows_failed: rate(before.flows_failed, after.flows_failed),
        })
    }
}

#[cfg(test)]
mod tests;
