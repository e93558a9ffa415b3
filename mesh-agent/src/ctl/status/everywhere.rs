//! `status --all-nodes`: a line for each node.

#![forbid(unsafe_code)]

use serde_json::Value;

use crate::cli::Output;
use crate::cli::nodes::NodesArgs;
use crate::ctl::exit::{CtlError, Exit};
use crate::ctl::human::{clean, seconds_in_words};
use crate::ctl::nodes::{Answered, Everywhere, ask};
use crate::ctl::screen::{Mood, Screen};
use crate::ctl::table::{Cell, Column, render as table};
use crate::ctl::{Context, print, print_json};

const COLUMNS: [Column; 7] = [
    Column::name("NODE").shrinks_to(16),
    Column::text("STATE"),
    Column::text("VERSION").goes(2),
    Column::text("UP").goes(3),
    Column::text("REDIRECT").goes(1),
    Column::text("WORKLOADS").goes(1),
    Column::text("WHY").shrinks_to(24),
];

pub(super) async fn run(context: &Context, args: &NodesArgs) -> Result<Exit, CtlError> {
    let answers = ask(args, &["status", "--no-rates", "--output", "json"]).await?;
    match context.output {
        Output::Json => print_json(&answers)?,
        Output::Text => print(&render(&answers, &context.screen))?,
    }
    let all_ready = answers.controllers.iter().all(|it| it.ready);
    match all_ready {
        true => Ok(answers.exit(|status| degraded(status).is_empty())),
        false => Ok(Exit::Bad),
    }
}

/// Returns what is wrong. Agents may be of other versions, so nothing of an answer is taken for granted: one that does not
/// say that all is well is not.
fn degraded(status: &Value) -> Vec<String> {
    let phrase = |it: &Value| clean(it.as_str().unwrap_or("something that has no words"));
    match status["degraded"].as_array() {
        Some(phrases) => phrases.iter().map(phrase).collect(),
        None => vec!["its answer is none of a status".to_owned()],
    }
}

fn render(answers: &Everywhere, screen: &Screen) -> String {
    let rows: Vec<_> = answers.nodes.iter().map(row).collect();
    let count = |word: &str| rows.iter().filter(|row| row[1].0 == word).count();
    let all = [
        (rows.len(), "nodes"),
        (count("ok"), "ok"),
        (count("degraded"), "degraded"),
        (count("no answer"), "without an answer"),
    ];
    let all = all.into_iter().filter(|(count, _)| *count > 0);
    let all: Vec<_> = all
        .map(|(count, words)| format!("{count} {words}"))
        .collect();
    let mut text = format!("{}\n{}\n", table(&COLUMNS, &rows, screen), all.join(", "));
    for pod in answers.controllers.iter().filter(|it| !it.ready) {
        let name = clean(&pod.pod);
        let why = pod.why.as_deref().map(clean).unwrap_or_default();
        let colon = if why.is_empty() { "" } else { ": " };
        text += &format!(
            "controller {name} is not ready{colon}{why}; its log and /readyz say what it waits for, such as a right that its role lacks\n"
        );
    }
    text
}

fn row(node: &Answered) -> Vec<Cell> {
    let name = (clean(&node.node), Mood::Plain);
    let plain = |text: String| (text, Mood::Plain);
    let Some(status) = &node.answer else {
        let why = node.error.as_deref().map(clean).unwrap_or_default();
        let nothing = || plain(String::new());
        let state = ("no answer".to_owned(), Mood::Bad);
        return vec![
            name,
            state,
            nothing(),
            nothing(),
            nothing(),
            nothing(),
            plain(why),
        ];
    };
    let wrong = degraded(status);
    let state = match wrong.is_empty() {
        true => ("ok".to_owned(), Mood::Good),
        false => ("degraded".to_owned(), Mood::Bad),
    };
    let text = |value: &Value| value.as_str().map(clean).unwrap_or_default();
    let up = status["agent"]["uptime_seconds"].as_u64();
    let redirect = match status["redirect_allowed"].as_bool() {
        Some(false) => "stopped".to_owned(),
        Some(true) | None => text(&status["kernel"]["level"]),
    };
    vec![
        name,
        state,
        plain(text(&status["agent"]["version"])),
        plain(up.map(seconds_in_words).unwrap_or_default()),
        plain(redirect),
        plain(workloads(&status["workloads"])),
        plain(wrong.join("; ")),
    ]
}

/// Returns how many workloads run here, and in which states.
fn workloads(summary: &Value) -> String {
    let states = summary["states"].as_array().map(Vec::as_slice);
    let states = states.unwrap_or_default().iter().filter_map(|it| {
        let (state, count) = (it["state"].as_str()?, it["count"].as_u64()?);
        (state != "elsewhere").then(|| format!("{count} {}", clean(&state.replace('-', " "))))
    });
    let states: Vec<_> = states.collect();
    match states.is_empty() {
        true => "none".to_owned(),
        false => states.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctl::nodes::everywhere;
    use crate::source::kubernetes::agents::ControllerPod;

    fn status() -> Value {
        serde_json::from_str(include_str!("status.json")).unwrap()
    }

    #[test]
    fn every_node_has_a_line() {
        let mut bad = status();
        bad["degraded"] = serde_json::json!(["a hook is not attached", "events were lost"]);
        bad["redirect_allowed"] = false.into();
        bad["workloads"]["states"] = serde_json::json!([{"state": "elsewhere", "count": 9}]);
        let answers = everywhere(&[
            ("node-1", Ok(status())),
            ("node-2", Ok(bad)),
            ("node-3", Err("no agent runs here")),
            ("node-4", Ok(serde_json::json!({"some": "answer"}))),
        ]);
        let expected = "\
NODE    STATE      VERSION  UP     REDIRECT      WORKLOADS                                      WHY
node-1  ok         0.1.0    3h12m  applications  2 accelerated, 1 observing, 1 not accelerated
node-2  degraded   0.1.0    3h12m  stopped       none                                           a hook is not attached; events were lost
node-3  no answer                                                                               no agent runs here
node-4  degraded                                 none                                           its answer is none of a status

4 nodes, 1 ok, 2 degraded, 1 without an answer
";
        let wide = Screen {
            width: None,
            ..Screen::plain()
        };
        assert_eq!(render(&answers, &wide), expected);
        let expected = "\
NODE    STATE      REDIRECT      WHY
node-1  ok         applications
node-2  degraded   stopped       a hook is not attached; events were lost
node-3  no answer                no agent runs here
node-4  degraded                 its answer is none of a status

4 nodes, 1 ok, 2 degraded, 1 without an answer
";
        assert_eq!(render(&answers, &Screen::plain()), expected);
        let good = |status: &Value| degraded(status).is_empty();
        assert_eq!(answers.exit(good), Exit::Bad);
        let mut answers = everywhere(&[("node-1", Ok(status()))]);
        assert_eq!(answers.exit(good), Exit::Fine);
        let pod = |name: &str, why: Option<&str>| ControllerPod {
            pod: name.to_owned(),
            ready: why.is_none(),
            why: why.map(str::to_owned),
        };
        answers.controllers = vec![pod("c-1", None), pod("c-2", Some("containers not ready"))];
        let text = render(&answers, &wide);
        let told = "controller c-2 is not ready: containers not ready; its log";
        assert!(text.contains(told) && !text.contains("c-1"), "{text}");
    }
}
