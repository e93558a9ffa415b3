//! `register`, `deregister` and `lookup`.

#![forbid(unsafe_code)]

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use crate::admin::types::services::{Registration, RegistrationAnswer, ServiceList, ServiceView};
use crate::cli::Output;
use crate::cli::discovery::{DeregisterArgs, LookupArgs, RegisterArgs};
use crate::ctl::exit::{CtlError, Exit};
use crate::ctl::human::clean;
use crate::ctl::screen::{Mood, Screen};
use crate::ctl::table::{Cell, Column, render as table};
use crate::ctl::{Context, print, print_json};
use crate::model::service::{Protocol, ServiceName};

const COLUMNS: [Column; 6] = [
    Column::name("SERVICE").shrinks_to(16),
    Column::text("ADDRESSES").shrinks_to(12).goes(2),
    Column::text("PORT"),
    Column::text("ENDPOINT").shrinks_to(16),
    Column::text("STATE"),
    Column::text("FROM").shrinks_to(12).goes(1),
];

/// Signs of life per TTL: two may be lost.
const SIGNS: u32 = 3;

fn path(service: &ServiceName, id: &str) -> String {
    // Ids beyond the unreserved characters of RFC 3986 are the agent's to refuse, but have to get there in one piece.
    let mut escaped = String::with_capacity(id.len());
    for byte in id.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped += &format!("%{byte:02X}");
        }
    }
    let ServiceName { namespace, name } = service;
    format!("/v1/services/{namespace}/{name}/instances/{escaped}")
}

pub(super) async fn register(context: &Context, args: &RegisterArgs) -> Result<Exit, CtlError> {
    let registration = Registration {
        address: args.address,
        ports: args.ports.clone(),
        weight: args.weight,
        priority: args.priority,
        zone: args.zone.clone(),
        region: args.region.clone(),
        ttl_seconds: args.ttl,
        health_check: None,
        labels: args.labels.iter().cloned().collect(),
    };
    let path = path(&args.service, &args.id);
    // Before the first registration: whoever interrupts right after is to leave nothing behind.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let answer: RegistrationAnswer = context.client.put(&path, &registration).await?;
    told(context, &answer, "registered")?;
    if !args.keep {
        return Ok(Exit::Fine);
    }
    let pause = Duration::from_secs(args.ttl.into()) / SIGNS;
    loop {
        tokio::select! {
            biased;
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            () = tokio::time::sleep(pause) => {}
        }
        // The whole registration, not a heartbeat: an agent that forgot it learns it again.
        match context
            .client
            .put::<RegistrationAnswer>(&path, &registration)
            .await
        {
            Ok(_) => {}
            // It is being replaced, or was stopped for a while.
            Err(error @ (CtlError::Unreachable { .. } | CtlError::Gone)) => {
                eprintln!("node-agent: {error}; trying again");
            }
            Err(error) => return Err(error),
        }
    }
    let answer: RegistrationAnswer = context.client.delete(&path).await?;
    told(context, &answer, "deregistered")?;
    Ok(Exit::Fine)
}

pub(super) async fn deregister(context: &Context, args: &DeregisterArgs) -> Result<Exit, CtlError> {
    let answer = context
        .client
        .delete(&path(&args.service, &args.id))
        .await?;
    told(context, &answer, "deregistered")?;
    Ok(Exit::Fine)
}

fn told(context: &Context, answer: &RegistrationAnswer, what: &str) -> Result<(), CtlError> {
    if context.output == Output::Json {
        return print_json(answer);
    }
    let RegistrationAnswer {
        namespace,
        name,
        id,
        addresses,
        ..
    } = answer;
    let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    let mut text = format!("{what}: {} of {namespace}/{name}", clean(id));
    if !addresses.is_empty() {
        text += &format!(", which is dialled at {}", addresses.join(" and "));
    }
    if !answer.persisted {
        text += "; it does not outlive the agent, whose log says why";
    }
    text.push('\n');
    print(&text)
}

pub(super) async fn lookup(context: &Context, args: &LookupArgs) -> Result<Exit, CtlError> {
    let path = match &args.service {
        Some(ServiceName { namespace, name }) => format!("/v1/services/{namespace}/{name}"),
        None => "/v1/services".to_owned(),
    };
    let Some(answer) = context.find::<ServiceList>(&path).await? else {
        return Ok(Exit::Bad);
    };
    match context.output {
        Output::Json => print_json(&answer)?,
        Output::Text => print(&render(&answer.services, &context.screen))?,
    }
    Ok(Exit::Fine)
}

fn render(services: &[ServiceView], screen: &Screen) -> String {
    if services.is_empty() {
        return "there are no services\n".to_owned();
    }
    let rows: Vec<_> = services.iter().flat_map(rows).collect();
    table(&COLUMNS, &rows, screen)
}

/// A row for each endpoint; what it shares with the one above is left out.
fn rows(service: &ServiceView) -> Vec<Vec<Cell>> {
    let plain = |text: String| (text, Mood::Plain);
    let addresses: Vec<_> = service.addresses.iter().map(ToString::to_string).collect();
    let addresses = match (&service.external_name, addresses.is_empty()) {
        (Some(name), _) => format!("is {}", clean(name)),
        (None, true) => "none".to_owned(),
        (None, false) => addresses.join(","),
    };
    let mut head = vec![
        plain(clean(&format!("{}/{}", service.namespace, service.name))),
        plain(addresses),
    ];
    let origin = clean(&service.origin);
    let mut rows: Vec<Vec<Cell>> = Vec::new();
    let mut add = |port: String, endpoint: String, state: (&str, Mood)| {
        let blank = vec![plain(String::new()), plain(String::new())];
        let first = rows.is_empty();
        let mut row = std::mem::replace(&mut head, blank);
        row.extend([plain(port), plain(endpoint), (state.0.to_owned(), state.1)]);
        row.push(plain(if first { origin.clone() } else { String::new() }));
        rows.push(row);
    };
    for port in &service.ports {
        let protocol = match port.protocol {
            Protocol::Tcp => "",
            Protocol::Udp => "/udp",
        };
        let mut name = format!("{}{protocol}", port.number);
        if port.endpoints.is_empty() {
            add(name, String::new(), ("no endpoints", Mood::Notice));
            continue;
        }
        for endpoint in &port.endpoints {
            let address = std::net::SocketAddr::new(endpoint.address, endpoint.port);
            let state = match (endpoint.ready, endpoint.terminating) {
                (_, true) => ("terminating", Mood::Notice),
                (true, false) => ("ready", Mood::Good),
                (false, false) => ("not ready", Mood::Bad),
            };
            add(std::mem::take(&mut name), address.to_string(), state);
        }
    }
    if service.ports.is_empty() {
        add(String::new(), String::new(), ("", Mood::Plain));
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, ports: &str) -> ServiceView {
        let text = format!(
            r#"{{"namespace": "shop", "name": "{name}", "kind": "ClusterIP", "external_name": null,
            "addresses": ["240.96.0.1"], "external_addresses": [], "origin": "registered", "instances": {{}}, "ports": {ports}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn a_table_of_services() {
        let endpoint = |ready: bool, last: u8| {
            format!(
                r#"{{"address": "10.0.0.{last}", "port": 8080, "ready": {ready}, "serving": {ready}, "terminating": false,
                "node": null, "zone": null, "region": null, "weight": 1, "priority": 0, "workload": null}}"#
            )
        };
        let ports = format!(
            r#"[{{"name": null, "number": 80, "protocol": "TCP", "endpoints": [{}, {}]}},
            {{"name": "dns", "number": 53, "protocol": "UDP", "endpoints": []}}]"#,
            endpoint(true, 1),
            endpoint(false, 2)
        );
        let expected = "\
SERVICE    ADDRESSES   PORT    ENDPOINT       STATE         FROM
shop/cart  240.96.0.1  80      10.0.0.1:8080  ready         registered
                               10.0.0.2:8080  not ready
                       53/udp                 no endpoints
";
        let text = render(&[service("cart", &ports)], &Screen::plain());
        assert_eq!(text, expected);
        assert_eq!(render(&[], &Screen::plain()), "there are no services\n");
    }

    #[test]
    fn an_id_arrives_in_one_piece() {
        let service = ServiceName {
            namespace: "shop".into(),
            name: "cart".into(),
        };
        assert_eq!(
            path(&service, "a/b:1?"),
            "/v1/services/shop/cart/instances/a%2Fb%3A1%3F"
        );
    }
}
