//! The real server on a real unix socket, spoken to in plain HTTP.

mod balancing;
mod explain;
mod routes;
mod services;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use self::balancing::FakeServices;
use super::server::{Addresses, bind};
use super::*;
use crate::admin::types::requests::Requests;
use crate::admin::types::{FollowLine, Pairs, Redirect, Status, WorkloadRef, Workloads};
use crate::model::observed::WorkloadState;
use crate::telemetry::clock::{Now, monotonic_ns};
use crate::telemetry::fake::{FakeKernel, record};
use crate::telemetry::http::HttpSettings;
use crate::telemetry::http::fake::Sample;

#[derive(Debug, Default)]
struct FakeControl {
    forbidden: AtomicBool,
    broken: AtomicBool,
}

impl Control for FakeControl {
    fn redirect_allowed(&self) -> bool {
        !self.forbidden.load(Ordering::Relaxed)
    }

    fn allow_redirect(&self, allowed: bool) -> anyhow::Result<()> {
        anyhow::ensure!(
            !self.broken.load(Ordering::Relaxed),
            "failed to write map `control`"
        );
        self.forbidden.store(!allowed, Ordering::Relaxed);
        Ok(())
    }
}

/// A served admin API over a fake kernel.
pub(crate) struct Served {
    _dir: tempfile::TempDir,
    pub(crate) socket: PathBuf,
    metrics: std::net::SocketAddr,
    kernel: Arc<FakeKernel>,
    hub: Arc<FlowHub>,
    pub(crate) http: Arc<Http>,
    services: FakeServices,
    data_path: Arc<DataPathState>,
    control: Arc<FakeControl>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    readiness: Readiness,
    pub(crate) shutdown: watch::Sender<bool>,
    pub(crate) running: JoinHandle<std::io::Result<()>>,
}

impl Served {
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("agent.sock");
        let kernel = Arc::new(FakeKernel::default());
        let hub = Arc::new(FlowHub::new(kernel.clone()));
        let (http, _) = Http::start(&HttpSettings::default(), "worker-1").unwrap();
        let control = Arc::new(FakeControl::default());
        let snapshot = Snapshot {
            generation: 7,
            ..Snapshot::default()
        };
        let registered = RegisteredSource::start(&dir.path().join("state"), Default::default());
        let registered = registered.unwrap();
        let services = FakeServices::new();
        let data_path = Arc::<DataPathState>::default();
        let sources = Sources {
            kernel: kernel.clone(),
            services: services.sources(),
            policies: Arc::default(),
            snapshot: Arc::new(ArcSwap::from_pointee(snapshot)),
            registered: Arc::new(registered),
            hub: hub.clone(),
            http: http.clone(),
            control: control.clone(),
            times: Arc::default(),
            dns: Arc::default(),
            data_path: data_path.clone(),
            readiness: Readiness::default(),
            api: None,
            node: "worker-1".into(),
        };
        let bound = bind(&Addresses {
            socket: socket.clone(),
            metrics: "127.0.0.1:0".parse().ok(),
        });
        let bound = bound.unwrap();
        let metrics = bound.metrics_address().unwrap();
        let (shutdown, down) = watch::channel(false);
        let admin = Admin::new(sources.clone()).unwrap();
        Self {
            _dir: dir,
            socket,
            metrics,
            kernel,
            hub,
            http,
            services,
            data_path,
            control,
            snapshot: sources.snapshot,
            readiness: sources.readiness,
            shutdown,
            running: tokio::spawn(bound.run(admin, down)),
        }
    }

    /// Sends bytes as they are and returns the status and body of the answer; status 0 when there is none.
    async fn raw(&self, request: &str) -> (u16, String) {
        let mut stream = UnixStream::connect(&self.socket).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        parts(&answer)
    }

    async fn get(&self, path: &str) -> (u16, String) {
        self.raw(&get(path)).await
    }

    async fn json<T: DeserializeOwned>(&self, path: &str) -> T {
        let (status, body) = self.get(path).await;
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    async fn post(&self, path: &str, body: &str) -> (u16, String) {
        let length = body.len();
        self.raw(&format!(
            "POST {path} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        ))
        .await
    }

    /// Opens a flow stream and reads up to its first line.
    async fn follow(&self, query: &str) -> Lines<BufReader<UnixStream>> {
        self.lines(&format!("/v1/flows?follow=true{query}")).await
    }

    async fn lines(&self, path: &str) -> Lines<BufReader<UnixStream>> {
        let mut stream = UnixStream::connect(&self.socket).await.unwrap();
        stream.write_all(get(path).as_bytes()).await.unwrap();
        let mut lines = BufReader::new(stream).lines();
        let first = next(&mut lines).await.unwrap();
        assert!(matches!(first, FollowLine::Start { .. }), "{first:?}");
        lines
    }

    pub(crate) fn push(&self, id: u64) {
        self.hub.push(fresh(id));
    }
}

/// Returns a flow that ended just now.
fn fresh(id: u64) -> mesh_common::flow::FlowRecord {
    let mut flow = record(id);
    flow.end_ns = monotonic_ns();
    flow.start_ns = flow.end_ns - 1_000_000;
    flow
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n")
}

fn parts(answer: &str) -> (u16, String) {
    let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok());
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    (status.unwrap_or(0), body.to_owned())
}

/// Returns the next line of a stream, past the chunk sizes around it.
async fn next(lines: &mut Lines<BufReader<UnixStream>>) -> Option<FollowLine> {
    while let Some(line) = lines.next_line().await.unwrap() {
        if line.starts_with('{') {
            return Some(serde_json::from_str(&line).unwrap());
        }
    }
    None
}

fn flow_id(line: Option<FollowLine>) -> u64 {
    match line {
        Some(FollowLine::Flow(flow)) => flow.id,
        other => panic!("no flow: {other:?}"),
    }
}

#[tokio::test]
async fn status_says_how_everything_stands() {
    let served = Served::start();
    let status: Status = served.json("/v1/status").await;
    assert_eq!(status.schema, types::STATUS_SCHEMA);
    assert_eq!(status.degraded, Vec::<String>::new());
    assert_eq!(status.agent.node, "worker-1");
    assert_eq!(status.agent.pid, std::process::id());
    assert_eq!(status.workloads.total, 4);
    assert_eq!(
        status.workloads.reasons[0].why,
        "splice(2) from a TCP socket"
    );
    assert_eq!(status.workloads.not_accelerated.len(), 2);
    assert_eq!(status.live_flows[0].path, "redirect");
    assert_eq!(status.totals.bytes, 663_000);
    assert_eq!(status.totals.redirected_bytes, 510_000);
    assert_eq!(status.totals.flows_opened, 26);
}

#[tokio::test]
async fn whatever_is_wrong_makes_the_agent_degraded() {
    let served = Served::start();
    let _block = served.readiness.block("the first configuration");
    served.snapshot.store(Arc::new(Snapshot {
        generation: 9,
        workloads: vec![],
        errors: vec!["a".into(), "b".into()],
        ..Snapshot::default()
    }));
    served.kernel.change(|state| {
        state.hooks[0].attached = Some(false);
        state.hooks[0].error = Some("operation not permitted".into());
        state.maps[0].used = 65_000;
    });
    let status: Status = served.json("/v1/status").await;
    assert_eq!(
        status.degraded,
        [
            "`mesh_established` is not attached: operation not permitted",
            "waiting for the first configuration",
            "configuration errors: 2",
            "the kernel maps are behind: generation 7 of 9",
            "map `sockets` is 99% full",
        ]
    );
    served.kernel.change(|state| state.broken = true);
    let status: Status = served.json("/v1/status").await;
    assert_eq!(status.degraded[0], "failed to read map `pairs`");
}

#[tokio::test]
async fn workloads_and_pairs_have_names() {
    let served = Served::start();
    let workloads: Workloads = served.json("/v1/workloads").await;
    let names: Vec<_> = workloads
        .workloads
        .iter()
        .map(|w| w.name.as_str())
        .collect();
    assert_eq!(names, ["cart", "db", "web", "worker"]);
    let db = &workloads.workloads[1];
    assert_eq!(db.state, WorkloadState::NotAccelerated);
    assert_eq!(
        (db.mode.as_str(), &db.behaviours[..]),
        ("auto", &["splice".to_owned()][..])
    );

    let pairs: Pairs = served.json("/v1/pairs").await;
    let find = |path: &str| {
        let port = |p: &&types::Pair| p.destination_port == 8080 && p.path == path;
        pairs.pairs.iter().find(port).unwrap()
    };
    let cart: WorkloadRef = "shop/cart".parse().unwrap();
    assert_eq!(find("redirect").destination, Some(cart));
    assert_eq!(
        (find("redirect").flows_open, find("tcp").flows_open),
        (1, 0)
    );
    assert!(pairs.pairs.iter().any(|p| p.source.is_none()));
}

#[tokio::test]
async fn flows_are_filtered_and_limited() {
    let served = Served::start();
    for id in 1..=5 {
        served.push(id);
    }
    // A flow that is in the ring by the time that it is still live in the kernel's list is shown once, as ended.
    served.push(99);
    let ids = async |query: &str| {
        let flows: types::Flows = served.json(&format!("/v1/flows{query}")).await;
        let ids: Vec<_> = flows.flows.iter().map(|flow| flow.id).collect();
        (ids, flows.omitted)
    };
    assert_eq!(ids("").await, (vec![1, 2, 3, 4, 5, 99], 0));
    assert_eq!(ids("?limit=2").await, (vec![5, 99], 4));
    assert_eq!(
        ids("?workload=shop%2Fcart&port=8080&path=redirect&since=5m")
            .await
            .0
            .len(),
        6
    );
    assert_eq!(ids("?namespace=other").await.0.len(), 0);
    assert_eq!(ids("?path=tcp").await.0.len(), 0);
    served.kernel.change(|state| state.live[0].cookie = 100);
    assert_eq!(ids("?limit=1").await, (vec![100], 6));
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_with_words() {
    let served = Served::start();
    for (path, status, says) in [
        ("/v1/flows?limit=many", 400, "invalid digit"),
        (
            "/v1/flows?workload=cart",
            400,
            "workload: `cart` is not of the form",
        ),
        (
            "/v1/flows?path=sideways",
            400,
            "path: `sideways` is none of",
        ),
        (
            "/v1/flows?since=yesterday",
            400,
            "since: `yesterday` is not a duration",
        ),
        ("/v1/flows?sort=bytes", 400, "unknown field `sort`"),
        ("/v2/status", 404, "nothing at this path"),
        ("/v1/redirect", 405, "another method"),
    ] {
        let (got, body) = served.get(path).await;
        let failure: types::Failure = serde_json::from_str(&body).unwrap();
        assert_eq!(
            (got, failure.schema.as_str()),
            (status, types::ERROR_SCHEMA),
            "{path}"
        );
        assert!(failure.error.contains(says), "{path}: {}", failure.error);
    }
}

#[tokio::test]
async fn malformed_requests_end_their_own_connection_only() {
    let served = Served::start();
    let many = "x: y\r\n".repeat(100);
    let long = "a".repeat(64 * 1024);
    for request in [
        "hello\r\n\r\n".to_owned(),
        "GET / HTTP/9.9\r\n\r\n".to_owned(),
        "\u{16}\u{3}\u{1}\0\0\r\n\r\n".to_owned(),
        format!("GET /v1/status HTTP/1.1\r\nhost: a\r\n{many}\r\n"),
        format!("GET /{long} HTTP/1.1\r\nhost: a\r\n\r\n"),
    ] {
        let mut stream = UnixStream::connect(&served.socket).await.unwrap();
        // The server may close before it has read everything.
        drop(stream.write_all(request.as_bytes()).await);
        let mut answer = Vec::new();
        drop(stream.read_to_end(&mut answer).await);
        let (status, _) = parts(&String::from_utf8_lossy(&answer));
        assert!(status == 0 || (400..=505).contains(&status), "{status}");
    }
    assert_eq!(served.get("/healthz").await, (200, "ok\n".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_says_nothing_is_cut_off() {
    let served = Served::start();
    for start in ["", "GET /v1/status HT"] {
        let mut stream = UnixStream::connect(&served.socket).await.unwrap();
        stream.write_all(start.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // Time is paused, so this waits no longer than the server does.
        stream.read_to_end(&mut answer).await.unwrap();
        assert!(!String::from_utf8_lossy(&answer).contains("200 OK"));
    }
}

#[tokio::test]
async fn the_kill_switch_is_thrown_and_told() {
    let served = Served::start();
    let (status, body) = served.post("/v1/redirect", r#"{"allowed":false}"#).await;
    let answer: Redirect = serde_json::from_str(&body).unwrap();
    assert_eq!((status, answer.allowed), (200, false));
    assert!(!served.control.redirect_allowed());
    let now: Status = served.json("/v1/status").await;
    assert!(!now.redirect_allowed);
    assert_eq!(
        now.degraded,
        Vec::<String>::new(),
        "what the operator asked for is no fault"
    );
    let (_, text) = served.get("/metrics").await;
    assert!(text.contains("mesh_redirect_allowed 0"));

    for (body, expected) in [
        (r#"{"allowed":"no"}"#, 422),
        (r#"{"allowed":true,"for":"1h"}"#, 422),
        ("allowed", 400),
        ("", 400),
    ] {
        assert_eq!(
            served.post("/v1/redirect", body).await.0,
            expected,
            "{body}"
        );
    }
    let long = format!(r#"{{"allowed":{}true}}"#, " ".repeat(4096));
    assert_eq!(served.post("/v1/redirect", &long).await.0, 413);
    assert!(
        !served.control.redirect_allowed(),
        "none of these changed it"
    );

    served.control.broken.store(true, Ordering::Relaxed);
    let (status, body) = served.post("/v1/redirect", r#"{"allowed":true}"#).await;
    assert_eq!(status, 500);
    assert!(body.contains("failed to write map"), "{body}");
}

#[tokio::test]
async fn the_metrics_listener_tells_no_more_than_metrics_and_health() {
    let served = Served::start();
    let block = served.readiness.block("the kernel programs");
    let ask = async |path: &str| {
        let mut stream = TcpStream::connect(served.metrics).await.unwrap();
        stream.write_all(get(path).as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        parts(&answer)
    };
    assert_eq!(ask("/healthz").await.0, 200);
    let waits = (503, "waiting for the kernel programs\n".to_owned());
    assert_eq!(ask("/readyz").await, waits);
    drop(block);
    assert_eq!(ask("/readyz").await.0, 200);
    assert!(ask("/metrics").await.1.contains("mesh_flow_bytes_total"));
    for path in ["/v1/status", "/v1/flows", "/v1/redirect", "/"] {
        assert_eq!(ask(path).await.0, 404, "{path}");
    }
}

#[tokio::test]
async fn a_follower_gets_what_matches_as_it_ends() {
    let served = Served::start();
    served.push(1);
    let mut all = served.follow("&since=5m").await;
    let mut other = served.follow("&namespace=other").await;
    served.push(2);
    assert_eq!(flow_id(next(&mut all).await), 1);
    assert_eq!(flow_id(next(&mut all).await), 2);
    served.shutdown.send_replace(true);
    let end = next(&mut all).await;
    assert!(matches!(end, Some(FollowLine::End { .. })), "{end:?}");
    assert_eq!(next(&mut all).await, None);
    let end = next(&mut other).await;
    assert!(matches!(end, Some(FollowLine::End { .. })), "{end:?}");
    served.running.await.unwrap().unwrap();
    assert!(!served.socket.exists(), "the socket goes with the agent");
}

#[tokio::test]
async fn requests_are_listed_and_followed() {
    let served = Served::start();
    let observer = served.http.observer();
    observer.request(&Sample::default().record());
    let failed = Sample {
        status: 502,
        ..Sample::default()
    };
    observer.request(&failed.record());
    let all: Requests = served.json("/v1/requests").await;
    assert_eq!((all.requests.len(), all.left_out), (2, 0));
    assert_eq!(all.requests[0].service.name, "cart");
    let bad: Requests = served.json("/v1/requests?failed=true&limit=1").await;
    assert_eq!(bad.requests[0].status, Some(502));
    let (status, body) = served.get("/v1/requests?status=odd").await;
    assert_eq!(status, 400, "{body}");
    let query = "/v1/requests?follow=true&failed=true&since=5m";
    let mut lines = served.lines(query).await;
    observer.request(&Sample::default().record());
    observer.request(&failed.record());
    for _ in 0..2 {
        let line = next(&mut lines).await;
        let Some(FollowLine::Request(request)) = line else {
            panic!("{line:?}");
        };
        assert_eq!(request.status, Some(502));
    }
}

#[tokio::test]
async fn who_follows_requests_is_told_what_is_left_out() {
    let served = Served::start();
    let observer = served.http.observer();
    observer.request(&Sample::default().record());
    let mut lines = served.lines("/v1/requests?follow=true").await;
    for _ in 0..1_000 {
        observer.request(&Sample::default().record());
    }
    let (mut shown, mut missing) = (0, 0);
    while shown + missing < 1_000 {
        match next(&mut lines).await {
            Some(FollowLine::Request(_)) => shown += 1,
            Some(FollowLine::LeftOut { count }) => missing += count,
            line => panic!("{line:?}"),
        }
    }
    assert_eq!(missing, served.http.left_out());
    assert!(missing > 0, "a thousand took many seconds");
}

#[tokio::test]
async fn a_slow_follower_is_told_what_it_lost_and_holds_up_nobody() {
    let served = Served::start();
    let mut slow = served.follow("").await;
    // No await in between: the server cannot send any of these before all are pushed.
    let now = Now::read();
    let pushed = crate::telemetry::hub::FOLLOW_QUEUE as u64 + 1000;
    for id in 0..pushed {
        served.hub.push_at(&fresh(id), &now);
    }
    assert_eq!(
        next(&mut slow).await,
        Some(FollowLine::Lost { count: 1000 })
    );
    assert_eq!(flow_id(next(&mut slow).await), 1000);
    let status: Status = served.json("/v1/status").await;
    assert_eq!(status.losses.by_followers, 1000);
    assert_eq!(
        status.degraded,
        Vec::<String>::new(),
        "no fault of the node"
    );
}

#[tokio::test]
async fn followers_leave_room_for_status_and_make_room_when_they_go() {
    let served = Served::start();
    let mut followers = Vec::new();
    for _ in 0..FOLLOWERS_MAX {
        followers.push(served.follow("").await);
    }
    let (status, body) = served.get("/v1/flows?follow=true").await;
    assert_eq!(status, 503, "{body}");
    assert_eq!(served.get("/v1/status").await.0, 200);
    followers.pop();
    // The server sees the closed connection when it is polled next; a deadline, not a sleep.
    let again = async {
        while served.hub.followers() == FOLLOWERS_MAX {
            tokio::task::yield_now().await;
        }
    };
    let freed = tokio::time::timeout(std::time::Duration::from_secs(10), again);
    freed.await.unwrap();
    drop(served.follow("").await);
}

#[tokio::test]
async fn a_second_agent_is_told_that_the_first_lives() {
    let served = Served::start();
    let error = bind(&Addresses {
        socket: served.socket.clone(),
        metrics: None,
    });
    let error = error.unwrap_err().to_string();
    assert!(error.starts_with("another agent serves"), "{error}");
    let error = bind(&Addresses {
        socket: served.socket.with_extension("2"),
        metrics: Some(served.metrics),
    });
    assert!(error.unwrap_err().to_string().contains("--metrics-address"));
}

#[test]
fn the_server_may_be_spawned_on_any_runtime() {
    fn send<T: Send>(_: fn(server::Bound, Arc<Admin>, watch::Receiver<bool>) -> T) {}
    send(|bound, admin, down| bound.run(admin, down));
}
