//! `top`: the busiest pairs of workloads.

#![forbid(unsafe_code)]

mod live;
mod rates;
mod view;

use std::io::IsTerminal;

use serde::Serialize;

use crate::admin::types::Pairs;
use crate::cli::{Output, SortKey, TopArgs};
use crate::ctl::exit::{CtlError, Exit};
use crate::ctl::screen::{Mood, Screen};
use crate::ctl::table::{Cell, Column, render as table};
use crate::ctl::top::rates::{Row, Top};
use crate::ctl::{Context, print, print_json};

/// Schema of what `top --output json` prints.
const TOP_SCHEMA: &str = "underpass.dev/top/v1";

const COLUMNS: [Column; 9] = [
    Column::name("SOURCE").shrinks_to(10),
    Column::name("DESTINATION").shrinks_to(12),
    Column::number("BYTES/S"),
    Column::number("MSG/S"),
    Column::number("FLOWS"),
    Column::number("P50"),
    Column::number("P99"),
    Column::number("REDIR"),
    Column::number("RETR/S").goes(1),
];

/// Where the one table has the bytes since counting began; the live screen is of the moment, and has no room.
const TOTAL_AT: usize = 5;

pub(super) async fn run(context: &Context, args: TopArgs) -> Result<Exit, CtlError> {
    let before = look(context).await?;
    let batch = args.once || context.output == Output::Json || !std::io::stdout().is_terminal();
    if !batch {
        return live::run(context, args, before).await;
    }
    tokio::time::sleep(args.interval).await;
    let after = look(context).await?;
    let mut top = Top::once(&before, &after);
    top.sort(args.sort);
    top.rows.truncate(args.limit);
    match context.output {
        Output::Json => print_json(&WithSchema {
            schema: TOP_SCHEMA,
            top: &top,
        })?,
        Output::Text => print(&render(&top, &context.screen))?,
    }
    Ok(Exit::Fine)
}

async fn look(context: &Context) -> Result<Pairs, CtlError> {
    context.client.get("/v1/pairs").await
}

#[derive(Serialize)]
struct WithSchema<'a> {
    schema: &'static str,
    #[serde(flatten)]
    top: &'a Top,
}

fn render(top: &Top, screen: &Screen) -> String {
    if top.rows.is_empty() {
        return "no traffic was counted yet\n".to_owned();
    }
    let mut columns = COLUMNS.to_vec();
    columns.insert(TOTAL_AT, Column::number("BYTES"));
    let rows: Vec<Vec<Cell>> = top.rows.iter().map(cells).collect();
    table(&columns, &rows, screen)
}

fn cells(row: &Row) -> Vec<Cell> {
    let mut texts = row.texts().to_vec();
    texts.insert(TOTAL_AT, row.total_text());
    let plain = |text| (text, Mood::Plain);
    texts.into_iter().map(plain).collect()
}

/// Returns the word for what is sorted by.
fn sorted_by(key: SortKey) -> &'static str {
    match key {
        SortKey::Bytes => "bytes",
        SortKey::Messages => "messages",
        SortKey::Flows => "flows",
        SortKey::Latency => "latency",
        SortKey::Name => "name",
    }
}

#[cfg(test)]
mod tests;
