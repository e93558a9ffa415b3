//! A real Prometheus gets what was really sent.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use harness::Running;
use harness::machine::{has_program, require_programs, workspace_program};
use harness::manifest::Acceleration;
use harness::wait::PATIENCE;
use serde_json::Value;

use crate::counters::Counters;
use crate::rounds::{ANSWER, REQUEST, Rounds};
use crate::world::World;

const PROMETHEUS: &str = "127.0.0.1:9090";

/// Rounds of the known traffic.
const ROUNDS: u64 = 200;

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn float(number: u64) -> f64 {
    number as f64
}

/// Returns the only value of a PromQL query, or `None` while there is no answer.
fn query(world: &World, text: &str) -> Option<f64> {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{}", world.node.netns()));
    command.args(["--", "curl", "--silent", "--get", "--data-urlencode"]);
    command.arg(format!("query={text}"));
    command.arg(format!("http://{PROMETHEUS}/api/v1/query"));
    let told = crate::told::tell(&command);
    let answer: Value = serde_json::from_str(&told.out).ok()?;
    answer["data"]["result"][0]["value"][1]
        .as_str()?
        .parse()
        .ok()
}

/// Starts a Prometheus beside the agent; returns it once it has scraped.
fn prometheus(world: &World) -> Running {
    let files = world.node.files();
    let config = files.join("prometheus.yml");
    let target = world.agent().metrics_address();
    let text = format!(
        "global: {{scrape_interval: 500ms, scrape_timeout: 500ms}}\nscrape_configs:\n- job_name: underpass\n  \
         static_configs: [{{targets: [\"{target}\"]}}]\n"
    );
    fs::write(&config, text).unwrap();
    let mut command = world.node.command(Path::new("prometheus")).unwrap();
    command.arg(format!("--config.file={}", config.display()));
    command.arg(format!(
        "--storage.tsdb.path={}",
        files.join("tsdb").display()
    ));
    command.arg(format!("--web.listen-address={PROMETHEUS}"));
    let prometheus = world.node.start("prometheus", &mut command).unwrap();
    harness::wait_for("a first scrape", PATIENCE, || {
        query(world, "up") == Some(1.0)
    })
    .unwrap();
    prometheus
}

#[test]
fn prometheus_scrapes_exact_numbers() {
    let Some(world) = World::new(Some(Acceleration::On)) else {
        return;
    };
    if !has_program("prometheus") {
        assert!(std::env::var_os("CI").is_none(), "this needs prometheus");
        eprintln!("\n!!! SKIPPED: this needs prometheus !!!\n");
        return;
    }
    let _prometheus = prometheus(&world);
    let rounds = Rounds::new(&world);
    for _ in 0..ROUNDS {
        rounds.once();
    }
    let port = rounds.server.local.port();
    let pair = format!(
        "source_namespace=\"default\",source=\"client\",destination_namespace=\"default\",destination=\"server\",\
         destination_port=\"{port}\""
    );
    let of_pair = |metric: &str, more: &str| format!("sum({metric}{{{pair}{more}}})");
    let redirected = ",path=\"redirect\"";
    for (asked, expected) in [
        (
            of_pair(
                "mesh_flow_bytes_total",
                &format!("{redirected},direction=\"to_destination\""),
            ),
            ROUNDS * REQUEST,
        ),
        (
            of_pair(
                "mesh_flow_bytes_total",
                &format!("{redirected},direction=\"to_source\""),
            ),
            ROUNDS * ANSWER,
        ),
        (
            of_pair("mesh_flow_bytes_total", ""),
            ROUNDS * (REQUEST + ANSWER),
        ),
        (of_pair("mesh_flows_opened_total", ""), 1),
        (
            of_pair("mesh_flow_turnaround_duration_seconds_count", redirected),
            ROUNDS,
        ),
        ("mesh_flows_open{path=\"redirect\"}".to_owned(), 1),
        ("mesh_config_errors".to_owned(), 0),
        ("mesh_redirect_allowed".to_owned(), 1),
        ("sum(mesh_workloads{state=\"accelerated\"})".to_owned(), 2),
    ] {
        harness::wait_for(&asked, PATIENCE, || {
            query(&world, &asked) == Some(float(expected))
        })
        .unwrap_or_else(|error| panic!("{error}: {:?}, not {expected}", query(&world, &asked)));
    }
    // What an operator asks: a quantile of the turn-around, between nothing and a second.
    let quantile =
        "histogram_quantile(0.99, sum by (le) (mesh_flow_turnaround_duration_seconds_bucket))";
    let seconds = query(&world, quantile).unwrap();
    assert!(seconds > 0.0 && seconds < 1.0, "{seconds}");
    rounds.finish();
    let closed = of_pair("mesh_flows_closed_total", redirected);
    harness::wait_for(&closed, PATIENCE, || query(&world, &closed) == Some(1.0)).unwrap();
    harness::wait_for("no live flow", PATIENCE, || {
        query(&world, "sum(mesh_flows_open) or vector(0)") == Some(0.0)
    })
    .unwrap();
}

#[test]
fn the_page_is_as_prometheus_wants_it_and_consistent() {
    let Some(world) = World::new(Some(Acceleration::On)) else {
        return;
    };
    let rounds = Rounds::new(&world);
    rounds.during(|| {
        rounds.wait_for_more(50);
        check_page(&world);
    });
    let (up, down) = rounds.finish();
    check_page(&world);
    harness::wait_for("the flow to be closed", PATIENCE, || {
        Counters::of(world.agent()).sum("mesh_flows_closed_total", &[]) == 1.0
    })
    .unwrap();
    let counters = Counters::of(world.agent());
    let bytes = counters.sum("mesh_flow_bytes_total", &["source=\"client\""]);
    assert_eq!(bytes, float(up + down));
    let turns = counters.sum("mesh_flow_turnaround_duration_seconds_count", &[]);
    assert_eq!(turns, float(rounds.done()));
    assert_eq!(
        counters.sum("mesh_flow_connect_duration_seconds_count", &[]),
        1.0
    );
}

/// Address of the service that requests are made to.
const SHOP: &str = "10.96.0.10";

/// Requests that are made to it.
const REQUESTS: u64 = 5;

/// Writes `shop`, which leads to the server's pod, and a route to it that only the agent can follow.
fn serve(world: &World) {
    let server = world.pods[1].v4();
    let text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: shop, namespace: default}}\nspec:\n  clusterIP: {SHOP}\n  \
         clusterIPs: [{SHOP}]\n  ports: [{{port: 80, targetPort: 8080, appProtocol: http}}]\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: shop-a\n  namespace: default\n  labels: \
         {{kubernetes.io/service-name: shop}}\naddressType: IPv4\nendpoints: [{{addresses: [{server}], conditions: {{ready: true}}, \
         targetRef: {{kind: Pod, namespace: default, name: server}}}}]\nports: [{{name: '', port: 8080, protocol: TCP}}]\n---\n\
         apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: shop, namespace: default}}\nspec:\n  \
         parentRefs: [{{group: '', kind: Service, name: shop, port: 80}}]\n  rules:\n  - filters: [{{type: ResponseHeaderModifier, \
         responseHeaderModifier: {{set: [{{name: x-route, value: shop}}]}}}}]\n    backendRefs: [{{name: shop, port: 80}}]\n"
    );
    let draft = world.node.files().join("shop.draft");
    fs::write(&draft, text).unwrap();
    fs::rename(&draft, world.node.manifests().join("shop.yaml")).unwrap();
}

#[test]
fn the_page_is_as_prometheus_wants_it_with_requests_under_either_name() {
    for (names, requests, labels) in [
        (
            "mesh",
            "mesh_http_requests_total",
            "backend=\"shop\",route=\"default/shop/0\",status=\"2xx\"",
        ),
        (
            "istio",
            "istio_requests_total",
            "destination_workload=\"server\"",
        ),
    ] {
        let arguments = ["--http-metrics-names", names];
        let Some(world) = World::with(Some(Acceleration::On), &arguments) else {
            return;
        };
        if !require_programs(&["curl"]) {
            return;
        }
        let at = format!("{}:8080", world.pods[1].v4());
        let program = workspace_program("peer", "UNDERPASS_PEER").unwrap();
        let mut command = world.pods[1].command(program);
        command.args(["answer", "--name", "shop", "--listen", &at]);
        let mut server = world.pods[1].start("answer", &mut command).unwrap();
        server.line("ready", PATIENCE).unwrap();
        serve(&world);
        let get = || {
            let mut curl = world.pods[0].command("curl");
            curl.args(["-sSi", "-m", "5", &format!("http://{SHOP}/")]);
            crate::told::tell(&curl).out.contains("x-route: shop")
        };
        harness::wait_for("the route to be in force", PATIENCE, get).unwrap();
        for _ in 1..REQUESTS {
            assert!(get());
        }
        let count = || Counters::of(world.agent()).sum(requests, &[labels]);
        harness::wait_for("the requests to be counted", PATIENCE, || {
            count() == float(REQUESTS)
        })
        .unwrap_or_else(|error| panic!("{error}: {}", world.agent().metrics().unwrap()));
        // Milliseconds are what dashboards ask Istio's names for, and not what the linter wants.
        let page = world.agent().metrics().unwrap();
        check_by_promtool(&page.replace("_milliseconds", "_seconds"));
        check_series(&world, &page);
    }
}

fn check_page(world: &World) {
    let page = world.agent().metrics().unwrap();
    check_by_promtool(&page);
    for name in [
        "mesh_flow_turnaround_duration_seconds",
        "mesh_flow_connect_duration_seconds",
    ] {
        check_histogram(&Counters::of_page(&page), name);
    }
    check_series(world, &page);
}

fn check_series(world: &World, page: &str) {
    // Names of workloads, ports and closed sets: nothing that grows with connections.
    let series: Vec<_> = page.lines().filter(|line| !line.starts_with('#')).collect();
    assert!(series.len() < 400, "{} series", series.len());
    let client = world.pods[0].v4().to_string();
    assert!(!page.contains(&client), "an address is in a label");
    let names: std::collections::HashSet<_> = series
        .iter()
        .map(|line| line.rsplit_once(' ').unwrap().0)
        .collect();
    assert_eq!(names.len(), series.len(), "a series is there twice");
}

fn check_histogram(counters: &Counters, name: &str) {
    let counts = counters.series(&format!("{name}_count"));
    assert!(!counts.is_empty(), "{name}");
    for (labels, count) in counts {
        let labels = labels.trim_end_matches('}');
        let of_this = |metric: &str| {
            let mut found: Vec<_> = counters
                .series(&format!("{name}_{metric}"))
                .into_iter()
                .filter(|(other, _)| other.contains(labels))
                .map(|(other, value)| (bound(other), value))
                .collect();
            found.sort_by(|a, b| a.0.total_cmp(&b.0));
            found
        };
        let buckets = of_this("bucket");
        assert!(buckets.len() > 10, "{name} {labels}");
        assert!(
            buckets.is_sorted_by(|a, b| a.1 <= b.1),
            "{name}: {buckets:?}"
        );
        assert_eq!(
            buckets.last(),
            Some(&(f64::INFINITY, count)),
            "{name} {labels}"
        );
        // The sum lies between what the buckets' lower and upper bounds allow.
        let sum = of_this("sum")[0].1;
        let (mut below, mut lower, mut least, mut most) = (0.0, 0.0, 0.0, 0.0);
        for (upper, cumulative) in buckets {
            let here = cumulative - below;
            if here > 0.0 {
                least += here * lower;
                most += here * upper;
            }
            (below, lower) = (cumulative, upper);
        }
        assert!(
            least <= sum + 1e-6 * count && sum <= most + 1e-6,
            "{name} {labels}: {least} {sum} {most}"
        );
    }
}

/// Returns the `le` of a bucket's labels.
fn bound(labels: &str) -> f64 {
    let text = labels
        .split("le=\"")
        .nth(1)
        .and_then(|rest| rest.split('"').next());
    match text {
        Some("+Inf") => f64::INFINITY,
        Some(text) => text.parse().unwrap(),
        None => 0.0,
    }
}

fn check_by_promtool(page: &str) {
    if !has_program("promtool") {
        assert!(std::env::var_os("CI").is_none(), "this needs promtool");
        eprintln!("\n!!! SKIPPED: this needs promtool !!!\n");
        return;
    }
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut promtool.stdin.take().unwrap(), page.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{output:?}"
    );
}
