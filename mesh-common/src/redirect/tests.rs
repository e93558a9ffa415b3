//! A simulated kernel: one sender, one receiver whose redirect queue is read before its TCP queue, reads of any size, and
//! progress that is published late. Whatever the schedule, the receiver reads the bytes in order.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Send(u16),
    DeliverTcp(u16),
    Read(u16),
    Publish,
    Join,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (1..5000u16).prop_map(Step::Send),
        3 => (1..5000u16).prop_map(Step::DeliverTcp),
        4 => (1..9000u16).prop_map(Step::Read),
        3 => Just(Step::Publish),
        1 => Just(Step::Join),
    ];
    proptest::collection::vec(step, 1..400)
}

struct Model {
    iss: u32,
    irs: u32,
    next: u64,
    write_seq: u32,
    wire: VecDeque<u64>,
    tcp_queue: VecDeque<u64>,
    redirect_queue: VecDeque<u64>,
    redirect_messages: VecDeque<u32>,
    copied_seq: u32,
    rx_bytes: u32,
    expected: u64,
    joined: bool,
    published: Progress,
    window: Window,
}

impl Model {
    fn new(iss: u32, irs: u32) -> Self {
        Self {
            iss,
            irs,
            next: 0,
            write_seq: iss.wrapping_add(1),
            wire: VecDeque::new(),
            tcp_queue: VecDeque::new(),
            redirect_queue: VecDeque::new(),
            redirect_messages: VecDeque::new(),
            copied_seq: iss.wrapping_add(1),
            rx_bytes: 0,
            expected: 0,
            joined: false,
            published: Progress::default(),
            window: Window::default(),
        }
    }

    fn publish(&mut self) {
        if self.joined {
            self.published.tcp_read = tcp_read(self.irs, self.copied_seq);
            self.published.redirect_read = redirect_read(self.rx_bytes, self.copied_seq, self.iss);
        }
    }

    fn send(&mut self, len: u16) {
        let bytes = self.next..self.next + u64::from(len);
        self.next = bytes.end;
        // The receiver's own initial sequence number is the sender's `irs`.
        if refusal(self.write_seq, self.irs, &self.published, &mut self.window).is_none() {
            self.redirect_queue.extend(bytes);
            self.redirect_messages.push_back(u32::from(len));
            self.window.sent(u32::from(len));
        } else {
            self.wire.extend(bytes);
            self.write_seq = self.write_seq.wrapping_add(u32::from(len));
        }
    }

    fn read(&mut self, len: u16) {
        let from_redirect = !self.redirect_queue.is_empty();
        for _ in 0..len {
            let queue = if from_redirect {
                &mut self.redirect_queue
            } else {
                &mut self.tcp_queue
            };
            let Some(byte) = queue.pop_front() else { break };
            assert_eq!(byte, self.expected, "bytes out of order");
            self.expected += 1;
            self.rx_bytes = self.rx_bytes.wrapping_add(1);
            if from_redirect {
                if let Some(first) = self.redirect_messages.front_mut() {
                    *first -= 1;
                    if *first == 0 {
                        self.redirect_messages.pop_front();
                    }
                }
            } else {
                self.copied_seq = self.copied_seq.wrapping_add(1);
            }
        }
    }
}

proptest! {
    #[test]
    fn bytes_stay_in_order_and_bounded(iss in any::<u32>(), irs in any::<u32>(), steps in steps()) {
        let mut model = Model::new(iss, irs);
        for step in steps {
            match step {
                Step::Send(len) => model.send(len),
                Step::DeliverTcp(len) => {
                    let len = usize::from(len).min(model.wire.len());
                    let delivered: Vec<u64> = model.wire.drain(..len).collect();
                    model.tcp_queue.extend(delivered);
                }
                Step::Read(len) => model.read(len),
                Step::Publish => model.publish(),
                Step::Join => {
                    model.joined = true;
                    model.publish();
                }
            }
            let longest = 5000;
            prop_assert!(model.redirect_queue.len() <= IN_FLIGHT_BYTES_MAX as usize + longest);
            prop_assert!(model.redirect_messages.len() <= IN_FLIGHT_MESSAGES_MAX as usize);
        }
        let rest: Vec<u64> = model.wire.drain(..).collect();
        model.tcp_queue.extend(rest);
        while !model.redirect_queue.is_empty() || !model.tcp_queue.is_empty() {
            model.read(u16::MAX);
        }
        prop_assert_eq!(model.expected, model.next);
    }

    #[test]
    fn a_drained_flow_is_redirected_again(iss in any::<u32>(), irs in any::<u32>(), sent in 1..10_000u16) {
        let mut model = Model::new(iss, irs);
        model.send(sent);
        prop_assert_eq!(model.redirect_queue.len(), 0, "nobody has joined yet");
        model.joined = true;
        let wire: Vec<u64> = model.wire.drain(..).collect();
        model.tcp_queue.extend(wire);
        model.read(u16::MAX);
        model.publish();
        model.send(1);
        prop_assert_eq!(model.redirect_queue.len(), 1);
    }
}

#[test]
fn a_late_store_of_another_flow_counts_as_nothing_read() {
    let stale = Progress {
        tcp_read: tcp_read(77, 101),
        ..Progress::default()
    };
    let verdict = refusal(101, 78, &stale, &mut Window::default());
    assert_eq!(verdict, Some(Reason::PeerNotJoined));
}
