//! The stall guard: a flow whose bytes lie unread is reset, and one that is merely slow is not. With the real agent.

use std::time::{Duration, Instant};

use harness::manifest::{self, Acceleration};
use harness::remote::Socket;
use harness::remote::errno;
use harness::remote::protocol::{Call, Piece};
use harness::wait::{PATIENCE, pause};
use harness::{Agent, Node, Remote, wait_for};

const STALL_TIMEOUT: Duration = Duration::from_secs(2);

/// Long enough for the guard to look three times at what has stood still for its time.
const LONG: Duration = Duration::from_secs(6);

/// Two pods under an agent that is soon out of patience. Dropped in this order.
struct Meshed {
    client: Remote,
    server: Remote,
    agent: Agent,
    _node: Node,
}

impl Meshed {
    fn new(mode: Acceleration) -> Option<Self> {
        if !harness::require_root() {
            return None;
        }
        let node = Node::new().unwrap();
        let pods = [node.pod("client").unwrap(), node.pod("server").unwrap()];
        for pod in &pods {
            manifest::write(pod, mode).unwrap();
        }
        let arguments = ["--stall-timeout", "2s", "--observation-window", "1s"];
        let agent = Agent::start(&node, &arguments).unwrap();
        let meshed = Self {
            client: Remote::start(&pods[0]).unwrap(),
            server: Remote::start(&pods[1]).unwrap(),
            agent,
            _node: node,
        };
        if mode == Acceleration::Auto {
            meshed.chat_until_admitted();
        }
        let names = ["client", "server"];
        meshed
            .agent
            .wait_for_state(&names, "accelerated", PATIENCE)
            .unwrap();
        Some(meshed)
    }

    fn join(&self) -> (Socket, Socket) {
        self.client.join(&self.server.listen().unwrap()).unwrap()
    }

    /// Shows the agent enough of both workloads.
    fn chat_until_admitted(&self) {
        let (client, server) = self.join();
        let (mut up, mut down) = (Piece::first(1, 10), Piece::first(2, 10));
        wait_for("both to be admitted", PATIENCE, || {
            client.write(up, (10, 10)).unwrap();
            assert_eq!(server.read(up, (10, 10)).unwrap(), 10);
            server.write(down, (10, 10)).unwrap();
            assert_eq!(client.read(down, (10, 10)).unwrap(), 10);
            (up, down) = (up.then(10), down.then(10));
            self.state("client") == "accelerated" && self.state("server") == "accelerated"
        })
        .unwrap();
    }

    fn state(&self, name: &str) -> String {
        let workload = self.agent.workload(name).unwrap();
        workload["state"].as_str().unwrap_or_default().to_owned()
    }

    fn has_stalled(&self, name: &str) -> bool {
        let workload = self.agent.workload(name).unwrap();
        let behaviours = workload["behaviours"].as_array();
        behaviours.is_some_and(|all| all.iter().any(|label| label == "stalled"))
    }

    /// Returns how many flows were reset.
    fn stalls(&self) -> u64 {
        let text = self.agent.metrics().unwrap();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("mesh_flow_stalls_total "));
        line.and_then(|number| number.parse().ok()).unwrap()
    }

    /// Returns once the flow was reset, and checks what each end sees.
    fn is_reset(&self, writer: &Socket, reader: &Socket) {
        wait_for("the flow to be reset", PATIENCE, || {
            error(reader) == libc::ECONNABORTED
        })
        .unwrap();
        wait_for("the writer to hear of it", PATIENCE, || {
            error(writer) == libc::ECONNRESET
        })
        .unwrap();
        assert_eq!(self.stalls(), 1);
        wait_for("the workload to be noted", PATIENCE, || {
            self.has_stalled("server")
        })
        .unwrap();
        assert!(!self.has_stalled("client"));
    }
}

/// Returns the number of a socket's pending error, and takes it off the socket.
fn error(socket: &Socket) -> i32 {
    let call = Call::Option {
        level: libc::SOL_SOCKET,
        name: libc::SO_ERROR,
    };
    i32::try_from(socket.call(call).unwrap().count).unwrap()
}

fn receive(socket: &Socket, length: usize) -> anyhow::Result<u64> {
    let call = Call::Receive { length, flags: 0 };
    Ok(socket.call(call)?.count)
}

#[test]
fn redirected_bytes_that_nobody_reads_cost_the_flow() {
    let Some(meshed) = Meshed::new(Acceleration::On) else {
        return;
    };
    let (client, server) = meshed.join();
    let bystander = meshed.join();
    let started = Instant::now();
    client.write(Piece::first(1, 1000), (100, 100)).unwrap();
    meshed.is_reset(&client, &server);
    assert!(started.elapsed() >= STALL_TIMEOUT);
    // In mode `on` the operator's word stands, for other flows and for new ones.
    assert_eq!(meshed.state("server"), "accelerated");
    let piece = Piece::first(2, 1000);
    for (client, server) in [bystander, meshed.join()] {
        client.write(piece, (100, 100)).unwrap();
        assert_eq!(server.read(piece, (100, 100)).unwrap(), 1000);
    }
    assert_eq!(meshed.stalls(), 1);
}

#[test]
fn bytes_that_came_by_tcp_cost_the_flow_too_where_the_kernel_hides_them() {
    let Some(meshed) = Meshed::new(Acceleration::On) else {
        return;
    };
    let status = meshed.agent.status().unwrap();
    let hidden = status["kernel"]["defects"].to_string().contains("fionread");
    let (client, server) = meshed.join();
    meshed.agent.allow_redirect(false).unwrap();
    client.write(Piece::first(1, 1000), (100, 100)).unwrap();
    if hidden {
        return meshed.is_reset(&client, &server);
    }
    pause(LONG);
    assert_eq!(
        (meshed.stalls(), receive(&server, 1000).unwrap()),
        (0, 1000)
    );
}

#[test]
fn in_mode_auto_a_stall_costs_the_workload_its_admission() {
    let Some(meshed) = Meshed::new(Acceleration::Auto) else {
        return;
    };
    let (client, server) = meshed.join();
    let (other, other_end) = meshed.join();
    client.write(Piece::first(1, 1000), (100, 100)).unwrap();
    meshed.is_reset(&client, &server);
    let names = ["server"];
    meshed
        .agent
        .wait_for_state(&names, "not-accelerated", PATIENCE)
        .unwrap();
    let workload = meshed.agent.workload("server").unwrap();
    let why = "left bytes unread until the stall guard acted";
    assert_eq!(workload["why"], why, "{workload:#}");
    assert_eq!(meshed.state("client"), "accelerated");
    // A flow of it that was redirected goes on by TCP.
    let piece = Piece::first(2, 1000);
    other.write(piece, (100, 100)).unwrap();
    assert_eq!(other_end.read(piece, (100, 100)).unwrap(), 1000);
}

#[test]
fn a_reader_that_is_slow_or_reads_by_splice_is_left_alone() {
    let Some(meshed) = Meshed::new(Acceleration::On) else {
        return;
    };
    let slow = meshed.join();
    slow.0.write(Piece::first(1, 1000), (10, 10)).unwrap();
    let spliced = meshed.join();
    let by_tcp = meshed.join();
    meshed.agent.allow_redirect(false).unwrap();
    by_tcp.0.write(Piece::first(2, 1000), (10, 10)).unwrap();
    // No program sees this reading.
    spliced.0.write(Piece::first(3, 1000), (100, 100)).unwrap();
    let mut taken = 0;
    wait_for("all to be spliced", PATIENCE, || {
        let moved = spliced.1.call(Call::Splice(1000));
        taken += moved.map_or(0, |answer| answer.count);
        taken == 1000
    })
    .unwrap();
    let started = Instant::now();
    while started.elapsed() < LONG {
        for (_, reader) in [&slow, &by_tcp] {
            assert_eq!(receive(reader, 1).unwrap(), 1);
        }
        pause(STALL_TIMEOUT / 4);
    }
    assert_eq!(meshed.stalls(), 0);
    for (writer, reader) in [&slow, &spliced, &by_tcp] {
        assert_eq!((error(writer), error(reader)), (0, 0));
        let ended = writer.call(Call::Send {
            bytes: vec![1],
            flags: 0,
            to: None,
        });
        assert_eq!(errno(&ended), None);
    }
}
