//! `workloads --all-nodes`: the workloads of each node.

#![forbid(unsafe_code)]

use serde_json::Value;

use super::{COLUMNS as OF_ONE, row};
use crate::admin::types::{Workload, Workloads};
use crate::cli::Output;
use crate::cli::nodes::NodesArgs;
use crate::ctl::exit::{CtlError, Exit};
use crate::ctl::human::clean;
use crate::ctl::nodes::{Answered, Everywhere, ask};
use crate::ctl::screen::{Mood, Screen};
use crate::ctl::table::{Cell, Column, render as table};
use crate::ctl::{Context, print, print_json};
use crate::model::observed::WorkloadState;

const NODE: Column = Column::name("NODE").shrinks_to(12);

pub(super) async fn run(context: &Context, args: &NodesArgs) -> Result<Exit, CtlError> {
    let answers = ask(args, &["workloads", "--output", "json"]).await?;
    match context.output {
        Output::Json => print_json(&answers)?,
        Output::Text => print(&render(&answers, &context.screen))?,
    }
    Ok(answers.exit(|answer| read(answer).is_ok()))
}

/// Returns the workloads that run on the node which answered: every agent knows those of other nodes too.
fn read(answer: &Value) -> Result<Vec<Workload>, String> {
    let all: Result<Workloads, _> = serde_json::from_value(answer.clone());
    let all = all.map_err(|error| format!("its answer is not understood: {error}"))?;
    let is_here = |it: &Workload| it.state != WorkloadState::Elsewhere;
    Ok(all.workloads.into_iter().filter(is_here).collect())
}

fn render(answers: &Everywhere, screen: &Screen) -> String {
    let columns: Vec<Column> = [NODE].into_iter().chain(OF_ONE).collect();
    let mut rows: Vec<Vec<Cell>> = Vec::new();
    let mut failed = String::new();
    for node in &answers.nodes {
        match found(node) {
            Ok(workloads) => rows.extend(workloads.iter().map(|workload| {
                let node = (clean(&node.node), Mood::Plain);
                [node].into_iter().chain(row(workload)).collect()
            })),
            Err(why) => {
                let line = format!("{}: {}\n", clean(&node.node), clean(&why));
                failed.push_str(&screen.paint(Mood::Bad, line.trim_end()));
                failed.push('\n');
            }
        }
    }
    let table = match rows.is_empty() {
        true => "no workloads run on these nodes\n".to_owned(),
        false => table(&columns, &rows, screen),
    };
    match failed.is_empty() {
        true => table,
        false => format!("{table}\n{failed}"),
    }
}

fn found(node: &Answered) -> Result<Vec<Workload>, String> {
    match (&node.answer, &node.error) {
        (Some(answer), _) => read(answer),
        (None, Some(error)) => Err(error.clone()),
        (None, None) => Err("no answer".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::ctl::nodes::everywhere;

    #[test]
    fn only_what_runs_there_is_shown() {
        let workload = |name: &str, state: &str| {
            json!({"namespace": "shop", "name": name, "addresses": ["10.0.0.2"], "mode": "auto", "state": state,
                "why": "", "behaviours": [], "id": 1, "netns": 1})
        };
        let answer =
            |all: &[Value]| json!({"schema": "underpass.dev/workloads/v1", "workloads": all});
        let answers = everywhere(&[
            (
                "a",
                Ok(answer(&[
                    workload("web", "accelerated"),
                    workload("cart", "elsewhere"),
                ])),
            ),
            (
                "b",
                Ok(answer(&[
                    workload("web", "elsewhere"),
                    workload("cart", "observing"),
                ])),
            ),
            ("c", Err("no agent runs here")),
        ]);
        let expected = "\
NODE  WORKLOAD   ADDRESSES  MODE  STATE        WHY
a     shop/web   10.0.0.2   auto  accelerated
b     shop/cart  10.0.0.2   auto  observing

c: no agent runs here
";
        assert_eq!(render(&answers, &Screen::plain()), expected);
        assert_eq!(answers.exit(|answer| read(answer).is_ok()), Exit::Bad);
    }
}
