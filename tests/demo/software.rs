//! The ordinary programs, and where they run.

use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use harness::manifest::Acceleration;
use harness::wait::PATIENCE;
use harness::{Node, Pod, Running, wait_for};

/// Programs that must be installed.
pub(crate) const NEEDED: [&str; 5] = ["curl", "nginx", "redis-server", "redis-benchmark", "wrk"];

/// Connections of each client.
pub(crate) const CONNECTIONS: u64 = 16;
/// Bytes of the page that nginx serves.
const PAGE: usize = 2000;
/// How long a client may take beyond its measurement.
const LATE: Duration = Duration::from_secs(30);

/// Returns the names of the pods.
pub(crate) fn names() -> [&'static str; 4] {
    ["web", "cache", "client", "loader"]
}

/// Running servers, and the pods that ask them: `client` with wrk, `loader` with redis-benchmark.
#[derive(Debug)]
pub(crate) struct Software {
    web: Pod,
    cache: Pod,
    client: Pod,
    loader: Pod,
    _nginx: Running,
    _redis: Running,
}

impl Software {
    /// Starts the servers in pods on `node`; returns once they accept connections.
    pub(crate) fn start(node: &Node) -> Result<Self> {
        let [web, cache, client, loader] = names();
        let (web, cache) = (node.pod(web)?, node.pod(cache)?);
        let (client, loader) = (node.pod(client)?, node.pod(loader)?);
        let nginx = start_nginx(&web, "")?;
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
            loader,
            _nginx: nginx,
            _redis: redis,
        };
        software.run(&software.loader, "fill", software.redis_benchmark("set", 1))?;
        Ok(software)
    }

    /// Returns every pod, with its mode.
    ///
    /// Before redis-benchmark loads the server with sockets that do not block, it asks for its settings with one that does: so
    /// mode `auto` would keep it on TCP, and it runs on the operator's word.
    pub(crate) fn pods(&self) -> [(&Pod, Acceleration); 4] {
        [
            (&self.web, Acceleration::Default),
            (&self.cache, Acceleration::Default),
            (&self.client, Acceleration::Default),
            (&self.loader, Acceleration::On),
        ]
    }

    /// Returns what wrk writes after asking nginx for `seconds`.
    pub(crate) fn wrk(&self, seconds: u32) -> Result<String> {
        let mut command = self.client.command("wrk");
        command.args(["--threads", "1", "--connections"]);
        command.arg(CONNECTIONS.to_string()).arg("--latency");
        command.args([
            "--duration",
            &format!("{seconds}s"),
            &format!("http://{}/page", self.web.v4()),
        ]);
        self.run(&self.client, "wrk", command)
    }

    /// Starts wrk under a name against `address`, with one more line in the head of each request: after `Connection: close`, each is on
    /// a connection of its own.
    pub(crate) fn start_wrk(
        &self,
        name: &str,
        address: Ipv4Addr,
        line: &str,
        time: Duration,
    ) -> Result<Running> {
        let mut command = self.client.command("wrk");
        command.args(["--threads", "1", "--connections"]);
        command.arg(CONNECTIONS.to_string());
        command.args(["--header", line, "--duration"]);
        command.arg(format!("{}s", time.as_secs()));
        command.arg(format!("http://{address}/page"));
        self.client.start(name, &mut command)
    }

    /// Returns which server answers at `address` to a request with this line in its head.
    pub(crate) fn who(&self, address: Ipv4Addr, line: &str) -> Result<String> {
        let mut command = self.client.command("curl");
        command.args(["--silent", "--fail", "--max-time", "5", "--header", line]);
        command.arg(format!("http://{address}/who"));
        let answer = self.run(&self.client, "curl", command)?;
        Ok(answer.trim().to_owned())
    }

    /// Returns the pod with nginx.
    pub(crate) fn web(&self) -> &Pod {
        &self.web
    }

    /// Returns the pod that asks nginx.
    pub(crate) fn client(&self) -> &Pod {
        &self.client
    }

    /// Returns what redis-benchmark writes after `requests` requests.
    pub(crate) fn redis(&self, requests: u64) -> Result<String> {
        let command = self.redis_benchmark("get", requests);
        self.run(&self.loader, "redis-benchmark", command)
    }

    fn redis_benchmark(&self, test: &str, requests: u64) -> Command {
        let mut command = self.loader.command("redis-benchmark");
        command.args([
            "-h",
            &self.cache.v4().to_string(),
            "-t",
            test,
            "-d",
            "100",
            "--csv",
        ]);
        command.args(["-c", &CONNECTIONS.to_string()]);
        command.args(["-n", &requests.to_string()]);
        command
    }

    fn run(&self, pod: &Pod, name: &str, mut command: Command) -> Result<String> {
        let log = format!("{}-{name}.log", pod.name());
        let log = pod.node().files().join(log);
        // Each run's words alone.
        fs::write(&log, "").context("failed to empty a log")?;
        pod.start(name, &mut command)?.success(LATE)
    }
}

/// Starts nginx in a pod, with one more directive.
pub(crate) fn start_nginx(web: &Pod, directive: &str) -> Result<Running> {
    let files = web.node().files().join(format!("nginx-{}", web.name()));
    fs::create_dir_all(&files).context("failed to make nginx's directory")?;
    fs::write(files.join("page"), "x".repeat(PAGE)).context("failed to write the page")?;
    fs::write(files.join("who"), web.name()).context("failed to write the server's name")?;
    let here = files.display();
    let conf = format!(
        "daemon off; {directive} user root; worker_processes 1; pid {here}/pid; error_log stderr;\n\
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
