//! `explain` and `policy test`: the way of a connection that is not made.

#![forbid(unsafe_code)]

use std::net::SocketAddr;

use crate::admin::types::explain::{
    ConnectionQuery, Destination, Explanation, Judgement, Place, PolicyAnswer, PolicyTest, Verdict,
};
use crate::cli::Output;
use crate::cli::balancing::{ConnectionArgs, PolicyArgs, PolicyCommand};
use crate::ctl::balancing::{health, share, why};
use crate::ctl::exit::{CtlError, Exit};
use crate::ctl::human::{clean, seconds_in_words};
use crate::ctl::routes::{carrier_lines, line};
use crate::ctl::screen::{Mood, Screen};
use crate::ctl::table::{Cell, Column, render as table};
use crate::ctl::workloads::state;
use crate::ctl::{Context, print, print_json};
use crate::model::service::Protocol;

const COLUMNS: [Column; 6] = [
    Column::text("DESTINATION").shrinks_to(14),
    Column::name("WORKLOAD").shrinks_to(12),
    Column::text("HEALTH").goes(1),
    Column::number("SHARE"),
    Column::text("POLICY"),
    Column::text("PATH").shrinks_to(20),
];

fn query(args: &ConnectionArgs) -> Result<String, CtlError> {
    let query = ConnectionQuery {
        from: args.from.to_string(),
        to: args.to.who.to_string(),
        port: args.to.port,
        protocol: match args.udp {
            true => Protocol::Udp,
            false => Protocol::Tcp,
        },
    };
    let encoded = serde_urlencoded::to_string(query);
    encoded.map_err(|error| std::io::Error::other(error).into())
}

pub(super) async fn run(context: &Context, args: &ConnectionArgs) -> Result<Exit, CtlError> {
    let path = format!("/v1/explain?{}", query(args)?);
    let answer: Explanation = context.client.get(&path).await?;
    match context.output {
        Output::Json => print_json(&answer)?,
        Output::Text => print(&render(&answer, &context.screen))?,
    }
    Ok(match answer.verdict {
        Verdict::Works => Exit::Fine,
        Verdict::Fails | Verdict::Bypasses => Exit::Bad,
    })
}

pub(super) async fn policy(context: &Context, args: &PolicyArgs) -> Result<Exit, CtlError> {
    let PolicyCommand::Test(args) = &args.command;
    let path = format!("/v1/policy/test?{}", query(args)?);
    let Some(answer) = context.find::<PolicyTest>(&path).await? else {
        return Ok(Exit::Bad);
    };
    match context.output {
        Output::Json => print_json(&answer)?,
        Output::Text => print(&render_test(&answer, &context.screen))?,
    }
    Ok(match answer.allowed {
        true => Exit::Fine,
        false => Exit::Bad,
    })
}

fn render(answer: &Explanation, screen: &Screen) -> String {
    let mut text = String::new();
    let from = &answer.from;
    let addresses: Vec<_> = from.addresses.iter().map(ToString::to_string).collect();
    let addresses = addresses.join(", ");
    let (from, mood) = match (&from.workload, from.state) {
        (Some(name), Some(stands)) => {
            let (word, mood) = state(stands);
            let colon = if from.why.is_empty() { "" } else { ": " };
            (
                format!("{name} ({addresses}), {word}{colon}{}", from.why),
                mood,
            )
        }
        _ if addresses.is_empty() => ("unknown".to_owned(), Mood::Bad),
        _ => (
            format!("{addresses}, no workload of this node"),
            Mood::Notice,
        ),
    };
    line(&mut text, screen, "From", mood, &from);
    let protocol = answer.protocol.word();
    let to = format!("{} port {}/{protocol}", answer.to, answer.port);
    line(&mut text, screen, "To", Mood::Plain, &to);
    if let Some(service) = &answer.service {
        let addresses: Vec<_> = service.addresses.iter().map(ToString::to_string).collect();
        let mut words = format!("{} at {}", service.id, addresses.join(", "));
        if !service.algorithm.is_empty() {
            words += &format!(", {}", service.algorithm);
        }
        if let Some(seconds) = service.affinity_seconds {
            words += &format!(", sticks for {}", seconds_in_words(seconds));
        }
        line(&mut text, screen, "Service", Mood::Plain, &words);
        carrier_lines(&mut text, screen, &service.carrier);
    } else if !answer.destinations.is_empty() {
        let words = "none: it goes to the very address";
        line(&mut text, screen, "Service", Mood::Plain, words);
    }
    let (verdict, mood) = match answer.verdict {
        Verdict::Works => ("works", Mood::Good),
        Verdict::Fails => ("fails", Mood::Bad),
        Verdict::Bypasses => ("bypasses the mesh", Mood::Notice),
    };
    line(&mut text, screen, "Verdict", mood, verdict);
    for why in &answer.why {
        line(&mut text, screen, "", Mood::Plain, why);
    }
    if !answer.destinations.is_empty() {
        let rows: Vec<_> = answer.destinations.iter().map(row).collect();
        text.push('\n');
        text += &table(&COLUMNS, &rows, screen);
    }
    text
}

fn row(destination: &Destination) -> Vec<Cell> {
    let plain = |text: String| (text, Mood::Plain);
    let address = SocketAddr::new(destination.address, destination.port);
    let workload = destination.workload.as_ref();
    let workload = workload.map(|it| clean(&it.to_string()));
    let backend = destination.backend.as_ref();
    let health = backend.map(|it| health(it.health));
    let health = health.map(|(word, mood)| (word.to_owned(), mood));
    let policy = match &destination.policy {
        None => plain(String::new()),
        Some(answer) if !answer.allowed => ("denied".to_owned(), Mood::Bad),
        Some(answer) if answer.would_deny => ("dry-run denies".to_owned(), Mood::Notice),
        Some(_) => ("allowed".to_owned(), Mood::Good),
    };
    vec![
        plain(address.to_string()),
        plain(workload.unwrap_or_default()),
        health.unwrap_or_else(|| plain(String::new())),
        plain(backend.map(share).unwrap_or_default()),
        policy,
        path(destination),
    ]
}

fn path(destination: &Destination) -> Cell {
    let backend = destination.backend.as_ref();
    if let Some(backend) = backend.filter(|backend| backend.weight == 0) {
        return (format!("none: {}", clean(&why(backend))), Mood::Faint);
    }
    if destination.redirected {
        return ("socket to socket".to_owned(), Mood::Good);
    }
    let place = match destination.place {
        Place::Here => "TCP on this node",
        Place::OtherNode => "TCP to another node",
        Place::Unknown => "TCP",
    };
    let why = destination.not_redirected_because.join("; ");
    (format!("{place}: {}", clean(&why)), Mood::Plain)
}

fn render_test(test: &PolicyTest, screen: &Screen) -> String {
    let mut text = String::new();
    for answer in &test.answers {
        one(&mut text, answer, screen);
    }
    text
}

fn one(text: &mut String, answer: &PolicyAnswer, screen: &Screen) {
    let (word, mood) = match (answer.allowed, answer.would_deny) {
        (false, _) => ("denied", Mood::Bad),
        (true, true) => ("allowed; dry-run would deny", Mood::Notice),
        (true, false) => ("allowed", Mood::Good),
    };
    let head = format!("{} -> {}: {word}", answer.source, answer.destination);
    line(text, screen, "Policy", mood, &head);
    for (direction, judgement) in [("Egress", &answer.egress), ("Ingress", &answer.ingress)] {
        let words = match judgement {
            Some(judgement) => judged(judgement),
            None => "not a workload of this node: not judged here".to_owned(),
        };
        line(text, screen, direction, Mood::Plain, &words);
    }
}

/// Returns what one end's policies say, and which of them.
fn judged(judgement: &Judgement) -> String {
    let mut words = format!("{}: ", judgement.subject);
    words += match judgement.allowed {
        true => "allowed",
        false => "denied",
    };
    if let Some(rule) = &judgement.rule {
        words += &format!(" by {rule}");
    } else if let Some(exempt) = &judgement.exempt {
        words += &format!(", {exempt}");
    } else if !judgement.isolated_by.is_empty() {
        words += &format!(", isolated by {}", judgement.isolated_by.join(", "));
    }
    if !judgement.enforced_at.is_empty() {
        words += &format!(" (at {})", judgement.enforced_at.join(", "));
    }
    words
}

#[cfg(test)]
mod tests;
