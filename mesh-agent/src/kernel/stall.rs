//! Finds redirect's victims: flows whose bytes lie waiting although nobody reads them. Pure.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use mesh_common::flow::FlowCell;
use mesh_common::redirect::{redirect_unread, tcp_unread};
use mesh_common::sock::SockKey;

/// Looks in each stall timeout: a flow that hangs is found at most a tenth later than its time.
const LOOKS: u32 = 10;

/// Each look costs a read of every flow: some 7 ms for a full table, reckoned at 0.2 µs for each entry that is read in a batch.
/// At most this often, for short timeouts ...
const PERIOD_MIN: Duration = Duration::from_secs(1);

/// ... and, for long ones, at least this often: by the same reckoning 0.15 % of a core with a full table.
const PERIOD_MAX: Duration = Duration::from_secs(5);

/// Returns the time between two looks.
pub(crate) fn period(timeout: Duration) -> Duration {
    (timeout / LOOKS).clamp(PERIOD_MIN, PERIOD_MAX)
}

/// One direction of a flow that does not move.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stalled {
    /// The client's key of the flow.
    pub(crate) flow: SockKey,
    /// Whether it is the client that does not read.
    pub(crate) client_reads: bool,
    /// Whether the bytes that wait came by TCP.
    pub(crate) by_tcp: bool,
}

/// When to look for stalled flows, and for which.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Watch {
    /// How long bytes may lie unread.
    pub(crate) limit: Duration,
    /// Whether bytes that came by TCP count too: where the kernel hides them from whoever asks how many there are, a reader
    /// may wait for ever because its socket is in the map.
    pub(crate) tcp: bool,
}

/// How far one direction had been read, and since when it stands there.
type Mark = ((u32, u32, u64), Instant);

/// What was last seen of each direction that has bytes waiting.
#[derive(Debug, Default)]
pub(crate) struct StallGuard {
    looked: Option<Instant>,
    waiting: HashMap<(SockKey, bool), Mark>,
}

impl StallGuard {
    /// Returns whether it is time to look; a `true` counts as a look.
    pub(crate) fn due(&mut self, timeout: Duration, now: Instant) -> bool {
        let due = self
            .looked
            .is_none_or(|looked| now.duration_since(looked) >= period(timeout));
        if due {
            self.looked = Some(now);
        }
        due
    }

    /// Looks at every flow; returns those that have had bytes waiting, unread, for longer than the limit. Each is returned once.
    ///
    /// Memory: one entry per direction with bytes waiting at this moment.
    pub(crate) fn check(
        &mut self,
        flows: impl Iterator<Item = (SockKey, FlowCell)>,
        watch: Watch,
        now: Instant,
    ) -> Vec<Stalled> {
        let mut stalled = Vec::new();
        let mut still = HashMap::new();
        for (flow, cell) in flows {
            let directions = [
                (&cell.client, &cell.server, true),
                (&cell.server, &cell.client, false),
            ];
            for (reader, writer, client_reads) in directions {
                let redirected = redirect_unread(reader, writer) > 0;
                let by_tcp = !redirected && watch.tcp && tcp_unread(reader, writer) > 0;
                // The agent stops reading where the other side of what it passes on stands still, and has time limits of its own.
                if !(redirected || by_tcp) || reader.closed != 0 || reader.agent != 0 {
                    continue;
                }
                let read = (reader.redirect_read, reader.redirect_taken, reader.tcp_read);
                let since = match self.waiting.get(&(flow, client_reads)) {
                    Some((before, since)) if *before == read => *since,
                    _ => now,
                };
                if now.duration_since(since) >= watch.limit {
                    stalled.push(Stalled {
                        flow,
                        client_reads,
                        by_tcp,
                    });
                } else {
                    still.insert((flow, client_reads), (read, since));
                }
            }
        }
        self.waiting = still;
        stalled
    }
}

#[cfg(test)]
mod tests {
    use mesh_common::redirect::{Progress, tcp_read};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);
    const WATCH: Watch = Watch {
        limit: LIMIT,
        tcp: true,
    };

    fn cell(sent: u32, read: u32) -> FlowCell {
        let client = Progress {
            redirect_sent: sent,
            ..Progress::default()
        };
        let server = Progress {
            redirect_read: read,
            redirect_taken: read,
            ..Progress::default()
        };
        FlowCell { client, server }
    }

    fn check(guard: &mut StallGuard, cell: FlowCell, now: Instant) -> Vec<Stalled> {
        guard.check(std::iter::once((SockKey::default(), cell)), WATCH, now)
    }

    #[test]
    fn a_reader_that_stands_still_is_found_once() {
        let (mut guard, start) = (StallGuard::default(), Instant::now());
        assert!(check(&mut guard, cell(100, 40), start).is_empty());
        assert!(check(&mut guard, cell(200, 40), start + LIMIT / 2).is_empty());
        let found = check(&mut guard, cell(200, 40), start + LIMIT);
        assert_eq!(
            found,
            [Stalled {
                flow: SockKey::default(),
                client_reads: false,
                by_tcp: false,
            }]
        );
        assert!(check(&mut guard, cell(200, 40), start + LIMIT * 3 / 2).is_empty());
    }

    #[test]
    fn the_agent_is_no_reader_that_hangs_but_may_have_one() {
        let (mut guard, start) = (StallGuard::default(), Instant::now());
        let mut cell = cell(100, 40);
        cell.server.agent = 1;
        assert!(check(&mut guard, cell, start).is_empty());
        assert!(check(&mut guard, cell, start + LIMIT).is_empty());
        (cell.server.agent, cell.client.agent) = (0, 1);
        assert!(check(&mut guard, cell, start + LIMIT).is_empty());
        assert_eq!(check(&mut guard, cell, start + LIMIT * 2).len(), 1);
    }

    #[test]
    fn a_slow_reader_is_left_alone() {
        let (mut guard, start) = (StallGuard::default(), Instant::now());
        for step in 0..10 {
            assert!(check(&mut guard, cell(1000, step), start + LIMIT * step / 2).is_empty());
        }
        assert!(check(&mut guard, cell(1000, 1000), start + LIMIT * 10).is_empty());
        assert!(
            guard.waiting.is_empty(),
            "nothing is remembered of a flow that was read"
        );
    }

    #[test]
    fn reading_that_one_of_the_counts_misses_is_no_stall() {
        for (read, taken) in [(40, 100), (100, 40)] {
            let (mut guard, start) = (StallGuard::default(), Instant::now());
            let mut cell = cell(100, read);
            cell.server.redirect_taken = taken;
            assert!(check(&mut guard, cell, start).is_empty());
            assert!(check(&mut guard, cell, start + LIMIT * 2).is_empty());
        }
    }

    #[test]
    fn bytes_that_tcp_brought_count_where_they_are_watched() {
        // The client's first number is at the end of the range, so that its position wraps.
        let (first, sent) = (u32::MAX - 1, 10);
        let cell = FlowCell {
            client: Progress {
                tcp_sent: sent,
                tcp_read: tcp_read(first, 100),
                ..Progress::default()
            },
            server: Progress {
                tcp_sent: 100,
                tcp_read: tcp_read(99, first),
                ..Progress::default()
            },
        };
        let flows = || std::iter::once((SockKey::default(), cell));
        let (mut guard, start) = (StallGuard::default(), Instant::now());
        assert!(guard.check(flows(), WATCH, start).is_empty());
        let found = guard.check(flows(), WATCH, start + LIMIT);
        assert_eq!(found.len(), 1);
        assert!(found[0].by_tcp && !found[0].client_reads);
        let unwatched = Watch {
            tcp: false,
            ..WATCH
        };
        let mut guard = StallGuard::default();
        assert!(guard.check(flows(), unwatched, start).is_empty());
        assert!(
            guard
                .check(flows(), unwatched, start + LIMIT * 2)
                .is_empty()
        );
    }

    #[test]
    fn it_looks_often_enough_and_no_more() {
        let second = Duration::from_secs(1);
        assert_eq!(period(second * 2), second);
        assert_eq!(period(second * 30), second * 3);
        assert_eq!(period(second * 3600), second * 5);
        let (mut guard, start) = (StallGuard::default(), Instant::now());
        assert!(guard.due(LIMIT, start));
        assert!(!guard.due(LIMIT, start + second));
        assert!(guard.due(LIMIT, start + second * 5));
    }
}
