//! Istio's names of metrics: requests, calls of gRPC and bytes of a real agent, each counted as what it is and once.

use std::fs;

use harness::machine::require_programs;
use harness::wait::PATIENCE;
use harness::wait_for;

use super::mesh::{ECHO, Mesh, Route};
use super::opaque;
use super::secure::Certificates;
use super::seen::promtool;

/// Address of `echo-v1`.
const V1: &str = "10.96.1.2";

/// Bytes of requests and answers on connections, and how many were opened and closed.
type Tcp = [f64; 4];

const TCP: [&str; 4] = [
    "istio_tcp_received_bytes_total",
    "istio_tcp_sent_bytes_total",
    "istio_tcp_connections_opened_total",
    "istio_tcp_connections_closed_total",
];

/// Returns the sum of a metric's series that have all of these labels.
fn sum(page: &str, name: &str, labels: &[&str]) -> f64 {
    let lines = page.lines().filter(|line| {
        let is_it = line.starts_with(&format!("{name}{{"));
        is_it && labels.iter().all(|label| line.contains(label))
    });
    let values = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    values.sum()
}

fn label(name: &str, value: &str) -> String {
    format!("{name}=\"{value}\"")
}

/// Returns what connections to a service have carried beside requests.
fn tcp(page: &str, service: &str) -> Tcp {
    let service = label("destination_service_name", service);
    TCP.map(|name| sum(page, name, &[&service]))
}

/// Says in the service's endpoints which pods they are, as Kubernetes does.
fn name_endpoints(mesh: &Mesh) {
    let path = mesh.node.manifests().join("services.yaml");
    let mut text = fs::read_to_string(&path).unwrap();
    for pod in &mesh.backends {
        for address in pod.addresses() {
            let plain = format!("{{addresses: [\"{address}\"], ");
            let name = pod.name();
            let named =
                format!("{plain}targetRef: {{kind: Pod, namespace: default, name: {name}}}, ");
            text = text.replace(&plain, &named);
        }
    }
    let draft = mesh.node.files().join("services.draft");
    fs::write(&draft, text).unwrap();
    fs::rename(&draft, &path).unwrap();
}

/// Returns messages of gRPC as they are sent.
fn messages(all: &[&str]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for message in all {
        bytes.push(0);
        bytes.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
        bytes.extend(message.as_bytes());
    }
    bytes
}

/// Returns the page of metrics.
fn page(mesh: &Mesh) -> String {
    mesh.agent.metrics().unwrap()
}

/// Returns what connections to a service have carried, once this many have ended.
fn ended(mesh: &Mesh, service: &str, count: f64) -> Tcp {
    wait_for("the end of a connection", PATIENCE, || {
        tcp(&page(mesh), service)[3] == count
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", page(mesh)));
    tcp(&page(mesh), service)
}

fn routes() -> String {
    let to = |port: u16| format!("backendRefs: [{{name: echo-v1, port: {port}}}]");
    // What needs nothing but another service would go past the agent.
    let add =
        "type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-route, value: v1}]}";
    let edited = |port| format!("filters: [{{{add}}}]\n      {}", to(port));
    let http = Route::new("HTTPRoute", "http", "echo").port(80);
    let calls = Route::new("GRPCRoute", "calls", "echo").port(7070);
    let tls = Route::new("TLSRoute", "tls", "echo").port(443);
    let tls = tls.line("hostnames: [\"a.example\"]");
    http.rule(&edited(80)) + &calls.rule(&edited(7070)) + &tls.rule(&to(443))
}

#[test]
fn everything_is_counted_once_and_as_what_it_is() {
    if !require_programs(&["promtool"]) {
        return;
    }
    let Some(mesh) = Mesh::with(&["--http-metrics-names", "istio"]) else {
        return;
    };
    name_endpoints(&mesh);
    let certificates = Certificates::new(&mesh, &["a.example"]);
    let _server = certificates.serve(&mesh, 0, "a.example");
    mesh.routes(&routes());

    past_the_agent(&mesh);
    let raw = tcp(&page(&mesh), "echo-v1");
    as_requests(&mesh);
    let all = page(&mesh);
    assert_eq!(tcp(&all, "echo"), [0.0; 4], "{all}");
    assert_eq!(tcp(&all, "echo-v1"), raw);
    passed_on(&mesh, &certificates);

    let all = page(&mesh);
    let who = [
        label("reporter", "source"),
        label("source_workload", "client"),
        label("source_workload_namespace", "default"),
        label("destination_workload", "v1"),
        label("destination_workload_namespace", "default"),
        label("request_protocol", "tcp"),
        label("response_flags", "-"),
    ];
    for service in ["echo", "echo-v1"] {
        let service = label("destination_service_name", service);
        let labels = who.iter().chain([&service]).map(String::as_str);
        let labels: Vec<&str> = labels.collect();
        assert_eq!(sum(&all, TCP[2], &labels), 1.0, "{labels:?}\n{all}");
    }
    // Milliseconds are Istio's, and not what the linter wants.
    promtool(&all.replace("_milliseconds", "_seconds"));
}

/// Dials a service that no route concerns.
fn past_the_agent(mesh: &Mesh) {
    mesh.get(&format!("{V1}:9090/")).expect(200, "v1");
    let [received, sent, opened, _] = ended(mesh, "echo-v1", 1.0);
    let flow = |direction: &str| {
        let labels = [
            label("destination_service", "echo-v1"),
            label("direction", direction),
        ];
        let labels = labels.each_ref().map(String::as_str);
        sum(&page(mesh), "mesh_flow_bytes_total", &labels)
    };
    assert_eq!(opened, 1.0);
    let flows = (flow("to_destination"), flow("to_source"));
    assert_eq!((received, sent), flows);
    assert!(received > 50.0 && sent > 50.0, "{received} {sent}");
}

/// Dials a service through the agent, which passes it on byte by byte.
fn passed_on(mesh: &Mesh, certificates: &Certificates) {
    opaque::asked_by_tls(mesh, certificates);
    let [received, sent, opened, _] = ended(mesh, "echo", 1.0);
    let relayed = |what: &str| {
        let name = format!("mesh_tcp_{what}_bytes_total");
        sum(&page(mesh), &name, &[&label("port", "443")])
    };
    assert_eq!(opened, 1.0);
    assert_eq!((received, sent), (relayed("received"), relayed("sent")));
    assert!(received > 200.0 && sent > 500.0, "{received} {sent}");
}

/// Makes requests and a call of gRPC, and checks what is said of them.
fn as_requests(mesh: &Mesh) {
    for _ in 0..3 {
        mesh.get(&format!("{ECHO}/fine")).expect(200, "v1");
    }
    let body = mesh.node.files().join("messages");
    fs::write(&body, messages(&["one", "", "three"])).unwrap();
    let data = format!("@{}", body.display());
    let url = format!("http://{ECHO}:7070/a.B/One");
    let call = [
        "--http2-prior-knowledge",
        "-H",
        "content-type: application/grpc",
        "-H",
        "te: trailers",
        "--data-binary",
        &data,
        &url,
    ];
    mesh.curl(&call).expect(200, "v1");
    wait_for("the call to be counted", PATIENCE, || {
        let grpc = label("request_protocol", "grpc");
        sum(&page(mesh), "istio_requests_total", &[&grpc]) == 1.0
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", page(mesh)));
    let page = page(mesh);
    let of = |protocol: &str| {
        [
            label("source_workload", "client"),
            label("destination_workload", "v1"),
            label("destination_workload_namespace", "default"),
            label("destination_service", "echo-v1.default.svc.cluster.local"),
            label("request_protocol", protocol),
            label("response_code", "200"),
        ]
    };
    for (name, protocol, expected) in [
        ("istio_requests_total", "http", 3.0),
        ("istio_requests_total", "grpc", 1.0),
        ("istio_request_messages_total", "grpc", 3.0),
        ("istio_response_messages_total", "grpc", 1.0),
    ] {
        let labels = of(protocol);
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        assert_eq!(sum(&page, name, &labels), expected, "{name}\n{page}");
    }
    assert_eq!(
        sum(&page, "istio_request_messages_total", &["\"http\""]),
        0.0
    );
}
