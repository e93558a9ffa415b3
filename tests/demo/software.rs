//! The ordinary programs, and where they run.

use std::fs;
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use harness::wait::PATIENCE;
use harness::{Node, Pod, Running, wait_for};

/// Programs that must be installed.
pub(crate) const NEEDED: [&str; 4] = ["nginx", "redis-server", "redis-benchmark", "wrk"];

/// Connections of each client.
const CONNECTIONS: &str = "16";
/// Bytes of the page that nginx serves.
const PAGE: usize = 2000;
/// How long a client may take beyond its measurement.
const LATE: Duration = Duration::from_secs(30);

/// Returns the names of the pods.
pub(crate) fn names() -> [&'static str; 3] {
    ["web", "cache", "client"]
}

/// Running servers, and the pod that asks them.
#[derive(Debug)]
pub(crate) struct Software {
    web: Pod,
    cache: Pod,
    client: Pod,
    _nginx: Running,
    _redis: Running,
}

impl Software {
    /// Starts the servers in pods on `node`; returns once they accept connections.
    pub(crate) fn start(node: &Node) -> Result<Self> {
        let [web, cache, client] = names();
        let (web, cache, client) = (node.pod(web)?, node.pod(cache)?, node.pod(client)?);
        let nginx = start_nginx(&web)?;
        let mut command = cache.command("redis-server");
        command.args([
            "--bind",
            "0.0.0.0",
            "--protected-mode",
            "no",
            "--save",
            "",
            "--appendonly",
            "no",
        ]);
        command.arg("--dir").arg(node.files());
        let redis = cache.start("redis", &mut command)?;
        for (pod, port) in [(&web, 80), (&cache, 6379)] {
            wait_for(&format!("the server in `{}`", pod.name()), PATIENCE, || {
                let connected = client.enter(|| TcpStream::connect((pod.v4(), port)));
                matches!(connected, Ok(Ok(_)))
            })?;
        }
        let software = Self {
            web,
            cache,
            client,
            _nginx: nginx,
            _redis: redis,
        };
        software.run("fill", software.redis_benchmark("set", 1), LATE)?;
        Ok(software)
    }

    /// Returns every pod.
    pub(crate) fn pods(&self) -> [&Pod; 3] {
        [&self.web, &self.cache, &self.client]
    }

    /// Returns what wrk writes after asking nginx for `seconds`.
    pub(crate) fn wrk(&self, seconds: u32) -> Result<String> {
        let mut command = self.client.command("wrk");
        command.args(["--threads", "1", "--connections", CONNECTIONS, "--latency"]);
        command.args([
            "--duration",
            &format!("{seconds}s"),
            &format!("http://{}/page", self.web.v4()),
        ]);
        self.run("wrk", command, LATE)
    }

    /// Returns what redis-benchmark writes after `requests` requests.
    pub(crate) fn redis(&self, requests: u64) -> Result<String> {
        self.run(
            "redis-benchmark",
            self.redis_benchmark("get", requests),
            LATE,
        )
    }

    fn redis_benchmark(&self, test: &str, requests: u64) -> Command {
        let mut command = self.client.command("redis-benchmark");
        command.args([
            "-h",
            &self.cache.v4().to_string(),
            "-t",
            test,
            "-d",
            "100",
            "--csv",
        ]);
        command.args(["-c", CONNECTIONS, "-n", &requests.to_string()]);
        command
    }

    fn run(&self, name: &str, mut command: Command, late: Duration) -> Result<String> {
        let log = self
            .client
            .node()
            .files()
            .join(format!("client-{name}.log"));
        // Each run's words alone.
        fs::write(&log, "").context("failed to empty a log")?;
        self.client.start(name, &mut command)?.success(late)
    }
}

fn start_nginx(web: &Pod) -> Result<Running> {
    let files = web.node().files().join("nginx");
    fs::create_dir_all(&files).context("failed to make nginx's directory")?;
    fs::write(files.join("page"), "x".repeat(PAGE)).context("failed to write the page")?;
    let here = files.display();
    let conf = format!(
        "daemon off; user root; worker_processes 1; pid {here}/pid; error_log stderr;\n\
         events {{ worker_connections 256; }}\n\
         http {{ access_log off; sendfile on; keepalive_requests 100000000; client_body_temp_path {here}/a;\n\
         proxy_temp_path {here}/b; fastcgi_temp_path {here}/c; uwsgi_temp_path {here}/d; scgi_temp_path {here}/e;\n\
         server {{ listen 80; root {here}; }} }}\n"
    );
    let path = files.join("nginx.conf");
    fs::write(&path, conf).context("failed to write nginx's configuration")?;
    web.start(
        "nginx",
        web.command("nginx")
            .arg("-c")
            .arg(&path)
            .args(["-e", "stderr"]),
    )
}
