//! Finds redirect's victims: flows whose bytes lie waiting although nobody reads them. Pure.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use mesh_common::flow::FlowCell;
use mesh_common::redirect::Progress;
use mesh_common::sock::SockKey;

/// One direction of a flow that does not move.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stalled {
    /// The client's key of the flow.
    pub(crate) flow: SockKey,
    /// Whether it is the client that does not read.
    pub(crate) client_reads: bool,
}

/// What was last seen of each direction that has bytes waiting.
#[derive(Debug, Default)]
pub(crate) struct StallGuard {
    waiting: HashMap<(SockKey, bool), (u32, Instant)>,
}

impl StallGuard {
    /// Looks at every flow; returns those that have had bytes waiting, unread, for longer than `limit`. Each is returned once.
    ///
    /// Memory: one entry per direction with bytes waiting at this moment.
    pub(crate) fn check(
        &mut self,
        flows: impl Iterator<Item = (SockKey, FlowCell)>,
        limit: Duration,
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
                if waiting_bytes(reader, writer) == 0 || reader.closed != 0 {
                    continue;
                }
                let seen = self.waiting.get(&(flow, client_reads));
                let since = match seen {
                    Some((read, since)) if *read == reader.redirect_read => *since,
                    _ => now,
                };
                if now.duration_since(since) >= limit {
                    stalled.push(Stalled { flow, client_reads });
                } else {
                    still.insert((flow, client_reads), (reader.redirect_read, since));
                }
            }
        }
        self.waiting = still;
        stalled
    }
}

/// Redirected bytes that `writer` sent and `reader` has not read.
fn waiting_bytes(reader: &Progress, writer: &Progress) -> u32 {
    let waiting = writer.redirect_sent.wrapping_sub(reader.redirect_read);
    if waiting > u32::MAX / 2 { 0 } else { waiting }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    fn cell(sent: u32, read: u32) -> FlowCell {
        let client = Progress {
            redirect_sent: sent,
            ..Progress::default()
        };
        let server = Progress {
            redirect_read: read,
            ..Progress::default()
        };
        FlowCell { client, server }
    }

    fn check(guard: &mut StallGuard, cell: FlowCell, now: Instant) -> Vec<Stalled> {
        guard.check(std::iter::once((SockKey::default(), cell)), LIMIT, now)
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
                client_reads: false
            }]
        );
        assert!(check(&mut guard, cell(200, 40), start + LIMIT * 3 / 2).is_empty());
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
}
