//! Two pods with a remote peer in each, with or without the mesh.

use std::time::Duration;

use harness::manifest::{self, Acceleration};
use harness::remote::protocol::Piece;
use harness::remote::{Cut, Socket};
use harness::wait::{PATIENCE, wait_for_some};
use harness::{Agent, Node, Pod, Remote};
use serde_json::Value;

/// How a pod's acceleration is set, or that there is no mesh at all: the control for every test.
pub(crate) type Mode = Option<Acceleration>;

/// Every way to run the same test.
pub(crate) const MODES: [Mode; 5] = [
    None,
    Some(Acceleration::Off),
    Some(Acceleration::Observe),
    Some(Acceleration::Auto),
    Some(Acceleration::On),
];

/// Sizes of reads and writes as applications mix them.
pub(crate) const MIXED: Cut = (1, 40_000);

/// Two pods, `client` and `server`, and what runs in them. Dropped in this order.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) client: Remote,
    pub(crate) server: Remote,
    agent: Option<Agent>,
    pub(crate) pods: [Pod; 2],
    pub(crate) node: Node,
}

impl World {
    /// Returns one in `mode`, or `None`, loudly, without root. The window of observation is long: in mode `auto`, nothing
    /// is accelerated before the test is over.
    pub(crate) fn new(mode: Mode) -> Option<Self> {
        Self::with(mode, &["--observation-window", "10m"])
    }

    /// As [`World::new`], with arguments for the agent.
    pub(crate) fn with(mode: Mode, arguments: &[&str]) -> Option<Self> {
        if !harness::require_root() {
            return None;
        }
        let node = Node::new().unwrap();
        let pods = [node.pod("client").unwrap(), node.pod("server").unwrap()];
        let agent = mode.map(|mode| {
            for pod in &pods {
                manifest::write(pod, mode).unwrap();
            }
            let agent = Agent::start(&node, arguments).unwrap();
            let state = match mode {
                Acceleration::On => "accelerated",
                Acceleration::Off => "not-accelerated",
                Acceleration::Observe | Acceleration::Auto | Acceleration::Default => "observing",
            };
            agent
                .wait_for_state(&["client", "server"], state, PATIENCE)
                .unwrap();
            agent
        });
        let client = Remote::start(&pods[0]).unwrap();
        let server = Remote::start(&pods[1]).unwrap();
        Some(Self {
            client,
            server,
            agent,
            pods,
            node,
        })
    }

    pub(crate) fn agent(&self) -> &Agent {
        self.agent.as_ref().unwrap()
    }

    pub(crate) fn agent_mut(&mut self) -> &mut Agent {
        self.agent.as_mut().unwrap()
    }

    /// Returns a connection, client's end first.
    pub(crate) fn join(&self) -> (Socket, Socket) {
        self.client.join(&self.server.listen().unwrap()).unwrap()
    }

    /// Sets the mode of both pods and returns once the agent has heard of it.
    pub(crate) fn switch(&self, mode: Acceleration, state: &str) {
        for pod in &self.pods {
            manifest::write(pod, mode).unwrap();
        }
        self.agent()
            .wait_for_state(&["client", "server"], state, PATIENCE)
            .unwrap();
    }

    /// Returns the agent's record of the flow from this client socket. For a moment after its end, there is none.
    pub(crate) fn find_flow(&self, client: &Socket) -> Option<Value> {
        let flows = self.agent().flows().unwrap();
        let all = flows["flows"].as_array().unwrap();
        let port = client.local.port();
        all.iter()
            .find(|flow| flow["source"]["port"] == port)
            .cloned()
    }

    /// Returns the agent's record of the flow from this client socket, once it has ended.
    pub(crate) fn ended_flow(&self, client: &Socket) -> Value {
        let ended = || self.find_flow(client).filter(|flow| !flow["end"].is_null());
        wait_for_some("the flow to end", PATIENCE, ended).unwrap()
    }

    /// Returns the agent's record of the live flow from this client socket.
    pub(crate) fn flow(&self, client: &Socket) -> Value {
        let found = self.find_flow(client);
        found.unwrap_or_else(|| {
            panic!(
                "no flow from {} in {:#}",
                client.local,
                self.agent().flows().unwrap()
            )
        })
    }
}

/// Sends both pieces at once, one each way, and checks every byte.
pub(crate) fn exchange((client, server): (&Socket, &Socket), (up, down): (Piece, Piece), cut: Cut) {
    let reads = [
        server.start_read(up, cut).unwrap(),
        client.start_read(down, cut).unwrap(),
    ];
    let writes = [
        client.start_write(up, cut).unwrap(),
        server.start_write(down, cut).unwrap(),
    ];
    for write in writes {
        write.wait(Duration::from_secs(60)).unwrap();
    }
    for (read, piece) in reads.into_iter().zip([up, down]) {
        assert_eq!(
            read.wait(Duration::from_secs(60)).unwrap().count,
            piece.length
        );
    }
}

/// Ends both directions and checks that nothing more comes out of either.
pub(crate) fn finish((client, server): (&Socket, &Socket), (up, down): (Piece, Piece)) {
    client.finish().unwrap();
    assert_eq!(server.read(up.rest(), MIXED).unwrap(), 0);
    server.finish().unwrap();
    assert_eq!(client.read(down.rest(), MIXED).unwrap(), 0);
}
