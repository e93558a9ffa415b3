//! Two clients' pods of different namespaces, three pods of backends, their services, and an agent.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};

use harness::conformance::{self, BACKENDS, PORTS, SERVICES};
use harness::machine::{require_programs, workspace_program};
use harness::manifest::{self, Acceleration};
use harness::wait::PATIENCE;
use harness::{Agent, Node, Pod, Running, wait_for};

use super::answer::Answer;

pub(super) use harness::conformance::Route;

/// Addresses of the services, in their order.
pub(super) const ADDRESSES: [(&str, &str); 6] = [
    (ECHO, ECHO6),
    ("10.96.1.2", "fd96::1:2"),
    (V2, "fd96::1:3"),
    (V3, "fd96::1:4"),
    ("10.96.1.5", "fd96::1:5"),
    (MARK, "fd96::1:9"),
];
pub(super) const ECHO: &str = "10.96.1.1";
pub(super) const ECHO6: &str = "fd96::1:1";
pub(super) const V2: &str = "10.96.1.3";
pub(super) const V3: &str = "10.96.1.4";
const MARK: &str = "10.96.1.9";

/// All of it. Dropped in this order.
#[derive(Debug)]
pub(super) struct Mesh {
    pub(super) servers: Vec<Running>,
    pub(super) agent: Agent,
    pub(super) client: Pod,
    /// Of the namespace `guest`.
    pub(super) guest: Pod,
    pub(super) backends: [Pod; 3],
    pub(super) node: Node,
    /// Configurations so far.
    round: AtomicU32,
}

impl Mesh {
    /// Returns one without a route, or `None`, loudly, without root or `curl`.
    pub(super) fn new() -> Option<Self> {
        Self::with(&[])
    }

    /// Returns one whose agent has further arguments; without `--access-log` among them, it logs to a file.
    pub(super) fn with(arguments: &[&str]) -> Option<Self> {
        if !harness::require_root() || !require_programs(&["curl", "h2load", "openssl", "python3"])
        {
            return None;
        }
        let node = Node::new().unwrap();
        let pod = |name| node.pod(name).unwrap();
        let (client, guest) = (pod("client"), pod("guest"));
        let backends = BACKENDS.map(pod);
        for pod in backends.iter().chain([&client]) {
            manifest::write(pod, Acceleration::Default).unwrap();
        }
        let text = manifest::pod(&guest, Acceleration::Default);
        let text = text.replace("namespace: default", "namespace: guest");
        fs::write(node.manifests().join("guest.yaml"), text).unwrap();
        let services = SERVICES.iter().zip(ADDRESSES);
        let text: String = services.map(|it| service(it, &backends)).collect();
        fs::write(node.manifests().join("services.yaml"), text).unwrap();
        let log = node.files().join("access.log").display().to_string();
        let mut arguments = arguments.to_vec();
        if !arguments.contains(&"--access-log") {
            arguments.extend(["--access-log", &log]);
        }
        let agent = Agent::start(&node, &arguments).unwrap();
        let mut mesh = Self {
            servers: Vec::new(),
            agent,
            client,
            guest,
            backends,
            node,
            round: AtomicU32::new(0),
        };
        for number in 0..mesh.backends.len() {
            let running = mesh.serve(number);
            mesh.servers.push(running);
        }
        mesh.routes("");
        Some(mesh)
    }

    /// Starts a backend in its pod.
    pub(super) fn serve(&self, number: usize) -> Running {
        let pod = &self.backends[number];
        let mut command = pod.command(workspace_program("peer", "UNDERPASS_PEER").unwrap());
        command.args(["answer", "--name", pod.name()]);
        for address in pod.addresses() {
            let at = |port| std::net::SocketAddr::new(address, port).to_string();
            command.args(["--listen", &at(8080), "--datagrams", &at(9091)]);
        }
        let mut running = pod.start("answer", &mut command).unwrap();
        running.line("ready", PATIENCE).unwrap();
        running
    }

    /// Puts these routes and policies in the place of those before, and returns once they are in force.
    pub(super) fn routes(&self, text: &str) {
        let round = self.round.fetch_add(1, Ordering::Relaxed);
        let mark = format!("round-{round}");
        let text = text.to_owned() + &conformance::mark(&mark);
        let text = text
            .replace("<mesh>", "default")
            .replace("<guest>", "guest");
        let draft = self.node.files().join("routes.draft");
        fs::write(&draft, text).unwrap();
        fs::rename(&draft, self.node.manifests().join("routes.yaml")).unwrap();
        // All that is configured is in force at one stroke.
        let url = format!("http://{MARK}/");
        let there = wait_for("the routes to be in force", PATIENCE * 2, || {
            let seen = self.curl(&["-m", "2", &url]);
            let told = seen.field("location");
            told.is_some_and(|it| it.contains(&mark)) && self.is_settled()
        });
        if let Err(error) = there {
            let routes = self.agent.ask(&["routes"]);
            panic!("{error:#}\n{:?}\n{routes:?}", self.curl(&[&url]));
        }
    }

    /// Returns whether the kernel has what was read.
    fn is_settled(&self) -> bool {
        self.agent.status().is_ok_and(|status| {
            let config = &status["config"];
            config["generation"] == config["kernel_generation"]
        })
    }

    /// Runs `curl` in the client's pod.
    pub(super) fn curl(&self, words: &[&str]) -> Answer {
        curl(&self.client, words)
    }

    /// Asks for `http://` and this.
    pub(super) fn get(&self, rest: &str) -> Answer {
        self.curl(&[&format!("http://{rest}")])
    }

    /// Makes this many requests to a URL without a query; returns who answered how many: by name, or by status where it was none of
    /// the backends.
    pub(super) fn spread(&self, url: &str, count: u32, words: &[&str]) -> BTreeMap<String, u32> {
        let url = format!("{url}?n=[1-{count}]");
        let mut command = self.client.command("curl");
        let form = "%{http_code} %header{x-backend}\n";
        command.args(["-sS", "-m", "60", "-o", "/dev/null", "-w", form]);
        let output = command.args(words).arg(&url).output().unwrap();
        let mut spread = BTreeMap::new();
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            let (status, name) = line.split_once(' ').unwrap();
            let who = if name.is_empty() { status } else { name };
            *spread.entry(who.to_owned()).or_default() += 1;
        }
        assert_eq!(spread.values().sum::<u32>(), count, "{spread:?} {output:?}");
        spread
    }

    /// Checks that requests are spread as said, in parts of a hundred, five more or less. As in Gateway API's own tests a spread
    /// may be drawn anew some times: each is a matter of chance.
    pub(super) fn expect_spread(&self, url: &str, words: &[&str], parts: &[(&str, u32)]) {
        let mut last = BTreeMap::new();
        for _ in 0..5 {
            last = self.spread(url, 500, words);
            let near = |(who, part): &(&str, u32)| {
                last.get(*who)
                    .is_some_and(|seen| seen.abs_diff(part * 5) <= 25)
            };
            if parts.iter().all(near) && last.len() == parts.len() {
                return;
            }
        }
        panic!("{url} is spread {last:?}, and not {parts:?}");
    }

    /// Returns how many requests a backend has written down whose target holds `what`.
    pub(super) fn heard(&self, backend: usize, what: &str) -> usize {
        let log = self.servers[backend].log();
        log.lines().filter(|line| line.contains(what)).count()
    }

    /// Returns who carries connections to this destination, `kernel` or `agent`, and why.
    pub(super) fn carrier(&self, to: &str) -> (String, String) {
        let words = ["explain", "default/client", to, "--output", "json"];
        let output = self.agent.question(&words).output().unwrap();
        let answer: serde_json::Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
        let carrier = &answer["service"]["carrier"];
        let by = carrier["by"].as_str().unwrap_or_default();
        (by.to_owned(), carrier["why"].to_string())
    }

    /// Returns the lines of the access log whose path holds `what`, once there is one.
    pub(super) fn logged(&self, what: &str) -> Vec<serde_json::Value> {
        let path = self.node.files().join("access.log");
        let mut found: Vec<serde_json::Value> = Vec::new();
        wait_for("a line of the access log", PATIENCE, || {
            let text = fs::read_to_string(&path).unwrap_or_default();
            let lines = text.lines().filter_map(|it| serde_json::from_str(it).ok());
            let of = |line: &serde_json::Value| {
                let path = line["path"].as_str();
                path.is_some_and(|path| path.contains(what))
            };
            found = lines.filter(of).collect();
            !found.is_empty()
        })
        .unwrap();
        found
    }
}

/// Runs `curl` in a pod.
pub(super) fn curl(pod: &Pod, words: &[&str]) -> Answer {
    let mut command = pod.command("curl");
    command.args(["-sSig", "-m", "20", "--path-as-is"]);
    let output = command.args(words).output().unwrap();
    Answer::parse(&output)
}

/// Returns an address as it stands in a URL.
pub(super) fn literal(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("[{v6}]"),
    }
}

/// Returns a manifest of a policy on services, with the lines of its `spec`.
pub(super) fn policy(kind: &str, name: &str, service: &str, spec: &str) -> String {
    let group = match kind {
        "TrafficPolicy" => "underpass.dev/v1alpha1",
        "BackendTLSPolicy" => "gateway.networking.k8s.io/v1",
        _ => "gateway.networking.x-k8s.io/v1alpha1",
    };
    format!(
        "---\napiVersion: {group}\nkind: {kind}\nmetadata: {{name: {name}, namespace: default}}\nspec:\n  \
         targetRefs: [{{group: \"\", kind: Service, {service}}}]\n{spec}\n"
    )
}

fn service(
    ((name, backends), (v4, v6)): (&(&str, &[&str]), (&str, &str)),
    pods: &[Pod; 3],
) -> String {
    let mut text = format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: default}}\nspec:\n  clusterIP: {v4}\n  \
         clusterIPs: [\"{v4}\", \"{v6}\"]\n  ipFamilies: [IPv4, IPv6]\n  ports:\n"
    );
    for (name, port, target, protocol, speaks) in PORTS {
        writeln!(
            text,
            "    - {{name: {name}, port: {port}, targetPort: {target}, protocol: {protocol}, appProtocol: {speaks}}}"
        )
        .unwrap();
    }
    for (index, family) in ["IPv4", "IPv6"].into_iter().enumerate() {
        let places = pods.iter().filter(|pod| backends.contains(&pod.name()));
        let addresses = places.map(|pod| pod.addresses()[index]);
        let addresses = addresses
            .map(|it| format!("  - {{addresses: [\"{it}\"], conditions: {{ready: true}}}}\n"));
        let addresses: String = addresses.collect();
        let endpoints = match addresses.as_str() {
            "" => "endpoints: []\n".to_owned(),
            some => format!("endpoints:\n{some}"),
        };
        write!(
            text,
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {name}-{}\n  namespace: default\n  \
             labels: {{kubernetes.io/service-name: {name}}}\naddressType: {family}\n{endpoints}ports:\n",
            family.to_lowercase()
        )
        .unwrap();
        for (name, _, target, protocol, speaks) in PORTS {
            writeln!(
                text,
                "  - {{name: {name}, port: {target}, protocol: {protocol}, appProtocol: {speaks}}}"
            )
            .unwrap();
        }
    }
    text
}
