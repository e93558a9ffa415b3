//! `services`: who answers for each service, with what share, and why others do not.

#![forbid(unsafe_code)]

use std::net::SocketAddr;

use crate::admin::types::balancing::{
    Backend, BalancedPort, BalancedService, BalancedServices, CLUSTER_IP, KERNEL,
};
use crate::cli::Output;
use crate::cli::balancing::ServicesArgs;
use crate::ctl::exit::{CtlError, Exit};
use crate::ctl::human::{clean, short};
use crate::ctl::screen::{Mood, Screen};
use crate::ctl::table::{Cell, Column, render as table};
use crate::ctl::{Context, print, print_json};
use crate::model::endpoint::EndpointHealth;
use crate::model::service::{Protocol, ServiceName};

/// Columns before those of a backend: what belongs to a service, and to a port.
const OF_SERVICE: usize = 2;
const OF_PORT: usize = 2;

const COLUMNS: [Column; 11] = [
    Column::name("SERVICE").shrinks_to(12),
    Column::text("ADDRESS").shrinks_to(10).goes(3),
    Column::text("PORT"),
    Column::text("ALGORITHM").goes(5),
    Column::text("BACKEND").shrinks_to(14),
    Column::text("HEALTH"),
    Column::number("SHARE"),
    Column::number("OPEN").goes(2),
    Column::number("PICKED").goes(4),
    Column::number("FAILED").goes(1),
    Column::text("WHY").shrinks_to(14),
];

pub(super) async fn run(context: &Context, args: &ServicesArgs) -> Result<Exit, CtlError> {
    let path = match &args.service {
        Some(ServiceName { namespace, name }) => format!("/v1/balancing/{namespace}/{name}"),
        None => "/v1/balancing".to_owned(),
    };
    let Some(answer) = context.find::<BalancedServices>(&path).await? else {
        return Ok(Exit::Bad);
    };
    match context.output {
        Output::Json => print_json(&answer)?,
        Output::Text => print(&render(&answer.services, &context.screen))?,
    }
    Ok(exit(&answer.services))
}

/// Bad where somebody who connects is refused for want of a backend.
fn exit(services: &[BalancedService]) -> Exit {
    let is_without = |service: &BalancedService| service.without_backend().next().is_some();
    match services.iter().any(is_without) {
        true => Exit::Bad,
        false => Exit::Fine,
    }
}

fn render(services: &[BalancedService], screen: &Screen) -> String {
    if services.is_empty() {
        return "there are no services\n".to_owned();
    }
    let rows: Vec<_> = services.iter().flat_map(rows).collect();
    table(&COLUMNS, &rows, screen)
}

/// A row for each backend; what it shares with the one above is left out.
fn rows(service: &BalancedService) -> Vec<Vec<Cell>> {
    let mut rows = Vec::new();
    let name = clean(&format!("{}/{}", service.namespace, service.name));
    let mut of_service = vec![plain(name), plain(addresses(service))];
    let mut add = |of_port: &mut Vec<Cell>, of_backend: Vec<Cell>| {
        let mut row = std::mem::replace(&mut of_service, blanks(OF_SERVICE));
        row.extend(std::mem::replace(of_port, blanks(OF_PORT)));
        row.extend(of_backend);
        rows.push(row);
    };
    if let Some(why) = &service.why_not {
        // What cannot be balanced is no fault.
        let (word, mood) = match service.kind == CLUSTER_IP {
            true => ("not in force", Mood::Bad),
            false => ("not balanced", Mood::Faint),
        };
        add(&mut blanks(OF_PORT), instead(word, mood, why));
    }
    for port in &service.ports {
        let algorithm = clean(&port.algorithm);
        // The kernel is the usual one, and JSON says so.
        let word = match port.carried_by.as_str() {
            KERNEL => port_word(port),
            by => format!("{} {}", port_word(port), clean(by)),
        };
        let mut of_port = vec![plain(word), plain(algorithm)];
        if port.backends.iter().all(|backend| backend.weight == 0) {
            let refused = match port.refused {
                0 => String::new(),
                count => format!("{} refused", short_count(count)),
            };
            add(&mut of_port, instead("no backend", Mood::Bad, &refused));
        }
        for backend in &port.backends {
            add(&mut of_port, of_backend(backend));
        }
    }
    if service.ports.is_empty() && service.why_not.is_none() {
        add(
            &mut blanks(OF_PORT),
            instead("", Mood::Plain, "it has no ports"),
        );
    }
    rows
}

fn addresses(service: &BalancedService) -> String {
    let all = service.addresses.iter().chain(&service.external_addresses);
    let all: Vec<_> = all.map(ToString::to_string).collect();
    match all.is_empty() {
        true => "none".to_owned(),
        false => all.join(","),
    }
}

/// Returns a port as it is dialled: `80`, `53/udp`.
pub(super) fn port_word(port: &BalancedPort) -> String {
    match port.protocol {
        Protocol::Tcp => port.port.to_string(),
        Protocol::Udp => format!("{}/udp", port.port),
    }
}

/// Cells of a row without a backend.
fn instead(word: &str, mood: Mood, why: &str) -> Vec<Cell> {
    let mut cells = vec![plain(String::new()), (word.to_owned(), mood)];
    cells.extend(blanks(4));
    cells.push(plain(clean(why)));
    cells
}

fn of_backend(backend: &Backend) -> Vec<Cell> {
    let address = SocketAddr::new(backend.address, backend.port);
    let (health, mood) = health(backend.health);
    let failed = match backend.failed {
        0 => Mood::Plain,
        _ => Mood::Notice,
    };
    vec![
        plain(address.to_string()),
        (health.to_owned(), mood),
        plain(share(backend)),
        plain(short_count(backend.open)),
        plain(short_count(backend.picked)),
        (short_count(backend.failed.into()), failed),
        plain(clean(&why(backend))),
    ]
}

/// Returns the word for an endpoint's health, and what it means.
pub(super) fn health(health: EndpointHealth) -> (&'static str, Mood) {
    match health {
        EndpointHealth::Healthy => ("healthy", Mood::Good),
        EndpointHealth::Ready => ("ready", Mood::Good),
        EndpointHealth::Unhealthy => ("unhealthy", Mood::Bad),
        EndpointHealth::Ejected => ("ejected", Mood::Bad),
        EndpointHealth::NotReady => ("not ready", Mood::Bad),
        EndpointHealth::Terminating => ("terminating", Mood::Notice),
        EndpointHealth::Closed => ("closed", Mood::Bad),
    }
}

/// Returns a share in percent, with a digit after the point where it takes one to tell it from nothing.
pub(super) fn share(backend: &Backend) -> String {
    let percent = backend.share * 100.0;
    if backend.weight > 0 && percent < 9.95 {
        format!("{percent:.1}%")
    } else {
        format!("{percent:.0}%")
    }
}

/// Returns why a backend gets nothing, or less or more than one would think.
pub(super) fn why(backend: &Backend) -> String {
    if let Some(why) = &backend.why {
        return why.to_string();
    }
    let mut words = Vec::new();
    if backend.panic {
        words.push("panic: too few are healthy, so all get connections");
    }
    if backend.slow_start {
        words.push("slow start: its share grows");
    }
    words.join("; ")
}

#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
fn short_count(count: u64) -> String {
    short(count as f64)
}

fn plain(text: String) -> Cell {
    (text, Mood::Plain)
}

fn blanks(count: usize) -> Vec<Cell> {
    vec![plain(String::new()); count]
}

#[cfg(test)]
pub(super) mod tests;
