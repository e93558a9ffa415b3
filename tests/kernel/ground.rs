//! The kernel side of an agent, without the agent: two pods, and the maps to look into.

use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use harness::remote::Socket;
use harness::remote::protocol::Kind;
use harness::wait::PATIENCE;
use harness::{Node, Pod, Remote, wait_for};
use mesh_agent::kernel::maps::Maps;
use mesh_agent::kernel::{Kernel, KernelSettings, Records, map_dir};
use mesh_agent::model::observed::KernelView as _;
use mesh_agent::model::workload::{Acceleration, Location, Placed, Workload, WorkloadName};
use mesh_common::ABI_VERSION;
use mesh_common::flow::FlowRecord;
use mesh_common::service::Dial;
use mesh_common::sock::SockState;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use crate::sys;

/// Two pods with a remote peer in each, under the hooks of a kernel side that this test holds. Dropped in this order.
#[derive(Debug)]
pub(crate) struct Ground {
    pub(crate) client: Remote,
    pub(crate) server: Remote,
    pub(crate) maps: Maps,
    pub(crate) kernel: Held,
    pub(crate) records: Records,
    pub(crate) pods: [Pod; 2],
    pub(crate) node: Node,
}

/// The kernel side, which holds its directory until it is dropped.
#[derive(Debug)]
pub(crate) struct Held(Option<Kernel>);

impl std::ops::Deref for Held {
    type Target = Kernel;

    fn deref(&self) -> &Kernel {
        self.0.as_ref().unwrap()
    }
}

/// A workload as a test wants it: the pod, its UID, its mode.
pub(crate) type Wish<'a> = (&'a Pod, &'a str, Acceleration);

impl Ground {
    /// Returns one whose two pods are workloads in mode `on`, or `None`, loudly, without root.
    pub(crate) fn new() -> Option<Self> {
        Self::with(|_| ())
    }

    /// As [`Ground::new`], with maps that `prepare` has put into the directory that the kernel side adopts them from.
    pub(crate) fn with(prepare: impl FnOnce(&Path)) -> Option<Self> {
        if !harness::require_root() {
            return None;
        }
        let node = Node::new().unwrap();
        let pods = [node.pod("client").unwrap(), node.pod("server").unwrap()];
        let maps = map_dir(&node.bpf_directory().unwrap());
        std::fs::create_dir_all(&maps).unwrap();
        prepare(&maps);
        let (kernel, records) = start(&node);
        let ground = Self {
            client: Remote::start(&pods[0]).unwrap(),
            server: Remote::start(&pods[1]).unwrap(),
            maps: Maps::open(&maps).unwrap(),
            kernel: Held(Some(kernel)),
            records,
            pods,
            node,
        };
        ground.set_modes(Acceleration::On);
        Some(ground)
    }

    /// Makes both pods workloads in this mode.
    pub(crate) fn set_modes(&self, mode: Acceleration) {
        let [client, server] = &self.pods;
        self.apply(&[(client, "1", mode), (server, "1", mode)]);
    }

    /// Makes these the workloads.
    pub(crate) fn apply(&self, wishes: &[Wish<'_>]) {
        let placed = wishes.iter().map(|wish| placed(wish, netns(wish.0)));
        let placed: Vec<Placed> = placed.collect();
        self.kernel.apply(1, &placed).unwrap();
    }

    /// Lets another agent take over.
    pub(crate) fn restart(&mut self) {
        self.kernel.0 = None;
        let (kernel, records) = start(&self.node);
        (self.kernel.0, self.records) = (Some(kernel), records);
    }

    /// Returns the handle of the workload named like this pod.
    pub(crate) fn id(&self, pod: &Pod) -> u32 {
        let all = self.kernel.workloads();
        all.iter()
            .find(|status| status.name.name == pod.name())
            .unwrap()
            .id
    }

    /// Returns a connection, client's end first.
    pub(crate) fn join(&self) -> (Socket, Socket) {
        self.client.join(&self.server.listen().unwrap()).unwrap()
    }

    /// Returns the live flow from this address.
    pub(crate) fn live(&self, client: SocketAddr) -> Option<FlowRecord> {
        let flows = self.kernel.live_flows().unwrap();
        flows.into_iter().find(|flow| source(flow) == client)
    }

    /// Returns the record of the flow from this address, once it has ended.
    pub(crate) fn ended(&mut self, client: SocketAddr) -> FlowRecord {
        let mut found = None;
        wait_for("the flow to be reported", PATIENCE, || {
            self.records.drain(Duration::ZERO, |flow| {
                if source(&flow) == client {
                    found = Some(flow);
                }
            });
            found.is_some()
        })
        .unwrap();
        found.unwrap()
    }

    /// Drains the free cells, returns their numbers in order, and puts them back.
    pub(crate) fn free_cells(&self) -> Vec<u32> {
        let queue = &self.maps.free_cells;
        let mut numbers: Vec<u32> = std::iter::from_fn(|| queue.pop().unwrap()).collect();
        numbers
            .iter()
            .for_each(|number| queue.push(number).unwrap());
        numbers.sort_unstable();
        numbers
    }
}

impl Ground {
    /// Returns what a socket of this process has dialled; `None` where it was no service.
    pub(crate) fn dial(&self, socket: &impl AsRawFd) -> Option<Dial> {
        let socket = socket.as_raw_fd();
        let state = self.maps.sock_states.get(&socket).unwrap();
        let dial = state
            .map(|state| state.dial)
            .filter(|dial| dial.service != 0);
        dial.or_else(|| self.maps.dials.get(&socket).unwrap())
    }
}

/// Returns what the programs know of a peer's socket, and a descriptor of the socket.
pub(crate) fn state(
    maps: &Maps,
    remote: &mut Remote,
    socket: &Socket,
) -> (Option<SockState>, OwnedFd) {
    let fd = taken(remote, socket);
    let key = fd.as_raw_fd();
    (maps.sock_states.get(&key).unwrap(), fd)
}

/// Returns a descriptor in this process of a peer's socket, found by its own address. A listener has the same as what it accepted:
/// of those, one that is connected is taken, the youngest; numbers of descriptors that were closed come again, so the number alone
/// does not tell.
pub(crate) fn taken(remote: &mut Remote, socket: &Socket) -> OwnedFd {
    let number = remote.running().pid();
    let pid = Pid::from_raw(i32::try_from(number).unwrap()).unwrap();
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    let entries = std::fs::read_dir(format!("/proc/{number}/fd")).unwrap();
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut numbers: Vec<i32> = names.filter_map(|name| name.parse().ok()).collect();
    numbers.sort_unstable_by(|a, b| b.cmp(a));
    let found = numbers.into_iter().filter_map(|fd| {
        let fd = pidfd_getfd(pidfd.as_fd(), fd, PidfdGetfdFlags::empty()).ok()?;
        let stream = TcpStream::from(fd);
        let own = stream.local_addr().ok()? == socket.local;
        own.then_some(stream)
    });
    let mut found: Vec<TcpStream> = found.collect();
    let connected = found.iter().position(|stream| stream.peer_addr().is_ok());
    found.swap_remove(connected.unwrap_or(0)).into()
}

/// Returns a socket of this process that was made in the peer's pod, and so belongs to that pod's namespace and cgroup.
pub(crate) fn socket(remote: &mut Remote, kind: Kind, v6: bool) -> OwnedFd {
    let made = remote.bare(kind, v6).unwrap();
    let pid = Pid::from_raw(i32::try_from(remote.running().pid()).unwrap()).unwrap();
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    let fd = pidfd_getfd(
        pidfd.as_fd(),
        made.descriptor.unwrap(),
        PidfdGetfdFlags::empty(),
    )
    .unwrap();
    made.close().unwrap();
    fd
}

/// Returns the cookie of a pod's network namespace.
pub(crate) fn netns(pod: &Pod) -> u64 {
    pod.enter(|| sys::netns_cookie(&UdpSocket::bind("0.0.0.0:0").unwrap()))
        .unwrap()
        .unwrap()
}

/// Returns who dialled.
pub(crate) fn source(flow: &FlowRecord) -> SocketAddr {
    SocketAddr::new(flow.source.into(), flow.source_port.number())
}

pub(crate) fn start(node: &Node) -> (Kernel, Records) {
    assert_ne!(ABI_VERSION, 0);
    let settings = KernelSettings {
        cgroup: node.cgroup().unwrap(),
        bpf_dir: node.bpf_directory().unwrap(),
        observation_window: Duration::from_secs(600),
        stall_timeout: Duration::from_secs(600),
    };
    let (kernel, records) = Kernel::start(&settings).unwrap();
    let failed: Vec<_> = kernel
        .hooks()
        .into_iter()
        .filter(|hook| hook.attached == Some(false))
        .collect();
    assert!(failed.is_empty(), "{failed:#?}");
    (kernel, records)
}

pub(crate) fn placed((pod, uid, acceleration): &Wish<'_>, netns: u64) -> Placed {
    let workload = Workload {
        name: WorkloadName {
            namespace: "default".to_owned(),
            name: pod.name().to_owned(),
        },
        uid: Some((*uid).to_owned()),
        labels: mesh_agent::model::labels::Labels::default(),
        service_account: "default".to_owned(),
        node: None,
        ready: true,
        terminating: false,
        ports: Vec::new(),
        addresses: pod.addresses().to_vec(),
        location: Location::Netns(pod.netns_path()),
        enrolled: true,
        started: true,
        containers: Vec::new(),
        acceleration: *acceleration,
        origin: "a test".to_owned(),
    };
    Placed {
        workload: Arc::new(workload),
        netns: Ok(netns),
        note: String::new(),
        uncaptured: None,
    }
}
