//! Requests in the place of flows.

#![forbid(unsafe_code)]

use jiff::SignedDuration;

use crate::admin::types::requests::{Request, Requests, RequestsQuery};
use crate::cli::{FlowsArgs, Output};
use crate::ctl::exit::{CtlError, Exit};
use crate::ctl::flows::{float, follow};
use crate::ctl::human::{bytes, canonical, clean, duration_us, exact};
use crate::ctl::screen::{Mood, Screen};
use crate::ctl::table::{Cell, Column, render as table};
use crate::ctl::{Context, print, print_json};

const COLUMNS: [Column; 9] = [
    Column::text("ENDED"),
    Column::name("SOURCE").shrinks_to(10),
    Column::name("SERVICE").shrinks_to(10),
    Column::text("REQUEST").shrinks_to(14),
    Column::text("ANSWER"),
    Column::number("TOOK"),
    Column::number("SENT").goes(2),
    Column::number("RECEIVED").goes(1),
    Column::text("ROUTE").shrinks_to(12).goes(3),
];

pub(super) async fn run(context: &Context, args: FlowsArgs) -> Result<Exit, CtlError> {
    let path = format!("/v1/requests?{}", query(&args)?);
    if args.follow {
        let stream = context.client.stream(&path).await?;
        return follow(context, stream).await;
    }
    let answer: Requests = context.client.get(&path).await?;
    match context.output {
        Output::Json => print_json(&answer)?,
        Output::Text => print(&render(&answer, &context.screen))?,
    }
    Ok(Exit::Fine)
}

fn query(args: &FlowsArgs) -> Result<String, CtlError> {
    let query = RequestsQuery {
        workload: args.workload.as_ref().map(ToString::to_string),
        namespace: args.namespace.clone(),
        service: args.service.as_ref().map(ToString::to_string),
        port: args.port,
        status: args.status.clone(),
        flag: args.flag.clone(),
        failed: args.failed,
        since: args.since.map(|since| format!("{}ms", since.as_millis())),
        limit: Some(args.limit),
        follow: args.follow,
    };
    let encoded = serde_urlencoded::to_string(query);
    encoded.map_err(|error| std::io::Error::other(error).into())
}

fn render(answer: &Requests, screen: &Screen) -> String {
    if answer.requests.is_empty() {
        return "no requests match\n".to_owned();
    }
    let rows: Vec<_> = answer.requests.iter().map(|it| row(it, screen)).collect();
    let mut text = table(&COLUMNS, &rows, screen);
    if answer.omitted > 0 {
        text += &format!(
            "{} older requests match too; --limit shows more\n",
            exact(answer.omitted as u64)
        );
    }
    if answer.left_out > 0 {
        text += &format!(
            "{} requests were never listed, since many ended at a time; metrics have them all\n",
            exact(answer.left_out)
        );
    }
    text
}

fn row(request: &Request, screen: &Screen) -> Vec<Cell> {
    let plain = |text: String| (text, Mood::Plain);
    let size = |number: u64| plain(bytes(float(number)));
    let route = request.route.as_deref().map(clean).unwrap_or_default();
    vec![
        plain(ended(request, screen)),
        plain(clean(&request.source.to_string())),
        plain(clean(&request.service.to_string())),
        plain(asked(request)),
        (answer(request), mood(request)),
        plain(duration_us(float(request.duration_us))),
        size(request.received_bytes),
        size(request.sent_bytes),
        plain(route),
    ]
}

fn ended(request: &Request, screen: &Screen) -> String {
    let took = i64::try_from(request.duration_us).unwrap_or(i64::MAX);
    let end = request
        .start
        .saturating_add(SignedDuration::from_micros(took));
    screen.time(end.unwrap_or(request.start))
}

fn asked(request: &Request) -> String {
    if let Some(why) = &request.why {
        return clean(&format!("({why})"));
    }
    clean(&format!("{} {}", request.method, request.path))
}

/// Returns status, status of gRPC and flags.
fn answer(request: &Request) -> String {
    let status = request.status.map(|status| status.to_string());
    let mut text = status.unwrap_or_else(|| "none".to_owned());
    if let Some(code) = request.grpc_status {
        text += &format!(" grpc {code}");
    }
    if !request.flags.is_empty() {
        text += &format!(" {}", clean(&request.flags.join(",")));
    }
    text
}

fn mood(request: &Request) -> Mood {
    if request.is_error() {
        Mood::Bad
    } else {
        Mood::Plain
    }
}

/// Returns one request as one line, which is never cut: it may be searched.
pub(super) fn one_line(request: &Request, screen: &Screen) -> String {
    let when = screen.paint(Mood::Faint, &ended(request, screen));
    let answer = screen.paint(mood(request), &answer(request));
    let mut line = format!(
        "{when} {}:{} -> {}",
        clean(&request.source.to_string()),
        request.source_address.port(),
        clean(&request.service.to_string())
    );
    if let Some(endpoint) = request.endpoint {
        let address = canonical(endpoint.ip());
        line += &format!(" ({})", std::net::SocketAddr::new(address, endpoint.port()));
    }
    if !request.protocol.is_empty() {
        line += &format!(" {}", clean(&request.protocol));
    }
    line += &format!(" {} {answer}", asked(request));
    line += &format!(
        ", {} out, {} back in {}",
        bytes(float(request.received_bytes)),
        bytes(float(request.sent_bytes)),
        duration_us(float(request.duration_us))
    );
    let parts = [
        ("agent", request.agent_us),
        ("connect", request.connect_us),
        ("upstream", request.upstream_us),
        ("transfer", request.transfer_us),
    ];
    let parts = parts.map(|(part, us)| format!("{part} {}", duration_us(float(us))));
    line += &format!(" ({})", parts.join(", "));
    if request.attempts > 1 {
        line += &format!(", {} attempts", request.attempts);
    }
    if let Some(route) = &request.route {
        line += &format!(", route {}", clean(route));
    }
    if let Some(trace) = &request.trace_id {
        line += &format!(", trace {}", clean(trace));
    }
    line + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::http::fake::Sample;

    fn failed() -> Request {
        let mut sample = Sample {
            status: 503,
            attempts: 3,
            ..Sample::default()
        };
        sample.original = Some(("/\u{1b}[31m".to_owned(), "a".to_owned()));
        Request {
            flags: ["UT", "URX"].map(str::to_owned).to_vec(),
            ..sample.request()
        }
    }

    #[test]
    fn a_table_of_requests_fits_80_columns() {
        let answer = Requests {
            schema: String::new(),
            requests: vec![Sample::default().request(), failed()],
            omitted: 1,
            left_out: 1_234,
        };
        let text = render(&answer, &Screen::plain());
        assert!(
            text.lines().take(3).all(|line| line.chars().count() <= 80),
            "{text}"
        );
        assert!(
            text.contains("503 UT,URX") && !text.contains('\u{1b}'),
            "{text}"
        );
        assert!(text.contains("1,234 requests were never listed"), "{text}");
    }

    #[test]
    fn a_line_for_each_request_says_it_all() {
        let screen = Screen::plain();
        let line = one_line(&Sample::default().request(), &screen);
        assert_eq!(
            line,
            "00:00:00.000 shop/web:40000 -> shop/cart:80 (10.0.0.2:8080) HTTP/1.1 GET /items?id=\"7\" 200, 10 B out, 2.0 kB back in \
             1.0ms (agent 100us, connect 200us, upstream 600us, transfer 100us), route shop/cart/0\n"
        );
        let client = Sample::default().client;
        let status = http::StatusCode::URI_TOO_LONG;
        let why = "the request line is too long";
        let refused = Request::refused(&client, status, why, jiff::Timestamp::UNIX_EPOCH);
        let start =
            "00:00:00.000 shop/web:40000 -> shop/cart:80 (the request line is too long) 414 DPE, ";
        let line = one_line(&refused, &screen);
        assert!(line.starts_with(start), "{line}");
        let line = one_line(&failed(), &screen);
        assert!(
            line.contains(" 503 UT,URX, ") && line.contains(", 3 attempts"),
            "{line}"
        );
    }
}
