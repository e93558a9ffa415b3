//! Two workloads and an outsider on one node, under the hooks of a kernel side that this test holds, with policies.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use harness::remote::Socket;
use harness::remote::protocol::Kind;
use harness::wait::PATIENCE;
use harness::{Node, Pod, Remote, wait_for};
use mesh_agent::kernel::maps::Maps;
use mesh_agent::kernel::{Kernel, Records, map_dir};
use mesh_agent::model::observed::KernelView as _;
use mesh_agent::model::policy::{
    Action, Block, LabelSelector, Peer, Policy, PolicyKind, PolicyName, Ports, Rule, Term,
    WhichPorts,
};
use mesh_agent::model::snapshot::Snapshot;
use mesh_agent::model::workload::{Acceleration, Placed};
use mesh_agent::policy::{Compiler, PolicyTables, enforced};
use mesh_common::close::CloseReason;
use mesh_common::flow::FlowRecord;

use crate::ground::{netns, placed, source, start};

/// Ports that every pod listens on, at each of its addresses.
pub(super) const PORTS: [u16; 2] = [80, 81];
/// Listened on by every pod at any address.
const EVERYWHERE: u16 = 82;

/// The pods `client` and `server`, which are workloads, and `outside`, which is none. Dropped in this order.
pub(super) struct Ground {
    pub(super) remotes: [Remote; 3],
    datagrams: Vec<Socket>,
    pub(super) maps: Maps,
    kernel: Option<Kernel>,
    records: Option<Records>,
    compiler: Compiler,
    pub(super) tables: PolicyTables,
    snapshot: Snapshot,
    placed: Vec<Placed>,
    pub(super) pods: [Pod; 3],
    pub(super) node: Node,
}

impl Ground {
    /// Returns one without policies and workloads, or `None`, loudly, without root.
    pub(super) fn new() -> Option<Self> {
        if !harness::require_root() {
            return None;
        }
        let node = Node::new().unwrap();
        let pods = ["client", "server", "outside"].map(|name| node.pod(name).unwrap());
        let (kernel, records) = start(&node);
        let remotes = [0, 1, 2].map(|at: usize| Remote::start(&pods[at]).unwrap());
        let mut datagrams = Vec::new();
        for (pod, remote) in pods.iter().zip(&remotes) {
            for (port, address) in PORTS
                .into_iter()
                .flat_map(|port| pod.addresses().map(|a| (port, a)))
            {
                let at = SocketAddr::new(address, port);
                remote.listen_on(at, Kind::Tcp).unwrap();
                datagrams.push(remote.listen_on(at, Kind::Udp).unwrap());
            }
            for address in ["127.0.0.1", "::1"] {
                let at = SocketAddr::new(address.parse().unwrap(), EVERYWHERE);
                remote.listen_on(at, Kind::Tcp).unwrap();
            }
        }
        let placed = [0, 1].map(|at: usize| {
            let pod = &pods[at];
            let mut placed = placed(&(pod, "1", Acceleration::Off), netns(pod));
            let labels = BTreeMap::from([("app".to_owned(), pod.name().to_owned())]);
            Arc::make_mut(&mut placed.workload).labels = labels.into();
            placed
        });
        let snapshot = Snapshot {
            workloads: placed
                .iter()
                .map(|placed| placed.workload.clone())
                .collect(),
            namespaces: Arc::new([("default".to_owned(), BTreeMap::new())].into()),
            ..Snapshot::default()
        };
        Some(Self {
            remotes,
            datagrams,
            maps: Maps::open(&map_dir(&node.bpf_directory().unwrap())).unwrap(),
            kernel: Some(kernel),
            records: Some(records),
            compiler: Compiler::default(),
            tables: PolicyTables::default(),
            snapshot,
            placed: placed.to_vec(),
            pods,
            node,
        })
    }

    pub(super) fn kernel(&self) -> &Kernel {
        self.kernel.as_ref().unwrap()
    }

    /// Makes these the policies, in every step that the agent takes.
    pub(super) fn set(&mut self, policies: Vec<Policy>) {
        self.close_and_apply(policies);
        self.enforce();
    }

    /// Takes the first steps only.
    pub(super) fn close_and_apply(&mut self, policies: Vec<Policy>) {
        let policies = policies.into_iter();
        let policies = policies.map(|policy| (policy.name.clone(), Arc::new(policy)));
        self.snapshot.policies = Arc::new(policies.collect());
        self.snapshot.generation += 1;
        let enforced = |placed: &Placed| {
            let flags = enforced(&self.snapshot.policies, &placed.workload);
            (*placed.netns.as_ref().unwrap(), flags)
        };
        let enforced: Vec<(u64, u32)> = self.placed.iter().map(enforced).collect();
        let kernel = self.kernel();
        let errors = kernel.close(&enforced, &|netns| self.open(netns));
        assert_eq!(errors, Vec::<String>::new());
        kernel
            .apply(self.snapshot.generation, &self.placed)
            .unwrap();
    }

    /// Takes the last one.
    pub(super) fn enforce(&mut self) {
        let host: Vec<IpAddr> = vec!["10.77.0.1".parse().unwrap(), "fd77::1".parse().unwrap()];
        let subjects = self.kernel().subjects(&self.placed);
        assert_eq!(subjects.len(), 2);
        self.tables = self.compiler.compile(&self.snapshot, &subjects, &host);
        let errors = self
            .kernel()
            .enforce(&self.tables, &self.placed, &|netns| self.open(netns));
        assert_eq!(errors, Vec::<String>::new());
    }

    fn open(&self, cookie: u64) -> std::io::Result<File> {
        let mut places = self.placed.iter().zip(&self.pods);
        let (_, pod) = places
            .find(|(placed, _)| placed.netns == Ok(cookie))
            .unwrap();
        File::open(pod.netns_path())
    }

    /// Ends the agent's side. What is in the kernel stays.
    pub(super) fn stop(&mut self) {
        self.kernel = None;
        self.records = None;
    }

    /// Starts it again.
    pub(super) fn start(&mut self) {
        let (kernel, records) = start(&self.node);
        let (table, class) = kernel.last_policy_numbers();
        self.compiler = Compiler::after(table, class);
        (self.kernel, self.records) = (Some(kernel), Some(records));
    }

    pub(super) fn restart(&mut self) {
        self.stop();
        self.start();
    }

    /// Returns the handle of a pod's workload.
    pub(super) fn id(&self, pod: &Pod) -> u32 {
        let all = self.kernel().workloads();
        all.iter()
            .find(|status| status.name.name == pod.name())
            .unwrap()
            .id
    }

    /// Returns the next record of a flow that ended so.
    pub(super) fn record(&mut self, close: CloseReason) -> FlowRecord {
        let records = self.records.as_mut().unwrap();
        let mut found = None;
        wait_for("the flow to be reported", PATIENCE, || {
            records.drain(Duration::ZERO, |record| {
                if record.close == close as u8 {
                    found.get_or_insert(record);
                }
            });
            found.is_some()
        })
        .unwrap();
        found.unwrap()
    }

    /// Returns the number of denials that were recorded and not read yet.
    pub(super) fn denials(&mut self) -> u64 {
        let mut count = 0;
        self.records
            .as_mut()
            .unwrap()
            .drain(Duration::ZERO, |record| {
                count += u64::from(record.close == CloseReason::Denied as u8);
            });
        count
    }

    /// Returns the flow from an address, once it lives.
    pub(super) fn live(&self, from: SocketAddr) -> FlowRecord {
        let mut found = None;
        wait_for("the flow to live", PATIENCE, || {
            let flows = self.kernel().live_flows().unwrap();
            found = flows.into_iter().find(|flow| source(flow) == from);
            found.is_some()
        })
        .unwrap();
        found.unwrap()
    }

    /// Returns the socket that takes datagrams at an address.
    pub(super) fn datagrams(&self, at: &SocketAddr) -> &Socket {
        self.datagrams
            .iter()
            .find(|socket| socket.local == *at)
            .unwrap()
    }
}

/// Returns pods with this value of label `app`.
pub(super) fn labelled(app: &str) -> Option<Peer> {
    Some(Peer::Pods {
        namespaces: None,
        pods: selector(app),
        service_accounts: None,
    })
}

fn selector(app: &str) -> LabelSelector {
    let terms = match app {
        "" => Vec::new(),
        app => vec![Term::In("app".to_owned(), vec![app.to_owned()])],
    };
    LabelSelector { terms }
}

/// Returns a block but for some addresses.
pub(super) fn block(text: &str, except: &[IpAddr]) -> Option<Peer> {
    let (address, prefix) = text.split_once('/').unwrap();
    Some(Peer::Block {
        block: Block {
            address: address.parse().unwrap(),
            prefix: prefix.parse().unwrap(),
        },
        except: except
            .iter()
            .map(|address| Block {
                address: *address,
                prefix: if address.is_ipv4() { 32 } else { 128 },
            })
            .collect(),
    })
}

/// Returns a rule for a peer, or anybody, and ports of either protocol, or all.
pub(super) fn allow(peer: Option<Peer>, ports: &[u16]) -> Rule {
    let which = |port: &u16| Ports {
        protocol: None,
        which: WhichPorts::Range(*port, *port),
    };
    Rule {
        name: "spec.ingress[0]".to_owned(),
        peers: peer.map(|peer| vec![peer]),
        ports: (!ports.is_empty()).then(|| ports.iter().map(which).collect()),
    }
}

/// Returns a `NetworkPolicy` for pods with this label `app`, or all.
pub(super) fn network(name: &str, app: &str, ingress: Vec<Rule>) -> Policy {
    Policy {
        name: PolicyName {
            kind: PolicyKind::NetworkPolicy,
            namespace: "default".to_owned(),
            name: name.to_owned(),
        },
        subject: selector(app),
        action: Action::Allow,
        dry_run: false,
        ingress: Some(ingress),
        egress: None,
        origin: "a test".to_owned(),
    }
}

/// Returns an `AuthorizationPolicy` that denies.
pub(super) fn deny(name: &str, app: &str, ingress: Vec<Rule>) -> Policy {
    let mut policy = network(name, app, ingress);
    policy.name.kind = PolicyKind::AuthorizationPolicy;
    policy.action = Action::Deny;
    policy
}
