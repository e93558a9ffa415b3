//! Readers that wait for an edge (`EPOLLET`) and take a read that returns less than it might for a sign that nothing is left, as epoll(7)
//! allows and tokio, nginx and Netty do: what TCP brought behind redirected bytes must wake them once more. With the real agent.

use std::os::fd::OwnedFd;

use harness::manifest::{self, Acceleration};
use harness::remote::protocol::{Call, Piece};
use harness::wait::PATIENCE;
use harness::{Agent, Node, Remote, wait_for};
use rustix::event::{Timespec, epoll};

use crate::ground::taken;
use crate::sys;

/// What a reader asks for at once.
const ASKED: usize = 64 * 1024;

/// Two pods under an agent, and a connection that has carried something. Dropped in this order.
struct Joined {
    client: harness::remote::Socket,
    writer: OwnedFd,
    reader: OwnedFd,
    _ends: [Remote; 2],
    agent: Agent,
    _node: Node,
}

impl Joined {
    fn new() -> Option<Self> {
        if !harness::require_root() {
            return None;
        }
        let node = Node::new().unwrap();
        let pods = [node.pod("client").unwrap(), node.pod("server").unwrap()];
        for pod in &pods {
            manifest::write(pod, Acceleration::On).unwrap();
        }
        let agent = Agent::start(&node, &[]).unwrap();
        let ends = [&pods[0], &pods[1]].map(|pod| Remote::start(pod).unwrap());
        let names = ["client", "server"];
        agent
            .wait_for_state(&names, "accelerated", PATIENCE)
            .unwrap();
        let [mut at_client, mut at_server] = ends;
        let (client, server) = at_client.join(&at_server.listen().unwrap()).unwrap();
        let reader = taken(&mut at_server, &server);
        // Nothing waits for an acknowledgement that is late on purpose.
        client
            .set_option(libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)
            .unwrap();
        let writer = taken(&mut at_client, &client);
        Some(Self {
            client,
            writer,
            reader,
            _ends: [at_client, at_server],
            agent,
            _node: node,
        })
    }

    /// Sends so many messages of so many bytes, and reads them after all are sent.
    fn arrives(&self, messages: u64, bytes: u64) {
        let edges = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&edges, &self.reader, epoll::EventData::new_u64(0), flags).unwrap();
        let expected = messages * bytes;
        let cut = usize::try_from(bytes).unwrap();
        self.client
            .write(Piece::first(1, expected), (cut, cut))
            .unwrap();
        wait_for("everything to arrive", PATIENCE, || {
            sys::unacknowledged(&self.writer) == 0
        })
        .unwrap();
        let mut got = 0;
        while got < expected {
            let mut events = [epoll::Event {
                flags: epoll::EventFlags::empty(),
                data: epoll::EventData::new_u64(0),
            }];
            let patience = Timespec::try_from(PATIENCE).unwrap();
            let count = epoll::wait(&edges, &mut events, Some(&patience)).unwrap();
            assert_eq!(count, 1, "nobody woke the reader after {got} of {expected}");
            got += self.read_until_short();
        }
        // What is answered is no bulk stream.
        rustix::net::send(&self.reader, &[1], rustix::net::SendFlags::empty()).unwrap();
        let answer = Call::Receive {
            length: 1,
            flags: 0,
        };
        assert_eq!(self.client.call(answer).unwrap().count, 1);
    }

    fn read_until_short(&self) -> u64 {
        let mut buffer = vec![0; ASKED];
        let mut got = 0;
        loop {
            let flags = rustix::net::RecvFlags::DONTWAIT;
            let read = match rustix::net::recv(&self.reader, &mut buffer, flags) {
                Ok((_, read)) => read,
                Err(rustix::io::Errno::AGAIN) => return got,
                Err(error) => panic!("{error}"),
            };
            got += u64::try_from(read).unwrap();
            if read < ASKED {
                return got;
            }
        }
    }

    /// Returns how often TCP took over from redirect.
    fn demotions(&self) -> u64 {
        let text = self.agent.metrics().unwrap();
        let mut lines = text.lines();
        let line = lines.find_map(|line| line.strip_prefix("mesh_redirect_demotions_total "));
        line.and_then(|number| number.parse().ok()).unwrap()
    }
}

#[test]
fn what_tcp_brings_behind_a_full_queue_of_messages_wakes_its_reader() {
    let Some(joined) = Joined::new() else { return };
    for round in 1..=20 {
        joined.arrives(600, 100);
        assert_eq!(joined.demotions(), round);
    }
}

#[test]
fn a_bulk_stream_that_is_left_to_tcp_wakes_its_reader() {
    let Some(joined) = Joined::new() else { return };
    for _ in 0..20 {
        joined.arrives(11, 16 * 1024);
    }
    assert_eq!(joined.demotions(), 0);
}

#[test]
fn without_an_agent_more_is_redirected_before_tcp_takes_over() {
    let Some(mut joined) = Joined::new() else {
        return;
    };
    joined.agent.stop().unwrap();
    joined.arrives(600, 100);
    joined.agent.start_again().unwrap();
    assert_eq!(joined.demotions(), 0);
    joined.arrives(600, 100);
    assert_eq!(joined.demotions(), 1);
}
