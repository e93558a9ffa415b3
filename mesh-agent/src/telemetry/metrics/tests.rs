//! Tests of `telemetry::metrics`.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use mesh_common::pair::{PairCounters, PairKey};
use mesh_common::path::Path;

use super::table::{ALL, Kind};
use super::*;
use crate::chance::Chance;
use crate::l7::cluster::{Cluster, ClusterPolicy};
use crate::l7::flag::Flag;
use crate::model::balanced::Target;
use crate::model::endpoint::EndpointHealth;
use crate::model::snapshot::Made;
use crate::telemetry::applied::Part;
use crate::telemetry::fake::{FakeKernel, FakeState, name, pair, service, traffic, workload};
use crate::telemetry::http::fake::Sample;
use crate::telemetry::http::log::LogTarget;
use crate::telemetry::http::record::{Messages, RelayEnd, RelayRecord};
use crate::telemetry::http::{HttpSettings, MetricNames, View};
use crate::telemetry::metrics::services::ServiceState;

/// Returns what has seen a request, with everything that can be counted.
fn http(names: MetricNames) -> Arc<Http> {
    let (http, _) = Http::start(
        &HttpSettings {
            names,
            domain: "mesh.local".to_owned(),
            log: Some(LogTarget::File("/dev/null".into())),
            log_sample: 0.0,
            otlp_endpoint: "http://127.0.0.1:1".parse().ok(),
            ..HttpSettings::default()
        },
        "node-1",
    )
    .unwrap();
    let observer = http.observer();
    let mut sample = Sample {
        attempts: 3,
        workload: Some(Arc::new(name("shop", "cart-1"))),
        ..Sample::default()
    };
    observer.request(&sample.record());
    observer.refused(&sample.client, ::http::StatusCode::BAD_REQUEST, "no host");
    observer.relayed(&RelayRecord {
        client: &sample.client,
        destination: None,
        endpoint: None,
        server_name: None,
        end: RelayEnd::Closed,
        received: 1,
        sent: 2,
        connect_ns: 0,
        total_ns: 0,
    });
    sample.status = 0;
    sample.grpc_status = Some(14);
    let (received, sent) = (2, 5);
    sample.messages = Some(Messages { received, sent });
    sample.flags.raise(Flag::UpstreamTimeout);
    sample.rule = None;
    sample.destination = None;
    observer.request(&sample.record());
    let id = Arc::new(service("shop", "cart", 80));
    let cluster = Arc::new(Cluster::new(id, ClusterPolicy::default()));
    let targets = ["10.0.0.2:80", "[fd00::2]:80"].map(|address| Target {
        address: address.parse().unwrap(),
        workload: None,
        weight: 1,
    });
    cluster.set_endpoints(&targets, 1, &mut Chance::seeded(1));
    http.show(View {
        clusters: Box::new(move || vec![cluster.clone()]),
        now: Box::new(|| 1),
        connections: Box::new(|| (3, 4)),
    });
    http
}

fn metrics(kernel: &Arc<FakeKernel>) -> Metrics {
    named(kernel, MetricNames::Mesh)
}

fn named(kernel: &Arc<FakeKernel>, names: MetricNames) -> Metrics {
    let snapshot = Snapshot {
        generation: 8,
        workloads: vec![Arc::new(workload(
            "web",
            BTreeMap::from([("app".to_owned(), "front".to_owned())]).into(),
        ))],
        host_pods: Arc::new([(name("kube-system", "proxy"), None)].into()),
        errors: vec!["mesh.yaml: bad".into()],
        made: Some(Made {
            at: Instant::now(),
            took: Duration::from_millis(1500),
        }),
        ..Snapshot::default()
    };
    let times = Arc::new(ApplyTimes::default());
    for (part, _) in Part::ALL {
        times.note(part, &snapshot);
    }
    Metrics::new(MetricSources {
        kernel: kernel.clone(),
        snapshot: Arc::new(ArcSwap::from_pointee(snapshot)),
        hub: Arc::new(FlowHub::new(kernel.clone())),
        services: Box::new(|| {
            vec![ServiceSample {
                name: service("shop", "cart", 80).service,
                state: ServiceState::Panic,
                connects: 12,
                refused: 3,
                backends: vec![EndpointHealth::Ejected, EndpointHealth::Ready],
            }]
        }),
        times,
        dns: Arc::default(),
        http: http(names),
        redirect_allowed: Box::new(|| true),
        node: "worker-1".to_owned(),
    })
    .unwrap()
}

fn has(text: &str, line: &str) {
    assert!(text.lines().any(|l| l == line), "no `{line}` in\n{text}");
}

#[test]
fn the_text_says_what_the_kernel_counted() {
    let text = metrics(&Arc::default()).render().unwrap();
    let pair = r#"source_namespace="shop",source="web",destination_namespace="shop",destination="cart",destination_port="8080",destination_service_namespace="",destination_service="""#;
    let route = r#"source_namespace="shop",source="web",destination_service_namespace="shop",destination_service="cart",destination_port="80",backend_namespace="shop",backend="cart-v2",route="shop/cart/0""#;
    let request = format!(r#"{route},status="2xx",grpc_status="",flag="-""#);
    let cluster = r#"service_namespace="shop",service="cart",port="80""#;
    for line in [
        format!(r#"mesh_flow_bytes_total{{{pair},path="redirect",direction="to_source"}} 500000"#),
        format!(r#"mesh_flow_bytes_total{{{pair},path="tcp",direction="to_destination"}} 1000"#),
        format!("mesh_flows_opened_total{{{pair}}} 22"),
        format!("mesh_flow_rtt_seconds_sum{{{pair}}} 0.00099"),
        format!(r#"mesh_flow_connect_duration_seconds_bucket{{{pair},le="0.000128"}} 0"#),
        format!(r#"mesh_flow_connect_duration_seconds_bucket{{{pair},le="0.000256"}} 22"#),
        format!(r#"mesh_flow_connect_duration_seconds_bucket{{{pair},le="+Inf"}} 22"#),
        format!(r#"mesh_flow_turnaround_duration_seconds_sum{{{pair},path="redirect"}} 0.0045"#),
        r#"mesh_flows_open{path="redirect",reason="none"} 1"#.into(),
        r#"mesh_flows_ended_total{path="tcp",reason="peer_elsewhere"} 3"#.into(),
        r#"mesh_map_limit_entries{map="sockets"} 65536"#.into(),
        r#"mesh_probe_level{level="applications"} 1"#.into(),
        r#"mesh_workloads{state="not_accelerated"} 1"#.into(),
        r#"mesh_services{state="panic"} 1"#.into(),
        r#"mesh_service_connects_total{service_namespace="shop",service="cart"} 12"#.into(),
        r#"mesh_service_refused_total{service_namespace="shop",service="cart"} 3"#.into(),
        r#"mesh_service_backends{service_namespace="shop",service="cart",state="ejected"} 1"#
            .into(),
        format!("mesh_http_requests_total{{{request}}} 1"),
        format!("mesh_http_request_duration_seconds_bucket{{{request},le=\"0.0005\"}} 0"),
        format!("mesh_http_request_duration_seconds_bucket{{{request},le=\"0.001\"}} 1"),
        format!("mesh_http_request_duration_seconds_sum{{{request}}} 0.001"),
        format!("mesh_http_response_body_bytes_total{{{request}}} 2000"),
        format!("mesh_http_request_time_seconds_total{{{route},part=\"upstream\"}} 0.0006"),
        format!("mesh_http_retries_total{{{route}}} 2"),
        r#"mesh_http_malformed_requests_total{source_namespace="shop",source="web",destination_service_namespace="shop",destination_service="cart",destination_port="80",status="400"} 1"#.into(),
        "mesh_http_label_sets 2".into(),
        r#"mesh_http_pool_connections{state="idle"} 4"#.into(),
        format!("mesh_http_cluster_endpoints{{{cluster},state=\"in_use\"}} 2"),
        format!("mesh_http_cluster_limit{{{cluster},kind=\"requests\"}} 1024"),
        format!("mesh_http_cluster_ejections_total{{{cluster}}} 0"),
        "mesh_dns_listening_workloads 0".into(),
        "mesh_config_generation 8".into(),
        "mesh_kernel_generation 7".into(),
        "mesh_config_errors 1".into(),
        "mesh_config_read_seconds 1.5".into(),
    ] {
        has(&text, &line);
    }
    assert!(text.contains(r#"source_namespace="unknown",source="unknown""#));
    assert!(
        !text.contains("mesh_observe_splice"),
        "attached only when needed"
    );
}

#[test]
fn a_kernel_that_cannot_be_read_is_counted_and_the_rest_is_shown() {
    let kernel = Arc::new(FakeKernel::default());
    kernel.change(|state| state.broken = true);
    let metrics = metrics(&kernel);
    has(
        &metrics.render().unwrap(),
        "mesh_kernel_read_errors_total 4",
    );
    has(&metrics.render().unwrap(), "mesh_kernel_generation 7");
}

#[test]
fn names_and_values_from_outside_are_escaped() {
    let kernel = Arc::new(FakeKernel::default());
    kernel.change(|state| {
        state.names.insert(1, name("a\"b", "c\\d\ne"));
        state.pairs.insert(pair(1, 2, 1, Path::Tcp), traffic(1));
    });
    let text = metrics(&kernel).render().unwrap();
    assert!(text.contains(r#"source_namespace="a\"b",source="c\\d\ne""#));
    promtool(&text);
}

#[test]
fn every_metric_has_help_a_unit_and_a_sample() {
    let kernel = Arc::new(FakeKernel::default());
    let text = metrics(&kernel).render().unwrap();
    let units = [
        "bytes",
        "connections",
        "messages",
        "opened",
        "failed",
        "closed",
        "retransmits",
        "seconds",
        "ended",
        "demotions",
        "stalls",
        "eagain",
        "lost",
        "overflowed",
        "failures",
        "errors",
        "queries",
        "connects",
        "refused",
        "decisions",
        "unrecorded",
        "requests",
        "retries",
        "lines",
        "spans",
        "ejections",
        "overflows",
    ];
    for metric in ALL {
        assert!(metric.help.ends_with('.'), "{}", metric.name);
        let kind = metric.kind.word();
        has(&text, &format!("# TYPE {} {kind}", metric.name));
        let counter = metric.name.strip_suffix("_total");
        assert_eq!(
            counter.is_some(),
            metric.kind == Kind::Counter,
            "{}",
            metric.name
        );
        if let Some(base) = counter {
            assert!(units.iter().any(|u| base.ends_with(u)), "{}", metric.name);
        }
        if matches!(metric.kind, Kind::Histogram | Kind::Summary) {
            assert!(metric.name.ends_with("_seconds"), "{}", metric.name);
        }
        assert!(table::markdown().contains(&format!("| `{}` |", metric.name)));
    }
    let types = text.lines().filter(|line| line.starts_with("# TYPE "));
    assert_eq!(
        types.count(),
        ALL.len(),
        "a metric that is not in the table"
    );
}

#[test]
fn the_documentation_is_in_line() {
    let file = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/src/telemetry/metrics/METRICS.md"
    );
    let text = table::markdown();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(file, &text).unwrap();
    }
    let written = std::fs::read_to_string(file).unwrap_or_default();
    assert!(
        written == text,
        "METRICS.md is stale; run this test with UPDATE_GOLDEN=1"
    );
}

#[test]
fn promtool_accepts_the_text() {
    promtool(&metrics(&Arc::default()).render().unwrap());
}

#[test]
fn where_the_time_went_adds_up_to_all_of_it() {
    let text = metrics(&Arc::default()).render().unwrap();
    let sum = |name: &str| {
        let lines = text.lines().filter(|line| line.starts_with(name));
        let values = lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap());
        values.sum::<f64>()
    };
    let all = sum("mesh_http_request_duration_seconds_sum{");
    let parts = sum("mesh_http_request_time_seconds_total{");
    assert!(
        all > 0.0 && (all - parts).abs() < 1e-12,
        "{all} is not {parts}"
    );
}

/// As if `web` had dialled `cart`: four times something by itself, more than that by requests, and thrice nobody was there.
fn dial_a_service(state: &mut FakeState) {
    let key = pair(1, 2, 80, Path::Tcp);
    let failed = PairCounters {
        failed: 3,
        ..traffic(4)
    };
    let number = 1;
    let requests = PairKey {
        service: number,
        requests: 1,
        ..key
    };
    let pairs = [
        (
            PairKey {
                service: number,
                ..key
            },
            failed,
        ),
        (requests, traffic(100)),
    ];
    state.pairs.extend(pairs);
    let cart = Arc::new(service("shop", "cart", 80));
    state.services.insert(number, cart);
}

#[test]
fn requests_have_istio_s_names_where_that_is_asked_for() {
    let kernel = Arc::<FakeKernel>::default();
    kernel.change(dial_a_service);
    let text = named(&kernel, MetricNames::Istio).render().unwrap();
    for part in [
        r#"istio_requests_total{reporter="source",source_workload="web",source_workload_namespace="shop""#,
        r#"destination_service="cart-v2.shop.svc.mesh.local",destination_service_name="cart-v2",destination_service_namespace="shop",destination_cluster="unknown",request_protocol="http",response_code="200",grpc_response_status="",response_flags="-",connection_security_policy="unknown"} 1"#,
        r#"destination_service_name="cart",destination_service_namespace="shop",destination_cluster="unknown",request_protocol="grpc",response_code="0",grpc_response_status="14",response_flags="UT",connection_security_policy="unknown",le="1"} 1"#,
        r#"source_app="front",source_version="unknown",source_canonical_service="front",source_canonical_revision="latest",source_cluster="unknown",destination_workload="cart-1",destination_workload_namespace="shop""#,
        "# TYPE istio_request_duration_milliseconds histogram",
        "# TYPE istio_request_bytes histogram",
        "# TYPE istio_response_bytes histogram",
        "# TYPE mesh_http_cluster_in_flight gauge",
    ] {
        assert!(text.contains(part), "no `{part}` in\n{text}");
    }
    assert!(!text.contains("mesh_http_requests_total"), "not twice");
    for metric in table::ISTIO.iter().chain(table::ISTIO_TCP) {
        assert!(table::markdown().contains(&format!("- `{}`", metric.name)));
        let kind = format!("# TYPE {} {}", metric.name, metric.kind.word());
        has(&text, &kind);
    }
    assert_eq!(&table::ISTIO_REQUEST[..20], &table::ISTIO_TCP_LABELS[..20]);
    let of = |name: &str, labels: &str| {
        let lines = text
            .lines()
            .filter(|it| it.starts_with(&format!("{name}{{")));
        let lines: Vec<_> = lines.filter(|it| it.contains(labels)).collect();
        assert_eq!(lines.len(), 1, "{name} {labels} in\n{text}");
        lines[0].rsplit(' ').next().unwrap().to_owned()
    };
    let established = r#"destination_service="cart.shop.svc.mesh.local",destination_service_name="cart",destination_service_namespace="shop",destination_cluster="unknown",request_protocol="tcp",response_flags="-",connection_security_policy="unknown""#;
    let other_way = r#"destination_service="unknown""#;
    let tcp = "istio_tcp";
    for (name, labels, value) in [
        ("received_bytes_total", established, "4000"),
        ("sent_bytes_total", established, "200000"),
        ("connections_opened_total", established, "8"),
        ("connections_closed_total", established, "4"),
        ("connections_opened_total", r#"response_flags="UF""#, "3"),
        ("connections_closed_total", r#"response_flags="UF""#, "3"),
        ("received_bytes_total", other_way, "11000"),
    ] {
        assert_eq!(
            of(&format!("{tcp}_{name}"), labels),
            value,
            "{name} {labels}"
        );
    }
    let messages = r#"request_protocol="grpc",response_code="0""#;
    assert_eq!(of("istio_request_messages_total", messages), "2");
    assert_eq!(of("istio_response_messages_total", messages), "5");
    // Milliseconds are not what the linter wants, and what dashboards ask for.
    let seconds = text.replace("_milliseconds", "_seconds");
    promtool(&seconds);
}

/// Checks `text` with Prometheus' own linter. Without it: fails in CI, says so elsewhere.
fn promtool(text: &str) {
    let child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        assert!(
            std::env::var_os("CI").is_none(),
            "promtool is not installed"
        );
        eprintln!("SKIPPED: promtool is not installed (package prometheus)");
        return;
    };
    child
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}\n{text}");
    assert_eq!(said, "");
}
