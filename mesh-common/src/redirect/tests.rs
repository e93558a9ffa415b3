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

/// Any number, often one that is about to wrap.
fn numbers() -> impl Strategy<Value = u32> {
    prop_oneof![any::<u32>(), (0..3_000_000u32).prop_map(|n| u32::MAX - n)]
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
        Self::after(iss, irs, 0)
    }

    /// A flow that has redirected `before` bytes, modulo 2^32, all of which were read.
    fn after(iss: u32, irs: u32, before: u32) -> Self {
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
            rx_bytes: before,
            expected: 0,
            joined: false,
            published: Progress {
                redirect_read: before,
                ..Progress::default()
            },
            window: Window {
                sent_bytes: before,
                mark_bytes: before,
                ..Window::default()
            },
        }
    }

    fn publish(&mut self) {
        if self.joined {
            self.published.tcp_read = tcp_read(self.irs, self.copied_seq);
            self.published.redirect_read = redirected(self.rx_bytes, self.copied_seq, self.iss);
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
    fn bytes_stay_in_order_and_bounded(iss in numbers(), irs in numbers(), before in numbers(), steps in steps()) {
        let mut model = Model::after(iss, irs, before);
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
    fn the_bound_holds_and_opens_again_anywhere_in_the_range(
        before in numbers(),
        sizes in proptest::collection::vec((1..65_536u32, 0..4u8), 1..2000),
    ) {
        let mut window = Window { sent_bytes: before, mark_bytes: before, ..Window::default() };
        let mut waiting: VecDeque<u32> = VecDeque::new();
        let mut read = before;
        for (size, reads) in sizes {
            let unread: u64 = waiting.iter().copied().map(u64::from).sum();
            if window.admits(read) {
                prop_assert!(unread < u64::from(IN_FLIGHT_BYTES_MAX));
                prop_assert!(waiting.len() < IN_FLIGHT_MESSAGES_MAX as usize);
                window.sent(size);
                waiting.push_back(size);
            }
            for _ in 0..reads {
                read = read.wrapping_add(waiting.pop_front().unwrap_or(0));
            }
        }
        // Drained, it is open, whatever was before.
        read = waiting.iter().fold(read, |read, size| read.wrapping_add(*size));
        prop_assert!(window.admits(read));
    }

    #[test]
    fn redirected_bytes_are_all_bytes_less_tcps(irs in numbers(), tcp in any::<u64>(), by_redirect in any::<u64>()) {
        let total = tcp.wrapping_add(by_redirect);
        // The kernel's position moves by what TCP handed over, modulo 2^32, however often that wraps.
        let copied = irs.wrapping_add(1).wrapping_add(low(tcp));
        prop_assert_eq!(redirected(low(total), copied, irs), low(by_redirect));
    }

    #[test]
    fn a_bulk_stream_is_large_messages_without_an_answer(size in any::<u32>(), unanswered in any::<u64>()) {
        let large = u64::from(size) >= u64::from(BULK_MESSAGE_BYTES);
        prop_assert_eq!(is_bulk(size, unanswered), large && unanswered > BULK_UNANSWERED_BYTES);
        prop_assert!(!is_bulk(BULK_MESSAGE_BYTES - 1, unanswered));
        prop_assert!(!is_bulk(size, BULK_UNANSWERED_BYTES));
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

/// More than 4.3 GB through one flow in small messages, none of which is read late: every count wraps, and redirect goes on.
#[test]
fn a_flow_of_more_than_four_gigabytes_is_redirected_to_its_end() {
    const MESSAGE: u32 = 4000;
    let (iss, irs) = (17, u32::MAX - 5);
    let mut window = Window::default();
    let mut reader = Progress {
        tcp_read: tcp_read(irs, iss + 1),
        ..Progress::default()
    };
    let mut received = 0u64;
    while received < 4_400_000_000 {
        let refused = refusal(iss + 1, irs, &reader, &mut window);
        assert_eq!(refused, None, "after {received} bytes");
        window.sent(MESSAGE);
        received += u64::from(MESSAGE);
        // The receiver's own `irs` is the sender's `iss`.
        reader.redirect_read = redirected(low(received), iss + 1, iss);
    }
    assert_eq!(window.sent_bytes, low(received));
}

fn low(number: u64) -> u32 {
    u32::try_from(number & u64::from(u32::MAX)).expect("masked")
}

#[test]
fn flows_are_short_by_their_average_once_enough_have_ended() {
    let bound = SHORT_MESSAGES * SHORT_FLOWS_MIN;
    assert!(!is_short(SHORT_FLOWS_MIN - 1, 0));
    assert!(is_short(SHORT_FLOWS_MIN, bound - 1));
    assert!(!is_short(SHORT_FLOWS_MIN, bound));
    assert!(is_short(u32::MAX, u32::MAX));
}

#[test]
fn what_is_read_by_either_count_is_read_and_room_depends_on_who_wakes() {
    let mut window = Window::default();
    for _ in 0..IN_FLIGHT_MESSAGES_MAX {
        window.sent(100);
    }
    assert!(!window.admits(0) && window.admits_unserved(0));
    let sent = window.sent_bytes;
    let read = |redirect_read, redirect_taken| Progress {
        redirect_read,
        redirect_taken,
        ..Progress::default()
    };
    assert!(window.is_read(&read(sent, 0)) && window.is_read(&read(0, sent)));
    assert!(!window.is_read(&read(sent - 1, 0)));
    window.sent(UNSERVED_BYTES_MAX);
    assert!(!window.admits_unserved(0));
}

#[test]
fn unread_bytes_are_told_apart_by_how_they_came() {
    let writer = Progress {
        tcp_read: tcp_read(1, 2),
        tcp_sent: 110,
        redirect_sent: 50,
        ..Progress::default()
    };
    let reader = Progress {
        tcp_read: tcp_read(9, 100),
        redirect_read: 20,
        redirect_taken: 30,
        ..Progress::default()
    };
    assert_eq!(
        (
            redirect_unread(&reader, &writer),
            tcp_unread(&reader, &writer)
        ),
        (20, 10)
    );
    let alone = Progress::default();
    assert_eq!(tcp_unread(&alone, &writer), 0, "it has not joined");
}
