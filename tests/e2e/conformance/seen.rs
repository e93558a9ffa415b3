//! What is seen of requests: spans, metrics and lines, of a real agent.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use harness::machine::require_programs;
use harness::wait::PATIENCE;
use harness::wait_for;

use super::collector::{ADDRESS, Collector, hex};
use super::mesh::{ECHO, Mesh, Route};

const V1: &str = "backendRefs: [{name: echo-v1, port: 80}]";

/// The span of whoever asks.
const PARENT: &str = "00f067aa0ba902b7";

fn route() -> String {
    let retry = "retry: {codes: [503], attempts: 2, backoff: 10ms}";
    let rule = format!("{retry}\n      {V1}");
    Route::new("HTTPRoute", "seen", "echo").port(80).rule(&rule)
}

fn now_ns() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(now.as_nanos()).unwrap()
}

/// Returns the id of a trace.
fn trace(number: u32) -> String {
    format!("4bf92f3577b34da6a3ce929d{number:08x}")
}

fn parent(trace: &str, flags: &str) -> String {
    format!("traceparent: 00-{trace}-{PARENT}-{flags}")
}

fn url(query: &str) -> String {
    format!("http://{ECHO}/?{query}")
}

#[test]
fn a_trace_goes_through_the_agent() {
    let endpoint = format!("http://{ADDRESS}");
    let arguments = ["--otlp-endpoint", &endpoint, "--trace-sample", "1"];
    let Some(mut mesh) = Mesh::with(&arguments) else {
        return;
    };
    let collector = Collector::start(&mesh.node);
    mesh.routes(&route());

    goes_on_with_a_span_in_between(&mesh, &collector);

    // One that is not is left as it is.
    let unrecorded = trace(3);
    let context = parent(&unrecorded, "00");
    let answer = mesh.curl(&["-H", &context, &url("")]);
    let passed_on = context.strip_prefix("traceparent: ").map(str::to_owned);
    assert_eq!(answer.saw("traceparent"), passed_on);

    // What has none begins one here.
    let answer = mesh.curl(&[&url("status=500")]);
    let context = answer.saw("traceparent").unwrap();
    let begun: Vec<&str> = context.split('-').collect();
    let span = collector.span(begun[1]);
    assert_eq!(hex(&span.span_id), begun[2]);
    assert!(span.parent_span_id.is_empty(), "{span:?}");
    assert_eq!(span.status.map(|it| it.code), Some(2), "an error");

    if require_programs(&["promtool"]) {
        promtool(&mesh.agent.metrics().unwrap());
    }

    // What is in flight when the agent is told to stop ends, and is told.
    let last = trace(4);
    let mut command = mesh.client.command("curl");
    command.args([
        "-s",
        "-H",
        &parent(&last, "01"),
        &url("delay=1500&key=last"),
    ]);
    let mut waits = command.stdout(Stdio::null()).spawn().unwrap();
    wait_for("the last request", PATIENCE, || {
        mesh.heard(0, "key=last") == 1
    })
    .unwrap();
    mesh.agent.stop().unwrap();
    assert!(waits.wait().unwrap().success());
    assert_eq!(hex(&collector.span(&last).parent_span_id), PARENT);
    assert_eq!(mesh.logged("key=last")[0]["status"], 200);
    assert!(collector.find(&unrecorded).is_none());
}

/// Follows traces that are recorded, by both versions.
fn goes_on_with_a_span_in_between(mesh: &Mesh, collector: &Collector) {
    for (number, more) in [(1, &[][..]), (2, &["--http2-prior-knowledge"])] {
        let trace = trace(number);
        let (context, url) = (parent(&trace, "01"), url(&format!("fail=1&key={number}")));
        let fields = [
            "-H",
            &context,
            "-H",
            "tracestate: a=1",
            "-H",
            "tracestate: b=2",
        ];
        let before = now_ns();
        let answer = mesh.curl(&[more, &fields, &[&url]].concat());
        assert_eq!(answer.expect(200, "v1").told()["seen"], 2);
        let span = collector.span(&trace);
        // Later than the client's end: it may have all before the agent knows that it has sent all.
        let after = now_ns();
        let passed_on = format!("00-{trace}-{}-01", hex(&span.span_id));
        assert_eq!(answer.saw("traceparent"), Some(passed_on));
        assert_eq!(hex(&span.parent_span_id), PARENT);
        assert_eq!(span.trace_state, "a=1,b=2");
        assert_eq!(span.name, "GET default/seen/0");
        assert_eq!(span.number("http.response.status_code"), Some(200));
        assert_eq!(span.number("http.request.resend_count"), Some(1));
        assert!(span.status.is_none(), "{span:?}");
        // Its time is the client's, and the sum of where it went.
        assert!(before <= span.start_ns && span.end_ns <= after, "{span:?}");
        let parts = ["agent", "connect", "upstream", "transfer"];
        let parts = parts.map(|it| span.number(&format!("underpass.time.{it}_us")).unwrap());
        let whole = parts.iter().sum::<i64>() * 1_000;
        assert_eq!(i64::try_from(span.end_ns - span.start_ns), Ok(whole));
        assert!(parts[0] >= 10_000, "the back-off at least: {parts:?}");
    }
}

#[test]
fn metrics_have_istio_s_names_and_lines_are_for_people() {
    if !require_programs(&["promtool"]) {
        return;
    }
    let arguments = [
        "--http-metrics-names",
        "istio",
        "--access-log",
        "-",
        "--access-log-format",
        "text",
        "--access-log-sample",
        "0",
    ];
    let Some(mesh) = Mesh::with(&arguments) else {
        return;
    };
    mesh.routes(&route());
    mesh.get(&format!("{ECHO}/fine")).expect(200, "v1");
    mesh.get(&format!("{ECHO}/bad?status=500"))
        .expect(500, "v1");
    // No host: no request.
    let refused = mesh.curl(&["-H", "Host:", &format!("http://{ECHO}/")]);
    assert_eq!(refused.status, 400, "{refused:?}");

    has_istio_s_names(&mesh.agent.metrics().unwrap());

    let line = |what: &str| {
        let log = mesh.agent.log();
        log.lines()
            .find(|line| line.contains(what))
            .map(str::to_owned)
    };
    for (what, more) in [
        (
            "\"GET /bad?status=500 HTTP/1.1\" 500 ",
            "from=default/client",
        ),
        ("] - 400 grpc=- DPE ", "why=\""),
    ] {
        wait_for(what, PATIENCE, || line(what).is_some()).unwrap();
        let line = line(what).unwrap();
        assert!(line.contains(more), "{line}");
    }
    assert_eq!(line("GET /fine"), None, "a share of none");
}

/// Checks the page after one request that went well and one that did not.
fn has_istio_s_names(metrics: &str) {
    let counted = |name: &str, labels: &[&str]| -> f64 {
        let lines = metrics.lines().filter(|line| {
            let is_it = line.starts_with(&format!("{name}{{"));
            is_it && labels.iter().all(|label| line.contains(label))
        });
        let values = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        values.sum()
    };
    let of = [
        "reporter=\"source\"",
        "source_workload=\"client\"",
        "source_workload_namespace=\"default\"",
        "destination_service=\"echo-v1.default.svc.cluster.local\"",
        "request_protocol=\"http\"",
        "response_flags=\"-\"",
    ];
    for code in ["200", "500"] {
        let code = format!("response_code=\"{code}\"");
        let labels = [&of[..], &[&code]].concat();
        for name in [
            "istio_requests_total",
            "istio_request_duration_milliseconds_count",
            "istio_request_bytes_count",
            "istio_response_bytes_count",
        ] {
            let count = counted(name, &labels);
            assert!((count - 1.0).abs() < f64::EPSILON, "{name}: {count}");
        }
    }
    assert!(!metrics.contains("mesh_http_requests_total"), "not twice");
    let malformed = [
        "source=\"client\"",
        "destination_service=\"echo\"",
        "status=\"400\"",
    ];
    assert!(counted("mesh_http_malformed_requests_total", &malformed) > 0.0);
    // Milliseconds are Istio's, and not what the linter wants.
    promtool(&metrics.replace("_milliseconds", "_seconds"));
}

/// Checks a page with Prometheus' own linter.
pub(super) fn promtool(page: &str) {
    let mut command = Command::new("promtool");
    command.args(["check", "metrics"]).stdin(Stdio::piped());
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.unwrap();
    let mut to = child.stdin.take().unwrap();
    to.write_all(page.as_bytes()).unwrap();
    drop(to);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}\n{page}");
}
