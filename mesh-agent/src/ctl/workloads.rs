//! `workloads`: every workload with its state and why.

#![forbid(unsafe_code)]

mod everywhere;

use crate::admin::types::{Workload, Workloads};
use crate::cli::Output;
use crate::cli::nodes::WorkloadsArgs;
use crate::ctl::exit::{CtlError, Exit};
use crate::ctl::human::clean;
use crate::ctl::screen::{Mood, Screen};
use crate::ctl::table::{Cell, Column, render as table};
use crate::ctl::{Context, print, print_json};
use crate::model::observed::WorkloadState;

const COLUMNS: [Column; 5] = [
    Column::name("WORKLOAD").shrinks_to(16),
    Column::text("ADDRESSES").shrinks_to(12).goes(1),
    Column::text("MODE"),
    Column::text("STATE"),
    Column::text("WHY").shrinks_to(28),
];

pub(super) async fn run(context: &Context, args: &WorkloadsArgs) -> Result<Exit, CtlError> {
    if args.nodes.all_nodes {
        return everywhere::run(context, &args.nodes).await;
    }
    let answer: Workloads = context.client.get("/v1/workloads").await?;
    match context.output {
        Output::Json => print_json(&answer)?,
        Output::Text => print(&render(&answer.workloads, &context.screen))?,
    }
    Ok(Exit::Fine)
}

/// Returns the words for a state and what they mean.
pub(super) fn state(state: WorkloadState) -> (&'static str, Mood) {
    match state {
        WorkloadState::Accelerated => ("accelerated", Mood::Good),
        WorkloadState::Observing => ("observing", Mood::Plain),
        WorkloadState::NotAccelerated => ("not accelerated", Mood::Notice),
        WorkloadState::NotFound => ("not found", Mood::Bad),
        WorkloadState::Elsewhere => ("elsewhere", Mood::Plain),
        WorkloadState::NotEnrolled => ("not in the mesh", Mood::Faint),
        WorkloadState::HostNetwork => ("host network", Mood::Notice),
        WorkloadState::Rejected => ("rejected", Mood::Bad),
    }
}

fn render(workloads: &[Workload], screen: &Screen) -> String {
    if workloads.is_empty() {
        return "no workloads are configured\n".to_owned();
    }
    let rows: Vec<_> = workloads.iter().map(row).collect();
    table(&COLUMNS, &rows, screen)
}

fn row(workload: &Workload) -> Vec<Cell> {
    let addresses: Vec<_> = workload.addresses.iter().map(ToString::to_string).collect();
    let (state, mood) = state(workload.state);
    let name = format!("{}/{}", workload.namespace, workload.name);
    vec![
        (clean(&name), Mood::Plain),
        (addresses.join(","), Mood::Plain),
        (clean(&workload.mode), Mood::Plain),
        (state.to_owned(), mood),
        (clean(&why(workload)), Mood::Plain),
    ]
}

/// Returns why a workload stands as it does, and what is odd about it.
fn why(workload: &Workload) -> String {
    let words = [workload.why.as_str(), &workload.note];
    let words: Vec<&str> = words.into_iter().filter(|it| !it.is_empty()).collect();
    words.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(name: &str, state: WorkloadState, why: &str) -> Workload {
        Workload {
            namespace: "shop".into(),
            name: name.into(),
            addresses: vec!["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()],
            mode: "auto".into(),
            state,
            why: why.into(),
            note: String::new(),
            absent: None,
            behaviours: vec![],
            id: 1,
            netns: 1,
        }
    }

    #[test]
    fn a_table_of_workloads_fits_80_columns() {
        let workloads = [
            workload("cart", WorkloadState::Accelerated, ""),
            workload(
                "a-deployment-with-a-long-name-7d9f8c6b5-x2v4q",
                WorkloadState::NotAccelerated,
                "splice(2) from a TCP socket",
            ),
        ];
        let expected = "\
WORKLOAD                      MODE  STATE            WHY
shop/cart                     auto  accelerated
shop/a-deploy…d9f8c6b5-x2v4q  auto  not accelerated  splice(2) from a TCP socket
";
        assert_eq!(render(&workloads, &Screen::plain()), expected);
    }

    #[test]
    fn no_workloads_are_said_in_words() {
        assert_eq!(
            render(&[], &Screen::plain()),
            "no workloads are configured\n"
        );
    }
}
