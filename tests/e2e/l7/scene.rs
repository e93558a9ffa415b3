//! A client's pod, two pods of backends, services of both and of each, and routes.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use harness::machine::{require_programs, workspace_program};
use harness::manifest::{self, Acceleration};
use harness::wait::PATIENCE;
use harness::{Agent, Node, Pod, Running, wait_for};
use serde_json::Value;

/// The service of both backends, that of the first and that of the second.
pub(crate) const SERVICES: [(&str, &str); 3] = [
    ("shop", "10.96.0.20"),
    ("one", "10.96.0.21"),
    ("two", "10.96.0.22"),
];

/// Where `shop` is, by port.
pub(crate) const HTTP: &str = "10.96.0.20:80";
pub(crate) const H2C: &str = "10.96.0.20:81";
pub(crate) const WS: &str = "10.96.0.20:82";
pub(crate) const CHAOS: &str = "10.96.0.20:83";
pub(crate) const GRPC: &str = "10.96.0.20:7070";

/// Name, number, where its servers listen, and what is spoken.
const PORTS: [(&str, u16, u16, &str); 5] = [
    ("http", 80, 8080, "http"),
    ("h2c", 81, 8080, "kubernetes.io/h2c"),
    ("ws", 82, 8082, "kubernetes.io/ws"),
    ("chaos", 83, 8083, "http"),
    ("grpc", 7070, 7070, "grpc"),
];

/// Where the server that does wrong hears what to do.
const CONTROL: u16 = 8084;

/// For what takes a while on a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// Which servers run in the pods of backends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Server {
    Echo,
    Grpc,
    Ws,
    Chaos,
}

/// All of it. Dropped in this order.
#[derive(Debug)]
pub(crate) struct Scene {
    pub(crate) servers: Vec<Running>,
    pub(crate) agent: Agent,
    pub(crate) client: Pod,
    pub(crate) backends: [Pod; 2],
    pub(crate) node: Node,
}

impl Scene {
    /// Returns one with these servers in each backend and these routes, or `None`, loudly, without root or one of `programs`.
    pub(crate) fn new(programs: &[&str], servers: &[Server], routes: &str) -> Option<Self> {
        if !harness::require_root() || !require_programs(programs) {
            return None;
        }
        let node = Node::new().unwrap();
        let pod = |name| node.pod(name).unwrap();
        let (client, backends) = (pod("client"), [pod("one"), pod("two")]);
        for pod in [&client, &backends[0], &backends[1]] {
            manifest::write(pod, Acceleration::Default).unwrap();
        }
        let [one, two] = backends.each_ref().map(Pod::v4);
        let places: [&[Ipv4Addr]; 3] = [&[one, two], &[one], &[two]];
        let services = SERVICES.iter().zip(places);
        let text: Vec<String> = services.map(|(it, to)| service(it.0, it.1, to)).collect();
        let draft = node.files().join("draft");
        for (name, text) in [
            ("services", text.join("---\n")),
            ("routes", routes.to_owned()),
        ] {
            fs::write(&draft, text).unwrap();
            fs::rename(&draft, node.manifests().join(format!("{name}.yaml"))).unwrap();
        }
        let agent = Agent::start(&node, &[]).unwrap();
        let mut scene = Self {
            servers: Vec::new(),
            agent,
            client,
            backends,
            node,
        };
        for server in servers {
            for backend in 0..scene.backends.len() {
                let running = scene.serve(*server, backend);
                scene.servers.push(running);
            }
        }
        Some(scene)
    }

    /// Starts a server in a backend's pod.
    pub(crate) fn serve(&self, server: Server, backend: usize) -> Running {
        let pod = &self.backends[backend];
        let at = |port| format!("{}:{port}", pod.v4());
        let name = pod.name();
        let words = match server {
            Server::Echo => vec!["echo", "--name", name],
            Server::Grpc => vec!["grpc-serve", "--name", name],
            Server::Ws => vec!["ws-serve"],
            Server::Chaos => vec!["chaos", "--name", name],
        };
        let (word, port) = match server {
            Server::Echo => ("echo", 8080),
            Server::Grpc => ("grpc", 7070),
            Server::Ws => ("ws", 8082),
            Server::Chaos => ("chaos", 8083),
        };
        let mut command = pod.command(workspace_program("peer", "UNDERPASS_PEER").unwrap());
        command
            .arg("http")
            .args(words)
            .args(["--listen", &at(port)]);
        if server == Server::Chaos {
            command.args(["--control", &at(CONTROL)]);
        }
        let mut running = pod.start(word, &mut command).unwrap();
        running.line("ready", PATIENCE).unwrap();
        running
    }

    /// Starts `peer http` with these words in the client's pod.
    pub(crate) fn start(&self, name: &str, words: &[&str]) -> Running {
        let mut command = self
            .client
            .command(workspace_program("peer", "UNDERPASS_PEER").unwrap());
        command.arg("http").args(words);
        self.client.start(name, &mut command).unwrap()
    }

    /// Runs it to its end; returns what it said, line by line.
    pub(crate) fn said(&self, name: &str, words: &[&str]) -> Vec<Value> {
        self.said_within(LONG * 4, name, words)
    }

    /// The same of one that has much to do.
    pub(crate) fn said_within(&self, most: Duration, name: &str, words: &[&str]) -> Vec<Value> {
        let mut running = self.start(name, words);
        let before = running.log().len();
        let text = running.success(most).unwrap();
        let lines = text.get(before..).unwrap_or(&text).lines();
        let said = lines.filter(|line| line.starts_with('{'));
        said.map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// Returns what a program that was started says, once it does.
    pub(crate) fn heard(running: &mut Running) -> Value {
        // The rest of a line that begins so.
        let rest = running.line("{", LONG * 3).unwrap();
        serde_json::from_str(&format!("{{{rest}")).unwrap()
    }

    /// Runs a line of shell in the client's pod; returns what it wrote.
    pub(crate) fn shell(&self, name: &str, line: &str) -> anyhow::Result<String> {
        let mut command = self.client.command("sh");
        let mut running = self.client.start(name, command.args(["-c", line]))?;
        running.success(LONG)
    }

    /// Returns once `curl` gets an answer of the route of this name from `shop`: by the field that these tests' routes set.
    pub(crate) fn wait_for_route(&self, name: &str) {
        let line = format!("curl -s -m 5 -D - -o /dev/null http://{HTTP}/");
        let wanted = format!("x-route: {name}");
        let last = std::cell::RefCell::new(String::new());
        let there = wait_for("the route to hold", LONG, || {
            let wrote = self
                .shell("curl-wait", &line)
                .unwrap_or_else(|error| format!("{error:#}"));
            let tail = wrote
                .rsplit("HTTP/1.1")
                .next()
                .unwrap_or_default()
                .to_ascii_lowercase();
            last.replace(wrote);
            tail.contains(&wanted)
        });
        there.unwrap_or_else(|error| panic!("{error:#}; last: {}", last.borrow()));
    }

    /// Tells the wrong-doing server of a backend what to do.
    pub(crate) fn tell(&self, backend: usize, what: &str) {
        assert_eq!(self.control(backend, what), "ok", "{what}");
    }

    /// Returns how many requests it has heard.
    pub(crate) fn heard_by(&self, backend: usize) -> u64 {
        self.control(backend, "count").parse().unwrap()
    }

    fn control(&self, backend: usize, line: &str) -> String {
        let pod = &self.backends[backend];
        let at = SocketAddr::new(pod.v4().into(), CONTROL);
        let told = pod.enter(|| -> std::io::Result<String> {
            let mut stream = TcpStream::connect(at)?;
            writeln!(stream, "{line}")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer.trim().to_owned())
        });
        told.unwrap().unwrap()
    }

    /// Returns how many requests ended by each response flag, `-` for none.
    pub(crate) fn flags(&self) -> std::collections::BTreeMap<String, u64> {
        let metrics = self.agent.metrics().unwrap();
        let mut flags = std::collections::BTreeMap::new();
        for line in metrics
            .lines()
            .filter(|line| line.starts_with("mesh_http_requests_total{"))
        {
            let flag = line
                .split("flag=\"")
                .nth(1)
                .and_then(|rest| rest.split('"').next());
            let count = line
                .rsplit(' ')
                .next()
                .and_then(|count| count.parse::<f64>().ok());
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a count"
            )]
            let count = count.unwrap() as u64;
            *flags.entry(flag.unwrap().to_owned()).or_default() += count;
        }
        flags
    }

    /// Returns the agent's memory in MiB.
    pub(crate) fn memory_mib(&self) -> u64 {
        self.agent.resident_bytes().unwrap() >> 20
    }
}

/// A route of all of a service's port to all its backends, that says its name in the response, with more lines of the rule.
pub(crate) fn route(port: u16, more: &str) -> String {
    let kind = if port == 7070 {
        "GRPCRoute"
    } else {
        "HTTPRoute"
    };
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: all-{port}, namespace: default}}\nspec:\n  \
         parentRefs: [{{group: \"\", kind: Service, name: shop, port: {port}}}]\n  rules:\n    - backendRefs: \
         [{{name: shop, port: {port}}}]\n{}{more}",
        says("all", 6)
    )
}

/// The filter that has the response say a route's name, as a rule's lines.
pub(crate) fn says(name: &str, indent: usize) -> String {
    let space = " ".repeat(indent);
    format!(
        "{space}filters: [{{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{{name: x-route, value: {name}}}]}}}}]\n"
    )
}

fn service(name: &str, vip: &str, places: &[Ipv4Addr]) -> String {
    let ports = PORTS.map(|(name, port, target, speaks)| {
        format!(
            "    - {{name: {name}, port: {port}, targetPort: {target}, appProtocol: {speaks}}}\n"
        )
    });
    let targets = PORTS.map(|(name, _, target, speaks)| {
        format!("  - {{name: {name}, port: {target}, appProtocol: {speaks}}}\n")
    });
    let endpoint = |place: &Ipv4Addr| {
        format!("  - {{addresses: [\"{place}\"], conditions: {{ready: true}}}}\n")
    };
    let endpoints: String = places.iter().map(endpoint).collect();
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\n  namespace: default\n  \
         annotations: {{underpass.dev/outlier-detection: \"off\"}}\nspec:\n  clusterIP: {vip}\n  ports:\n{}\
         ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {name}-a\n  namespace: default\n  \
         labels: {{kubernetes.io/service-name: {name}}}\naddressType: IPv4\nendpoints:\n{endpoints}ports:\n{}",
        ports.concat(),
        targets.concat()
    )
}
