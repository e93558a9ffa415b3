//! `routes`: every route with its conditions and who carries its connections, and which one a request would go by.

#![forbid(unsafe_code)]

use crate::admin::types::routes::{
    By, Carrier, DecidedBackend, RouteExplanation, RouteList, RouteQuery, ShownParent, ShownRoute,
};
use crate::cli::Output;
use crate::cli::routes::{RouteExplainArgs, RoutesArgs, RoutesCommand};
use crate::ctl::exit::{CtlError, Exit, NOT_FOUND};
use crate::ctl::human::clean;
use crate::ctl::screen::{Mood, Screen};
use crate::ctl::table::{Cell, Column, render as table};
use crate::ctl::{Context, print, print_json};
use crate::model::status::{ObjectStatus, ParentStatus};

/// Columns of the labels on the left.
const LABEL: usize = 10;

const ROUTES: [Column; 6] = [
    Column::text("KIND").goes(2),
    Column::name("ROUTE").shrinks_to(12),
    Column::name("SERVICE").shrinks_to(12),
    Column::text("STANDS"),
    Column::text("CARRIED BY"),
    Column::text("WHY").shrinks_to(16),
];

const PASSED: [Column; 4] = [
    Column::name("PASSED OVER").shrinks_to(16),
    Column::text("RULE"),
    Column::text("PATH").shrinks_to(12),
    Column::text("WHY").shrinks_to(16),
];

pub(super) async fn run(context: &Context, args: &RoutesArgs) -> Result<Exit, CtlError> {
    if let Some(RoutesCommand::Explain(args)) = &args.command {
        return explain(context, args).await;
    }
    let answer: RouteList = context.client.get("/v1/routes").await?;
    match context.output {
        Output::Json => print_json(&answer)?,
        Output::Text => print(&render(&answer, &context.screen))?,
    }
    let routes = answer.routes.iter().flat_map(|it| &it.parents);
    let policies = answer.policies.iter().flat_map(|it| &it.parents);
    let mut all = routes.map(|it| &it.status).chain(policies);
    Ok(match all.any(|it| against(it).is_some()) {
        true => Exit::Bad,
        false => Exit::Fine,
    })
}

/// Returns the first condition that says that something does not hold, as `reason: message`.
fn against(status: &ParentStatus) -> Option<(&str, &str)> {
    let mut conditions = status.conditions.iter();
    let bad = conditions.find(|it| it.is_true() == (it.kind == "PartiallyInvalid"))?;
    Some((&bad.reason, &bad.message))
}

/// Returns what a status is accepted but for.
fn reserved(status: &ParentStatus) -> Option<&str> {
    let accepted = status.condition("Accepted")?;
    Some(accepted.message.as_str()).filter(|it| !it.is_empty())
}

fn render(list: &RouteList, screen: &Screen) -> String {
    if list.routes.is_empty() && list.policies.is_empty() {
        return "there are no routes\n".to_owned();
    }
    let routes = list.routes.iter();
    let routes = routes.flat_map(|route| route.parents.iter().map(move |it| row(route, it)));
    let policies = list.policies.iter();
    let policies = policies.flat_map(|it| it.parents.iter().map(move |parent| policy(it, parent)));
    let rows: Vec<_> = routes.chain(policies).collect();
    table(&ROUTES, &rows, screen)
}

fn stands(status: &ParentStatus) -> (String, Mood) {
    match against(status) {
        None => ("accepted".to_owned(), Mood::Good),
        Some((reason, _)) => {
            let accepted = status.condition("Accepted").is_some_and(|it| it.is_true());
            let mood = if accepted { Mood::Notice } else { Mood::Bad };
            (reason.to_owned(), mood)
        }
    }
}

fn row(route: &ShownRoute, parent: &ShownParent) -> Vec<Cell> {
    let (word, mood) = stands(&parent.status);
    let mut why: Vec<String> = Vec::new();
    why.extend(match against(&parent.status) {
        Some((_, message)) => Some(message.to_owned()),
        None => reserved(&parent.status).map(str::to_owned),
    });
    let mut by: Vec<String> = Vec::new();
    for port in &parent.ports {
        by.push(format!("{}: {}", port.port, carried(port.carrier.by)));
        why.extend(port.carrier.why.iter().cloned());
    }
    why.dedup();
    let of = if parent.consumer {
        " (own clients)"
    } else {
        ""
    };
    vec![
        plain(clean(&route.kind)),
        plain(clean(&format!("{}/{}", route.namespace, route.name))),
        plain(clean(&format!("{}{of}", service(&parent.status)))),
        (clean(&word), mood),
        plain(by.join(", ")),
        plain(clean(&why.join("; "))),
    ]
}

fn policy(object: &ObjectStatus, parent: &ParentStatus) -> Vec<Cell> {
    let (word, mood) = stands(parent);
    let why = against(parent).map(|it| it.1).unwrap_or_default();
    let name = &object.object;
    vec![
        plain(clean(&name.kind)),
        plain(clean(&format!("{}/{}", name.namespace, name.name))),
        plain(clean(&service(parent))),
        (clean(&word), mood),
        plain(String::new()),
        plain(clean(why)),
    ]
}

fn service(status: &ParentStatus) -> String {
    let of = &status.parent;
    let port = of.port.map(|port| port.to_string());
    match port.as_ref().or(of.section_name.as_ref()) {
        Some(port) => format!("{}/{}:{port}", of.namespace, of.name),
        None => format!("{}/{}", of.namespace, of.name),
    }
}

fn carried(by: By) -> &'static str {
    match by {
        By::Kernel => "kernel",
        By::Agent => "agent",
    }
}

async fn explain(context: &Context, args: &RouteExplainArgs) -> Result<Exit, CtlError> {
    let query = RouteQuery {
        from: args.from.clone(),
        url: args.url.clone(),
        method: args.method.clone(),
        headers: (!args.headers.is_empty()).then(|| args.headers.join("\n")),
    };
    let query = serde_urlencoded::to_string(query).map_err(std::io::Error::other)?;
    let path = format!("/v1/routes/explain?{query}");
    let answer = match context.client.get::<RouteExplanation>(&path).await {
        Err(CtlError::Refused { status, error }) if status == NOT_FOUND => {
            eprintln!("node-agent: {error}");
            return Ok(Exit::Bad);
        }
        answer => answer?,
    };
    match context.output {
        Output::Json => print_json(&answer)?,
        Output::Text => print(&render_explanation(&answer, &context.screen))?,
    }
    Ok(match answer.answer {
        Some(_) => Exit::Bad,
        None => Exit::Fine,
    })
}

/// Adds a line with a label on the left.
pub(super) fn line(text: &mut String, screen: &Screen, label: &str, mood: Mood, words: &str) {
    *text += &screen.paint(Mood::Title, &format!("{label:<LABEL$}"));
    *text += &screen.paint(mood, &clean(words));
    text.truncate(text.trim_end().len());
    text.push('\n');
}

/// Adds who carries a connection, and why.
pub(super) fn carrier_lines(text: &mut String, screen: &Screen, carrier: &Carrier) {
    line(text, screen, "Carrier", Mood::Plain, carried(carrier.by));
    for why in &carrier.why {
        line(text, screen, "", Mood::Plain, why);
    }
}

fn render_explanation(answer: &RouteExplanation, screen: &Screen) -> String {
    let mut text = String::new();
    let from = format!("a client in namespace {}", answer.from);
    line(&mut text, screen, "From", Mood::Plain, &from);
    let to = format!("{} ({})", answer.service, answer.speaks);
    line(&mut text, screen, "Service", Mood::Plain, &to);
    let request = format!("{} {}", answer.method, answer.path);
    line(&mut text, screen, "Request", Mood::Plain, &request);
    carrier_lines(&mut text, screen, &answer.carrier);
    match &answer.routes_of {
        None => {
            let words = "none: the service's own endpoints answer";
            line(&mut text, screen, "Routes", Mood::Plain, words);
        }
        Some(of) => line(
            &mut text,
            screen,
            "Routes",
            Mood::Plain,
            &format!("the {of}'s"),
        ),
    }
    if let Some(decision) = &answer.decision {
        let words = format!(
            "{} rule {} ({})",
            decision.route, decision.rule, decision.path
        );
        line(&mut text, screen, "Rule", Mood::Good, &words);
        for does in &decision.does {
            line(&mut text, screen, "", Mood::Plain, does);
        }
        for (at, backend) in decision.backends.iter().enumerate() {
            let label = if at == 0 { "Backends" } else { "" };
            let (words, mood) = backend_words(backend);
            line(&mut text, screen, label, mood, &words);
        }
    }
    if let Some(own) = &answer.answer {
        line(&mut text, screen, "Answer", Mood::Bad, own);
    }
    if !answer.passed_over.is_empty() {
        let rows = answer.passed_over.iter().map(|it| {
            [&it.route, &it.rule, &it.path, &it.why]
                .map(|cell| plain(clean(cell)))
                .to_vec()
        });
        let rows: Vec<_> = rows.collect();
        text.push('\n');
        text += &table(&PASSED, &rows, screen);
    }
    if answer.passed_over_more > 0 {
        text += &format!("and {} more\n", answer.passed_over_more);
    }
    text
}

fn backend_words(backend: &DecidedBackend) -> (String, Mood) {
    let percent = backend.share * 100.0;
    match (&backend.service, &backend.invalid) {
        (Some(service), _) if backend.endpoints == Some(0) => {
            (format!("{percent:.1} % {service} (no endpoint)"), Mood::Bad)
        }
        (Some(service), _) => (format!("{percent:.1} % {service}"), Mood::Plain),
        (None, why) => {
            let why = why.clone().unwrap_or_default();
            (format!("{percent:.1} % nobody: {why}"), Mood::Bad)
        }
    }
}

fn plain(text: String) -> Cell {
    (text, Mood::Plain)
}

#[cfg(test)]
mod tests;
