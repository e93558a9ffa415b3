//! Real programs that naive socket redirect breaks: they work, before, while and after the agent makes up its mind.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use harness::bytes::Stream;
use harness::machine::require_programs;
use harness::manifest::{self, Acceleration};
use harness::wait::PATIENCE;
use harness::{Agent, Node, Pod, Running};

use crate::go;

/// Long enough that the first requests fall into it, short enough to wait for.
const WINDOW: [&str; 2] = ["--observation-window", "1s"];
/// Requests before and after the agent has decided.
const REQUESTS: usize = 10;
/// Bytes of what is fetched: much more than any buffer.
const LENGTH: usize = 5_000_000;

/// Three pods: a client, a proxy, and the server behind it.
struct Chain {
    client: Pod,
    proxy: Pod,
    server: Pod,
    node: Node,
}

impl Chain {
    /// Returns one, or `None`, loudly, without root or one of `programs`.
    fn new(programs: &[&str]) -> Option<Self> {
        if !harness::require_root() || !require_programs(programs) {
            return None;
        }
        let node = Node::new().unwrap();
        let pod = |name| node.pod(name).unwrap();
        let (client, proxy, server) = (pod("client"), pod("proxy"), pod("server"));
        Some(Self {
            client,
            proxy,
            server,
            node,
        })
    }

    fn names(&self) -> [&str; 3] {
        [&self.client, &self.proxy, &self.server].map(|pod| pod.name())
    }

    /// Starts nginx in `pod` with these lines in its `server` block.
    fn nginx(&self, pod: &Pod, lines: &str) -> Running {
        let files = self.node.files().join(format!("nginx-{}", pod.name()));
        fs::create_dir_all(&files).unwrap();
        let here = files.display();
        let conf = format!(
            "daemon off; user root; worker_processes 1; pid {here}/pid; error_log stderr;\nevents {{}}\n\
             http {{ access_log off; client_body_temp_path {here}/a; proxy_temp_path {here}/b;\n\
             fastcgi_temp_path {here}/c; uwsgi_temp_path {here}/d; scgi_temp_path {here}/e;\n\
             server {{ listen 80; {lines} }} }}\n"
        );
        let path = files.join("nginx.conf");
        fs::write(&path, conf).unwrap();
        let mut command = pod.command("nginx");
        let running = pod
            .start("nginx", command.arg("-c").arg(path).args(["-e", "stderr"]))
            .unwrap();
        self.listening(SocketAddr::new(pod.v4().into(), 80));
        running
    }

    fn listening(&self, address: SocketAddr) {
        harness::wait_for("the server to listen", PATIENCE, || {
            let connected = self.client.enter(|| std::net::TcpStream::connect(address));
            connected.unwrap().is_ok()
        })
        .unwrap();
    }

    /// Fetches `LENGTH` bytes over HTTP from `address` and checks every one.
    fn fetch(&self, address: SocketAddr) {
        let path = self.node.files().join("fetched");
        let mut command = self.client.command("curl");
        command.args([
            "--silent",
            "--show-error",
            "--fail",
            "--max-time",
            "15",
            "--output",
        ]);
        command.arg(&path).arg(format!("http://{address}/file"));
        let mut curl = self.client.start("curl", &mut command).unwrap();
        curl.success(Duration::from_secs(20)).unwrap();
        let fetched = fs::read(&path).unwrap();
        assert_eq!(fetched.len(), LENGTH);
        assert_eq!(Stream(9).first_wrong(0, &fetched), None);
    }

    /// Runs `request` without the mesh, while the agent watches, and once it has decided. Returns the agent.
    fn through_it_all(&self, mut request: impl FnMut()) -> Agent {
        (0..REQUESTS).for_each(|_| request());
        for pod in [&self.client, &self.proxy, &self.server] {
            manifest::write(pod, Acceleration::Auto).unwrap();
        }
        let agent = Agent::start(&self.node, &WINDOW).unwrap();
        let decided = || {
            let undecided = |name: &&str| agent.workload(name).unwrap()["state"] == "observing";
            !self.names().iter().any(undecided)
        };
        harness::wait_for("the agent to decide", Duration::from_secs(60), || {
            request();
            decided()
        })
        .unwrap();
        (0..REQUESTS).for_each(|_| request());
        agent
    }

    /// Makes the file to fetch, and returns its directory.
    fn file(&self) -> PathBuf {
        let mut bytes = vec![0; LENGTH];
        Stream(9).fill(0, &mut bytes);
        let directory = self.node.files().join("www");
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("file"), bytes).unwrap();
        directory
    }
}

/// Asserts that a workload was seen to do what this kernel's redirect breaks, if it does break it here.
fn assert_seen(agent: &Agent, name: &str, behaviour: &str) {
    let workload = agent.workload(name).unwrap();
    let status = agent.status().unwrap();
    let defects = status["kernel"]["defects"].as_array().unwrap();
    let forbids = |defect: &serde_json::Value| {
        defect["forbids"]
            .as_array()
            .is_some_and(|all| all.iter().any(|word| word == behaviour))
    };
    if defects.iter().any(forbids) {
        assert_eq!(workload["state"], "not-accelerated", "{workload:#}");
    }
    let seen = workload["behaviours"].as_array().unwrap();
    assert!(seen.iter().any(|word| word == behaviour), "{workload:#}");
}

#[test]
fn nginx_as_a_reverse_proxy() {
    let Some(chain) = Chain::new(&["nginx", "curl"]) else {
        return;
    };
    let root = chain.file();
    let _server = chain.nginx(&chain.server, &format!("root {};", root.display()));
    let upstream = format!(
        "location / {{ proxy_pass http://{}:80; }}",
        chain.server.v4()
    );
    let _proxy = chain.nginx(&chain.proxy, &upstream);
    let address = SocketAddr::new(chain.proxy.v4().into(), 80);
    let agent = chain.through_it_all(|| chain.fetch(address));
    assert_seen(&agent, "proxy", "fionread");
}

#[test]
fn a_proxy_written_in_go() {
    let Some(chain) = Chain::new(&["nginx", "curl", "go"]) else {
        return;
    };
    let root = chain.file();
    let _server = chain.nginx(&chain.server, &format!("root {};", root.display()));
    let program = go::build("proxy.go", chain.node.files());
    let mut command = chain.proxy.command(&program);
    command.args([
        format!("{}:0", chain.proxy.v4()),
        format!("{}:80", chain.server.v4()),
    ]);
    let mut proxy = chain.proxy.start("proxy", &mut command).unwrap();
    let address = proxy.line("ready ", PATIENCE).unwrap().parse().unwrap();
    let agent = chain.through_it_all(|| chain.fetch(address));
    assert_seen(&agent, "proxy", "splice");
}
