//! `flows`: live and recent flows, or requests, and each as it ends.

#![forbid(unsafe_code)]

mod requests;

use std::io::Write;

use serde::Serialize;
use tokio::signal;
use tokio::signal::unix::{SignalKind, signal};

use crate::admin::types::{Flow, Flows, FlowsQuery, FollowLine};
use crate::cli::{FlowsArgs, Output};
use crate::ctl::client::Stream;
use crate::ctl::exit::{CtlError, Exit};
use crate::ctl::human::{bytes, clean, duration_us, end, exact, who};
use crate::ctl::screen::{Mood, Screen};
use crate::ctl::table::{Cell, Column, render as table};
use crate::ctl::{Context, print, print_json};
use crate::model::service::Protocol;

const COLUMNS: [Column; 10] = [
    Column::text("ENDED"),
    Column::name("SOURCE").shrinks_to(12),
    Column::name("DESTINATION").shrinks_to(14),
    Column::text("PATH"),
    Column::number("SENT"),
    Column::number("RECEIVED"),
    Column::number("LASTED"),
    Column::number("CONNECT").goes(2),
    Column::number("ANSWER").goes(1),
    Column::text("WHY").shrinks_to(12).goes(3),
];

pub(super) async fn run(context: &Context, args: FlowsArgs) -> Result<Exit, CtlError> {
    if args.requests {
        return requests::run(context, args).await;
    }
    let path = format!("/v1/flows?{}", query(&args)?);
    if args.follow {
        let stream = context.client.stream(&path).await?;
        return follow(context, stream).await;
    }
    let answer: Flows = context.client.get(&path).await?;
    match context.output {
        Output::Json => print_json(&answer)?,
        Output::Text => print(&render(&answer, &context.screen))?,
    }
    Ok(Exit::Fine)
}

/// Returns the arguments as the agent's query; it is the agent that filters.
fn query(args: &FlowsArgs) -> Result<String, CtlError> {
    let query = FlowsQuery {
        workload: args.workload.as_ref().map(ToString::to_string),
        namespace: args.namespace.clone(),
        port: args.port,
        service: args.service.as_ref().map(ToString::to_string),
        path: args.path.clone(),
        since: args.since.map(|since| format!("{}ms", since.as_millis())),
        limit: Some(args.limit),
        follow: args.follow,
    };
    let encoded = serde_urlencoded::to_string(query);
    encoded.map_err(|error| std::io::Error::other(error).into())
}

/// Prints lines until the stream ends or somebody interrupts.
async fn follow(context: &Context, mut stream: Stream) -> Result<Exit, CtlError> {
    let mut terminated = signal(SignalKind::terminate())?;
    loop {
        let line = tokio::select! {
            biased;
            interrupted = signal::ctrl_c() => return interrupted.map(|()| Exit::Fine).map_err(Into::into),
            _ = terminated.recv() => return Ok(Exit::Fine),
            line = stream.next() => line?,
        };
        match context.output {
            Output::Json => print_line(&line)?,
            Output::Text => say(&line, &context.screen)?,
        }
        if matches!(line, FollowLine::End { .. }) {
            return Ok(Exit::Fine);
        }
    }
}

fn print_line(line: &impl Serialize) -> Result<(), CtlError> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, line).map_err(std::io::Error::from)?;
    writeln!(out)?;
    out.flush()?;
    Ok(())
}

/// Prints a flow to standard output; what is about the stream goes to standard error.
fn say(line: &FollowLine, screen: &Screen) -> Result<(), CtlError> {
    match line {
        FollowLine::Start { .. } => {}
        FollowLine::Flow(flow) => print(&one_line(flow, screen))?,
        FollowLine::Request(request) => print(&requests::one_line(request, screen))?,
        FollowLine::Lost { count } => {
            eprintln!(
                "node-agent: {} are missing here: this reader was too slow",
                exact(*count)
            );
        }
        FollowLine::LeftOut { count } => {
            eprintln!(
                "node-agent: {} requests are missing here, since many ended at a time; metrics have them all",
                exact(*count)
            );
        }
        FollowLine::End { why } => eprintln!("node-agent: {}", clean(why)),
    }
    Ok(())
}

fn render(answer: &Flows, screen: &Screen) -> String {
    if answer.flows.is_empty() {
        return "no flows match\n".to_owned();
    }
    let rows: Vec<_> = answer.flows.iter().map(|flow| row(flow, screen)).collect();
    let mut text = table(&COLUMNS, &rows, screen);
    if answer.omitted > 0 {
        text += &format!(
            "{} older flows match too; --limit shows more\n",
            exact(answer.omitted as u64)
        );
    }
    text
}

fn row(flow: &Flow, screen: &Screen) -> Vec<Cell> {
    let plain = |text: String| (text, Mood::Plain);
    let ended = match flow.end {
        Some(end) => plain(screen.time(end)),
        None => ("live".to_owned(), Mood::Good),
    };
    vec![
        ended,
        plain(who(&flow.source)),
        plain(dialled(flow)),
        (clean(&flow.path), path_mood(flow)),
        plain(bytes(float(flow.tx_bytes))),
        plain(bytes(float(flow.rx_bytes))),
        plain(duration_us(float(flow.duration_us))),
        plain(
            flow.connect_us
                .map(|us| duration_us(us.into()))
                .unwrap_or_default(),
        ),
        plain(flow.turnaround.p50_us.map(duration_us).unwrap_or_default()),
        plain(why(flow)),
    ]
}

/// Returns what was dialled: a service, else the destination.
fn dialled(flow: &Flow) -> String {
    let mut text = match &flow.service {
        Some(service) => clean(&service.to_string()),
        None => end(&flow.destination),
    };
    if flow.protocol == Protocol::Udp {
        text += "/udp";
    }
    text
}

/// Returns why a flow was not redirected, else how it ended.
fn why(flow: &Flow) -> String {
    if flow.reason == "none" {
        clean(&flow.close_text) + &policy(flow)
    } else {
        clean(&flow.reason_text)
    }
}

/// Returns one flow that ended as one line, which is never cut: it may be searched.
fn one_line(flow: &Flow, screen: &Screen) -> String {
    let when = flow.end.unwrap_or(flow.start);
    let when = screen.paint(Mood::Faint, &screen.time(when));
    let path = screen.paint(path_mood(flow), &clean(&flow.path));
    let backend = match &flow.service {
        Some(_) => format!(" ({})", end(&flow.destination)),
        None => String::new(),
    };
    let mut line = format!(
        "{when} {} -> {}{backend} {path}",
        end(&flow.source),
        dialled(flow)
    );
    if flow.reason != "none" {
        line += &format!(" ({})", clean(&flow.reason_text));
    }
    let (sent, received) = (bytes(float(flow.tx_bytes)), bytes(float(flow.rx_bytes)));
    line += &format!(
        ", {sent} out, {received} back in {}",
        duration_us(float(flow.duration_us))
    );
    if let Some(us) = flow.connect_us {
        line += &format!(", connect {}", duration_us(us.into()));
    }
    if let Some(us) = flow.turnaround.p50_us {
        line += &format!(", answer {}", duration_us(us));
    }
    if flow.retransmits > 0 {
        line += &format!(", {} retransmits", flow.retransmits);
    }
    let closed = screen.paint(close_mood(flow), &clean(&flow.close_text));
    line + &format!(", {closed}{}\n", policy(flow))
}

/// Returns what policy had to say, where it matters.
fn policy(flow: &Flow) -> String {
    let Some(said) = &flow.policy else {
        return String::new();
    };
    let rule = match &said.rule {
        Some(rule) => clean(&rule.to_string()),
        None => "no rule allows it".to_owned(),
    };
    if said.would_deny {
        format!(" (would be denied: {rule})")
    } else if flow.close == "denied" {
        format!(" ({rule})")
    } else {
        String::new()
    }
}

fn path_mood(flow: &Flow) -> Mood {
    match flow.path.as_str() {
        "redirect" => Mood::Good,
        "mixed" => Mood::Notice,
        _ => Mood::Plain,
    }
}

fn close_mood(flow: &Flow) -> Mood {
    match flow.close.as_str() {
        "open" | "source_closed" | "destination_closed" => Mood::Plain,
        _ => Mood::Bad,
    }
}

#[expect(clippy::cast_precision_loss, reason = "printed with three digits")]
fn float(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests;
