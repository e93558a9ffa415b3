//! A node, an API server with a namespace and a service, pods as kubelet makes them, and the whole agent.

use std::net::SocketAddr;

use harness::kubepod::{KubePod, Shape};
use harness::remote::Socket;
use harness::remote::errno;
use harness::remote::protocol::Piece;
use harness::wait::PATIENCE;
use harness::{Agent, ApiServer, Node, Remote, require_root, wait_for};
use serde_json::{Value, json};

/// Namespace of the pods.
pub(crate) const SHOP: &str = "shop";

/// Address of a service whose backend is the pod `server`, at port 8080.
pub(crate) const VIP: &str = "10.96.0.30:80";

/// Any sizes of calls.
pub(crate) const CUT: (usize, usize) = (1, 2000);

/// What the label of the mesh says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mesh {
    Enabled,
    Disabled,
    Unsaid,
}

impl Mesh {
    fn word(self) -> Option<&'static str> {
        match self {
            Self::Enabled => Some("enabled"),
            Self::Disabled => Some("disabled"),
            Self::Unsaid => None,
        }
    }
}

/// Returns an object with the label.
pub(crate) fn labelled(mut object: Value, mesh: Mesh) -> Value {
    let labels = &mut object["metadata"]["labels"];
    match mesh.word() {
        Some(word) => labels["underpass.dev/mesh"] = word.into(),
        None => {
            if let Some(labels) = labels.as_object_mut() {
                labels.remove("underpass.dev/mesh");
            }
        }
    }
    object
}

pub(crate) fn namespace(mesh: Mesh) -> Value {
    labelled(
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SHOP, "labels": {}}}),
        mesh,
    )
}

/// Returns a service, and a slice with its endpoints: addresses with the names of their pods, if any.
pub(crate) fn service(
    (namespace, name): (&str, &str),
    address: &str,
    (port, target, protocol): (u16, u16, &str),
    endpoints: &[(String, Option<&str>)],
) -> [Value; 2] {
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|(address, pod)| {
            let mut endpoint = json!({"addresses": [address], "nodeName": "node-1",
                "conditions": {"ready": true, "serving": true, "terminating": false}});
            if let Some(pod) = pod {
                endpoint["targetRef"] = json!({"kind": "Pod", "namespace": namespace, "name": pod});
            }
            endpoint
        })
        .collect();
    [
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace},
            "spec": {"clusterIP": address, "clusterIPs": [address], "type": "ClusterIP", "selector": {"app": name},
                "ports": [{"name": "main", "port": port, "protocol": protocol, "targetPort": target, "appProtocol": "http"}]},
            "status": {"loadBalancer": {}}}),
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": format!("{name}-1"), "namespace": namespace, "labels": {"kubernetes.io/service-name": name}},
            "endpoints": endpoints, "ports": [{"name": "main", "port": target, "protocol": protocol, "appProtocol": "http"}]}),
    ]
}

/// All of it. Dropped in this order.
#[derive(Debug)]
pub(crate) struct Scene {
    agent: Option<Agent>,
    pub(crate) api: ApiServer,
    pub(crate) node: Node,
}

impl Scene {
    /// Returns one without pods and agent, or `None`, loudly, without root.
    pub(crate) fn new() -> Option<Self> {
        if !require_root() {
            return None;
        }
        let node = Node::new().unwrap();
        // Where the agent can reach it.
        let api = node.enter(ApiServer::start).unwrap().unwrap();
        api.set(namespace(Mesh::Unsaid));
        Some(Self {
            agent: None,
            api,
            node,
        })
    }

    /// Starts a pod, which the API server tells of as one that runs.
    pub(crate) fn pod(&self, name: &str, shape: Shape) -> KubePod {
        let pod = KubePod::start(&self.node, name, shape).unwrap();
        self.api.set(pod.object(SHOP));
        pod
    }

    pub(crate) fn serve(&self, objects: impl IntoIterator<Item = Value>) {
        objects.into_iter().for_each(|object| self.api.set(object));
    }

    /// Starts the agent, and returns once it is ready.
    pub(crate) fn start_agent(&mut self) {
        let kubeconfig = self.api.kubeconfig(self.node.files()).unwrap();
        let kubeconfig = kubeconfig.display().to_string();
        let arguments = [
            "--source",
            "kubernetes",
            "--kubeconfig",
            &kubeconfig,
            "--node-name",
            "node-1",
            "--acceleration",
            "on",
        ];
        self.agent = Some(Agent::start(&self.node, &arguments).unwrap());
    }

    pub(crate) fn agent(&self) -> &Agent {
        self.agent.as_ref().unwrap()
    }

    /// Waits until a workload is in one of these states.
    pub(crate) fn wait_for_state(&self, pod: &str, states: &[&str]) {
        let agent = self.agent();
        let is_so = || {
            let found = agent.workload(pod).unwrap_or_default();
            states.contains(&found["state"].as_str().unwrap_or_default())
        };
        let waited = wait_for(&format!("{pod} to be {states:?}"), PATIENCE, is_so);
        waited.unwrap_or_else(|error| {
            panic!(
                "{error:#}\n{}\n{}",
                agent.status_text().unwrap_or_default(),
                agent.ask(&["workloads"]).unwrap_or_default()
            )
        });
    }

    pub(crate) fn wait_until_captured(&self, pod: &str) {
        self.wait_for_state(pod, &["accelerated", "observing", "not-accelerated"]);
    }

    /// Returns who is in the mesh and not captured, with why.
    pub(crate) fn not_captured(&self) -> Vec<(String, String)> {
        let status = self.agent().status().unwrap();
        let all = status["enrolment"]["not_captured"].as_array().cloned();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let all = all.unwrap_or_default();
        all.iter()
            .map(|it| (text(&it["name"]), text(&it["reason"])))
            .collect()
    }

    /// Waits until exactly these are in the mesh and not captured.
    pub(crate) fn wait_for_not_captured(&self, expected: &[(&str, &str)]) {
        let expected: Vec<(String, String)> = expected
            .iter()
            .map(|(name, why)| ((*name).to_owned(), (*why).to_owned()))
            .collect();
        let waited = wait_for("those that are not captured", PATIENCE, || {
            self.not_captured() == expected
        });
        waited.unwrap_or_else(|error| panic!("{error:#}: {:?}", self.not_captured()));
    }
}

/// Adds routes to a pod by which addresses of services are refused at once where nobody balances.
pub(crate) fn refuse_services(pod: &KubePod) {
    ip(pod, &["route", "add", "unreachable", "10.96.0.0/16"]);
}

/// Runs `ip` inside a pod.
pub(crate) fn ip(pod: &KubePod, words: &[&str]) {
    let mut command = std::process::Command::new("ip");
    command.args(["-n", pod.pod().netns()]).args(words);
    let done = command.status().unwrap();
    assert!(done.success(), "ip {words:?}: {done}");
}

/// Waits until a connect has this outcome: the error's number, or none.
pub(crate) fn wait_for_dial(client: &Remote, to: SocketAddr, expected: Option<i32>) {
    let mut last = None;
    let waited = wait_for("a connect to end as expected", PATIENCE, || {
        let socket = client.connect(to);
        last = errno(&socket);
        let is_so = match &socket {
            Ok(_) => expected.is_none(),
            Err(_) => last.is_some() && last == expected,
        };
        if let Ok(socket) = socket {
            socket.close().unwrap();
        }
        is_so
    });
    waited.unwrap_or_else(|error| panic!("{error:#}: {to} {last:?}, not {expected:?}"));
}

/// A connection that lives on, and what went over it.
pub(crate) struct Living {
    pub(crate) client: Socket,
    pub(crate) server: Socket,
    up: Piece,
    down: Piece,
}

impl Living {
    /// Returns a connection to an address at which `listener` answers.
    pub(crate) fn new(client: &Remote, to: SocketAddr, listener: &Socket) -> Self {
        let client = client.connect(to).unwrap();
        let server = listener.accept().unwrap();
        let mut living = Self {
            client,
            server,
            up: Piece::first(1, 10_000),
            down: Piece::first(2, 10_000),
        };
        living.go_on();
        living
    }

    /// Sends some more both ways.
    pub(crate) fn go_on(&mut self) {
        let ways = [
            (&self.client, &self.server, self.up),
            (&self.server, &self.client, self.down),
        ];
        for (from, to, piece) in ways {
            from.write(piece, CUT).unwrap();
            assert_eq!(to.read(piece, CUT).unwrap(), piece.length);
        }
        (self.up, self.down) = (self.up.then(10_000), self.down.then(10_000));
    }
}
